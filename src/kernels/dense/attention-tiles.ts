/**
 * Attention by tiles (FlashAttention-2: Dao 2023, alg. 1): blocks of query rows times chunks of keys, scores and results as
 * accumulators, so that tensor cores multiply both. Runs by fma too, as the judge of the same statements.
 *
 * A block serves `rows` consecutive (token, query head) pairs of one key head and, with `split`, a part of the value columns. Keys
 * come in chunks at absolute multiples of their number and rows never mix: a token's bits depend neither on the other tokens of
 * the call nor on `rows`. Statistics are f32, in powers of two; a probability is rounded to the format of the values where the
 * variant multiplies that, its sum is not.
 *
 * With `parts` the chunks go round over that many blocks, and what each leaves of a row (its maximum, its sum of weights, its
 * weighted values) is joined by another kernel: few tokens fill the device.
 *
 * What is not finite in the values of a token reaches earlier tokens of its chunk: 0 · ∞ (the form by rows keeps it out).
 */
import { ceilDivSize, mulSize } from '../../base/size.ts';
import type { Size } from '../../base/size.ts';
import * as b from '../../ir/kernel/build.ts';
import type { Block, Expr, MainloopSchedule, Stmt, Tile } from '../../ir/kernel/types.ts';
import type { Capabilities } from '../../target/types.ts';
import type { Launch } from '../launch.ts';
import { LOG2_E, LOWEST, TINY, attentionBuffers, leastTop, pairsOf, sinkTop, valueStride, wantAttention } from './attention-problem.ts';
import type { AttentionProblem } from './attention-problem.ts';
import { PIECE, attentionThreads, columnsOf, legalAttentionTiles } from './attention-tiles-schedule.ts';
import type { AttentionTiles } from './attention-tiles-schedule.ts';
import { define, globalBuffer, inLine, launch, line, withAllRegisters } from './common.ts';

/** How the tile of `cols` columns is multiplied. */
function scheduleOf(s: AttentionTiles, cols: number): MainloopSchedule {
  if (s.variant === 'mma-sync') return { variant: 'mma-sync', warpsM: s.warps, warpsN: 1, bk: PIECE, stages: 1 };
  return { variant: 'fma', staging: 'shared', tm: s.tm, tn: cols / s.across, bk: 1 };
}

const rowValue = (name: string): Expr => b.variable(name, b.ty('f32'));
/** The one accumulator of an element. */
const one = (values: readonly Expr[]): Expr => values[0] ?? b.f32(0);

/**
 * Online softmax over one chunk: products become weights relative to the row values `top`, of which `total` has the sum; what was
 * summed before shrinks with them. @param scale products times this are exponents of 2
 */
function weigh(scores: Tile, out: Tile, scale: Expr): readonly Stmt[] {
  const [top, next, shrink] = [rowValue('top'), rowValue('next'), rowValue('shrink')];
  return [
    b.fold(scores, 'best', 'max', (_r, _c, x) => one(x)),
    b.row(out, 'next', () => b.max(top, b.min(b.mul(rowValue('best'), scale), b.f32(-LOWEST)))),
    b.row(out, 'shrink', () => b.exp2(b.sub(top, next))),
    b.assignRow(out, 'top', () => next),
    b.assignRow(out, 'total', () => b.mul(rowValue('total'), shrink)),
    b.update(out, (_r, _c, x) => [b.mul(one(x), shrink)]),
    // No weight is above 1, whatever overflowed.
    b.update(scores, (_r, _c, x) => [b.exp2(b.min(b.fma(one(x), scale, b.neg(top)), b.f32(0)))]),
    b.fold(scores, 'weights', 'add', (_r, _c, x) => one(x)),
    b.assignRow(out, 'total', () => b.add(rowValue('total'), rowValue('weights'))),
  ];
}

/** What the parts of a row leave: [rows, parts, vDim] f32, and [rows, parts] pairs of maximum and sum. */
export const partSums = (p: AttentionProblem, parts: number): Size => mulSize('T', p.heads * parts * p.vDim);
export const partStats = (p: AttentionProblem, parts: number): Size => mulSize('T', p.heads * parts * 2);

/**
 * Operands as `attention` has them; with parts, results are the scratch values `sums` and `stats`, and sinks are left to the kernel
 * that joins them. Throws with the reason where the schedule is not legal.
 */
