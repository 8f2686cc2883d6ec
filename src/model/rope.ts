/** Rotary embeddings: the frequencies and multipliers that a spec's `rope` stands for. Pure functions, all in f64. */
import type { Rope, RopeScaling } from './types.ts';

type Yarn = Extract<RopeScaling, { readonly kind: 'yarn' }>;

/** YaRN's attention temperature 0.1 · m · ln(factor) + 1 (arXiv 2309.00071 §3.4); 1 where the context is not stretched. */
export const yarnMscale = (factor: number, m: number): number => (factor <= 1 ? 1 : 0.1 * m * Math.log(factor) + 1);

/** The pair dimension whose wave turns `rotations` times over the original context. */
const correctionDim = (rotations: number, dim: number, theta: number, context: number): number =>
  (dim * Math.log(context / (rotations * 2 * Math.PI))) / (2 * Math.log(theta));

/** Per pair, how much of the unstretched frequency is kept: 1 for fast waves, 0 for slow ones, a ramp between. */
function yarnKeep(rope: Rope, yarn: Yarn): number[] {
  let low = correctionDim(yarn.betaFast, rope.dim, rope.theta, yarn.originalContext);
  let high = correctionDim(yarn.betaSlow, rope.dim, rope.theta, yarn.originalContext);
  if (yarn.truncate) {
    low = Math.floor(low);
    high = Math.ceil(high);
  }
  low = Math.max(low, 0);
  high = Math.min(high, rope.dim - 1);
  // As in the published code: an empty ramp becomes a step.
  if (low === high) high += 0.001;
  return Array.from({ length: rope.dim / 2 }, (_, i) => 1 - Math.min(1, Math.max(0, (i - low) / (high - low))));
}

/** Angle per position of each of the dim/2 pairs, pair 0 (the fastest) first. The order is the same for both pair styles. */
export function inverseFrequencies(rope: Rope): number[] {
  const base = Array.from({ length: rope.dim / 2 }, (_, i) => 1 / rope.theta ** ((2 * i) / rope.dim));
  const scaling = rope.scaling;
  if (scaling === undefined) return base;
  if (scaling.kind === 'linear') return base.map((f) => f / scaling.factor);
  const keep = yarnKeep(rope, scaling);
  return base.map((f, i) => {
    const k = keep[i] ?? 0;
    return (f / scaling.factor) * (1 - k) + f * k;
  });
}

/**
 * What cos and sin are multiplied by: 1 without YaRN; the ratio of the two mscales where a model names both
 * (DeepSeek, which puts the rest into the softmax scale, see `softmaxMscale`); else 0.1 · ln(factor) + 1.
 */
export function ropeMultiplier(rope: Rope): number {
  const yarn = rope.scaling;
  if (yarn?.kind !== 'yarn') return 1;
  // Zero counts as absent, as in the published code.
  if (!yarn.mscale || !yarn.mscaleAllDim) return yarnMscale(yarn.factor, 1);
  return yarnMscale(yarn.factor, yarn.mscale) / yarnMscale(yarn.factor, yarn.mscaleAllDim);
}

/** The factor mscale² that DeepSeek's YaRN puts on the softmax scale; 1 where `mscaleAllDim` is absent. */
export function softmaxMscale(rope: Rope | undefined): number {
  const yarn = rope?.scaling;
  return yarn?.kind === 'yarn' && yarn.mscaleAllDim ? yarnMscale(yarn.factor, yarn.mscaleAllDim) ** 2 : 1;
}
