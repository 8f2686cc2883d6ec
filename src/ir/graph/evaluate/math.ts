/** Scalar functions of the reference, in f64 and written for plainness. */
import type { ActivationName, GluClamp } from '../types.ts';

const SERIES_LIMIT = 2;

/** erf(x) = 2/√π · e^(−x²) · Σ 2ⁿ x^(2n+1) / (2n+1)!! — all terms of one sign, so nothing cancels (Abramowitz & Stegun 7.1.6). */
function erfSeries(x: number): number {
  let term = x;
  let sum = x;
  for (let n = 1; Math.abs(term) > Math.abs(sum) * 1e-17; n++) {
    term *= (2 * x * x) / (2 * n + 1);
    sum += term;
  }
  return (2 / Math.sqrt(Math.PI)) * Math.exp(-x * x) * sum;
}

/** erfc(x) for x ≥ 2 by the continued fraction e^(−x²)/√π · 1/(x + ½/(x + 1/(x + 1½/(x + …)))) (A & S 7.1.14). */
function erfcFraction(x: number): number {
  let tail = x;
  for (let n = 120; n >= 1; n--) tail = x + n / 2 / tail;
  return Math.exp(-x * x) / Math.sqrt(Math.PI) / tail;
}

/** Complementary error function, to a few units in the last place. */
export function erfc(x: number): number {
  if (x >= SERIES_LIMIT) return erfcFraction(x);
  if (x <= -SERIES_LIMIT) return 2 - erfcFraction(-x);
  return 1 - erfSeries(x);
}

export const sigmoid = (x: number): number => (x >= 0 ? 1 / (1 + Math.exp(-x)) : Math.exp(x) / (1 + Math.exp(x)));

/** ln(1 + eˣ) */
export const softplus = (x: number): number => Math.max(x, 0) + Math.log1p(Math.exp(-Math.abs(x)));

export function activate(name: ActivationName, x: number): number {
  switch (name) {
    case 'silu':
      return x * sigmoid(x);
    case 'gelu':
      return (x / 2) * erfc(-x / Math.SQRT2);
    case 'gelu-tanh':
      return (x / 2) * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3)));
    case 'relu':
      return Math.max(x, 0);
  }
}

/** act(gate) · up, or gpt-oss's clamped form. */
export function gatedUnit(activation: ActivationName, clamp: GluClamp | undefined, gate: number, up: number): number {
  if (clamp === undefined) return activate(activation, gate) * up;
  const g = Math.min(gate, clamp.limit);
  const u = Math.max(-clamp.limit, Math.min(up, clamp.limit));
  return (u + clamp.upOffset) * g * sigmoid(clamp.alpha * g);
}

/** e^(v − max) / Σ; −∞ entries get 0. */
export function softmax(values: readonly number[]): number[] {
  const max = Math.max(...values);
  const powers = values.map((v) => Math.exp(v - max));
  const sum = powers.reduce((a, b) => a + b, 0);
  return powers.map((p) => p / sum);
}
