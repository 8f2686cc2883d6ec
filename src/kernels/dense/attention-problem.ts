/** What attention computes, and the arithmetic that its kernels share. */
import * as b from '../../ir/kernel/build.ts';
import type { Buffer, Expr, Lanes, Stmt } from '../../ir/kernel/types.ts';
import { define, globalBuffer, wantWhole } from './common.ts';
import type { StorageElem } from './common.ts';

export interface AttentionProblem {
  readonly heads: number;
  /** Divides `heads`. */
  readonly kvHeads: number;
  readonly qkDim: number;
  readonly vDim: number;
  readonly scale: number;
  /** Keys a token sees at most, its own included. */
  readonly window?: number;
  /** Values are the first vDim columns of the key rows; there is no operand `v`. */
  readonly vFromK: boolean;
  /** Storage of the sinks [heads]; absent: there are none. */
  readonly sinksElem?: StorageElem;
  /** Storage of q, of k and v, and of y; f32 where not said. */
  readonly qElem?: StorageElem;
  readonly kvElem?: StorageElem;
  readonly yElem?: StorageElem;
  /** The most tokens a call has, where that is known (a decode bucket). */
  readonly maxTokens?: number;
}

export const LOWEST = -3.4e38;
export const LOG2_E: number = Math.LOG2E;
/** Below every sum of weights that is not 0, and its reciprocal is finite. */
export const TINY = 1e-37;

export const range = (n: number): readonly number[] => Array.from({ length: n }, (_, i) => i);
export const isPower = (n: number): boolean => Number.isInteger(n) && n >= 1 && 2 ** Math.round(Math.log2(n)) === n;
/** Into the finite numbers, so that no difference of two scores is ∞ − ∞. */
export const clampFinite = (e: Expr): Expr => b.max(b.min(e, b.f32(-LOWEST)), b.f32(LOWEST));

export function wantAttention(p: AttentionProblem): void {
  wantWhole('attention', { heads: p.heads, kvHeads: p.kvHeads, qkDim: p.qkDim, vDim: p.vDim, window: p.window });
  if (p.heads % p.kvHeads !== 0) throw new Error(`attention: ${p.kvHeads} key heads do not divide ${p.heads} heads`);
  if (p.vFromK && p.vDim > p.qkDim) throw new Error(`attention: values of ${p.vDim} columns do not fit into keys of ${p.qkDim}`);
}

/** Columns of a row of values, those of the keys included where values are a part of them. */
export const valueStride = (p: AttentionProblem): number => (p.vFromK ? p.qkDim : p.vDim);

/**
 * Where the maximum of a row begins, as an exponent of 2: half of what a key that is not seen scores, so that its weight is 0 even
 * where a row has seen none.
 */
export const leastTop = (p: AttentionProblem): number => (LOWEST * Math.min(1, p.scale * LOG2_E)) / 2;
/** The same with the head's sink. */
export const sinkTop = (p: AttentionProblem, sinks: Buffer, head: Expr): Expr =>
  b.max(b.min(b.mul(b.loadF32(sinks, head), b.f32(LOG2_E)), b.f32(-LOWEST)), b.f32(leastTop(p)));

/** The rows that a block serves: consecutive (token, query head) pairs of one key head. */
export interface Pairs {
  readonly tokenOf: (r: Expr) => Expr;
  readonly headOf: (r: Expr) => Expr;
  /** Whether the call has row r. */
  readonly served: (r: Expr) => Expr;
  /** Whether a key is not later than row r, and not before its window: row r sees it where both hold. */
  readonly notAfter: (r: Expr, key: Expr) => Expr;
  readonly inWindow: (r: Expr, key: Expr) => Expr;
  /** Positions of the block's first and last token. */
  readonly first: Expr;
  readonly last: Expr;
  /** The first key that the first row sees, and the one behind the last key that the last row sees. */
  readonly keyBegin: Expr;
  readonly keyEnd: Expr;
}

/** Binds in `body` what the rows have in common. @param pair0 the block's first pair @param pairs of the call, of one key head */
export function pairsOf(p: AttentionProblem, body: Stmt[], kvHead: Expr, pair0: Expr, pairs: Expr, rows: number): Pairs {
  const perGroup = b.u32(p.heads / p.kvHeads);
  const past = b.scalar('past');
  const tokenOf = (r: Expr): Expr => b.div(b.add(pair0, r), perGroup);
  const lastToken = b.div(b.sub(b.min(b.add(pair0, b.u32(rows)), pairs), b.u32(1)), perGroup);
  const last = define(body, 'last', b.add(past, lastToken));
  const first = define(body, 'first', b.add(past, tokenOf(b.u32(0))));
  const window = b.u32(p.window ?? 0);
  const begin = p.window === undefined ? b.u32(0) : b.sub(b.max(b.add(first, b.u32(1)), window), window);
  /** Pairs of the tokens before a position: comparing those, a row's own position takes no division. */
  const pairsBefore = (position: Expr): Expr => b.mul(b.sub(b.max(position, past), past), perGroup);
  return {
    tokenOf,
    headOf: (r) => b.add(b.mul(kvHead, perGroup), b.mod(b.add(pair0, r), perGroup)),
    served: (r) => b.lt(b.add(pair0, r), pairs),
    notAfter: (r, key) => b.le(pairsBefore(key), b.add(pair0, r)),
    inWindow: (r, key) => (p.window === undefined ? b.bool(true) : b.lt(b.add(pair0, r), pairsBefore(b.add(key, window)))),
    first,
    last,
    keyBegin: define(body, 'key_begin', begin),
    keyEnd: define(body, 'key_end', b.add(last, b.u32(1))),
  };
}

export interface AttentionBuffers {
  readonly q: Buffer;
  readonly k: Buffer;
  readonly v: Buffer;
  readonly sinks: Buffer | undefined;
  readonly y: Buffer;
  /** Operand names and buffers, in order; with vFromK the keys are bound twice. */
  readonly params: readonly (readonly [string, Buffer])[];
}

/** @param vLanes of values and results */
export function attentionBuffers(p: AttentionProblem, lanes: Lanes, vLanes: Lanes, yLanes: Lanes = vLanes): AttentionBuffers {
  const { qElem = 'f32', kvElem = 'f32', yElem = 'f32' } = p;
  const q = globalBuffer('q', qElem, lanes);
  const k = globalBuffer('k', kvElem, lanes);
  const v = globalBuffer('v', kvElem, vLanes);
  const sinks = p.sinksElem === undefined ? undefined : globalBuffer('sinks', p.sinksElem);
  const y = globalBuffer('y', yElem, yLanes);
  const last: (readonly [string, Buffer])[] = sinks === undefined ? [['y', y]] : [['sinks', sinks], ['y', y]];
  return { q, k, v, sinks, y, params: [['q', q], ['k', k], [p.vFromK ? 'k' : 'v', v], ...last] };
}
