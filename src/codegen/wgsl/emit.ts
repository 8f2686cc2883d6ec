/** WGSL text of one finished kernel. */
import type { Kernel } from '../../ir/kernel/types.ts';
import { printKernel } from '../clike/print.ts';
import { wgsl } from './dialect.ts';
import { keepLoopsRolled } from './rolled-loops.ts';

/** The module of a simt-level kernel, access modes inferred and barriers in place. */
export function emitWgsl(kernel: Kernel): string {
  return printKernel(keepLoopsRolled(kernel), wgsl);
}
