/**
 * Attention by tiles (FlashAttention-2: Dao 2023, alg. 1): blocks of query rows times chunks of keys, scores and results as
 * accumulators, so that tensor cores multiply both. Runs by fma too, as the judge of the same statements.
 *
 * A block serves `rows` consecutive (token, query head) pairs of one key head and, with `split`, a part of the value columns. Keys
 * come in chunks at absolute multiples of their number and rows never mix: a token's bits depend neither on the other tokens of
 * the call nor on `rows`. Statistics are f32, in powers of two; a probability is rounded to the format of the values where the
 * variant multiplies that, its sum is not.
 *
 * What is not finite in the values of a token reaches earlier tokens of its chunk: 0 · ∞ (the form by rows keeps it out).
 */
import { ceilDivSize, mulSize } from '../../base/size.ts';
import * as b from '../../ir/kernel/build.ts';
import type { Block, Expr, MainloopSchedule, Stmt, Tile } from '../../ir/kernel/types.ts';
import type { Capabilities, Verdict } from '../../target/types.ts';
import type { Launch } from '../launch.ts';
import { LOWEST, attentionBuffers, pairsOf, valueStride, wantAttention } from './attention-problem.ts';
import type { AttentionProblem } from './attention-problem.ts';
import { define, inLine, launch, line } from './common.ts';

export type AttentionTiles = MmaAttention | FmaAttention;

interface TilesOfKeys {
  /** (token, query head) pairs of a block. */
  readonly rows: number;
  /** Keys of a chunk. */
  readonly keys: number;
  /** Parts of the value columns, a block each; every part computes the scores anew. */
  readonly split: number;
}

/** Tensor cores of single warps, one above the other. */
export interface MmaAttention extends TilesOfKeys {
  readonly variant: 'mma-sync';
  readonly warps: number;
}

/** Each thread has `tm` rows, `across` threads share them. */
export interface FmaAttention extends TilesOfKeys {
  readonly variant: 'fma';
  readonly tm: number;
  readonly across: number;
}

/** Rows of a piece that a warp multiplies. */
const PIECE = 16;
const WARP = 32;
/** Sums a thread may hold beside fragments, addresses and statistics; of 255 registers. */
const MAX_SUMS = 176;
const LOG2_E = Math.LOG2E;
/** Below every sum of weights that is not 0, and its reciprocal is finite. */
const TINY = 1e-37;

const no = (why: string): Verdict => ({ ok: false, why });

const columnsOf = (p: AttentionProblem, s: AttentionTiles): number => p.vDim / s.split;
export const attentionThreads = (s: AttentionTiles): number => (s.variant === 'mma-sync' ? WARP * s.warps : (s.rows / s.tm) * s.across);

/** Bytes of the blocks of queries, keys and values; fma keeps them in f32, rows padded, and the weights beside them. */
export function attentionSharedBytes(p: AttentionProblem, s: AttentionTiles): number {
  const cols = columnsOf(p, s);
  if (s.variant === 'mma-sync') return 2 * ((s.rows + s.keys) * p.qkDim + s.keys * cols);
  const sums = s.across === 1 ? 0 : s.rows * s.across;
  return 4 * ((s.rows + s.keys) * (p.qkDim + 1) + s.keys * (cols + 1) + s.rows * (s.keys + 1) - 4 + sums);
}

function legalMma(p: AttentionProblem, s: MmaAttention, caps: Capabilities): Verdict {
  const { qElem = 'f32', kvElem = 'f32' } = p;
  if (!caps.matrix.includes('mma-sync')) return no(`${caps.profile} has no mma-sync`);
  if (kvElem === 'f32' || qElem !== kvElem) return no(`mma-sync multiplies 16-bit numbers of one kind, not ${qElem} and ${kvElem}`);
  if (p.qkDim % PIECE !== 0 || columnsOf(p, s) % PIECE !== 0 || p.vDim % PIECE !== 0) return no(`heads of ${p.qkDim} and ${p.vDim} columns are no multiples of ${PIECE}`);
  if (s.rows % (PIECE * s.warps) !== 0) return no(`${s.warps} warps do not divide ${s.rows} rows into pieces of ${PIECE}`);
  if (s.keys % PIECE !== 0) return no(`${s.keys} keys are no multiple of ${PIECE}`);
  const sums = (s.rows * (columnsOf(p, s) + s.keys)) / attentionThreads(s);
  return sums > MAX_SUMS ? no(`${sums} sums a thread, at most ${MAX_SUMS} stay in registers`) : { ok: true };
}

function legalFma(p: AttentionProblem, s: FmaAttention): Verdict {
  if (s.rows % s.tm !== 0) return no(`tm ${s.tm} does not divide ${s.rows} rows`);
  return s.keys % s.across === 0 && columnsOf(p, s) % s.across === 0 ? { ok: true } : no(`${s.across} threads do not divide ${s.keys} keys and ${columnsOf(p, s)} columns`);
}

