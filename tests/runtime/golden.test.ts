/** A golden layer and a golden model through `loadLayer` and `loadModel`, on a device of their own; tests/conformance runs all of them. */
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { type CompileOptions, compileSpec } from '../../src/driver/compile.ts';
import type { LayerSpec, ModelSpec, Spec } from '../../src/model/types.ts';
import { deviation } from '../../src/runtime/core/metrics.ts';
import type { Layer, Model } from '../../src/runtime/core/model.ts';
import { type TensorSet, readF32, readF64, readI32 } from '../../src/runtime/core/tensors.ts';
import { openPath } from '../../src/runtime/node/files.ts';
import { type PackageParts, loadLayer, loadModel } from '../../src/runtime/webgpu/load.ts';
import { LAYER_CASES, MODEL_CASES } from '../lower/specs.ts';

const GOLDEN = join(import.meta.dirname, '../golden');

function partsOf(spec: Spec, options?: CompileOptions): PackageParts {
  const { manifest, texts } = compileSpec(spec, options);
  return {
    // What a package carries is JSON.
    manifest: JSON.parse(JSON.stringify(manifest)) as unknown,
    kernels: texts,
    golden: () => Promise.reject(new Error('no golden vectors here')),
  };
}
const quiet = { onWarning: () => undefined };
const layerOf = (spec: LayerSpec, weights: string, options?: CompileOptions): Promise<Layer> => loadLayer(partsOf(spec, options), { weights, ...quiet });
const modelOf = (spec: ModelSpec, weights: string, options?: CompileOptions): Promise<Model> => loadModel(partsOf(spec, options), { weights, ...quiet });

async function idsOf(set: TensorSet): Promise<Int32Array | undefined> {
  if (set.info('topk_indices') !== undefined) return readI32(set, 'topk_indices');
  const chosen = set.info('top2_indices') !== undefined ? 'top2_indices' : 'expert_index';
  if (set.info(chosen) === undefined || set.info('kept') === undefined) return undefined;
  const kept = await readI32(set, 'kept');
  return (await readI32(set, chosen)).map((e, i) => (kept[i] === 1 ? e : -1));
}

const only = <S>(cases: Readonly<Record<string, S>>, name: string): [string, S][] => Object.entries(cases).filter(([n]) => n === name);

describe('a golden layer on the device', () => {
  it.each(only(LAYER_CASES, 'gshard_top2_cap4_norm_after_drop'))('%s', async (name, spec) => {
    const path = join(GOLDEN, `${name}.safetensors`);
    const layer = await layerOf(spec, path);
    const file = await openPath(path);
    try {
      const x = await readF32(file, 'x');
      const expected = await readF64(file, 'y');
      const tokens = x.length / spec.hidden;
      const tokenIds = file.info('token_ids') === undefined ? undefined : await readI32(file, 'token_ids');
      const sequenceLength = file.info('x')?.shape.at(-2) ?? tokens;
      const given = { sequenceLength, ...(tokenIds === undefined ? {} : { tokenIds }) };
      const traced = await layer.forward(x, { ...given, trace: true });
      const off = deviation(traced.y, expected, tokens);
      expect(off.nmse).toBeLessThanOrEqual(1e-9);
      expect(off.rowNmse).toBeLessThanOrEqual(1e-8);
      const wanted = await idsOf(file);
      if (wanted !== undefined) expect(traced.topkIndices).toEqual(wanted);
      expect(traced.expertCounts.reduce((a, b) => a + b, 0)).toBe(traced.topkIndices.filter((e) => e >= 0).length);
      // A second run gives the same bits, and so does one without the trace.
      expect(await layer.forward(x, given)).toEqual(traced.y);
      expect(await layer.forward(new Float32Array(0))).toEqual(new Float32Array(0));
      const stats = layer.stats();
      expect(stats.routerFaults).toBe(0);
      expect(stats.uncapturedErrors).toBe(0);
      expect(stats.dispatches.decode).toBeLessThanOrEqual(4);
      expect(stats.dispatches.prefill).toBeLessThanOrEqual(6);
    } finally {
      await layer.dispose();
      await file.close();
    }
  });
});

describe('a golden model on the device', () => {
  it.each(only(MODEL_CASES, 'tiny_mixtral'))('%s', async (name, spec) => {
    const model = await modelOf(spec, join(GOLDEN, 'models', name));
    const expected = await openPath(join(GOLDEN, 'models', name, 'expected.safetensors'));
    try {
      const ids = await readI32(expected, 'input_ids');
      const wanted = await readF64(expected, 'logits');
      const logits = await model.forward(ids);
      const off = deviation(logits, wanted, ids.length);
      expect(off.nmse).toBeLessThanOrEqual(1e-9);
      expect(off.rowNmse).toBeLessThanOrEqual(1e-8);
      // The decode form, on the first tokens: causal, so their logits are the same.
      const few = await model.forward(ids.slice(0, 5));
      expect(deviation(few, wanted.subarray(0, few.length), 5).rowNmse).toBeLessThanOrEqual(1e-8);
      // Greedy generation from the cache agrees with whole calls.
      const vocab = logits.length / ids.length;
      const sequence = [...ids];
      for await (const token of model.generate(ids, { maxTokens: 4 })) {
        const all = await model.forward(sequence);
        const last = all.subarray(all.length - vocab);
        expect(token).toBe(last.indexOf(Math.max(...last)));
        sequence.push(token);
      }
      expect(sequence.length).toBe(ids.length + 4);
      expect(model.stats().unusedTensors).toEqual([]);
    } finally {
      await model.dispose();
      await expected.close();
    }
  });
});
