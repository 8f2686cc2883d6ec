/** The activations' definitions, in f64. */
import type { ActivationName, GluClamp } from '../../../src/ir/graph/types.ts';

const sigmoid = (x: number): number => 1 / (1 + Math.exp(-x));

/** erfc by the series of erf near 0 and by its continued fraction beyond, where 1 − erf would cancel. */
export function erfc(x: number): number {
  if (x < 0) return 2 - erfc(-x);
  if (x > 2) {
    let fraction = 0;
    for (let n = 200; n >= 1; n--) fraction = n / 2 / (x + fraction);
    return Math.exp(-x * x) / Math.sqrt(Math.PI) / (x + fraction);
  }
  let term = x;
  let sum = x;
  for (let n = 1; n < 100; n++) {
    term *= (-x * x) / n;
    sum += term / (2 * n + 1);
  }
  return 1 - (2 / Math.sqrt(Math.PI)) * sum;
}

export function referenceAct(name: ActivationName, x: number): number {
  switch (name) {
    case 'silu':
      return x * sigmoid(x);
    case 'gelu':
      return 0.5 * x * erfc(-x / Math.SQRT2);
    case 'gelu-tanh':
      return 0.5 * x * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3)));
    case 'relu':
      return Math.max(0, x);
  }
}

export function referenceGlu(name: ActivationName, gate: number, up: number, clamp?: GluClamp): number {
  if (clamp === undefined) return referenceAct(name, gate) * up;
  const g = Math.min(gate, clamp.limit);
  const u = Math.max(-clamp.limit, Math.min(up, clamp.limit));
  return (u + clamp.upOffset) * g * sigmoid(clamp.alpha * g);
}
