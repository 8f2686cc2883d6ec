/** What routers must survive: all tokens to one expert, experts nobody wants, logits that are no numbers. */
import { beforeAll, describe, expect, it, vi } from 'vitest';
import { compileSpec } from '../../src/driver/compile.ts';
import { readF32 } from '../../src/runtime/core/tensors.ts';
import { proceduralProvider } from '../../src/runtime/core/provider.ts';
import { INTERPRETER_GATE, REFERENCE, type RunningLayer, deviceLayer, interpreterBench, openSession } from './benches.ts';
import { LAYER_CASES, type LayerCase, firstRows, layerOf, openLayerCase } from './cases.ts';
import { InterpreterBackend } from './interpreter-backend.ts';
import { judgeOf } from './judge.ts';
import { withTensors } from './overrides.ts';
import { expertsOf, proceduralLayerInput } from './procedural.ts';

// The runtime warns of what is done here on purpose.
beforeAll(() => void vi.spyOn(console, 'warn').mockImplementation(() => undefined));

const SEED = 9;
const BENCHES = [interpreterBench({ variant: 'portable' }), interpreterBench({ variant: 'subgroups', subgroupSize: 16 })] as const;

describe('uneven loads', () => {
  const specs = [
    'layer one { hidden 12  moe { experts 7 of swiglu 5  active 1  router softmax top-k } }',
    'layer many { hidden 8  moe { experts 64 of swiglu 4  active 6  shared 1  router softmax top-k renormalize } }',
    'layer all { hidden 8  moe { experts 5 of mlp relu 3 bias  active 5  router sigmoid top-k } }',
    'layer limited { hidden 8  moe { experts 6 of mlp relu 3  active 2  router softmax top-k  capacity factor 1.25 renormalize after } }',
    'layer choosing { hidden 8  moe { experts 6 of swiglu 3  router softmax expert-choice factor 2 } }',
  ];
  it.each(specs)('%s', async (text) => {
    const spec = layerOf(text, 'loads');
    const compiled = compileSpec(spec);
    const layer = deviceLayer(
      await openSession(compiled, new InterpreterBackend(compiled, { variant: 'portable' }), proceduralProvider(SEED, expertsOf(spec))),
    );
    const judge = judgeOf(spec, SEED);
    for (const tokens of [8, 15, 33, 65]) {
      // Equal rows: every token wants the same experts, all others stay empty.
      const alike = firstRows({ x: proceduralLayerInput(spec, SEED, 1).x }, spec.hidden, tokens);
      // Ties between equal tokens are not for rounding to decide.
      const outcome = await layer.run(alike);
      const verdict = judge.verdict(alike, outcome, INTERPRETER_GATE);
      expect(verdict).toEqual({ problems: [], close: 0 });
      // Around the sizes of tiles, with different rows.
      const mixed = proceduralLayerInput(spec, SEED + tokens, tokens);
      expect(judge.verdict(mixed, await layer.run(mixed), INTERPRETER_GATE).problems).toEqual([]);
    }
    await layer.close();
  });
});

const MOST: readonly LayerCase[] = LAYER_CASES.filter((c) => !c.file.startsWith('hash'));
const isCoupled = (text: string): boolean => text.includes('capacity') || text.includes('expert-choice');

function expectSoundIds(ids: Int32Array, slots: number, experts: number): void {
  for (let t = 0; t < ids.length; t += slots) {
    const used = [...ids.subarray(t, t + slots)].filter((e) => e !== -1);
    expect(new Set(used).size).toBe(used.length);
    for (const e of used) expect(e >= 0 && e < experts).toBe(true);
  }
}

describe('rows that are not finite', () => {
  it.each(MOST.map((c) => [c.name, c] as const))('%s', async (_name, c) => {
    const { spec, weights, input } = await openLayerCase(c);
    const { hidden } = spec;
    const reference = await REFERENCE.layer(spec, weights);
    const check = async (layer: RunningLayer, tokens: number): Promise<void> => {
      const clean = firstRows(input, hidden, tokens);
      const x = clean.x.slice();
      const bad = new Map([
        [0, NaN],
        [Math.min(2, tokens - 1), Infinity],
        [tokens - 1, -Infinity],
      ]);
      for (const [row, value] of bad) x[row * hidden + (row % hidden)] = value;
      const [actual, expected] = [await layer.run({ ...clean, x }), await reference.run({ ...clean, x })];
      expect(actual.faults).toBe(bad.size);
      expect(actual.ids).toEqual(expected.ids);
      const slots = actual.ids.length / tokens;
      expectSoundIds(actual.ids, slots, expertsOf(spec));
      for (const row of bad.keys())
        expect([...actual.routeWeights.subarray(row * slots, (row + 1) * slots)].every((w) => w === 0)).toBe(true);
      if (isCoupled(c.text)) return;
      // Nobody else notices.
      const without = await layer.run(clean);
      for (let row = 0; row < tokens; row++) {
        const of = (a: Float32Array | Float64Array): ArrayLike<number> => a.subarray(row * hidden, (row + 1) * hidden);
        if (!bad.has(row)) expect(of(actual.y)).toEqual(of(without.y));
      }
    };
    for (const bench of BENCHES) {
      const layer = await bench.layer(spec, weights);
      for (const tokens of [1, 5, 11]) await check(layer, tokens);
      await layer.close();
    }
  });
});

describe('single logits that are not finite', () => {
  it.each([NaN, Infinity, -Infinity])('%d in two of the experts', async (value) => {
    const c = LAYER_CASES.find((k) => k.name === 'gpt_oss_clamped_swiglu_bias');
    if (c === undefined) throw new Error('no such case');
    const open = await openLayerCase(c);
    const bias = await readF32(open.weights, 'router.bias');
    bias[2] = value;
    bias[5] = value;
    const weights = withTensors(open.weights, { 'router.bias': { data: bias } });
    const reference = await REFERENCE.layer(open.spec, weights);
    for (const bench of BENCHES) {
      const layer = await bench.layer(open.spec, weights);
      for (const tokens of [3, 12]) {
        const part = firstRows(open.input, open.spec.hidden, tokens);
        const [actual, expected] = [await layer.run(part), await reference.run(part)];
        expect(actual.ids).toEqual(expected.ids);
        expect(actual.faults).toBe(tokens);
        const chosen = new Set(actual.ids);
        if (value === Infinity) expect([...actual.ids.subarray(0, 2)]).toEqual([2, 5]);
        else expect(chosen.has(2) || chosen.has(5)).toBe(false);
        actual.routeWeights.forEach((w, i) => expect(w).toBeCloseTo(expected.routeWeights[i] ?? NaN, 6));
        actual.y.forEach((v, i) => expect(v).toBeCloseTo(expected.y[i] ?? NaN, 4));
      }
      await layer.close();
    }
  });
});
