/**
 * What the dense families share: rows of a call, folded grids, lanes, weights that are split into
 * segments, and the shape of an element-wise kernel.
 *
 * Index arithmetic is u32 and counts accesses. A buffer of up to 4 GiB is therefore always addressed
 * without wrapping; weights beyond that are refused here, activations are the host's to check.
 */
import type { QuantName } from '../../base/quant.ts';
import { ceilDivSize, mulSize } from '../../base/size.ts';
import type { Size } from '../../base/size.ts';
import * as b from '../../ir/kernel/build.ts';
import { define } from '../../ir/kernel/build.ts';
import type { Buffer, Elem, Expr, Kernel, Lanes, ScalarName, Stmt } from '../../ir/kernel/types.ts';
import type { Capabilities } from '../../target/types.ts';
import type { Launch } from '../launch.ts';

/** How a weight is stored; loads are cast to f32. */
export type StorageElem = Extract<Elem, 'f32' | 'f16' | 'bf16'>;
/** How a matrix of experts is stored. */
export type WeightElem = StorageElem | QuantName;

/** Problems over activations: `rowsPerToken` rows a token (1 where absent; the slots of a routed value). */
export interface Rows {
  readonly rowsPerToken?: number;
}

/** Widest access that divides every one of `widths` (in elements). */
export const lanesFor = (...widths: readonly number[]): Lanes =>
  widths.every((w) => w % 4 === 0) ? 4 : widths.every((w) => w % 2 === 0) ? 2 : 1;

/** Rows of a value in this call, on the host and on the device. */
export const rowsSize = (p: Rows): Size => mulSize('T', p.rowsPerToken ?? 1);
export const rowsExpr = (p: Rows): Expr => b.mul(b.scalar('T'), b.u32(p.rowsPerToken ?? 1));

/** Smallest power of two ≥ n. */
export const powerOfTwo = (n: number): number => 2 ** Math.ceil(Math.log2(Math.max(1, n)));

export { define };

/** Throws on sizes that are not whole numbers from `least` up. */
export function wantWhole(family: string, sizes: Readonly<Record<string, number | undefined>>, least = 1): void {
  for (const [name, value] of Object.entries(sizes)) {
    if (value !== undefined && !(Number.isInteger(value) && value >= least)) {
      throw new Error(`${family}: ${name} is ${value}, not a whole number from ${least} up`);
    }
  }
}

/** Throws where one buffer would hold more accesses than u32 can count. */
export function wantIndexable(family: string, name: string, accesses: number): void {
  if (accesses >= 2 ** 32) throw new Error(`${family}: ${name} has ${accesses} accesses in one buffer; an index holds at most 2^32 - 1`);
}

// ---------------------------------------------------------------- grids

/** `total` blocks in one line, folded over grid.x and grid.y where they may exceed the limit of a dimension. */
export interface Line {
  readonly grid: readonly [Size, Size, Size];
  /** The block's place in the line; may be beyond `total` where the grid is folded. */
  readonly index: Expr;
  readonly folded: boolean;
}

export function line(total: Size, caps: Capabilities): Line {
  if (typeof total === 'number' && total <= caps.maxGrid) {
    return { grid: [total, 1, 1], index: b.builtin('block.x'), folded: false };
  }
  const y = ceilDivSize(total, caps.maxGrid);
  const index = b.add(b.builtin('block.x'), b.mul(b.builtin('block.y'), b.builtin('grid.x')));
  return { grid: [ceilDivSize(total, y), y, 1], index, folded: true };
}

/** `body` where the block of the line exists (uniform over the block). */
export const inLine = (l: Line, index: Expr, total: Expr, body: readonly Stmt[]): readonly Stmt[] =>
  l.folded ? [b.if_(b.lt(index, total), body)] : body;

// ---------------------------------------------------------------- segments

