/** y = epilogue(x · weightᵀ + bias) · scale [+ residual], and the product per head. */
import * as b from '../../ir/kernel/build.ts';
import type { Buffer, Expr } from '../../ir/kernel/types.ts';
import type { Capabilities } from '../../target/types.ts';
import { applyEpilogue } from '../epilogue.ts';
import type { Epilogue } from '../epilogue.ts';
import type { Launch } from '../launch.ts';
import type { MatvecSchedule } from '../schedule.ts';
import { globalBuffer } from './common.ts';
import type { Rows, Segmented, StorageElem, WeightElem } from './common.ts';
import { matmul } from './matmul.ts';
import type { LinearSchedule, MatmulProblem } from './matmul.ts';

export interface LinearProblem extends Rows, Segmented {
  /** Columns of y. */
  readonly n: number;
  readonly k: number;
  readonly epilogue: Epilogue;
  readonly scale: number;
  readonly residual: boolean;
  readonly weightElem: WeightElem;
  /** Storage of x and y; f32 where not said. */
  readonly xElem?: StorageElem;
  readonly yElem?: StorageElem;
  /** Storage of the bias; absent: there is none. */
  readonly biasElem?: StorageElem;
  /** The most rows a call has, where that is known (a decode bucket). */
  readonly maxRows?: number;
}

/** The product a linear problem asks for, as `linearSchedule` wants it. */
export const linearShape = (p: LinearProblem): MatmulProblem => ({ ...p, heads: 1, products: p.epilogue.kind === 'glu' ? 2 : 1 });

/**
 * x f32 [rows, k], weight [n, k] (with glu [2n, k]: gate rows, then up rows), bias as long as the weight has
 * rows, residual and y f32 [rows, n]. A split weight runs one step a segment, each with its own columns.
 */
export function linear(p: LinearProblem, schedule: LinearSchedule | MatvecSchedule | undefined, caps: Capabilities): Launch {
  const bias = p.biasElem === undefined ? undefined : globalBuffer('bias', p.biasElem);
  const residual = p.residual ? globalBuffer('residual', 'f32') : undefined;
  const extra: (readonly [string, Buffer])[] = [];
  if (bias !== undefined) extra.push(['bias', bias]);
  if (residual !== undefined) extra.push(['residual', residual]);
  return matmul({
    name: `linear_${p.n}x${p.k}`,
    family: 'linear',
    shape: linearShape(p),
    extra,
    result(sums, col, at) {
      /** Neighbouring elements, as many as the sums have lanes. */
      const run = (buf: Buffer, first: Expr): Expr =>
        b.pack(Array.from({ length: sums[0]?.ty.lanes ?? 1 }, (_, l) => b.loadF32(buf, b.add(first, b.u32(l)))));
      const biased = sums.map((sum, i) => (bias === undefined ? sum : b.add(sum, run(bias, b.add(col, b.u32(i * p.n))))));
      const value = applyEpilogue(p.epilogue, biased);
      const scaled: Expr = p.scale === 1 ? value : b.mul(value, b.splat(value.ty.lanes, b.f32(p.scale)));
      return residual === undefined ? scaled : b.add(scaled, run(residual, at));
    },
  }, schedule, caps);
}

export interface HeadLinearProblem extends Rows, Segmented {
  readonly heads: number;
  /** Columns of a head of y and of x. */
  readonly n: number;
  readonly k: number;
  readonly weightElem: StorageElem;
  readonly xElem?: StorageElem;
  readonly yElem?: StorageElem;
  readonly maxRows?: number;
}

/** x f32 [rows, heads · k], weight [heads, n, k] (split over heads, or over n with a single head), y f32 [rows, heads · n]. */
export const headLinear = (p: HeadLinearProblem, schedule: LinearSchedule | MatvecSchedule | undefined, caps: Capabilities): Launch =>
  matmul({
    name: `head_linear_${p.heads}x${p.n}x${p.k}`,
    family: 'head_linear',
    shape: { ...p, products: 1 },
    extra: [],
    result: ([sum]) => sum ?? b.f32(0),
  }, schedule, caps);
