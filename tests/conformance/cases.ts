/** The golden cases as data: spec text, weights, inputs and what must come out, all from outside this project's own code. */
import { readFileSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { readSpecs } from '../../src/driver/frontend.ts';
import { initFromConfig } from '../../src/driver/init/index.ts';
import type { LayerSpec, ModelSpec, Spec } from '../../src/model/types.ts';
import { type TensorSet, memoryBytes, openSafetensors, readF32, readF64, readI32 } from '../../src/runtime/core/tensors.ts';

const TESTS = join(import.meta.dirname, '..');
const GOLDEN = join(TESTS, 'golden');

/** A file in memory: many sessions may read it, whichever of them ends first. */
const openFile = (path: string): Promise<TensorSet> => openSafetensors(memoryBytes(readFileSync(path), path));

/** The only unit of a text. @throws Error telling what is wrong with it */
export function specOf(text: string, file: string): Spec {
  const { specs, diagnostics } = readSpecs(text, file);
  const [spec] = specs;
  const errors = diagnostics.filter((d) => d.severity === 'error');
  if (errors.length > 0 || spec === undefined)
    throw new Error(`${file}: ${errors.map((d) => `${d.code} ${d.message}`).join('; ')}\n${text}`);
  return spec;
}

export function layerOf(text: string, file: string): LayerSpec {
  const spec = specOf(text, file);
  if (spec.kind !== 'layer') throw new Error(`${file} declares no layer`);
  return spec;
}

/** What goes into a layer. */
export interface LayerInput {
  /** [T, hidden] */
  readonly x: Float32Array;
  readonly tokenIds?: Int32Array;
  /** Tokens per sequence; absent: T. */
  readonly seq?: number;
}

export interface LayerCase {
  readonly name: string;
  /** Spec of tests/golden-specs. */
  readonly file: string;
  readonly text: string;
  /** Tensor of the expected result. */
  readonly y: string;
}

export interface OpenLayerCase {
  readonly spec: LayerSpec;
  readonly weights: TensorSet;
  readonly tokens: number;
  readonly input: LayerInput;
  readonly y: Float64Array;
  /** [T, slots], −1 where a slot is not used. */
  readonly ids: Int32Array;
  /** [T, slots], where the file has them. */
  readonly routeWeights: Float64Array | undefined;
}

const textOf = (name: string): string => readFileSync(join(TESTS, 'golden-specs', `${name}.moe`), 'utf8');
const names = readdirSync(join(TESTS, 'golden-specs'))
  .map((f) => f.replace(/\.moe$/, ''))
  .sort();

/** Every layer file, and the hash layer a second time with its other table. */
export const LAYER_CASES: readonly LayerCase[] = [
  ...names.map((name) => ({ name, file: name, text: textOf(name), y: 'y' })),
  {
    name: 'hash_layer, balanced table',
    file: 'hash_layer_random_and_balanced',
    text: textOf('hash_layer_random_and_balanced').replace('hash_table_random', 'hash_table_balanced'),
    y: 'y_balanced',
  },
];

const has = (set: TensorSet, name: string): boolean => set.info(name) !== undefined;

/** Expected experts per slot, from whatever the file says of the choice. */
async function expectedIds(spec: LayerSpec, set: TensorSet, tokens: number, tokenIds: Int32Array | undefined): Promise<Int32Array> {
  if (spec.ffn.kind !== 'moe') return new Int32Array(0);
  const { select } = spec.ffn.router;
  if (select.kind === 'hash') {
    const table = await readI32(set, select.table);
    return Int32Array.from(tokenIds ?? [], (id) => table[id] ?? -1);
  }
  if (select.kind === 'expert-choice') {
    const { experts } = spec.ffn;
    const taken = await readI32(set, 'expert_tokens');
    const share = taken.length / experts;
    const ids = new Int32Array(tokens * experts).fill(-1);
    taken.forEach((t, i) => {
      const e = Math.floor(i / share);
      ids[t * experts + e] = e;
    });
    return ids;
  }
  if (has(set, 'topk_indices')) return readI32(set, 'topk_indices');
  const chosen = await readI32(set, has(set, 'top2_indices') ? 'top2_indices' : 'expert_index');
  const kept = await readI32(set, 'kept');
  return chosen.map((e, i) => (kept[i] === 1 ? e : -1));
}

export async function openLayerCase(c: LayerCase): Promise<OpenLayerCase> {
  const spec = layerOf(c.text, `${c.file}.moe`);
  const weights = await openFile(join(GOLDEN, `${c.file}.safetensors`));
  const x = await readF32(weights, 'x');
  const tokens = x.length / spec.hidden;
  const tokenIds = has(weights, 'token_ids') ? await readI32(weights, 'token_ids') : undefined;
  return {
    spec,
    weights,
    tokens,
    input: { x, seq: weights.info('x')?.shape.at(-2) ?? tokens, ...(tokenIds === undefined ? {} : { tokenIds }) },
    y: await readF64(weights, c.y),
    ids: await expectedIds(spec, weights, tokens, tokenIds),
    routeWeights: has(weights, 'topk_weights') ? await readF64(weights, 'topk_weights') : undefined,
  };
}

/** The first `tokens` rows of an input, as one sequence; more than there are: the rows again from the start. */
export function firstRows({ x, tokenIds }: LayerInput, hidden: number, tokens: number): LayerInput {
  const have = x.length / hidden;
  const rows = Float32Array.from({ length: tokens * hidden }, (_, i) => x[i % x.length] ?? NaN);
  return {
    x: rows,
    ...(tokenIds === undefined ? {} : { tokenIds: Int32Array.from({ length: tokens }, (_, t) => tokenIds[t % have] ?? 0) }),
  };
}

export const MODEL_CASES: readonly string[] = readdirSync(join(GOLDEN, 'models')).sort();

export interface OpenModelCase {
  readonly spec: ModelSpec;
  readonly weights: TensorSet;
  readonly ids: Int32Array;
  /** [T, vocab] */
  readonly logits: Float64Array;
}

/** A tiny model: its spec is what `init` makes of its config.json. */
export async function openModelCase(name: string): Promise<OpenModelCase> {
  const directory = join(GOLDEN, 'models', name);
  const config: unknown = JSON.parse(readFileSync(join(directory, 'config.json'), 'utf8'));
  const { text } = initFromConfig(config);
  const spec = specOf(text, `${name}.moe`);
  if (spec.kind !== 'model') throw new Error(`init of ${name} declares no model`);
  const expected = await openFile(join(directory, 'expected.safetensors'));
  const ids = await readI32(expected, 'input_ids');
  const logits = await readF64(expected, 'logits');
  return { spec, weights: await openFile(join(directory, 'model.safetensors')), ids, logits };
}
