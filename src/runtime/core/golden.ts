/**
 * Golden vectors: inputs and the results that the compiler's f64 reference has for them, under procedural
 * weights (`procedural.ts`). Stored as a safetensors file: `<i>.input_ids` or `<i>.x` (with `<i>.token_ids`),
 * `<i>.y`, `<i>.topk_indices`; the rest in its metadata.
 */
import { PackageError } from './errors.ts';
import type { Deviation } from './metrics.ts';
import { type NewTensor, writeSafetensors } from './safetensors.ts';
import { memoryBytes, openSafetensors, readF32, readI32 } from './tensors.ts';

export interface GoldenVector {
  readonly name: string;
  /** A model's input. */
  readonly ids?: Int32Array | undefined;
  /** A layer's input, [T, d]. */
  readonly x?: Float32Array | undefined;
  readonly tokenIds?: Int32Array | undefined;
  readonly sequenceLength?: number | undefined;
  /** Models: tokens of consecutive calls that share a cache; their sum is T. Absent: one call. */
  readonly split?: readonly number[] | undefined;
  /** [T, width], row-major. */
  readonly y: Float32Array | Float64Array;
  /** [T, slots]; −1 where a slot was dropped. */
  readonly topkIndices?: Int32Array | undefined;
}

export interface Golden {
  /** Of the procedural weights. */
  readonly seed: number;
  readonly gate: Deviation;
  /** How far quantised weights bring the results from those of the same weights in full precision; absent where none are quantised. */
  readonly quantisation?: Deviation;
  readonly vectors: readonly GoldenVector[];
}

const FORMAT = 'moec-golden-1';

export const tokensOf = (v: GoldenVector, hidden: number): number => v.ids?.length ?? (v.x?.length ?? 0) / hidden;

/** @param hidden the model's width, for the shapes */
export function encodeGolden(golden: Golden, hidden: number): Uint8Array<ArrayBuffer> {
  const tensors: NewTensor[] = [];
  const metadata: Record<string, string> = {
    format: FORMAT,
    seed: String(golden.seed),
    nmse: String(golden.gate.nmse),
    row_nmse: String(golden.gate.rowNmse),
    vectors: String(golden.vectors.length),
  };
  if (golden.quantisation !== undefined) {
    metadata['quantisation_nmse'] = String(golden.quantisation.nmse);
    metadata['quantisation_row_nmse'] = String(golden.quantisation.rowNmse);
  }
  golden.vectors.forEach((v, i) => {
    const tokens = tokensOf(v, hidden);
    metadata[`${i}.name`] = v.name;
    if (v.split !== undefined) metadata[`${i}.split`] = v.split.join(',');
    if (v.sequenceLength !== undefined) metadata[`${i}.sequence_length`] = String(v.sequenceLength);
    const i32 = (name: string, data: Int32Array | undefined, shape: readonly number[]): void => {
      if (data !== undefined) tensors.push({ name: `${i}.${name}`, dtype: 'I32', shape, data });
    };
    i32('input_ids', v.ids, [tokens]);
    i32('token_ids', v.tokenIds, [tokens]);
    i32('topk_indices', v.topkIndices, [tokens, (v.topkIndices?.length ?? 0) / Math.max(1, tokens)]);
    if (v.x !== undefined) tensors.push({ name: `${i}.x`, dtype: 'F32', shape: [tokens, hidden], data: v.x });
    tensors.push({ name: `${i}.y`, dtype: 'F32', shape: [tokens, v.y.length / Math.max(1, tokens)], data: Float32Array.from(v.y) });
  });
  return writeSafetensors(tensors, metadata);
}

/** @throws PackageError, SafetensorsError */
export async function decodeGolden(bytes: Uint8Array): Promise<Golden> {
  const set = await openSafetensors(memoryBytes(bytes, 'golden.bin'));
  const { metadata } = set;
  const number = (key: string): number => {
    const value = Number(metadata.get(key));
    if (!metadata.has(key) || !Number.isFinite(value)) throw new PackageError(`golden.bin: no ${key}`, { fix: 'compile the package again' });
    return value;
  };
  if (metadata.get('format') !== FORMAT) throw new PackageError('golden.bin is of another version', { fix: 'compile the package again' });
  const vectors: GoldenVector[] = [];
  for (let i = 0; i < number('vectors'); i++) {
    const i32 = async (name: string): Promise<Int32Array | undefined> => (set.info(`${i}.${name}`) === undefined ? undefined : readI32(set, `${i}.${name}`));
    const split = metadata.get(`${i}.split`)?.split(',').map(Number);
    vectors.push({
      name: metadata.get(`${i}.name`) ?? String(i),
      ids: await i32('input_ids'),
      tokenIds: await i32('token_ids'),
      topkIndices: await i32('topk_indices'),
      x: set.info(`${i}.x`) === undefined ? undefined : await readF32(set, `${i}.x`),
      y: await readF32(set, `${i}.y`),
      ...(split === undefined ? {} : { split }),
      ...(metadata.has(`${i}.sequence_length`) ? { sequenceLength: number(`${i}.sequence_length`) } : {}),
    });
  }
  const cost = metadata.has('quantisation_nmse') ? { quantisation: { nmse: number('quantisation_nmse'), rowNmse: number('quantisation_row_nmse') } } : {};
  return { seed: number('seed'), gate: { nmse: number('nmse'), rowNmse: number('row_nmse') }, ...cost, vectors };
}
