/**
 * Schedules: plain records of numbers that say how a kernel family runs. They hash, print and tune.
 * This file has those of the grouped products; families with other needs define their record beside themselves.
 */
import type { FmaSchedule, Lanes, MainloopSchedule } from '../ir/kernel/types.ts';
import { QUANT_GROUP, isQuantName, quantFormat } from '../base/quant.ts';
import { valuesPerWord } from '../ir/kernel/packed.ts';
import { isWgmmaWidth } from '../target/cuda.ts';
import { subgroupThreads } from '../target/types.ts';
import type { Capabilities, Verdict } from '../target/types.ts';
import type { StorageElem, WeightElem } from './dense/common.ts';

/** A block computes bm x bn outputs, in slices of depth bk where operands are staged; the variant says by what. */
export type TileSchedule = FmaTile | MmaTile | WgmmaTile;

interface BlockTile {
  readonly bm: number;
  readonly bn: number;
  readonly bk: number;
}

/** Each thread computes tm x tn outputs with fma. Runs anywhere. */
export interface FmaTile extends BlockTile {
  readonly variant?: 'fma';
  readonly tm: number;
  readonly tn: number;
  /**
   * `register`: threads load what they multiply; `shared`: slices of both operands are staged in shared memory; `broadcast`: the
   * threads of a subgroup share their rows and hand what they load of them round.
   */
  readonly staging: FmaSchedule['staging'];
}

/** Tensor cores of single warps: warpsM x warpsN of them side by side, slices in a ring of `stages`. */
export interface MmaTile extends BlockTile {
  readonly variant: 'mma-sync';
  readonly warpsM: number;
  readonly warpsN: number;
  readonly stages: number;
}

/** Tensor cores of warpgroups: one loads, `consumers` multiply 64 rows each; blocks walk over the tiles. */
export interface WgmmaTile extends BlockTile {
  readonly variant: 'wgmma';
  readonly consumers: number;
  readonly stages: number;
}

/** Elements that one access of a weight gives. */
const weightUnit = ({ weightElem = 'f32', lanes }: TileShape): number => (isQuantName(weightElem) ? valuesPerWord(quantFormat(weightElem)) : lanes);

/** What a schedule must suit: depth and access width of the operands, and matrices of weights that are read side by side. */
export interface TileShape {
  readonly k: number;
  readonly lanes: Lanes;
  /** 2 for gated units. */
  readonly count: number;
  /** Storage of weights and rows; f32 where not said. */
  readonly weightElem?: WeightElem;
  readonly xElem?: StorageElem;
  /** Columns of rows or of results, whichever are fewer, of all heads; k where not said. */
  readonly width?: number;
  /** Whether a bias is added to the sums. */
  readonly bias?: boolean;
}

const WARP = 32;
const WARPGROUP = 128;
/** Rows of one wgmma. */
const GROUP_ROWS = 64;
const MAX_CONSUMERS = 2;

export function tileThreads(s: TileSchedule): number {
  switch (s.variant) {
    case 'mma-sync':
      return WARP * s.warpsM * s.warpsN;
    case 'wgmma':
      return WARPGROUP * (s.consumers + 1);
    default:
      return (s.bm / s.tm) * (s.bn / s.tn);
  }
}

export const isFma = (s: TileSchedule): s is FmaTile => s.variant === undefined || s.variant === 'fma';

/** Columns that a thread hands on side by side: what a map over the tile may store at once. */
export const tileLanes = (s: TileSchedule, n: number): 1 | 2 => (isFma(s) || n % 2 !== 0 ? 1 : 2);

/** Width of an access of x where one of the weights has `lanes`: threads that hand values round load single elements each. */
export const rowLanes = (s: TileSchedule | MatvecSchedule, lanes: Lanes): Lanes =>
  ('team' in s ? s.broadcast === 1 : isFma(s) && s.staging === 'broadcast') ? 1 : lanes;

/** Bytes of shared memory the main loop stages: slices of fma lie as [depth / lanes][rows + 1], those of tensor cores as [rows][bk] in 16 bits. */
export function tileSharedBytes(s: TileSchedule, shape: TileShape): number {
  if (s.variant === 'mma-sync') return 2 * s.stages * s.bk * (s.bm + shape.count * s.bn);
  // A full and an empty barrier a stage, and room to begin at a multiple of 1024.
  if (s.variant === 'wgmma') return 2 * s.stages * s.bk * (s.bm + shape.count * s.bn) + 16 * s.stages + 1024;
  if (s.staging !== 'shared') return 0;
  const depth = Math.ceil(Math.min(s.bk, shape.k) / shape.lanes) * shape.lanes;
  return 4 * depth * (s.bm + 1 + shape.count * (s.bn + 1));
}

