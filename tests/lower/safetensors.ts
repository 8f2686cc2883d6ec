/** Reads golden files whole, in f64. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Checkpoint, CheckpointTensor } from './assemble.ts';
import { headerBytes, parseHeader } from '../../src/runtime/core/safetensors.ts';
import { decodeInto } from '../../src/runtime/core/tensors.ts';

export const GOLDEN: string = join(import.meta.dirname, '../golden');

export interface TensorFile {
  readonly checkpoint: Checkpoint;
  /** A tensor that must be there. */
  get(name: string): CheckpointTensor;
  readonly names: readonly string[];
}

/** @param path below tests/golden */
export function readTensors(path: string): TensorFile {
  const bytes = readFileSync(join(GOLDEN, path));
  const length = headerBytes(bytes, bytes.length, path);
  const header = parseHeader(bytes.subarray(8, 8 + length), bytes.length, path);
  const tensors = new Map<string, CheckpointTensor>();
  for (const [name, { dtype, shape, begin, end }] of header.tensors) {
    const count = shape.reduce((n, dim) => n * dim, 1);
    const data = dtype === 'I32' ? new Int32Array(count) : new Float64Array(count);
    decodeInto(data, dtype, new Uint8Array(bytes.subarray(header.dataStart + begin, header.dataStart + end)));
    tensors.set(name, { shape, data });
  }
  return {
    checkpoint: (name) => tensors.get(name),
    get(name) {
      const tensor = tensors.get(name);
      if (tensor === undefined) throw new Error(`${path} has no ${name}`);
      return tensor;
    },
    names: [...tensors.keys()],
  };
}

/** Largest |a − b|. Arrays of different length are as far apart as can be. */
export function maxDifference(a: ArrayLike<number>, b: ArrayLike<number>): number {
  if (a.length !== b.length) return Infinity;
  let max = 0;
  for (let i = 0; i < a.length; i++) {
    const difference = Math.abs((a[i] ?? NaN) - (b[i] ?? NaN));
    if (!(difference <= max)) max = Number.isNaN(difference) ? Infinity : difference;
  }
  return max;
}
