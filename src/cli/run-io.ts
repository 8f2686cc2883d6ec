/** Tensors in and out of `moec run`: input_ids of a model; x and token_ids of a layer; logits or y, and the trace. */
import { closeSync, fsyncSync, openSync, renameSync, rmSync, statSync, writeSync } from 'node:fs';
import type { Spec } from '../driver/analysis.ts';
import { type NewTensor, writeSafetensors } from '../runtime/core/safetensors.ts';
import { readF32, readI32, type TensorSet } from '../runtime/core/tensors.ts';
import { CommandError, EXIT } from './io.ts';

/** What one call needs, checked against the spec. */
export interface RunInputs {
  /** [T], for models and hash routers. */
  readonly ids: Int32Array | undefined;
  /** [T, d], for layers. */
  readonly x: Float32Array | undefined;
  readonly tokens: number;
  /** Shape of the input without its last dim (layers): [T] or [B, S]. */
  readonly lead: readonly number[];
  /** Tokens per sequence. */
  readonly seq: number;
}

const bad = (message: string, fix?: string): CommandError => new CommandError(EXIT.io, message, { code: 'MOE5030', ...(fix === undefined ? {} : { fix }) });

/** What the inputs must look like; a package's manifest and a spec both say it. */
export interface InputShape {
  readonly kind: Spec['kind'];
  readonly hidden: number;
  readonly needsTokenIds: boolean;
  /** Ids run from 0 to `vocab` − 1, where that is known. */
  readonly vocab: number | null;
}

async function tokenIds(set: TensorSet, name: string, vocab: number | null, count?: number): Promise<Int32Array> {
  const info = set.info(name);
  if (info === undefined) {
    throw bad(`${set.label} has no tensor ${JSON.stringify(name)}; it holds ${[...set.names()].map((n) => JSON.stringify(n)).join(', ') || 'nothing'}`);
  }
  const ids = await readI32(set, name);
  if (count !== undefined && ids.length !== count) throw bad(`${name} has ${ids.length} elements for ${count} tokens`);
  const wrong = ids.findIndex((id) => id < 0 || (vocab !== null && id >= vocab));
  if (wrong >= 0) throw bad(`${name}: token id ${ids[wrong]} at ${wrong} is not from 0 to ${vocab === null ? '2^31 − 1' : vocab - 1}`, 'encode the text with the tokenizer of this model');
  return ids;
}

export async function readInputs(set: TensorSet, shape: InputShape): Promise<RunInputs> {
  if (shape.kind === 'model') {
    const name = set.info('input_ids') === undefined && set.info('token_ids') !== undefined ? 'token_ids' : 'input_ids';
    const ids = await tokenIds(set, name, shape.vocab);
    return { ids, x: undefined, tokens: ids.length, lead: [ids.length], seq: ids.length };
  }
  const info = set.info('x');
  if (info === undefined) throw bad(`${set.label} has no tensor "x"`, `give x as F32 [T, ${shape.hidden}] or [B, S, ${shape.hidden}]`);
  const lead = info.shape.slice(0, -1);
  if (info.shape.at(-1) !== shape.hidden || lead.length < 1 || lead.length > 2) {
    throw bad(`x has the shape [${info.shape.join(', ')}]`, `give x as F32 [T, ${shape.hidden}] or [B, S, ${shape.hidden}]`);
  }
  const tokens = lead.reduce((a, b) => a * b, 1);
  const x = await readF32(set, 'x');
  const ids = shape.needsTokenIds ? await tokenIds(set, set.info('token_ids') === undefined ? 'input_ids' : 'token_ids', shape.vocab, tokens) : undefined;
  return { ids, x, tokens, lead, seq: lead.at(-1) ?? tokens };
}

/** Routing decisions of a layer: what `--trace` adds. `expert_counts` counts the slots that really run. */
export interface Trace {
  readonly slots: number;
  readonly experts: number;
  readonly indices: Uint32Array | Int32Array;
  readonly weights: Float32Array | Float64Array;
}

export function traceTensors(trace: Trace, lead: readonly number[]): NewTensor[] {
  const counts = new Int32Array(trace.experts);
  for (const e of trace.indices) if (e >= 0 && e < trace.experts) counts[e] = (counts[e] ?? 0) + 1;
  const shape = [...lead, trace.slots];
  return [
    { name: 'topk_indices', dtype: 'I32', shape, data: Int32Array.from(trace.indices) },
    { name: 'topk_weights', dtype: trace.weights instanceof Float64Array ? 'F64' : 'F32', shape, data: trace.weights },
    { name: 'expert_counts', dtype: 'I32', shape: [trace.experts], data: counts },
  ];
}

/** The result as a tensor: f64 from the reference evaluator, f32 from a device. */
export const resultTensor = (name: string, shape: readonly number[], data: Float32Array | Float64Array): NewTensor => ({
  name, shape, data, dtype: data instanceof Float64Array ? 'F64' : 'F32',
});

const WRITE_FAILURES: Readonly<Record<string, string>> = {
  ENOENT: 'its directory does not exist',
  ENOTDIR: 'its directory is a file',
  EISDIR: 'it is a directory',
  EACCES: 'you may not write there',
  EPERM: 'you may not write there',
  EROFS: 'the file system is read-only',
  ENOSPC: 'the disk is full',
  ENAMETOOLONG: 'the name is too long',
};

/** Writes a file in one step: whole or not at all. @throws CommandError naming the file */
export function writeWhole(path: string, bytes: Uint8Array): void {
  const temporary = `${path}.tmp-${process.pid}`;
  try {
    if (statSync(path, { throwIfNoEntry: false })?.isDirectory() === true) throw Object.assign(new Error(), { code: 'EISDIR' });
    const fd = openSync(temporary, 'wx');
    try {
      for (let at = 0; at < bytes.length; ) at += writeSync(fd, bytes, at);
      fsyncSync(fd);
    } finally {
      closeSync(fd);
    }
    renameSync(temporary, path);
  } catch (error) {
    rmSync(temporary, { force: true });
    const known = error instanceof Error && 'code' in error && typeof error.code === 'string' ? WRITE_FAILURES[error.code] : undefined;
    if (known === undefined) throw error;
    throw new CommandError(EXIT.io, `${path} cannot be written: ${known}`);
  }
}

export const writeTensors = (path: string, tensors: readonly NewTensor[]): void => writeWhole(path, writeSafetensors(tensors));
