/**
 * Schedules: plain records of numbers that say how a kernel family runs. They hash, print and tune.
 * This file has those of the grouped products; families with other needs define their record beside themselves.
 */
import type { MainloopSchedule } from '../ir/kernel/types.ts';
import type { Capabilities, Verdict } from '../target/types.ts';

/** A block computes bm x bn outputs, a thread tm x tn of them, in slices of depth bk where operands are staged. */
export interface TileSchedule {
  readonly bm: number;
  readonly bn: number;
  readonly bk: number;
  readonly tm: number;
  readonly tn: number;
  /** `register`: threads load what they multiply; `shared`: slices of both operands are staged in shared memory. */
  readonly staging: 'register' | 'shared';
}

/** What a schedule must suit: depth and access width of the operands, and matrices of weights that are read side by side. */
export interface TileShape {
  readonly k: number;
  readonly lanes: number;
  /** 2 for gated units. */
  readonly count: number;
}

export const tileThreads = (s: TileSchedule): number => (s.bm / s.tm) * (s.bn / s.tn);

/** Bytes of shared memory the main loop stages: slices lie as [depth / lanes][rows + 1]. */
export function tileSharedBytes(s: TileSchedule, shape: TileShape): number {
  if (s.staging === 'register') return 0;
  const depth = Math.ceil(Math.min(s.bk, shape.k) / shape.lanes) * shape.lanes;
  return 4 * depth * (s.bm + 1 + shape.count * (s.bn + 1));
}

/** f32 accumulators and operands one thread holds; more than this spills everywhere. */
const MAX_THREAD_VALUES = 256;

const no = (why: string): Verdict => ({ ok: false, why });

/** Whether a block can run the schedule on a device. */
export function legalTile(s: TileSchedule, shape: TileShape, caps: Capabilities): Verdict {
  for (const [name, value] of Object.entries(s)) {
    if (typeof value === 'number' && !(Number.isInteger(value) && value > 0))
      return no(`${name} is ${value}, not a whole number from 1 up`);
  }
  if (s.bm % s.tm !== 0) return no(`tm ${s.tm} does not divide bm ${s.bm}`);
  if (s.bn % s.tn !== 0) return no(`tn ${s.tn} does not divide bn ${s.bn}`);
  const threads = tileThreads(s);
  if (threads > caps.maxThreadsPerBlock) return no(`${threads} threads, the device has ${caps.maxThreadsPerBlock} a block`);
  if (s.staging === 'shared' && s.bk % shape.lanes !== 0) return no(`bk ${s.bk} is no multiple of ${shape.lanes} lanes`);
  const bytes = tileSharedBytes(s, shape);
  if (bytes > caps.maxSharedBytes) return no(`${bytes} bytes of shared memory, the device has ${caps.maxSharedBytes}`);
  const values = shape.count * s.tm * s.tn + shape.lanes * (s.tm + shape.count * s.tn);
  if (values > MAX_THREAD_VALUES) return no(`${values} values a thread, at most ${MAX_THREAD_VALUES} stay in registers`);
  return { ok: true };
}

/** Throws with the reason where the schedule is not legal. */
export function wantLegalTile(family: string, s: TileSchedule, shape: TileShape, caps: Capabilities): void {
  const verdict = legalTile(s, shape, caps);
  if (!verdict.ok) throw new Error(`${family}: ${verdict.why}`);
}

export const mainloopSchedule = (s: TileSchedule): MainloopSchedule => ({
  variant: 'fma',
  staging: s.staging,
  tm: s.tm,
  tn: s.tn,
  bk: s.bk,
});

/** As `Kernel.schedule` has it. */
export const tileRecord = (s: TileSchedule): Readonly<Record<string, number | string>> => ({ ...s });

/** How a row times a matrix is cut up where rows are few (decoding). */
export interface MatvecSchedule {
  /** Threads of a block. */
  readonly block: number;
  /** Threads that share one column and split its depth; 1 keeps the order of sums of the tile kernels, bit for bit. */
  readonly team: number;
  /** Columns a team computes at once. */
  readonly cols: number;
}

export const matvecColumns = (s: MatvecSchedule): number => (s.block / s.team) * s.cols;

/** Whether a block can run the schedule on a device. */
export function legalMatvec(s: MatvecSchedule, count: number, caps: Capabilities): Verdict {
  for (const [name, value] of Object.entries(s)) {
    if (!(Number.isInteger(value) && value > 0)) return no(`${name} is ${value}, not a whole number from 1 up`);
  }
  if (s.block % s.team !== 0) return no(`a team of ${s.team} does not divide a block of ${s.block}`);
  if (s.block > caps.maxThreadsPerBlock) return no(`${s.block} threads, the device has ${caps.maxThreadsPerBlock} a block`);
  const bytes = s.team === 1 ? 0 : 4 * s.block * s.cols * count;
  if (bytes > caps.maxSharedBytes) return no(`${bytes} bytes of shared memory, the device has ${caps.maxSharedBytes}`);
  return { ok: true };
}
