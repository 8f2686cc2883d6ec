/** What a kernel family returns: a kernel at tile level, what to bind to it, and how many blocks to run; or several that run one op. */
import type { Size } from '../base/size.ts';
import type { Elem, Kernel } from '../ir/kernel/types.ts';

export interface Launch {
  readonly kernel: Kernel;
  /** What `kernel.params[i]` is bound to: the operand or result name of the graph op, or `faults`. */
  readonly operands: readonly string[];
  readonly grid: readonly [Size, Size, Size];
}

/** A value that lives only between the launches of one group; operands name it. */
export interface ScratchDecl {
  readonly name: string;
  readonly elem: Elem;
  /** In elements. */
  readonly size: Size;
}

/** Kernels that run one op together, in order. */
export interface LaunchGroup {
  readonly launches: readonly Launch[];
  readonly scratch: readonly ScratchDecl[];
}
