/** The numbers that every peer gets: the same weights and inputs from integers, and what an f64 loop makes of them. */
import { hashText, signedUnit } from '../../../src/runtime/core/random.ts';
import { packRows } from '../../../src/runtime/core/quant.ts';

/** The layer of the comparison: a mixture of SwiGLU experts, weights of the chosen ones renormalised. */
export interface Shape {
  readonly experts: number;
  readonly active: number;
  readonly hidden: number;
  readonly width: number;
}

export const SHAPE: Shape = { experts: 8, active: 2, hidden: 512, width: 512 };

/** Matrices are [out, in], banks of them [expert, out, in]. */
export interface LayerWeights {
  readonly router: Float32Array;
  readonly gate: Float32Array;
  readonly up: Float32Array;
  readonly down: Float32Array;
}

const SEED = 7;

/** Values of variance 1 / depth. */
function matrix(name: string, count: number, depth: number): Float32Array {
  const key = hashText(name, SEED);
  const scale = Math.sqrt(3 / depth);
  return Float32Array.from({ length: count * depth }, (_, i) => signedUnit(key, i) * scale);
}

export const layerWeights = ({ experts, hidden, width }: Shape): LayerWeights => ({
  router: matrix('router', experts, hidden),
  gate: matrix('gate', experts * width, hidden),
  up: matrix('up', experts * width, hidden),
  down: matrix('down', experts * hidden, width),
});

/** Hidden states [tokens, hidden] of variance 1. */
export const layerInput = (tokens: number, { hidden }: Shape): Float32Array => matrix(`x ${tokens}`, tokens, hidden).map((v) => v * Math.sqrt(hidden));

export type Quantised = 'int8_f32' | 'int4_f32';

const refuse = (index: number, value: number): never => {
  throw new Error(`weight ${index} is ${value}`);
};

/** A bank as a quantised storage holds it: whole numbers in groups of 32 along the depth, and a scale a group. */
export interface QuantisedBank {
  readonly bits: 8 | 4;
  /** [rows, depth] */
  readonly values: Int8Array;
  /** [rows, depth / 32] */
  readonly scales: Float32Array;
}

/** Quantised by moec's rule, so that all who store so many bits multiply the same numbers. */
export function quantise(values: Float32Array, depth: number, name: Quantised): QuantisedBank {
  const bits = name === 'int8_f32' ? 8 : 4;
  const rows = values.length / depth;
  const words = packRows(name, values, rows, depth, refuse);
  const valueWords = (depth * bits) / 32;
  const perRow = valueWords + depth / 32;
  const perWord = 32 / bits;
  const floats = new Float32Array(words.buffer);
  const out = { bits, values: new Int8Array(rows * depth), scales: new Float32Array((rows * depth) / 32) } as const;
  for (let row = 0; row < rows; row++) {
    for (let k = 0; k < depth; k++) {
      const word = words[row * perRow + Math.floor(k / perWord)] ?? 0;
      const field = (word >>> ((k % perWord) * bits)) & (2 ** bits - 1);
      out.values[row * depth + k] = bits === 8 ? (field << 24) >> 24 : field - 8;
    }
    for (let g = 0; g < depth / 32; g++) out.scales[(row * depth) / 32 + g] = floats[row * perRow + valueWords + g] ?? 0;
  }
  return out;
}

/** The numbers that a quantised bank stands for. */
export const dequantised = ({ values, scales }: QuantisedBank): Float64Array => Float64Array.from(values, (v, i) => v * (scales[i >> 5] ?? 0));

/** The weights as they are after quantising the experts. */
export function quantisedWeights(weights: LayerWeights, { hidden, width }: Shape, name: Quantised): Record<'gate' | 'up' | 'down', QuantisedBank> {
  return { gate: quantise(weights.gate, hidden, name), up: quantise(weights.up, hidden, name), down: quantise(weights.down, width, name) };
}

type Numbers = Float32Array | Float64Array;

function dot(a: Numbers, aAt: number, b: Numbers, bAt: number, n: number): number {
  let sum = 0;
  for (let i = 0; i < n; i++) sum += (a[aAt + i] ?? 0) * (b[bAt + i] ?? 0);
  return sum;
}

const silu = (v: number): number => v / (1 + Math.exp(-v));

/** y [tokens, hidden] of a mixture, all in f64. */
export function mixtureReference(x: Float32Array, router: Float32Array, banks: Readonly<Record<'gate' | 'up' | 'down', Numbers>>, shape: Shape): Float64Array {
  const { experts, active, hidden, width } = shape;
  const tokens = x.length / hidden;
  const y = new Float64Array(tokens * hidden);
  const h = new Float64Array(width);
  for (let t = 0; t < tokens; t++) {
    const logits = Array.from({ length: experts }, (_, e) => ({ e, logit: dot(x, t * hidden, router, e * hidden, hidden) }));
    const chosen = logits.sort((a, b) => b.logit - a.logit || a.e - b.e).slice(0, active);
    const best = chosen[0]?.logit ?? 0;
    const sum = chosen.reduce((n, c) => n + Math.exp(c.logit - best), 0);
    for (const { e, logit } of chosen) {
      const weight = Math.exp(logit - best) / sum;
      for (let i = 0; i < width; i++) {
        const at = (e * width + i) * hidden;
        h[i] = silu(dot(x, t * hidden, banks.gate, at, hidden)) * dot(x, t * hidden, banks.up, at, hidden);
      }
      for (let j = 0; j < hidden; j++) y[t * hidden + j] = (y[t * hidden + j] ?? 0) + weight * dot(h, 0, banks.down, (e * hidden + j) * width, width);
    }
  }
  return y;
}

/** One SwiGLU network for all tokens, of `width`: the dense layer of equal activated size. */
export interface DenseWeights {
  readonly hidden: number;
  readonly width: number;
  readonly gate: Float32Array;
  readonly up: Float32Array;
  readonly down: Float32Array;
}

export function denseWeights({ active, hidden, width }: Shape): DenseWeights {
  const wide = active * width;
  return { hidden, width: wide, gate: matrix('dense gate', wide, hidden), up: matrix('dense up', wide, hidden), down: matrix('dense down', hidden, wide) };
}

export function denseReference(x: Float32Array, { hidden, width, gate, up, down }: DenseWeights): Float64Array {
  const tokens = x.length / hidden;
  const y = new Float64Array(tokens * hidden);
  const h = new Float64Array(width);
  for (let t = 0; t < tokens; t++) {
    for (let i = 0; i < width; i++) h[i] = silu(dot(x, t * hidden, gate, i * hidden, hidden)) * dot(x, t * hidden, up, i * hidden, hidden);
    for (let j = 0; j < hidden; j++) y[t * hidden + j] = dot(h, 0, down, j * width, width);
  }
  return y;
}

/** Multiplications and additions of the products; the router's where there is one. */
export const layerFlops = ({ experts, active, hidden, width }: Shape, tokens: number): number => 2 * tokens * (3 * active * hidden * width + experts * hidden);
export const denseFlops = ({ hidden, width }: DenseWeights, tokens: number): number => 6 * tokens * hidden * width;

