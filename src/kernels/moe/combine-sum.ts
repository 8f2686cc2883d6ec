/**
 * The sum over a token's slots, written once: whether it runs by itself or behind the last product, a token
 * gets the same operations in the same order.
 */
import * as b from '../../ir/kernel/build.ts';
import type { Expr } from '../../ir/kernel/types.ts';
import { sigmoid } from '../epilogue.ts';

/** sum + weight · value; without a weight, sum + value. */
export const addSlot = (sum: Expr, value: Expr, weight: Expr | undefined): Expr =>
  weight === undefined ? b.add(sum, value) : b.fma(weight, value, sum);

export interface Tail {
  readonly shared: Expr | undefined;
  /** The shared experts' gate logit (one f32). */
  readonly sharedGate: Expr | undefined;
  readonly scale: number;
  readonly residual: Expr | undefined;
}

/** (sum [+ shared · σ(sharedGate)]) · scale [+ residual] */
export function finishSum(sum: Expr, tail: Tail): Expr {
  const gate = tail.sharedGate === undefined ? undefined : sigmoid(tail.sharedGate);
  const whole = tail.shared === undefined ? sum : addSlot(sum, tail.shared, gate);
  const scaled = tail.scale === 1 ? whole : b.mul(whole, b.splat(whole.ty.lanes, b.f32(tail.scale)));
  return tail.residual === undefined ? scaled : b.add(scaled, tail.residual);
}