/** Whether a block can run the schedule on a device. */
export function legalAttentionTiles(p: AttentionProblem, s: AttentionTiles, caps: Capabilities): Verdict {
  for (const [name, value] of Object.entries(s)) {
    if (typeof value === 'number' && !(Number.isInteger(value) && value > 0)) return no(`${name} is ${value}, not a whole number from 1 up`);
  }
  if (!(p.scale > 0)) return no(`a scale of ${p.scale}: the largest product must have the largest score`);
  if (p.vDim % s.split !== 0) return no(`${p.vDim} columns of values in ${s.split} parts`);
  const own = s.variant === 'mma-sync' ? legalMma(p, s, caps) : legalFma(p, s);
  if (!own.ok) return own;
  const threads = attentionThreads(s);
  if (threads > caps.maxThreadsPerBlock) return no(`${threads} threads, the device has ${caps.maxThreadsPerBlock} a block`);
  const bytes = attentionSharedBytes(p, s);
  return bytes > caps.maxSharedBytes ? no(`${bytes} bytes of shared memory, the device has ${caps.maxSharedBytes}`) : { ok: true };
}

const CHUNKS = [64, 48, 32, 16] as const;
const WARPS = 4;
/** With 32 rows a warp, what it reads of keys and values serves twice as many products as with 16. */
const ROWS = [128, 64] as const;

/**
 * The default for tensor cores, or nothing where device or problem allow none. The number of tokens decides about rows alone: the
 * bits of a call do not depend on it.
 */
export function attentionTilesSchedule(p: AttentionProblem, caps: Capabilities): AttentionTiles | undefined {
  for (const split of [1, 2, 4]) {
    for (const rows of ROWS) {
      const legal = (keys: number): boolean => legalAttentionTiles(p, { variant: 'mma-sync', rows, keys, split, warps: WARPS }, caps).ok;
      const keys = CHUNKS.find(legal);
      if (keys !== undefined) return { variant: 'mma-sync', rows: fills(p, rows, caps) ? rows : ROWS[1], keys, split, warps: WARPS };
    }
  }
  return undefined;
}

/** Whether the largest calls have tiles of so many rows for every multiprocessor. */
const fills = (p: AttentionProblem, rows: number, caps: Capabilities): boolean =>
  p.maxTokens === undefined || (p.maxTokens * p.heads) / rows >= 2 * (caps.multiprocessors ?? 1);

/** How the tile of `cols` columns is multiplied. */
function scheduleOf(s: AttentionTiles, cols: number): MainloopSchedule {
  if (s.variant === 'mma-sync') return { variant: 'mma-sync', warpsM: s.warps, warpsN: 1, bk: PIECE, stages: 1 };
  return { variant: 'fma', staging: 'shared', tm: s.tm, tn: cols / s.across, bk: 1 };
}