export function attentionByTiles(p: AttentionProblem, s: AttentionTiles, caps: Capabilities): Launch {
  wantAttention(p);
  const verdict = legalAttentionTiles(p, s, caps);
  if (!verdict.ok) throw new Error(`attention: ${verdict.why}`);
  const mma = s.variant === 'mma-sync';
  const lanes = mma ? 4 : 1;
  const yLanes = mma ? 2 : 1;
  const cols = columnsOf(p, s);
  const { q, k, v, sinks, y, params } = attentionBuffers(p, lanes, lanes, yLanes);
  const sums = globalBuffer('sums', 'f32', yLanes);
  const stats = globalBuffer('stats', 'f32', 2);
  const joined = s.parts > 1;
  const perGroup = p.heads / p.kvHeads;
  const across = p.kvHeads * s.split * s.parts;

  const l = line(mulSize(ceilDivSize(mulSize('T', perGroup), s.rows), across), caps);
  const head: Stmt[] = [];
  const index = define(head, 'block_index', l.index);
  const pairs = define(head, 'pairs', b.mul(b.scalar('T'), b.u32(perGroup)));
  const bands = define(head, 'bands', b.ceilDiv(pairs, b.u32(s.rows)));

  const body: Stmt[] = [];
  const part = define(body, 'part', b.mod(index, b.u32(s.parts)));
  const piece = define(body, 'piece', b.div(index, b.u32(s.parts)));
  const firstCol = define(body, 'first_col', b.mul(b.mod(piece, b.u32(s.split)), b.u32(cols)));
  const kvHead = define(body, 'kv_head', b.mod(b.div(piece, b.u32(s.split)), b.u32(p.kvHeads)));
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

  const step = s.keys * s.parts;
  const chunk = (base: Expr): readonly Stmt[] => {
    const mask = (some: Expr, seen: (pair: Expr, key: Expr) => Expr): Stmt =>
      b.if_(some, [b.update(scores, (r, c, x) => [b.select(seen(r, b.add(base, c)), one(x), b.f32(LOWEST))])]);
    return [
      stageValues(base),
      b.tileAlloc(scores),
      b.product(scores, queries, [{ block: keys, transposed: false }], scheduleOf(s, s.keys)),
      // The next keys, in the time of what follows.
      stageKeys(b.add(base, b.u32(step))),
      mask(b.gt(b.add(base, b.u32(s.keys - 1)), at.first), at.notAfter),
      ...(p.window === undefined ? [] : [mask(b.le(b.add(base, b.u32(p.window)), at.last), at.inWindow)]),
      ...weigh(scores, out, b.f32(p.scale * LOG2_E)),
      b.product(out, scores, [{ block: values, transposed: true }], scheduleOf(s, cols)),
    ];
  };

  const number = b.div(at.keyBegin, b.u32(s.keys));
  const own = b.add(number, b.mod(b.sub(b.add(part, b.u32(s.parts)), b.mod(number, b.u32(s.parts))), b.u32(s.parts)));
  const first = define(body, 'first_chunk', b.mul(joined ? own : number, b.u32(s.keys)));
  const ownSinks = joined ? undefined : sinks;
  body.push(
    stageQueries,
    stageKeys(first),
    b.tileAlloc(out),
    b.row(out, 'top', (r) => (ownSinks === undefined ? b.f32(leastTop(p)) : sinkTop(p, ownSinks, at.headOf(r)))),
    b.row(out, 'total', () => b.f32(ownSinks === undefined ? 0 : 1)),
    b.for_('base', first, at.keyEnd, step, chunk),
  );
  const cellOf = (row: Expr, c: Expr): Expr => b.add(b.mul(row, b.u32(p.vDim / yLanes)), b.div(b.add(firstCol, c), b.u32(yLanes)));
  if (joined) {
    body.push(b.tileMap(out, (r, c, x) => {
      const row = b.add(b.mul(rowOf(r), b.u32(s.parts)), part);
      const leader = b.eq(b.add(firstCol, c), b.u32(0));
      return [b.if_(at.served(r), [
        b.store(sums, cellOf(row, c), one(x)),
        b.if_(leader, [b.store(stats, row, b.pack([rowValue('top'), rowValue('total')]))]),
      ])];
    }, yLanes));
  } else {
    body.push(
      b.row(out, 'inverse', () => b.div(b.f32(1), b.max(rowValue('total'), b.f32(TINY)))),
      b.tileMap(out, (r, c, x) => {
        const mean = b.mul(one(x), b.splat(yLanes, rowValue('inverse')));
        return [b.if_(at.served(r), [b.store(y, cellOf(rowOf(r), c), b.cast(y.elem, mean))])];
      }, yLanes),
    );
  }

  return launch({
    name: `attention_${p.heads}x${p.qkDim}`,
    family: 'attention',
    params: joined ? [...params.slice(0, 3), ['sums', sums], ['stats', stats]] : params,
    scalars: ['T', 'past'],
    block: attentionThreads(s),
    resident: withAllRegisters(attentionThreads(s)),
    body: [...head, ...inLine(l, index, b.mul(bands, b.u32(across)), body)],
    schedule: { ...s },
    grid: l.grid,
  });
}
