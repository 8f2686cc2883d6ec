/**
 * Which candidates to look at first: an estimate from counts of what a kernel does, the counts of `ir/kernel/cost.ts` written
 * as formulas of problem and schedule, so that whole spaces are ranked without making their kernels.
 */
import { epilogueCount } from '../kernels/epilogue.ts';
import { lanesFor, linearShape, matvecColumns, tileThreads } from '../kernels/index.ts';
import type { AttentionProblem, AttentionSchedule, GroupedProblem, MatmulProblem, MatvecSchedule, TileSchedule } from '../kernels/index.ts';
import type { Chosen } from './space/types.ts';

/** Where a kernel runs. */
export interface RankPoint {
  readonly tokens: number;
  /** A CPU plays the device. */
  readonly software: boolean;
  readonly subgroupSize: number;
}

/** An estimate of time in any unit: of two candidates for one problem the smaller one is looked at first. */
export type Rank = (chosen: Chosen, at: RankPoint) => number;

/** Costs beside one multiply-add. */
interface Prices {
  readonly load: number;
  readonly shared: number;
  readonly barrier: number;
  /** Of beginning a block, per thread. */
  readonly start: number;
  /** Threads that a device needs before all of it works. */
  readonly threads: number;
  /** Sums from which on they no longer stay in registers. */
  readonly sums: number;
  /** Multiply-adds of one round of a main loop, written out, that take as long to compile as the estimate may double for. */
  readonly round: number;
}

/** In software every load is a loop over lanes with checks, and a barrier leaves the shader; on GPUs shared memory is what loads cost little from. */
const SOFTWARE: Prices = { load: 10, shared: 10, barrier: 400, start: 30, threads: 64, sums: 64, round: 1024 };
const GPU: Prices = { load: 8, shared: 1.5, barrier: 25, start: 40, threads: 16_384, sums: 48, round: 8192 };

/** Depth of one round. */
const ROUND_DEPTH = 4;

/** Counts of one thread, and how many threads there are. */
export interface WorkCounts {
  readonly loads: number;
  readonly shared: number;
  readonly fma: number;
  readonly barriers: number;
  readonly blocks: number;
  readonly threads: number;
  readonly sums: number;
}

function price(c: WorkCounts, at: RankPoint): number {
  const p = at.software ? SOFTWARE : GPU;
  const spill = c.sums > p.sums ? 1 + (c.sums - p.sums) / p.sums : 1;
  const thread = (c.loads * p.load + c.shared * p.shared + c.fma) * spill + c.barriers * p.barrier + p.start;
  const width = Math.ceil(c.threads / at.subgroupSize) * at.subgroupSize;
  return thread * Math.max(c.blocks * width, p.threads) * (1 + c.sums * ROUND_DEPTH / p.round);
}

/** The main loop of one tile of `rows` x `cols`, threads holding tm x tn of it. */
export function tileCounts(s: TileSchedule, shape: { readonly k: number; readonly count: number }, subgroupSize: number): Omit<WorkCounts, 'blocks'> {
  const lanes = lanesFor(shape.k);
  const threads = tileThreads(s);
  const steps = shape.k / lanes;
  if (s.variant === 'mma-sync' || s.variant === 'wgmma') {
    return { loads: 0, shared: 0, fma: (s.bm * s.bn * shape.count * shape.k) / threads / 16, barriers: steps / s.bk, threads, sums: (s.bm * s.bn * shape.count) / threads };
  }
  const { tm, tn } = s;
  const sums = tm * tn * shape.count;
  const fma = sums * shape.k;
  const read = (tm + tn * shape.count) * steps;
  // Every element of a row is handed round by an instruction of its own, which costs about two multiply-adds.
  if (s.staging === 'broadcast') {
    return { loads: tn * shape.count * steps + (tm * shape.k) / subgroupSize, shared: 0, fma: fma + 2 * tm * shape.k, barriers: 0, threads, sums };
  }
  if (s.staging === 'register') return { loads: read, shared: 0, fma, barriers: 0, threads, sums };
  const staged = ((s.bm + s.bn * shape.count) * steps) / threads;
  return { loads: staged, shared: read + staged, fma, barriers: (2 * shape.k) / s.bk, threads, sums };
}

