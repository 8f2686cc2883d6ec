/** Layers alone: lowering + f64 reference against independent values of public code. */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { createReference, type ReferenceRun } from '../../src/ir/graph/evaluate/reference.ts';
import { assembleWeight } from './assemble.ts';
import { DROPPED } from '../../src/ir/graph/types.ts';
import { lowerToGraphs } from '../../src/lower/model-to-graph.ts';
import { resolve } from '../../src/model/index.ts';
import type { LayerSpec } from '../../src/model/types.ts';
import { parse } from '../../src/parser/index.ts';
import { GOLDEN, maxDifference, readTensors, type TensorFile } from './safetensors.ts';
import { LAYER_CASES } from './specs.ts';

function runLayer(spec: LayerSpec, file: TensorFile): ReferenceRun {
  const x = file.get('x');
  const reference = createReference(lowerToGraphs(spec), (_name, param, layer) => assembleWeight(param, layer, file.checkpoint), 1);
  const ids = file.checkpoint('token_ids')?.data;
  const seq = x.shape.at(-2) ?? 0;
  return reference.run({ x: Float64Array.from(x.data), seq, ...(ids !== undefined && { ids }) });
}

const trace = (run: ReferenceRun): { weights: number[]; ids: number[] } => ({
  weights: Array.from(run.results['topk_weights'] ?? []),
  ids: Array.from(run.results['topk_indices'] ?? []),
});

function expectGolden(name: string, spec: LayerSpec): void {
  const file = readTensors(`${name}.safetensors`);
  const run = runLayer(spec, file);
  expect(run.faults).toBe(0);
  const y = file.get('y').data;
  const scale = Math.max(1, ...Array.from(y, Math.abs));
  expect(maxDifference(run.results['y'] ?? [], y) / scale).toBeLessThanOrEqual(1e-12);

  const { weights, ids } = trace(run);
  const wanted = file.checkpoint('topk_indices');
  if (wanted !== undefined) expect(ids).toEqual(Array.from(wanted.data));
  const wantedWeights = file.checkpoint('topk_weights');
  if (wantedWeights !== undefined) expect(maxDifference(weights, wantedWeights.data)).toBeLessThanOrEqual(1e-12);
  const chosen = file.checkpoint('top2_indices') ?? file.checkpoint('expert_index');
  const kept = file.checkpoint('kept');
  if (chosen !== undefined && kept !== undefined)
    expect(ids).toEqual(Array.from(chosen.data, (e, i) => (kept.data[i] === 1 ? e : DROPPED)));
}

/** The layer that a file of tests/golden-specs declares. */
function readSpec(name: string): LayerSpec {
  const path = join(GOLDEN, '../golden-specs', `${name}.moe`);
  const { ast, diagnostics } = parse(readFileSync(path, 'utf8'), path);
  const resolved = ast === undefined ? undefined : resolve(ast);
  expect([...diagnostics, ...(resolved?.diagnostics ?? [])].filter((d) => d.severity === 'error')).toEqual([]);
  const spec = resolved?.specs[0];
  if (spec?.kind !== 'layer') throw new Error(`${path} declares no layer`);
  return spec;
}

describe('golden layers', () => {
  it('has a spec for every layer file', () => {
    const files = readdirSync(GOLDEN).filter((f) => f.endsWith('.safetensors') && f !== 'balance_losses.safetensors');
    expect(files.map((f) => f.replace('.safetensors', '')).sort()).toEqual(Object.keys(LAYER_CASES).sort());
  });

  it.each(Object.entries(LAYER_CASES))('%s, spec built by hand', expectGolden);

  it.each(Object.keys(LAYER_CASES))('%s, spec read from text', (name) => expectGolden(name, readSpec(name)));

  it('hash layer with the other table', () => {
    const spec = LAYER_CASES['hash_layer_random_and_balanced'];
    if (spec?.ffn.kind !== 'moe') throw new Error('no spec');
    const select = { kind: 'hash', table: 'hash_table_balanced' } as const;
    const file = readTensors('hash_layer_random_and_balanced.safetensors');
    const run = runLayer({ ...spec, ffn: { ...spec.ffn, router: { ...spec.ffn.router, select } } }, file);
    expect(maxDifference(run.results['y'] ?? [], file.get('y_balanced').data)).toBeLessThanOrEqual(1e-12);
  });

  it.each(['expert_choice', 'expert_choice_c1'])('%s: the tokens of each expert', (name) => {
    const file = readTensors(`${name}.safetensors`);
    const spec = LAYER_CASES[name];
    if (spec === undefined) throw new Error('no spec');
    const { weights, ids } = trace(runLayer(spec, file));
    const [experts = 0, share = 0] = file.get('expert_tokens').shape;
    const tokens = Array.from(file.get('expert_tokens').data);
    const gates = file.get('expert_gates').data;
    for (let e = 0; e < experts; e++) {
      const wanted = tokens.slice(e * share, (e + 1) * share);
      const taken = ids.flatMap((id, i) => (i % experts === e && id === e ? [Math.floor(i / experts)] : []));
      expect(taken).toEqual(wanted.toSorted((a, b) => a - b));
      const own = wanted.map((t) => weights[t * experts + e] ?? NaN);
      expect(maxDifference(own, gates.subarray(e * share, (e + 1) * share))).toBeLessThanOrEqual(1e-12);
    }
  });
});
