/**
 * Weights and inputs made from integers alone, for golden vectors: the compiler's reference and the device
 * start from the same numbers without a checkpoint.
 *
 * A parameter's rows belong to parts (one checkpoint tensor or bank each): fusing concatenates parts and must not
 * change them. Element i of the part `name` (its first source) under `seed` comes from
 * u = signedUnit(hashText(name, seed), i) in [−1, 1):
 * - a norm (a vector whose name has `norm`): 1 + u / 8
 * - any other vector, and a bias per expert: u / 8
 * - a matrix [n, k] or a bank of them: u · √(3 / k), variance 1 / k
 * - whole numbers (a hash router's table): the hash modulo the number of experts
 * rounded to f32, then to the parameter's storage type.
 */
import type { StoredElem } from './abi.ts';
import { hashAt, hashText, signedUnit } from './random.ts';
import { isQuant, type Refuse } from './quant.ts';
import { roundTo } from './weight-data.ts';
import { type WeightParam, layerName, matrixOf } from './weights.ts';

interface ProceduralPart {
  readonly name: string;
  /** Rows [first, first + rows) of every matrix of the bank. */
  readonly first: number;
  readonly rows: number;
}

export interface ProceduralParam {
  /** Canonical name, the layer filled in. */
  readonly name: string;
  readonly elem: StoredElem;
  readonly bank: number;
  readonly n: number;
  readonly k: number;
  /** A matrix or a bank of matrices, not a vector or a bank of vectors. */
  readonly matrix: boolean;
  readonly parts: readonly ProceduralPart[];
}

export function proceduralParam(param: WeightParam, layer: number | null | undefined): ProceduralParam {
  const { banked, bank, n, k } = matrixOf(param);
  const rank = param.shape.length - (banked ? 1 : 0);
  let first = 0;
  const parts = param.role.parts.map(({ rows, sources }): ProceduralPart => {
    const part = { name: layerName(sources[0]?.name ?? param.name, layer), first, rows };
    first += rows;
    return part;
  });
  return { name: layerName(param.name, layer), elem: param.elem, bank, n, k, matrix: rank >= 2, parts };
}

const refuse: Refuse = (_index, value) => {
  throw new RangeError(`a procedural weight is ${value}`);
};

/** Elements [begin, end) of a parameter in its canonical order; as stored (rounded to its type). Of a quantised one whole rows. */
export function proceduralWeight(param: ProceduralParam, seed: number, experts: number, begin: number, end: number): Float64Array {
  const out = exactWeight(param, seed, experts, begin, end);
  roundTo(out, param.elem, param.k, refuse);
  return out;
}

/** The same before it is stored: f32. */
export function exactWeight(param: ProceduralParam, seed: number, experts: number, begin: number, end: number): Float64Array {
  const { n, k, matrix, parts, elem } = param;
  const out = new Float64Array(end - begin);
  const isIndex = elem === 'u32' || elem === 'i32';
  const scale = matrix ? Math.fround(Math.sqrt(3 / Math.max(1, k))) : 0.125;
  const offset = !matrix && param.name.includes('norm') ? 1 : 0;
  const keys = parts.map((part) => hashText(part.name, seed));
  for (let row = Math.floor(begin / k); row * k < end; row++) {
    const at = parts.findLastIndex((part) => part.first <= row % n);
    const part = parts[at] ?? { first: 0, rows: n };
    const key = keys[at] ?? 0;
    // The part on its own is a bank of [rows, k].
    const base = (Math.floor(row / n) * part.rows + (row % n) - part.first) * k;
    for (let i = Math.max(begin, row * k); i < Math.min(end, (row + 1) * k); i++) {
      const index = base + i - row * k;
      out[i - begin] = isIndex ? hashAt(key, index) % Math.max(1, experts) : offset + signedUnit(key, index) * scale;
    }
  }
  if (!isIndex) {
    roundTo(out, 'f32', k, refuse);
  }
  return out;
}

/** A whole parameter, for the reference evaluator; not quantised where only the f32 numbers are `wanted`. */
export function proceduralWeights(
  param: WeightParam, layer: number | null | undefined, seed: number, experts: number, wanted: 'stored' | 'exact' = 'stored',
): Float64Array {
  const p = proceduralParam(param, layer);
  return (wanted === 'stored' || !isQuant(p.elem) ? proceduralWeight : exactWeight)(p, seed, experts, 0, p.bank * p.n * p.k);
}

/** Token ids below `vocab`. */
export function proceduralIds(seed: number, tokens: number, vocab: number): Int32Array {
  const key = hashText('input_ids', seed);
  return Int32Array.from({ length: tokens }, (_, i) => hashAt(key, i) % Math.max(1, vocab));
}

/** Hidden states [tokens, hidden] of variance 1. */
export function proceduralInput(seed: number, tokens: number, hidden: number): Float32Array {
  const key = hashText('x', seed);
  const scale = Math.sqrt(3);
  return Float32Array.from({ length: tokens * hidden }, (_, i) => signedUnit(key, i) * scale);
}
