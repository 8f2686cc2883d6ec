/** Ways a weight can lie in a checkpoint, as `TensorSource`s: the alphabet that the layouts are written in. */
import type { ParamRole, TensorSource, WeightPart } from '../../ir/graph/types.ts';

const PLAIN = { start: 0, step: 1 } as const;

/** A matrix stored [n, k] (PyTorch's [out, in]); one per expert where the name holds `{e}`. */
export const matrix = (name: string, n: number, k: number): TensorSource => ({ name, shape: [n, k], n: { axis: 0, ...PLAIN }, k: PLAIN });

/** A vector [n]; one per expert where the name holds `{e}`. */
export const vector = (name: string, n: number): TensorSource => ({ name, shape: [n], n: { axis: 0, ...PLAIN }, k: { start: 0, step: 0 } });

/** A vector stored as a matrix of one row [1, n]. */
export const rowVector = (name: string, n: number): TensorSource => ({ ...vector(name, n), shape: [1, n], n: { axis: 1, ...PLAIN } });

/** A vector stored as a matrix of one column [n, 1]. */
export const columnVector = (name: string, n: number): TensorSource => ({ ...vector(name, n), shape: [n, 1] });

/** A bank stored [experts, n, k]. */
export const bank = (name: string, experts: number, n: number, k: number): TensorSource => ({
  ...matrix(name, n, k),
  shape: [experts, n, k],
});

/** A bank stored [experts, k, n], input-major. */
export const bankTransposed = (name: string, experts: number, n: number, k: number): TensorSource => ({
  name,
  shape: [experts, k, n],
  n: { axis: 1, ...PLAIN },
  k: PLAIN,
});

/** Vectors stored [experts, n]. */
export const bankVector = (name: string, experts: number, n: number): TensorSource => ({ ...vector(name, n), shape: [experts, n] });

/** A bank stored as one matrix [experts · n, k]. */
export const stacked = (name: string, experts: number, n: number, k: number): TensorSource => ({
  ...matrix(name, n, k),
  shape: [experts * n, k],
  bankRows: n,
});

/** A bank of [k, n] matrices stored as one matrix [experts · k, n]. */
export const stackedTransposed = (name: string, experts: number, n: number, k: number): TensorSource => ({
  name,
  shape: [experts * k, n],
  bankRows: k,
  n: { axis: 1, ...PLAIN },
  k: PLAIN,
});

/** Every `step`-th row of a source, from `start` on. */
export const pick = (source: TensorSource, start: number, step = 1): TensorSource => ({ ...source, n: { ...source.n, start, step } });

/** Only where the checkpoint also holds the tensor `requires`. */
export const given = (source: TensorSource, requires: string): TensorSource => ({ ...source, requires });

/** Which half of a fused gate-up tensor. */
export type Half = 'gate' | 'up';

/** The gate or up rows of a source that holds both, in halves or interleaved; `n` rows each. */
export function half(source: TensorSource, which: Half, n: number, fused: 'halves' | 'interleaved'): TensorSource {
  const second = which === 'up' ? 1 : 0;
  return fused === 'halves' ? pick(source, second * n) : pick(source, second, 2);
}

/** The role of a weight of one part. */
export const weight = (rows: number, sources: readonly TensorSource[]): ParamRole => ({ kind: 'weight', parts: [part(rows, sources)] });
export const part = (rows: number, sources: readonly TensorSource[]): WeightPart => ({ rows, sources });
