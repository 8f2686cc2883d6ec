/** Whole tiny models: lowering + f64 reference against independent logits, at once and token by token. */
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { createReference, type Reference } from '../../src/ir/graph/evaluate/reference.ts';
import { assembleWeight } from '../../src/ir/graph/evaluate/weights.ts';
import { lowerToGraphs } from '../../src/lower/model-to-graph.ts';
import type { ModelSpec } from '../../src/model/types.ts';
import { GOLDEN, maxDifference, readTensors } from './safetensors.ts';
import { MODEL_CASES } from './specs.ts';

function load(
  spec: ModelSpec,
  capacity: number,
): { readonly reference: Reference; readonly used: ReadonlySet<string>; readonly names: readonly string[] } {
  const file = readTensors(`models/${spec.name}/model.safetensors`);
  const used = new Set<string>();
  const checkpoint = (name: string): ReturnType<typeof file.checkpoint> => {
    const tensor = file.checkpoint(name);
    if (tensor !== undefined) used.add(name);
    return tensor;
  };
  const reference = createReference(lowerToGraphs(spec), (_name, param, layer) => assembleWeight(param, layer, checkpoint), capacity);
  return { reference, used, names: file.names };
}

describe('golden models', () => {
  it('has a spec for every model', () => {
    expect(readdirSync(join(GOLDEN, 'models')).sort()).toEqual(Object.keys(MODEL_CASES).sort());
  });

  it.each(Object.values(MODEL_CASES).map((spec) => [spec.name, spec] as const))('%s', (name, spec) => {
    const expected = readTensors(`models/${name}/expected.safetensors`);
    const ids = Int32Array.from(expected.get('input_ids').data);
    const { reference, used, names } = load(spec, 16);
    const whole = reference.run({ ids });
    const logits = whole.results['y'] ?? [];
    expect(maxDifference(logits, expected.get('logits').data)).toBeLessThanOrEqual(1e-12);
    expect(whole.faults).toBe(0);
    // Nothing of the checkpoint was left lying.
    expect([...used].sort()).toEqual([...names].sort());

    // Prefill 6, then four single tokens: the caches must say the same.
    reference.reset();
    const parts = [ids.subarray(0, 6), ...[6, 7, 8, 9].map((t) => ids.subarray(t, t + 1))];
    const pieces = parts.flatMap((part) => Array.from(reference.run({ ids: part }).results['y'] ?? []));
    expect(maxDifference(pieces, logits)).toBeLessThanOrEqual(1e-13);
  });
});
