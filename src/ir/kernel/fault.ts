/** What the interpreter objects to: things a GPU would hide. */

export type FaultKind =
  | 'race' | 'out-of-bounds' | 'uninitialised' | 'divergent-barrier' | 'divergent-subgroup'
  | 'division-by-zero' | 'shift' | 'loop-overflow' | 'memory';

export interface Fault {
  readonly kind: FaultKind;
  /** One sentence. */
  readonly message: string;
  readonly kernel: string;
  /** The statement as text; empty for faults of the call itself. */
  readonly statement: string;
  readonly block: readonly [number, number, number];
  /** The thread in its block, −1 where no single thread is to blame. */
  readonly thread: number;
  readonly buffer?: string;
  /** In accesses of the buffer. */
  readonly index?: number;
}

/** Thrown by `interpret` at the first fault. */
export class KernelFault extends Error {
  override readonly name = 'KernelFault';
  readonly fault: Fault;

  constructor(fault: Fault) {
    const where = fault.statement === '' ? '' : `\n  at: ${fault.statement}`;
    const who = fault.thread < 0 ? '' : ` thread ${fault.thread}`;
    super(`${fault.kernel}: ${fault.message} (block ${fault.block.join(',')}${who})${where}`);
    this.fault = fault;
  }
}
