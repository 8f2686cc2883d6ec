/** What a pass is, for graphs and kernels alike. */
import type { Capabilities } from '../target/types.ts';

/** What one pass did, or refused to do, at one place; the material of `moec explain`. */
export interface PassEvent {
  readonly pass: string;
  readonly kind: 'fired' | 'refused';
  /** The op or value concerned, printable. */
  readonly where: string;
  /** What was done, or why not. */
  readonly what: string;
}

export interface PassOptions {
  /** The bucket: most tokens of a call; undefined for any number. */
  readonly maxTokens: number | undefined;
  readonly disabled: ReadonlySet<string>;
  readonly caps: Capabilities;
  readonly deterministicBatch: boolean;
  /** Rows of the tiles of a sorted plan, where someone has found out; undefined leaves it to the pass. */
  readonly tileRows?: ((plan: { readonly experts: number; readonly slots: number }) => number | undefined) | undefined;
}

/** Pure: same input, same output, input untouched. */
export interface Pass<T> {
  readonly name: string;
  /** The rewrite in one line. */
  readonly doc: string;
  run(input: T, options: PassOptions, report: (event: Omit<PassEvent, 'pass'>) => void): T;
}

/** Keeps the literal types of a pass while checking its shape. */
export const definePass = <T>(pass: Pass<T>): Pass<T> => pass;
