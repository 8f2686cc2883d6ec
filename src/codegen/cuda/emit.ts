/** CUDA text of one finished kernel. */
import type { Kernel } from '../../ir/kernel/types.ts';
import { printKernel } from '../clike/print.ts';
import { cuda } from './dialect.ts';

/** The header of a simt-level kernel, access modes inferred and barriers in place; it wants the prelude before it. */
export const emitCuda = (kernel: Kernel): string => printKernel(kernel, cuda);