/** Tiles of rows that a sorted plan makes of so many rows, about: the last tile of an expert is half empty. */
function plannedTiles(rows: number, experts: number, tileRows: number): number {
  const used = experts * (1 - (1 - 1 / experts) ** rows);
  return Math.min(rows, used * Math.max(1, rows / used / tileRows + 0.5));
}

function matvecCounts(s: MatvecSchedule, shape: { readonly k: number; readonly count: number; readonly rows: number }, subgroupSize: number): Omit<WorkCounts, 'blocks'> {
  const lanes = lanesFor(shape.k);
  const steps = Math.ceil(shape.k / lanes / s.team);
  const sums = s.cols * shape.count;
  // What is under way hides part of a load's wait; joining a team takes a few operations a sum.
  const hidden = 1 - Math.min(0.3, 0.1 * Math.log2(s.unroll ?? 1));
  const join = s.team === 1 ? 0 : sums * shape.rows * 2 * Math.log2(s.team);
  if (s.broadcast === 1) {
    return { loads: steps * sums + shape.k / subgroupSize, shared: 0, fma: sums * steps * lanes + 2 * shape.k, barriers: 0, threads: s.block, sums };
  }
  return { loads: steps * (sums + shape.rows) * hidden, shared: join, fma: sums * shape.rows * steps * lanes, barriers: 0, threads: s.block, sums: sums * shape.rows };
}

function grouped(p: GroupedProblem, s: { readonly tile?: TileSchedule; readonly matvec?: MatvecSchedule }, at: RankPoint): number {
  const count = epilogueCount(p.epilogue);
  const rows = at.tokens * p.slots;
  const parts = [{ n: p.n, k: p.k, rows }, ...(p.shared === undefined ? [] : [{ n: p.shared.n, k: p.shared.k, rows: at.tokens }])];
  const { tile, matvec } = s;
  if (tile !== undefined) {
    const tiles = (i: number): number => (i === 0 ? plannedTiles(rows, p.experts, tile.bm) : Math.ceil(at.tokens / tile.bm));
    return parts.reduce((sum, part, i) => sum + price({ ...tileCounts(tile, { k: part.k, count }, at.subgroupSize), blocks: tiles(i) * Math.ceil(part.n / tile.bn) }, at), 0);
  }
  if (matvec === undefined) return 0;
  return parts.reduce((sum, part) => sum + price({ ...matvecCounts(matvec, { k: part.k, count, rows: 1 }, at.subgroupSize), blocks: (part.rows * Math.ceil(part.n / matvecColumns(matvec))) / (p.combine ? (matvec.ways ?? 1) : 1) }, at), 0);
}

function dense(p: MatmulProblem, s: TileSchedule | MatvecSchedule, at: RankPoint): number {
  const rows = at.tokens * (p.rowsPerToken ?? 1);
  const shape = { k: p.k, count: p.products };
  if ('team' in s) return price({ ...matvecCounts(s, { ...shape, rows }, at.subgroupSize), blocks: p.heads * Math.ceil(p.n / matvecColumns(s)) }, at);
  const single = 'oneRow' in s && s.oneRow === 1 && rows === 1 && s.variant !== 'mma-sync' && s.variant !== 'wgmma';
  const tile = single ? { ...s, bm: 1, tm: 1 } : s;
  return price({ ...tileCounts(tile, shape, at.subgroupSize), threads: tileThreads(s), blocks: p.heads * Math.ceil(rows / s.bm) * Math.ceil(p.n / s.bn) }, at);
}

/** Attention is not counted: small changes of what is usual come first. */
function attention(_p: AttentionProblem, s: AttentionSchedule): number {
  if ('variant' in s) return 1;
  return 1 + Math.abs(Math.log2(s.block / 64)) + Math.abs(Math.log2(s.rows / 4)) + Math.abs(Math.log2(s.tn / 2));
}

export const rankByCounts: Rank = (chosen, at) => {
  switch (chosen.family) {
    case 'grouped-linear':
      return grouped(chosen.problem, chosen.schedule, at);
    case 'linear':
      return dense(linearShape(chosen.problem), chosen.schedule, at);
    case 'head_linear':
      return dense({ ...chosen.problem, products: 1 }, chosen.schedule, at);
    case 'attention':
      return attention(chosen.problem, chosen.schedule);
  }
};