/** Bytes of the loops that one kernel runs over `shapes`: rings of tensor cores take turns, slices of fma do not. */
export function kernelSharedBytes(s: TileSchedule, shapes: readonly TileShape[]): number {
  const bytes = shapes.map((shape) => tileSharedBytes(s, shape));
  return isFma(s) ? bytes.reduce((a, x) => a + x, 0) : Math.max(...bytes);
}

/** f32 accumulators and operands one thread holds; more than this spills everywhere. */
const MAX_THREAD_VALUES = 256;
/** Accumulators a thread may hold where fragments stand beside them: of 255 registers, of the 232 of a consumer. */
const MAX_FRAGMENT_SUMS = 128;
/** Elements that an asynchronous copy moves at once. */
const COPY = 8;

const no = (why: string): Verdict => ({ ok: false, why });
const YES: Verdict = { ok: true };

/** What both kinds of tensor cores ask of the operands. */
function legalHalves(variant: 'mma-sync' | 'wgmma', shape: TileShape, caps: Capabilities): Verdict {
  const { weightElem = 'f32', xElem = 'f32' } = shape;
  if (!caps.matrix.includes(variant)) return no(`${caps.profile} has no ${variant}`);
  if (weightElem !== 'f16' && weightElem !== 'bf16') return no(`${variant} multiplies 16-bit weights, these are ${weightElem}`);
  if (xElem !== weightElem && (variant === 'wgmma' || xElem !== 'f32')) return no(`${variant} takes no rows of ${xElem} with weights of ${weightElem}`);
  const { width = shape.k } = shape;
  if (xElem === 'f32' && width < caps.roundedWidth) return no(`${variant} rounds rows of f32, which takes a product of ${caps.roundedWidth} columns, not of ${width}`);
  return shape.k % COPY === 0 ? YES : no(`a depth of ${shape.k} is no multiple of ${COPY}`);
}

function legalMma(s: MmaTile, shape: TileShape, caps: Capabilities): Verdict {
  const halves = legalHalves('mma-sync', shape, caps);
  if (!halves.ok) return halves;
  if (s.bk % 16 !== 0) return no(`bk ${s.bk} is no multiple of 16`);
  if (s.stages < 2) return no('a ring of one stage');
  if (s.bm % (16 * s.warpsM) !== 0) return no(`${s.warpsM} warps do not divide bm ${s.bm} into pieces of 16`);
  if (s.bn % (8 * s.warpsN) !== 0) return no(`${s.warpsN} warps do not divide bn ${s.bn} into pieces of 8`);
  const sums = (shape.count * s.bm * s.bn) / tileThreads(s);
  return sums > MAX_FRAGMENT_SUMS ? no(`${sums} sums a thread, at most ${MAX_FRAGMENT_SUMS} stay in registers`) : YES;
}

function legalWgmma(s: WgmmaTile, shape: TileShape, caps: Capabilities): Verdict {
  const halves = legalHalves('wgmma', shape, caps);
  if (!halves.ok) return halves;
  if (s.bk !== 64) return no(`bk ${s.bk}: a row of a slice is 128 bytes, 64 elements`);
  if (s.stages < 2) return no('a ring of one stage');
  if (s.consumers > MAX_CONSUMERS) return no(`${s.consumers} consumers, registers are shared out to at most ${MAX_CONSUMERS}`);
  if (s.bm !== GROUP_ROWS * s.consumers) return no(`bm ${s.bm} is not ${GROUP_ROWS} rows for each of ${s.consumers} consumers`);
  const width = shape.count * s.bn;
  if (s.bn % 8 !== 0 || !isWgmmaWidth(width)) return no(`${shape.count} x ${s.bn} columns are no width of wgmma`);
  const sums = (GROUP_ROWS * width) / WARPGROUP;
  return sums > MAX_FRAGMENT_SUMS ? no(`${sums} sums a thread, at most ${MAX_FRAGMENT_SUMS} stay in registers`) : YES;
}

/** Threads side by side that share rows: whole subgroups of them, where rows are handed round. */
function legalBroadcast(across: number, weightElem: WeightElem, caps: Capabilities): Verdict {
  const size = subgroupThreads(caps);
  if (size === undefined) return no(`subgroups of ${caps.profile} have no known size`);
  if (isQuantName(weightElem) && size > QUANT_GROUP) return no(`subgroups of ${size} hand round more than a group of ${weightElem}`);
  return across % size === 0 ? YES : no(`${across} threads share rows, subgroups have ${size}`);
}

