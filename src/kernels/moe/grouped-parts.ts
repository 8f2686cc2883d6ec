/** What the kernels of `moe.grouped_linear` share: parameters, the bound segment of the bank, epilogues. */
import * as b from '../../ir/kernel/build.ts';
import type { Buffer, Elem, Expr, Lanes, ScalarName } from '../../ir/kernel/types.ts';
import { segmentOf, segmentScalars } from '../dense/common.ts';
import { applyEpilogue, epilogueCount, epilogueName } from '../epilogue.ts';
import { weightMatrix } from '../weight-matrix.ts';
import type { WeightMatrix } from '../weight-matrix.ts';
import { globalBuffer, lanesFor } from './common.ts';
import type { WeightElem } from './common.ts';
import type { GroupedProblem } from './grouped-problem.ts';
import { planBuffer } from './plan-layout.ts';

/** Buffers in the order they were asked for. */
export class Params {
  readonly list: (readonly [operand: string, buffer: Buffer])[] = [];

  bind(operand: string, elem: Elem, lanes: Lanes = 1): Buffer {
    const made = globalBuffer(operand, elem, lanes);
    this.list.push([operand, made]);
    return made;
  }

  /** Nothing where there is no such operand. */
  maybe(there: Elem | boolean | undefined, operand: string, elem: Elem = 'f32'): Buffer | undefined {
    if (there === undefined || there === false) return undefined;
    return this.bind(operand, there === true ? elem : there);
  }
}

/** One side of the op: the bank, or the shared FFN. */
export interface Side {
  readonly n: number;
  readonly k: number;
  /** Widest access that divides a row. */
  readonly lanes: Lanes;
  /** Accesses of a row, `lanes` elements each; rows of x may come in smaller ones. */
  readonly depth: number;
  readonly x: Buffer;
  readonly weight: WeightMatrix;
  readonly bias: Buffer | undefined;
}

export interface Sides {
  readonly routed: Side;
  readonly shared: Side | undefined;
}

interface SideOptions {
  /** No weight is read twice soon. */
  readonly streamed?: boolean;
  /** Width of an access of x where one of the weight has `lanes`; the same where not said. */
  readonly xLanes?: (lanes: Lanes) => Lanes;
}

/** Binds x, weights and biases of both sides. */
export function bindSides(p: GroupedProblem, params: Params, { streamed = false, xLanes = (lanes) => lanes }: SideOptions = {}): Sides {
  const read = (operand: string, elem: WeightElem, k: number): WeightMatrix => {
    const made = weightMatrix(operand, elem, k, streamed);
    params.list.push([operand, made.buf]);
    return made;
  };
  const lanes = lanesFor(p.k);
  const x = params.bind('x', p.xElem ?? 'f32', xLanes(lanes));
  const weight = read('weight', p.weightElem, p.k);
  const routed: Side = { n: p.n, k: p.k, lanes, depth: p.k / lanes, x, weight, bias: params.maybe(p.biasElem, 'bias') };
  const s = p.shared;
  if (s === undefined) return { routed, shared: undefined };
  const wide = lanesFor(s.k);
  const sx = s.ownX ? params.bind('sharedX', s.xElem ?? 'f32', xLanes(wide)) : x;
  const sw = read('sharedWeight', s.weightElem, s.k);
  return {
    routed,
    shared: { n: s.n, k: s.k, lanes: wide, depth: s.k / wide, x: sx, weight: sw, bias: params.maybe(s.biasElem, 'sharedBias') },
  };
}

export interface CombineOperands extends Sides {
  readonly ids: Buffer;
  /** Where rows lie by expert, and x is one of those rows. */
  readonly plan: Buffer | undefined;
  readonly weights: Buffer | undefined;
  readonly sharedGate: Buffer | undefined;
  readonly residual: Buffer | undefined;
  readonly y: Buffer;
}

/** Binds what a product with the sum over the slots reads and writes, in the order of its kernels' parameters. */
export function bindCombine(p: GroupedProblem, params: Params, options?: SideOptions): CombineOperands {
  const sides = bindSides(p, params, options);
  const ids = params.bind('ids', 'u32');
  const plan = p.mode === 'sorted' && !p.gather ? planBuffer() : undefined;
  if (plan !== undefined) params.list.push(['plan', plan]);
  const weights = params.maybe(p.routeWeights, 'routeWeights');
  const sharedGate = params.maybe(p.shared?.gate, 'sharedGate');
  const residual = params.maybe(p.residual, 'residual');
  return { ...sides, ids, plan, weights, sharedGate, residual, y: params.bind('y', 'f32') };
}

export const groupedScalars = (p: GroupedProblem): readonly ScalarName[] => ['T', ...segmentScalars(p)];

/** Number of the expert in the bound buffer; not below `count` where the segment does not hold it (DROPPED never is). */
export const localExpert = (p: GroupedProblem, expert: Expr): { readonly local: Expr; readonly count: Expr } => {
  const segment = segmentOf(p, p.experts);
  return { local: b.sub(expert, segment.first), count: segment.count };
};

/** Work that is done once though the bank comes in several segments: by the first, or by the last. */
export const inFirstSegment = (p: GroupedProblem): Expr =>
  p.segmentRows === undefined ? b.bool(true) : b.eq(b.scalar('segment.first'), b.u32(0));
export const inLastSegment = (p: GroupedProblem): Expr =>
  p.segmentRows === undefined ? b.bool(true) : b.eq(b.add(b.scalar('segment.first'), b.scalar('segment.count')), b.u32(p.experts));

/** Row of a side's weight (in accesses) for column `col` of matrix `i` of expert `bank`. */
export const weightRow = (p: GroupedProblem, side: Side, bank: Expr, i: number, col: Expr): Expr => {
  const rows = epilogueCount(p.epilogue) * side.n;
  return b.mul(b.add(b.mul(bank, b.u32(rows)), b.u32(i * side.n), col), b.u32(side.weight.stride));
};

/** The stored values of the columns from `col` on, as many as the sums have lanes; `bank` is the number of the expert among all, 0 for the shared FFN. */
export function finishRow(p: GroupedProblem, side: Side, sums: readonly Expr[], bank: Expr, col: Expr, weight: Expr | undefined): Expr {
  const rows = epilogueCount(p.epilogue) * side.n;
  const { bias } = side;
  const values = sums.map((sum, i) => {
    // Scaling the input row scales its products.
    const scaled = weight === undefined ? sum : b.mul(sum, b.splat(sum.ty.lanes, weight));
    if (bias === undefined) return scaled;
    const at = b.add(b.mul(bank, b.u32(rows)), b.u32(i * side.n), col);
    return b.add(scaled, b.pack(Array.from({ length: sum.ty.lanes }, (_, l) => b.loadF32(bias, b.add(at, b.u32(l))))));
  });
  return applyEpilogue(p.epilogue, values);
}

export const groupedName = (p: GroupedProblem, form: string): string =>
  `grouped_${form}_${epilogueName(p.epilogue)}_${p.experts}x${p.n}x${p.k}`;