/** Operands as `attention` has them. Throws with the reason where the schedule is not legal. */
export function attentionByTiles(p: AttentionProblem, s: AttentionTiles, caps: Capabilities): Launch {
  wantAttention(p);
  const verdict = legalAttentionTiles(p, s, caps);
  if (!verdict.ok) throw new Error(`attention: ${verdict.why}`);
  const mma = s.variant === 'mma-sync';
  const lanes = mma ? 4 : 1;
  const yLanes = mma ? 2 : 1;
  const cols = columnsOf(p, s);
  const { q, k, v, sinks, y, params } = attentionBuffers(p, lanes, lanes, yLanes);
  const perGroup = p.heads / p.kvHeads;
  const across = p.kvHeads * s.split;

  const l = line(mulSize(ceilDivSize(mulSize('T', perGroup), s.rows), across), caps);
  const head: Stmt[] = [];
  const index = define(head, 'block_index', l.index);
  const pairs = define(head, 'pairs', b.mul(b.scalar('T'), b.u32(perGroup)));
  const bands = define(head, 'bands', b.ceilDiv(pairs, b.u32(s.rows)));

  const body: Stmt[] = [];
  const kvHead = define(body, 'kv_head', b.mod(b.div(index, b.u32(s.split)), b.u32(p.kvHeads)));
  const firstCol = define(body, 'first_col', b.mul(b.mod(index, b.u32(s.split)), b.u32(cols)));
  // The last rows see the most keys: they begin first.
  const band = b.sub(b.sub(bands, b.u32(1)), b.div(index, b.u32(across)));
  const pair0 = define(body, 'pair0', b.mul(band, b.u32(s.rows)));
  const at = pairsOf(p, body, kvHead, pair0, pairs, s.rows);

  const elem = mma ? k.elem : 'f32';
  if (elem !== 'f32' && elem !== 'f16' && elem !== 'bf16') throw new Error(`attention: keys of ${elem}`);
  const block = (name: string, rows: number, columns: number): Block => ({ name, variant: s.variant, elem, rows, cols: columns });
  const queries = block('queries', s.rows, p.qkDim);
  const keys = block('keys', s.keys, p.qkDim);
  const values = block('values', s.keys, cols);
  const scores: Tile = { name: 'scores', rows: s.rows, cols: s.keys, count: 1 };
  const out: Tile = { name: 'out', rows: s.rows, cols, count: 1 };

  const access = (row: Expr, width: number, col: Expr): Expr => b.add(b.mul(row, b.u32(width / lanes)), b.div(col, b.u32(lanes)));
  const cacheRow = (base: Expr, j: Expr): Expr => b.add(b.mul(b.add(base, j), b.u32(p.kvHeads)), kvHead);
  const inCache = (base: Expr) => (j: Expr): Expr => b.lt(b.add(base, j), at.keyEnd);
  const rowOf = (r: Expr): Expr => b.add(b.mul(at.tokenOf(r), b.u32(p.heads)), at.headOf(r));
  const stageQueries = b.stage(queries, b.view(q, (r, c) => access(rowOf(r), p.qkDim, c), at.served));
  const stageKeys = (base: Expr): Stmt => b.stage(keys, b.view(k, (j, c) => access(cacheRow(base, j), p.qkDim, c), inCache(base)));
  const stageValues = (base: Expr): Stmt =>
    b.stage(values, b.view(v, (j, c) => access(cacheRow(base, j), valueStride(p), b.add(firstCol, c)), inCache(base)));

  const rowValue = (name: string): Expr => b.variable(name, b.ty('f32'));
  /** Products times this are exponents of 2. */
  const factor = p.scale * LOG2_E;
  const scale = b.f32(factor);
  const top = rowValue('top');
  const chunk = (base: Expr): readonly Stmt[] => {
    const stmts: Stmt[] = [stageValues(base), b.tileAlloc(scores), b.product(scores, queries, [{ block: keys, transposed: false }], scheduleOf(s, s.keys))];
    // In the time of what follows.
    stmts.push(stageKeys(b.add(base, b.u32(s.keys))));
    const mask = (some: Expr, seen: (pair: Expr, key: Expr) => Expr): Stmt =>
      b.if_(some, [b.update(scores, (r, c, [x]) => [b.select(seen(r, b.add(base, c)), x ?? b.f32(0), b.f32(LOWEST))])]);
    stmts.push(
      mask(b.gt(b.add(base, b.u32(s.keys - 1)), at.first), at.notAfter),
      ...(p.window === undefined ? [] : [mask(b.le(b.add(base, b.u32(p.window)), at.last), at.inWindow)]),
      b.fold(scores, 'best', 'max', (_r, _c, [x]) => x ?? b.f32(0)),
      b.row(out, 'next', () => b.max(top, b.min(b.mul(rowValue('best'), scale), b.f32(-LOWEST)))),
      b.row(out, 'shrink', () => b.exp2(b.sub(top, rowValue('next')))),
      b.assignRow(out, 'top', () => rowValue('next')),
      b.assignRow(out, 'total', () => b.mul(rowValue('total'), rowValue('shrink'))),
      b.update(out, (_r, _c, [x]) => [b.mul(x ?? b.f32(0), rowValue('shrink'))]),
      // No weight is above 1, whatever overflowed.
      b.update(scores, (_r, _c, [x]) => [b.exp2(b.min(b.fma(x ?? b.f32(0), scale, b.neg(top)), b.f32(0)))]),
      b.fold(scores, 'part', 'add', (_r, _c, [x]) => x ?? b.f32(0)),
      b.assignRow(out, 'total', () => b.add(rowValue('total'), rowValue('part'))),
      b.product(out, scores, [{ block: values, transposed: true }], scheduleOf(s, cols)),
    );
    return stmts;
  };

  // Half of what a key that is not seen scores: its weight is 0 even where a row has seen none.
  const least = (LOWEST * Math.min(1, factor)) / 2;
  const first = define(body, 'first_chunk', b.mul(b.div(at.keyBegin, b.u32(s.keys)), b.u32(s.keys)));
  body.push(
    stageQueries,
    stageKeys(first),
    b.tileAlloc(out),
    b.row(out, 'top', (r) => (sinks === undefined ? b.f32(least) : b.max(b.min(b.mul(b.loadF32(sinks, at.headOf(r)), b.f32(LOG2_E)), b.f32(-LOWEST)), b.f32(least)))),
    b.row(out, 'total', () => b.f32(sinks === undefined ? 0 : 1)),
    b.for_('base', first, at.keyEnd, s.keys, chunk),
    b.row(out, 'inverse', () => b.div(b.f32(1), b.max(rowValue('total'), b.f32(TINY)))),
    b.tileMap(out, (r, c, [x]) => {
      const cell = b.add(b.mul(rowOf(r), b.u32(p.vDim / yLanes)), b.div(b.add(firstCol, c), b.u32(yLanes)));
      return [b.if_(at.served(r), [b.store(y, cell, b.cast(y.elem, b.mul(x ?? b.f32(0), b.splat(yLanes, rowValue('inverse')))))])];
    }, yLanes),
  );

  return launch({
    name: `attention_${p.heads}x${p.qkDim}`,
    family: 'attention',
    params,
    scalars: ['T', 'past'],
    block: attentionThreads(s),
    body: [...head, ...inLine(l, index, b.mul(bands, b.u32(across)), body)],
    schedule: { ...s },
    grid: l.grid,
  });
}
