/**
 * Attention by fma, on any target. Online softmax (Milakov & Gimelshein 2018, alg. 3; FlashAttention, alg. 1).
 *
 * A block serves one key head and `rows` consecutive (token, query head) pairs of it; keys come in chunks
 * of as many as the block has threads, at absolute multiples of that number. A pair's sums run in the
 * order of the keys, chunk by chunk, whatever else the block serves: its bits depend neither on the other
 * tokens of the call nor on `rows`.
 */
import { ceilDivSize, mulSize } from '../../base/size.ts';
import * as b from '../../ir/kernel/build.ts';
import type { Buffer, Expr, Stmt, Tile } from '../../ir/kernel/types.ts';
import type { Capabilities } from '../../target/types.ts';
import type { Launch } from '../launch.ts';
import { LOWEST, attentionBuffers, clampFinite, isPower, range, valueStride, wantAttention } from './attention-problem.ts';
import type { AttentionProblem } from './attention-problem.ts';
import { define, inLine, lanesFor, launch, line, withAllRegisters } from './common.ts';

export interface AttentionRows {
  /** Threads of a block and keys of a chunk; a power of two. */
  readonly block: number;
  /** (token, query head) pairs a block serves; a power of two, at most `block`. */
  readonly rows: number;
  /** Keys one thread multiplies with all rows; divides `block`. Above 1 threads rest meanwhile, but what is read is used more often. */
  readonly tn: number;
}

/** More rows a block are hardly faster in software and take a driver's compiler several times as long. */
const MOST_ROWS = 4;
/** Threads that look for the maximum of one row of scores. */
const PARTS = 8;

export function attentionRowsSchedule(p: AttentionProblem, caps: Capabilities): AttentionRows {
  const perGroup = p.heads / p.kvHeads;
  const pairs = p.maxTokens === undefined ? MOST_ROWS : 2 ** Math.floor(Math.log2(perGroup));
  const rows = Math.min(MOST_ROWS, pairs);
  return { block: Math.min(caps.target === 'cuda' ? 128 : 64, caps.maxThreadsPerBlock), rows, tn: rows > 1 ? 2 : 1 };
}

function check(p: AttentionProblem, s: AttentionRows, caps: Capabilities): void {
  wantAttention(p);
  if (!isPower(s.block) || !isPower(s.rows) || s.rows > s.block) {
    throw new Error(`attention: ${s.rows} rows over ${s.block} threads: both must be powers of two, no more rows than threads`);
  }
  if (!isPower(s.tn) || s.tn > s.block) throw new Error(`attention: ${s.tn} keys a thread do not divide ${s.block}`);
  const shared = 4 * s.rows * (s.block + partsOf(s));
  if (s.block > caps.maxThreadsPerBlock || shared > caps.maxSharedBytes) {
    throw new Error(`attention: ${s.rows} rows over ${s.block} threads need ${shared} bytes of shared memory; over the target's limits`);
  }
}

/** One row's running softmax: names of the maximum, the sum and the accumulators in each thread. */
interface RowState {
  readonly max: Expr;
  readonly sum: Expr;
  readonly acc: readonly Expr[];
  readonly names: { readonly max: string; readonly sum: string; readonly acc: readonly string[] };
}

/**
 * q [T, heads · qkDim]; k [cap, kvHeads · qkDim], v [cap, kvHeads · vDim] (with vFromK: k again);
 * sinks [heads]; y [T, heads · vDim]. Token t sees the keys 0 … past + t that the window leaves.
 */
