/**
 * Fused and unfused programs of one spec compute the same: to the bit wherever sums run in the same order. Two passes
 * change an order, and both for the same reason: the router's kernel sums a logit over the threads of a block, a plain
 * product in ascending k. `fuse-router` moves the logits there, and `fuse-shared` the gate of the shared experts.
 */
import { readFileSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { stableHash } from '../../src/base/hash.ts';
import { type Compiled, compileSpec } from '../../src/driver/compile.ts';
import type { LayerSpec } from '../../src/model/types.ts';
import { FUSION_PASSES } from '../../src/passes/graph/pipeline.ts';
import type { Backend } from '../../src/runtime/core/backend.ts';
import { deviation } from '../../src/runtime/core/metrics.ts';
import { bucketFor } from '../../src/runtime/core/needs.ts';
import { proceduralProvider } from '../../src/runtime/core/provider.ts';
import { evalSize } from '../../src/runtime/core/size.ts';
import { DAWN_GATE, INTERPRETER_GATE, type LayerOutcome, dawnBackend, deviceLayer, openSession } from './benches.ts';
import { LAYER_CASES, layerOf } from './cases.ts';
import { InterpreterBackend } from './interpreter-backend.ts';
import { expertsOf, proceduralLayerInput } from './procedural.ts';

const SEED = 5;
/** A call of either form. */
const TOKENS = [3, 9];

/** With what the golden layers lack: norms, residuals, odd widths, storage of 16 bits. */
const MORE: readonly string[] = [
  `layer normed { hidden 30  norm rms 1e-6  residual
    moe { experts 9 of swiglu 14  active 3  shared 1 gated  router softmax top-k } }`,
  `layer mixed { hidden 33  norm layer 1e-5 bias  residual
    moe { experts 5 of mlp gelu 7 bias  active 2  shared 1 of swiglu 5  router sigmoid selection-bias top-k } }`,
  `layer small { hidden 24  dtype bf16  residual
    moe { experts 7 of geglu 11 bias  active 3  shared 2  router softmax top-k weights on input } }`,
];
const SPECS: readonly LayerSpec[] = [...LAYER_CASES.map((c) => layerOf(c.text, c.name)), ...MORE.map((text) => layerOf(text, 'more'))];

const disabled = (passes: readonly string[]): { disabled: ReadonlySet<string> } => ({ disabled: new Set(passes) });
const same = (a: Compiled, b: Compiled): boolean =>
  stableHash([a.manifest.sections, [...a.texts]]) === stableHash([b.manifest.sections, [...b.texts]]);

async function outcomes(compiled: Compiled, backend: Backend): Promise<LayerOutcome[]> {
  const { spec } = compiled;
  const layer = deviceLayer(await openSession(compiled, backend, proceduralProvider(SEED, expertsOf(spec))));
  const all: LayerOutcome[] = [];
  for (const tokens of TOKENS) all.push(await layer.run(proceduralLayerInput(spec, SEED + tokens, tokens)));
  await layer.close();
  backend.dispose();
  return all;
}

const interpreted = (compiled: Compiled): Promise<LayerOutcome[]> =>
  outcomes(compiled, new InterpreterBackend(compiled, { variant: 'portable' }));

function expectClose(actual: readonly LayerOutcome[], expected: readonly LayerOutcome[], gate: typeof DAWN_GATE): void {
  actual.forEach((a, i) => {
    const e = expected[i];
    expect(a.ids).toEqual(e?.ids);
    const off = deviation(a.y, e?.y ?? [], TOKENS[i] ?? 0);
    expect(off.nmse).toBeLessThanOrEqual(gate.nmse);
    expect(off.rowNmse).toBeLessThanOrEqual(gate.rowNmse);
  });
}

const hasSharedGate = (spec: LayerSpec): boolean => spec.ffn.kind === 'moe' && spec.ffn.shared?.gate === 'sigmoid';

describe('without a pass, in the interpreter', () => {
  it.each(SPECS.map((s) => [s.name, s] as const))('%s', { timeout: 300_000 }, async (_name, spec) => {
    const compiled = compileSpec(spec);
    const all = await interpreted(compiled);
    const unfused = compileSpec(spec, disabled(FUSION_PASSES));
    // Where the router stays as it is, everything is: to the bit.
    const unfusedButRouter = compileSpec(spec, disabled(FUSION_PASSES.filter((p) => p !== 'fuse-router')));
    expectClose(await interpreted(unfused), all, INTERPRETER_GATE);
    const butRouter = await interpreted(unfusedButRouter);
    if (hasSharedGate(spec)) expectClose(butRouter, all, INTERPRETER_GATE);
    else expect(butRouter).toEqual(all);
    for (const pass of FUSION_PASSES) {
      const without = compileSpec(spec, disabled([pass]));
      // The pass found nothing to do.
      if (same(without, compiled)) continue;
      const results = await interpreted(without);
      const reorders = pass === 'fuse-router' || (pass === 'fuse-shared' && hasSharedGate(spec));
      if (reorders) expectClose(results, all, INTERPRETER_GATE);
      else expect(results, `without ${pass}`).toEqual(all);
    }
  });
});

describe('without any fusion, on the device', () => {
  const chosen = ['deepseek_v3_sigmoid_bias_group', 'gshard_top2_cap4_norm_after_drop', 'normed'];
  it.each(SPECS.filter((s) => chosen.includes(s.name)).map((s) => [s.name, s] as const))(
    '%s',
    { timeout: 300_000 },
    async (_name, spec) => {
      const compiled = compileSpec(spec);
      const unfused = compileSpec(spec, disabled(FUSION_PASSES));
      expectClose(await outcomes(unfused, await dawnBackend(unfused)), await outcomes(compiled, await dawnBackend(compiled)), DAWN_GATE);
    },
  );
});

function countDispatches({ manifest }: Compiled, tokens: number): number {
  const env = { T: tokens, past: 0, seq: tokens, cap: tokens };
  return manifest.sections.reduce(
    (n, s) => n + bucketFor(s, tokens).bucket.steps.filter((st) => st.grid.every((g) => evalSize(g, env) > 0)).length,
    0,
  );
}

describe('dispatches', () => {
  const directory = join(import.meta.dirname, '../../examples/layers');
  const examples = readdirSync(directory).map((file) => layerOf(readFileSync(join(directory, file), 'utf8'), file));
  it.each([...LAYER_CASES.map((c) => layerOf(c.text, c.name)), ...examples].map((s) => [s.name, s] as const))('%s', (_name, spec) => {
    const compiled = compileSpec(spec);
    if (compiled.manifest.sections.some((s) => s.params.some((p) => p.segmentRows !== undefined))) return;
    for (const tokens of [1, 2, 8]) expect(countDispatches(compiled, tokens)).toBeLessThanOrEqual(4);
    expect(countDispatches(compiled, 512)).toBeLessThanOrEqual(6);
  });
});
