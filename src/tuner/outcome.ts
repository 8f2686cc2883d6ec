/** What becomes of candidates. */

/** Ways to fail, the first of which say that a candidate must never be chosen, however fast it is. */
export const FAILURES = ['incorrect', 'out-of-bounds', 'timeout', 'crash', 'device-lost', 'out-of-memory', 'compile'] as const;
export type FailureClass = (typeof FAILURES)[number];

export const isFailureClass = (x: unknown): x is FailureClass => FAILURES.some((f) => f === x);

export interface Failed {
  readonly ok: false;
  readonly failure: FailureClass;
  readonly message: string;
}

/** Times of a candidate beside another's, in the same batches. */
export interface Measured {
  readonly ok: true;
  /** Medians, milliseconds of one run, scenarios weighted. */
  readonly ms: number;
  readonly besideMs: number;
  /** Median over the batches of the candidate's time divided by the other's. */
  readonly ratio: number;
  /** Half-width of what the median ratio may be off by, relative. */
  readonly noise: number;
  readonly batches: number;
  /** Given up after a first look: `ratio` is of few batches that did not alternate. */
  readonly rough: boolean;
}

export type Outcome = Measured | Failed;