export function attentionByRows(p: AttentionProblem, s: AttentionRows, caps: Capabilities): Launch {
  check(p, s, caps);
  const { block } = s;
  const perGroup = p.heads / p.kvHeads;
  const lanes = lanesFor(p.qkDim);
  const depth = p.qkDim / lanes;
  const stride = valueStride(p);
  const vLanes = [4, 2, 1].map((l) => lanesFor(p.vDim, stride, l)).find((l) => p.vDim / l >= block) ?? 1;
  const columns = p.vDim / vLanes;
  const perThread = Math.ceil(columns / block);

  const { q, k, v, sinks, y, params } = attentionBuffers(p, lanes, vLanes);
  const scores = b.buffer('scores', 'shared', 'f32', 1, s.rows * block);
  const parts = partsOf(s);
  const maxima = b.buffer('maxima', 'shared', 'f32', 1, s.rows * parts);
  const maximaOf = (r: number): readonly Expr[] => range(parts).map((i) => b.load(maxima, b.u32(r * parts + i)));

  const T = b.scalar('T');
  const past = b.scalar('past');
  const l = line(mulSize(ceilDivSize(mulSize('T', perGroup), s.rows), p.kvHeads), caps);
  const head: Stmt[] = [];
  const index = define(head, 'block_index', l.index);
  const pairs = define(head, 'pairs', b.mul(T, b.u32(perGroup)));
  const bands = define(head, 'bands', b.ceilDiv(pairs, b.u32(s.rows)));

  const body: Stmt[] = [];
  const kvHead = define(body, 'kv_head', b.div(index, bands));
  const pair0 = define(body, 'pair0', b.mul(b.mod(index, bands), b.u32(s.rows)));
  const tokenOf = (r: Expr): Expr => b.div(b.add(pair0, r), b.u32(perGroup));
  const headOf = (r: Expr): Expr => b.add(b.mul(kvHead, b.u32(perGroup)), b.mod(b.add(pair0, r), b.u32(perGroup)));
  /** With one row a block there are no more rows than pairs. */
  const served = (r: Expr): Expr => (s.rows === 1 ? b.bool(true) : b.lt(b.add(pair0, r), pairs));
  const sees = (r: Expr, key: Expr): Expr => {
    const position = b.add(past, tokenOf(r));
    const causal = b.le(key, position);
    return p.window === undefined ? causal : b.and(causal, b.gt(b.add(key, b.u32(p.window)), position));
  };
  const lastToken = b.div(b.sub(b.min(b.add(pair0, b.u32(s.rows)), pairs), b.u32(1)), b.u32(perGroup));
  const keyEnd = define(body, 'key_end', b.add(past, lastToken, b.u32(1)));
  const oldest = p.window === undefined ? undefined : b.add(past, tokenOf(b.u32(0)), b.u32(1));
  const window = b.u32(p.window ?? 0);
  const keyBegin = define(body, 'key_begin', oldest === undefined ? b.u32(0) : b.sub(b.max(oldest, window), window));

  const states = range(s.rows).map((r): RowState => {
    const names = { max: `max${r}`, sum: `sum${r}`, acc: range(perThread).map((u) => `out${r}_${u}`) };
    const first = sinks === undefined ? b.f32(LOWEST) : clampFinite(b.loadF32(sinks, headOf(b.u32(r))));
    body.push(b.var_(names.max, first), b.var_(names.sum, b.f32(sinks === undefined ? 0 : 1)));
    for (const name of names.acc) body.push(b.var_(name, b.splat(vLanes, b.f32(0))));
    const f32 = b.ty('f32');
    const acc = names.acc.map((name) => b.variable(name, b.ty('f32', vLanes)));
    return { names, max: b.variable(names.max, f32), sum: b.variable(names.sum, f32), acc };
  });
  const columnOf = (u: number): Expr => b.add(b.thread, b.u32(u * block));
  const hasColumn = (u: number): Expr => ((u + 1) * block <= columns ? b.bool(true) : b.lt(columnOf(u), b.u32(columns)));
  const guarded = (cond: Expr, stmts: readonly Stmt[]): readonly Stmt[] => (cond.k === 'const' ? stmts : [b.if_(cond, stmts)]);

  const chunk = (base: Expr): readonly Stmt[] => {
    const tile: Tile = { name: 'dots', rows: s.rows, cols: block, count: 1 };
    const access = (row: Expr, col: Expr): Expr => b.add(b.mul(row, b.u32(depth)), b.div(col, b.u32(lanes)));
    const queries = b.view(q, (r, c) => access(b.add(b.mul(tokenOf(r), b.u32(p.heads)), headOf(r)), c), s.rows === 1 ? undefined : served);
    const keys = b.view(
      k,
      (j, c) => access(b.add(b.mul(b.add(base, j), b.u32(p.kvHeads)), kvHead), c),
      (j) => b.lt(b.add(base, j), keyEnd),
    );
    const stmts: Stmt[] = [
      b.tileAlloc(tile),
      b.mainloop(tile, queries, [keys], p.qkDim, { variant: 'fma', staging: 'register', tm: s.rows, tn: s.tn, bk: lanes }),
      b.tileMap(tile, (r, j, [dot]) => {
        const score = clampFinite(b.mul(dot ?? b.f32(0), b.f32(p.scale)));
        return [b.store(scores, b.add(b.mul(r, b.u32(block)), j), b.select(sees(r, b.add(base, j)), score, b.f32(LOWEST)))];
      }),
    ];
    stmts.push(...partMaxima(scores, maxima, s));
    states.forEach((state, r) => {
      const newMax = define(stmts, `new_max${r}`, maximaOf(r).reduce((x, m) => b.max(x, m), state.max));
      const shrink = define(stmts, `shrink${r}`, b.exp(b.sub(state.max, newMax)));
      const own = b.add(b.thread, b.u32(r * block));
      const weight = b.exp(b.sub(b.load(scores, own), newMax));
      stmts.push(
        b.assign(state.names.max, newMax),
        b.assign(state.names.sum, b.mul(state.sum, shrink)),
        ...state.acc.map((acc, u) => b.assign(state.names.acc[u] ?? '', b.mul(acc, b.splat(vLanes, shrink)))),
        // A single row never comes to the keys that it does not see.
        b.store(scores, own, s.rows === 1 ? weight : b.select(sees(b.u32(r), b.add(base, b.thread)), weight, b.f32(0))),
      );
    });
    const begin = p.window === undefined ? b.u32(0) : b.sub(b.max(keyBegin, base), base);
    const end = b.min(b.u32(block), b.sub(keyEnd, base));
    // Several rows of values under way; drivers of WebGPU decide by themselves.
    stmts.push(b.for_('j', begin, end, 1, (j) => accumulate(j, base), caps.target === 'cuda' ? 8 : false));
    return stmts;
  };

  /** Adds key `base + j`: Σ += p, out += p · v. */
  const accumulate = (j: Expr, base: Expr): readonly Stmt[] => {
    const stmts: Stmt[] = [];
    const weights = states.map((state, r) => {
      const weight = define(stmts, `p${r}`, b.load(scores, b.add(j, b.u32(r * block))));
      stmts.push(b.assign(state.names.sum, b.add(state.sum, weight)));
      return weight;
    });
    const row = b.mul(b.add(b.mul(b.add(base, j), b.u32(p.kvHeads)), kvHead), b.u32(stride / vLanes));
    for (const u of range(perThread)) {
      const added: Stmt[] = [];
      const value = define(added, `value${u}`, b.loadF32(v, b.add(row, columnOf(u))));
      states.forEach((state, r) => {
        const acc = state.acc[u];
        const weight = weights[r];
        if (acc === undefined || weight === undefined) return;
        const sum = b.fma(weight, value, acc);
        // A row of several must not take 0 · ∞ from a key that only the others see.
        added.push(b.assign(state.names.acc[u] ?? '', s.rows === 1 ? sum : b.select(b.gt(weight, b.f32(0)), sum, acc)));
      });
      stmts.push(...guarded(hasColumn(u), added));
    }
    return stmts;
  };

  const first = b.mul(b.div(keyBegin, b.u32(block)), b.u32(block));
  body.push(b.for_('base', first, keyEnd, block, chunk));
  states.forEach((state, r) => {
    const row = b.add(b.mul(tokenOf(b.u32(r)), b.u32(p.heads)), headOf(b.u32(r)));
    const stored = state.acc.flatMap((acc, u) =>
      guarded(hasColumn(u), [b.store(y, b.add(b.mul(row, b.u32(columns)), columnOf(u)), b.cast(y.elem, b.div(acc, b.splat(vLanes, state.sum))))]));
    body.push(...(r === 0 ? stored : guarded(served(b.u32(r)), stored)));
  });

  return launch({
    name: `attention_${p.heads}x${p.qkDim}`,
    family: 'attention',
    params,
    scalars: ['T', 'past'],
    block,
    resident: withAllRegisters(block),
    body: [b.alloc(scores), b.alloc(maxima), ...head, ...inLine(l, index, b.mul(bands, b.u32(p.kvHeads)), body)],
    schedule: { ...s },
    grid: l.grid,
  });
}

/** Threads that look for the maximum of one row, and what they leave in shared memory. */
const partsOf = (s: AttentionRows): number => Math.min(PARTS, s.block / s.rows);

/** Leaves the maxima of parts of each row of `scores` in `maxima` [rows][parts]. */
function partMaxima(scores: Buffer, maxima: Buffer, s: AttentionRows): readonly Stmt[] {
  const parts = partsOf(s);
  const stmts: Stmt[] = [];
  const best = b.variable('part_max', b.ty('f32'));
  const first = define(stmts, 'part', b.add(b.mul(b.div(b.thread, b.u32(parts)), b.u32(s.block)), b.mod(b.thread, b.u32(parts))));
  stmts.push(
    b.var_('part_max', b.load(scores, first)),
    b.for_('part_j', b.u32(parts), b.u32(s.block), parts, (j) => [b.assign('part_max', b.max(best, b.load(scores, b.add(first, j))))]),
    b.store(maxima, b.thread, best),
  );
  return s.rows * parts === s.block ? stmts : [b.if_(b.lt(b.thread, b.u32(s.rows * parts)), stmts)];
}
