/**
 * Weights and inputs made from integers alone, for golden vectors: the compiler's reference and the device
 * start from the same numbers without a checkpoint.
 *
 * Element i of the parameter `name` under `seed` comes from u = signedUnit(hashText(name, seed), i) in [−1, 1):
 * - a norm (a vector whose name has `norm`): 1 + u / 8
 * - any other vector, and a bias per expert: u / 8
 * - a matrix [n, k] or a bank of them: u · √(3 / k), variance 1 / k
 * - whole numbers (a hash router's table): the hash modulo the number of experts
 * rounded to f32, then to the parameter's storage type.
 */
import type { ElemName } from './abi.ts';
import { hashAt, hashText, signedUnit } from './random.ts';
import { roundTo } from './weight-data.ts';
import { type WeightParam, layerName, matrixOf } from './weights.ts';

export interface ProceduralParam {
  /** Canonical name, the layer filled in. */
  readonly name: string;
  readonly elem: ElemName;
  readonly bank: number;
  readonly n: number;
  readonly k: number;
  /** A matrix or a bank of matrices, not a vector or a bank of vectors. */
  readonly matrix: boolean;
}

export function proceduralParam(param: WeightParam, layer: number | null | undefined): ProceduralParam {
  const { banked, bank, n, k } = matrixOf(param);
  const rank = param.shape.length - (banked ? 1 : 0);
  return { name: layerName(param.name, layer), elem: param.elem, bank, n, k, matrix: rank >= 2 };
}

/** Elements [begin, end) of a parameter in its canonical order; as stored (rounded to its type). */
export function proceduralWeight(param: ProceduralParam, seed: number, experts: number, begin: number, end: number): Float64Array {
  const key = hashText(param.name, seed);
  const out = new Float64Array(end - begin);
  if (param.elem === 'u32' || param.elem === 'i32') {
    for (let i = begin; i < end; i++) out[i - begin] = hashAt(key, i) % Math.max(1, experts);
    return out;
  }
  const isNorm = !param.matrix && param.name.includes('norm');
  const scale = param.matrix ? Math.fround(Math.sqrt(3 / Math.max(1, param.k))) : 0.125;
  const offset = isNorm ? 1 : 0;
  for (let i = begin; i < end; i++) out[i - begin] = offset + signedUnit(key, i) * scale;
  roundTo(out, 'f32');
  roundTo(out, param.elem);
  return out;
}

/** A whole parameter, for the reference evaluator. */
export function proceduralWeights(param: WeightParam, layer: number | null | undefined, seed: number, experts: number): Float64Array {
  const p = proceduralParam(param, layer);
  return proceduralWeight(p, seed, experts, 0, p.bank * p.n * p.k);
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
