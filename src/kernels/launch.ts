/** What a kernel family returns: a kernel at tile level, what to bind to it, and how many blocks to run. */
import type { Size } from '../base/size.ts';
import type { Kernel } from '../ir/kernel/types.ts';

export interface Launch {
  readonly kernel: Kernel;
  /** What `kernel.params[i]` is bound to: the operand or result name of the graph op, or `faults`. */
  readonly operands: readonly string[];
  readonly grid: readonly [Size, Size, Size];
}
