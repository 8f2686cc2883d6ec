/** Weights that one binding cannot hold are split over several: the results are those of the unsplit ones. */
import { describe, expect, it } from 'vitest';
import { compileSpec } from '../../src/driver/compile.ts';
import type { Spec } from '../../src/model/types.ts';
import { type Capabilities, WEBGPU_BASELINE } from '../../src/target/types.ts';
import { DAWN_GATE, dawnBench, interpreterBench } from './benches.ts';
import { LAYER_CASES, MODEL_CASES, firstRows, openLayerCase, openModelCase } from './cases.ts';
import { expectWithin } from './golden-suite.ts';

const capsOf = (bytes: number): Capabilities => ({ ...WEBGPU_BASELINE, profile: `bindings of ${bytes} bytes`, maxBindingBytes: bytes });
const interpreter = { variant: 'portable' } as const;
const WHOLE = interpreterBench(interpreter);
/** One expert of any golden bank fits into 4 KiB, one row of any table into 512 bytes. */
const SIZES = [4096, 8192];

/** Names of the weights that are split. */
const segmented = (spec: Spec, caps: Capabilities): readonly string[] =>
  compileSpec(spec, { caps }).manifest.sections.flatMap((s) => s.params.filter((p) => p.segmentRows !== undefined).map((p) => p.name));
/** A split router matrix is a product of its own, which sums in another order than the router's kernel. */
const APART = interpreterBench(interpreter, { disabled: new Set(['fuse-router']) });

describe('split banks of layers', () => {
  it.each(LAYER_CASES.map((c) => [c.name, c] as const))('%s', async (_name, c) => {
    const { spec, weights, input, tokens } = await openLayerCase(c);
    expect(segmented(spec, capsOf(4096)).length).toBeGreaterThan(0);
    for (const bytes of SIZES) {
      const caps = capsOf(bytes);
      const whole = await (segmented(spec, caps).includes('router.weight') ? APART : WHOLE).layer(spec, weights);
      const split = await interpreterBench(interpreter, { caps }).layer(spec, weights);
      for (const count of [3, tokens]) {
        const part = count === tokens ? input : firstRows(input, spec.hidden, count);
        const [a, b] = [await split.run(part), await whole.run(part)];
        expect(a).toEqual(b);
      }
      await split.close();
      await whole.close();
    }
  });
});

describe('split banks, tables and heads of models', () => {
  it.each(MODEL_CASES)('%s', async (name) => {
    const { spec, weights, ids, logits } = await openModelCase(name);
    const caps = capsOf(4096);
    const whole = await WHOLE.model(spec, weights);
    const split = await interpreterBench(interpreter, { caps }).model(spec, weights);
    expect(segmented(spec, caps).length).toBeGreaterThan(1);
    for (const lengths of [[ids.length], [ids.length - 2, 1, 1]]) {
      const actual = await split.forward(ids, lengths);
      expectWithin(actual, logits, ids.length, WHOLE.gate);
      expect(actual).toEqual(await whole.forward(ids, lengths));
    }
    await whole.close();
    await split.close();
  });

  it('tiny_mixtral on the device', { timeout: 300_000 }, async () => {
    const { spec, weights, ids, logits } = await openModelCase('tiny_mixtral');
    const model = await dawnBench({ caps: capsOf(4096) }).model(spec, weights);
    for (const lengths of [[ids.length], [ids.length - 2, 1, 1]])
      expectWithin(await model.forward(ids, lengths), logits, ids.length, DAWN_GATE);
    await model.close();
  });
});
