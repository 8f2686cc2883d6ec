/** `deterministic batch`: the bits of a token do not depend on the other tokens of the call, on their number or on its place among them. */
import { describe, expect, it } from 'vitest';
import { interpreterBench } from './benches.ts';
import { LAYER_CASES, firstRows, layerOf, openLayerCase, openModelCase } from './cases.ts';

const BENCH = interpreterBench({ variant: 'portable' });
const CHOSEN = LAYER_CASES.filter((c) => !c.text.includes('capacity') && !c.text.includes('expert-choice'));

describe('layers', () => {
  it.each(CHOSEN.map((c) => [c.name, c] as const))('%s', async (_name, c) => {
    const { weights, input } = await openLayerCase(c);
    const spec = layerOf(c.text.replace('{', '{ deterministic batch '), c.name);
    const { hidden } = spec;
    const layer = await BENCH.layer(spec, weights);
    const all = firstRows(input, hidden, 19);
    const whole = await layer.run(all);
    const slots = whole.ids.length / 19;
    for (const [first, count] of [
      [0, 1],
      [7, 1],
      [18, 1],
      [0, 8],
      [3, 9],
      [1, 17],
    ] as const) {
      const part = await layer.run({
        x: all.x.slice(first * hidden, (first + count) * hidden),
        ...(all.tokenIds && { tokenIds: all.tokenIds.slice(first, first + count) }),
      });
      expect(part.y).toEqual(whole.y.subarray(first * hidden, (first + count) * hidden));
      expect(part.ids).toEqual(whole.ids.subarray(first * slots, (first + count) * slots));
      expect(part.routeWeights).toEqual(whole.routeWeights.subarray(first * slots, (first + count) * slots));
    }
    await layer.close();
  });
});

describe('models', () => {
  it.each(['tiny_mixtral', 'tiny_deepseek_v3', 'tiny_gpt_oss'])('%s, in one call and token by token', async (name) => {
    const { spec, weights, ids } = await openModelCase(name);
    const model = await BENCH.model({ ...spec, deterministic: 'batch' }, weights);
    const whole = await model.forward(ids, [ids.length]);
    for (const lengths of [ids.length === 10 ? [6, 1, 3] : [], Array.from(ids, () => 1)])
      expect(await model.forward(ids, lengths)).toEqual(whole);
    await model.close();
  });
});