function legalFma(s: FmaTile, shape: TileShape, caps: Capabilities): Verdict {
  if (s.bm % s.tm !== 0) return no(`tm ${s.tm} does not divide bm ${s.bm}`);
  if (s.bn % s.tn !== 0) return no(`tn ${s.tn} does not divide bn ${s.bn}`);
  const unit = weightUnit(shape);
  if (s.staging === 'shared' && s.bk % unit !== 0) return no(`bk ${s.bk} is no multiple of ${unit} lanes`);
  const shares = s.staging === 'broadcast' ? legalBroadcast(s.bn / s.tn, shape.weightElem ?? 'f32', caps) : YES;
  if (!shares.ok) return shares;
  const { lanes, count } = shape;
  const values = count * s.tm * s.tn + rowLanes(s, lanes) * s.tm + unit * count * s.tn;
  return values > MAX_THREAD_VALUES ? no(`${values} values a thread, at most ${MAX_THREAD_VALUES} stay in registers`) : YES;
}

/** Whether a block can run the schedule on a device. */
export function legalTile(s: TileSchedule, shape: TileShape, caps: Capabilities): Verdict {
  for (const [name, value] of Object.entries(s)) {
    if (typeof value === 'number' && !(Number.isInteger(value) && value > 0))
      return no(`${name} is ${value}, not a whole number from 1 up`);
  }
  const own =
    s.variant === 'mma-sync' ? legalMma(s, shape, caps) : s.variant === 'wgmma' ? legalWgmma(s, shape, caps) : legalFma(s, shape, caps);
  if (!own.ok) return own;
  const threads = tileThreads(s);
  if (threads > caps.maxThreadsPerBlock) return no(`${threads} threads, the device has ${caps.maxThreadsPerBlock} a block`);
  const bytes = tileSharedBytes(s, shape);
  return bytes > caps.maxSharedBytes ? no(`${bytes} bytes of shared memory, the device has ${caps.maxSharedBytes}`) : YES;
}

/** Throws with the reason where the schedule is not legal. */
export function wantLegalTile(family: string, s: TileSchedule, shape: TileShape, caps: Capabilities): void {
  const verdict = legalTile(s, shape, caps);
  if (!verdict.ok) throw new Error(`${family}: ${verdict.why}`);
}

export function mainloopSchedule(s: TileSchedule): MainloopSchedule {
  switch (s.variant) {
    case 'mma-sync':
      return { variant: 'mma-sync', warpsM: s.warpsM, warpsN: s.warpsN, bk: s.bk, stages: s.stages };
    case 'wgmma':
      return { variant: 'wgmma', consumers: s.consumers, bk: s.bk, stages: s.stages };
    default:
      return { variant: 'fma', staging: s.staging, tm: s.tm, tn: s.tn, bk: s.bk };
  }
}

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
  /** Where teams are subgroups: accesses of each weight row that a thread has under way; 1 where not said. */
  readonly unroll?: number;
  /** Where teams are subgroups: teams that share the slots of a token's columns (combining products only); 1 where not said. */
  readonly ways?: number;
  /** Where teams are single threads: 1 lets the threads of a subgroup load parts of the row and hand them round. */
  readonly broadcast?: 1;
}

export const matvecColumns = (s: MatvecSchedule): number => (s.block / s.team / (s.ways ?? 1)) * s.cols;

/** Whether the teams of a schedule are the subgroups of the device: they join their sums by subgroup operations. */
export const bySubgroups = (s: MatvecSchedule, caps: Capabilities): boolean => s.team > 1 && subgroupThreads(caps) === s.team;

/** Whether a block can run the schedule on a device. */
export function legalMatvec(s: MatvecSchedule, count: number, caps: Capabilities, weightElem: WeightElem = 'f32'): Verdict {
  for (const [name, value] of Object.entries(s)) {
    if (!(Number.isInteger(value) && value > 0)) return no(`${name} is ${value}, not a whole number from 1 up`);
  }
  const { ways = 1, unroll = 1 } = s;
  if (s.block % s.team !== 0) return no(`a team of ${s.team} does not divide a block of ${s.block}`);
  if (s.block > caps.maxThreadsPerBlock) return no(`${s.block} threads, the device has ${caps.maxThreadsPerBlock} a block`);
  if (s.broadcast === 1) {
    if (s.team > 1) return no('teams of several threads load their own parts of the row');
    const shares = legalBroadcast(s.block, weightElem, caps);
    if (!shares.ok) return shares;
  }
  const joined = bySubgroups(s, caps);
  if (!joined && (ways > 1 || unroll > 1)) return no(`a team of ${s.team} is no subgroup of the device`);
  if ((s.block / s.team) % ways !== 0) return no(`${ways} ways do not divide ${s.block / s.team} teams`);
  const bytes = s.team === 1 ? 0 : joined ? 4 * ways * matvecColumns(s) : 4 * s.block * s.cols * count;
  if (bytes > caps.maxSharedBytes) return no(`${bytes} bytes of shared memory, the device has ${caps.maxSharedBytes}`);
  return { ok: true };
}
