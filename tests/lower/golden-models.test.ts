/** Whole tiny models: lowering + f64 reference against independent logits, at once and token by token. */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { initFromConfig } from '../../src/driver/init/index.ts';
import { createReference, type Reference } from '../../src/ir/graph/evaluate/reference.ts';
import { assembleWeight } from './assemble.ts';
import { lowerToGraphs } from '../../src/lower/model-to-graph.ts';
import { resolve } from '../../src/model/index.ts';
import type { ModelSpec } from '../../src/model/types.ts';
import { parse } from '../../src/parser/index.ts';
import { GOLDEN, maxDifference, readTensors } from './safetensors.ts';
import { MODEL_CASES } from './specs.ts';

function load(
  name: string,
  spec: ModelSpec,
  capacity: number,
): { readonly reference: Reference; readonly used: ReadonlySet<string>; readonly names: readonly string[] } {
  const file = readTensors(`models/${name}/model.safetensors`);
  const used = new Set<string>();
  const checkpoint = (tensorName: string): ReturnType<typeof file.checkpoint> => {
    const tensor = file.checkpoint(tensorName);
    if (tensor !== undefined) used.add(tensorName);
    return tensor;
  };
  const reference = createReference(lowerToGraphs(spec), (_name, param, layer) => assembleWeight(param, layer, checkpoint), capacity);
  return { reference, used, names: file.names };
}

/** The model that `init` makes of a config.json. */
function initSpec(name: string): ModelSpec {
  const config: unknown = JSON.parse(readFileSync(join(GOLDEN, `models/${name}/config.json`), 'utf8'));
  const { text, diagnostics } = initFromConfig(config);
  const { ast, diagnostics: syntax } = parse(text, 'init.moe');
  const resolved = ast === undefined ? undefined : resolve(ast);
  expect([...diagnostics, ...syntax, ...(resolved?.diagnostics ?? [])].filter((d) => d.severity === 'error')).toEqual([]);
  const spec = resolved?.specs[0];
  if (spec?.kind !== 'model') throw new Error(`init of ${name} declares no model`);
  return spec;
}

function expectGolden(name: string, spec: ModelSpec): void {
  const expected = readTensors(`models/${name}/expected.safetensors`);
  const ids = Int32Array.from(expected.get('input_ids').data);
  const { reference, used, names } = load(name, spec, 16);
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
}

describe('golden models', () => {
  it('has a spec for every model', () => {
    expect(readdirSync(join(GOLDEN, 'models')).sort()).toEqual(Object.keys(MODEL_CASES).sort());
  });

  it.each(Object.entries(MODEL_CASES))('%s, spec built by hand', expectGolden);

  it.each(Object.keys(MODEL_CASES))('%s, spec written from its config.json', (name) => expectGolden(name, initSpec(name)));
});
