/**
 * What happens to accumulators before they are stored, as kernel-IR expressions: activations, gated
 * linear units (with the clamp of gpt-oss), the sigmoid of gates. All work on any number of lanes.
 *
 * Written so that no intermediate value overflows: WGSL may assume that infinities do not occur.
 */
import { assertNever } from '../base/assert-never.ts';
import * as b from '../ir/kernel/build.ts';
import type { Expr } from '../ir/kernel/types.ts';

export type Activation = 'silu' | 'gelu' | 'gelu-tanh' | 'relu';

/** gate = min(gate, limit), up = clamp(up, ±limit), h = (up + upOffset) · gate · sigmoid(alpha · gate). */
export interface GluClamp {
  readonly limit: number;
  readonly alpha: number;
  readonly upOffset: number;
}

/** `glu` reads two accumulators, gate first, then up; the others read one. */
export type Epilogue =
  | { readonly kind: 'none' }
  | { readonly kind: 'act'; readonly activation: Activation }
  | { readonly kind: 'glu'; readonly activation: Activation; readonly clamp?: GluClamp };

/** Accumulators one output element needs: rows of the weight per row of the output. */
export const epilogueCount = (e: Epilogue): 1 | 2 => (e.kind === 'glu' ? 2 : 1);

/** A short name for kernels: `none`, `silu`, `glu_silu`, `glu_clamp`. */
export const epilogueName = (e: Epilogue): string =>
  e.kind === 'none'
    ? 'none'
    : (e.kind === 'glu' ? (e.clamp === undefined ? `glu_${e.activation}` : 'glu_clamp') : e.activation).replace('-', '_');

/** The number `value` in every lane of `like`. */
const num = (value: number, like: Expr): Expr => b.splat(like.ty.lanes, b.f32(value));

/** 1 / (1 + e^−x), from e^−|x| so that nothing overflows. */
export function sigmoid(x: Expr): Expr {
  const e = b.exp(b.neg(b.abs(x)));
  return b.div(b.select(b.ge(x, num(0, x)), num(1, x), e), b.add(num(1, x), e));
}

/** tanh-GELU (Hendrycks & Gimpel 2016): x · sigmoid(2 · √(2/π) · (x + 0.044715 x³)). */
function geluTanh(x: Expr): Expr {
  // Beyond ±16 the sigmoid is 0 or 1, and the cube would overflow in the end.
  const c = b.min(b.max(x, num(-16, x)), num(16, x));
  const cubic = b.fma(b.mul(num(0.044715, x), b.mul(c, c)), c, c);
  return b.mul(x, sigmoid(b.mul(num(2 * Math.sqrt(2 / Math.PI), x), cubic)));
}

/** Coefficients of the Chebyshev fit of ln(erfc(z) · e^(z²) / t), t = 1 / (1 + z/2); relative error < 1.2e-7 (Press et al., §6.2). */
const ERFC = [
  -1.26551223, 1.00002368, 0.37409196, 0.09678418, -0.18628806, 0.27886807, -1.13520398, 1.48851587, -0.82215223, 0.17087277,
] as const;

/** GELU: x · Φ(x), with Φ from erfc so that its left tail keeps its relative accuracy. */
function gelu(x: Expr): Expr {
  // erfc(13) is below the smallest f32.
  const z = b.min(b.mul(b.abs(x), num(Math.SQRT1_2, x)), num(13, x));
  const t = b.div(num(1, x), b.fma(num(0.5, x), z, num(1, x)));
  const fit = ERFC.reduceRight<Expr | undefined>((sum, c) => (sum === undefined ? num(c, x) : b.fma(sum, t, num(c, x))), undefined);
  const tail = b.mul(b.mul(num(0.5, x), t), b.exp(b.sub(fit ?? num(0, x), b.mul(z, z))));
  return b.mul(x, b.select(b.ge(x, num(0, x)), b.sub(num(1, x), tail), tail));
}

/** f(x) for one of the activations the language knows. */
export function activate(kind: Activation, x: Expr): Expr {
  switch (kind) {
    case 'silu':
      return b.mul(x, sigmoid(x));
    case 'gelu':
      return gelu(x);
    case 'gelu-tanh':
      return geluTanh(x);
    case 'relu':
      return b.max(x, num(0, x));
    default:
      return assertNever(kind);
  }
}

/** act(gate) · up; with a clamp as `GluClamp` says. */
export function glu(activation: Activation, clamp: GluClamp | undefined, gate: Expr, up: Expr): Expr {
  if (clamp === undefined) return b.mul(activate(activation, gate), up);
  const g = b.min(gate, num(clamp.limit, gate));
  const u = b.min(b.max(up, num(-clamp.limit, up)), num(clamp.limit, up));
  const gated = b.mul(g, sigmoid(clamp.alpha === 1 ? g : b.mul(num(clamp.alpha, g), g)));
  return b.mul(clamp.upOffset === 0 ? u : b.add(u, num(clamp.upOffset, u)), gated);
}

/** The stored value from the accumulators (biases already added): one value, or gate and up. */
export function applyEpilogue(e: Epilogue, values: readonly Expr[]): Expr {
  const [first, second] = values;
  if (first === undefined) throw new Error('an epilogue needs a value');
  switch (e.kind) {
    case 'none':
      return first;
    case 'act':
      return activate(e.activation, first);
    case 'glu':
      if (second === undefined) throw new Error('glu needs a gate and an up value');
      return glu(e.activation, e.clamp, first, second);
    default:
      return assertNever(e);
  }
}