/** A weight whose leading dim is split: a step sees `segment.count` rows of it, from row `segment.first` on. */
export interface Segmented {
  /** Leading rows of the largest segment; absent where one buffer holds the weight. */
  readonly segmentRows?: number;
}

export const segmentScalars = (p: Segmented): readonly ScalarName[] =>
  p.segmentRows === undefined ? [] : ['segment.first', 'segment.count'];

/** First row of the bound buffer and how many it holds. */
export const segmentOf = (p: Segmented, rows: number): { readonly first: Expr; readonly count: Expr; readonly most: number } =>
  p.segmentRows === undefined
    ? { first: b.u32(0), count: b.u32(rows), most: rows }
    : { first: b.scalar('segment.first'), count: b.scalar('segment.count'), most: Math.min(p.segmentRows, rows) };

// ---------------------------------------------------------------- kernels

export const globalBuffer = (name: string, elem: Elem, lanes: Lanes = 1): Buffer => b.buffer(name, 'global', elem, lanes);

/** to[at] = from[index], converted where the two are stored differently. */
export const copy = (to: Buffer, at: Expr, from: Buffer, index: Expr): Stmt =>
  b.store(to, at, to.elem === from.elem ? b.load(from, index) : b.cast(to.elem, b.loadF32(from, index)));

/** Blocks side by side that leave a thread 255 registers of the 65536 a processor has, as many as it can name: without a word, nvcc may spill for the sake of more blocks. */
export const withAllRegisters = (block: number): number => Math.max(1, Math.floor(256 / block));

export interface KernelParts {
  readonly name: string;
  readonly family: string;
  /** Operand name and the buffer it is bound to, in order. */
  readonly params: readonly (readonly [operand: string, buffer: Buffer])[];
  readonly scalars: readonly ScalarName[];
  readonly block: number;
  readonly resident?: number;
  readonly body: readonly Stmt[];
  readonly schedule: Kernel['schedule'];
  readonly grid: readonly [Size, Size, Size];
}

export const launch = (p: KernelParts): Launch => ({
  kernel: {
    name: p.name, family: p.family, params: p.params.map(([, buffer]) => buffer), scalars: p.scalars,
    block: p.block, ...(p.resident !== undefined && { resident: p.resident }), body: p.body, schedule: p.schedule,
  },
  operands: p.params.map(([operand]) => operand),
  grid: p.grid,
});

/** Threads of a block of an element-wise kernel. */
export interface ElementwiseSchedule {
  readonly block: number;
}

/** Small blocks where a software device may run them; on GPUs as many threads as hide the latency of memory with few blocks to begin. */
export const elementwiseSchedule = (caps: Capabilities): ElementwiseSchedule => ({
  block: Math.min(caps.target === 'cuda' ? 256 : 64, caps.maxThreadsPerBlock),
});

export interface ElementwiseParts extends Omit<KernelParts, 'block' | 'body' | 'schedule' | 'grid' | 'scalars'> {
  readonly scalars?: readonly ScalarName[];
  /** Items per row; `body` runs once for each item of each row. */
  readonly perRow: number;
  readonly rows: Rows;
  /** `item` counts from 0 through all rows: row · perRow + place. */
  body(item: Expr): readonly Stmt[];
}

/** One thread an item, items in one line. */
export function elementwise(p: ElementwiseParts, schedule: ElementwiseSchedule, caps: Capabilities): Launch {
  const { block } = schedule;
  const l = line(ceilDivSize(mulSize(rowsSize(p.rows), p.perRow), block), caps);
  const stmts: Stmt[] = [];
  const item = define(stmts, 'item', b.add(b.mul(l.index, b.u32(block)), b.thread));
  stmts.push(b.if_(b.lt(item, b.mul(rowsExpr(p.rows), b.u32(p.perRow))), p.body(item)));
  const scalars: readonly ScalarName[] = ['T', ...(p.scalars ?? [])];
  return launch({ ...p, scalars, block, body: stmts, schedule: { block }, grid: l.grid });
}
