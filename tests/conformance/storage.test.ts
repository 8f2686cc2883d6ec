/** Weights stored in 16 bits: the golden checkpoints rounded by the loader, against the evaluator on the same rounded weights. */
import { describe, it } from 'vitest';
import { loadReference } from '../../src/driver/reference.ts';
import { lowerToGraphs } from '../../src/lower/model-to-graph.ts';
import { INTERPRETER_GATE, interpreterBench, referenceLayer } from './benches.ts';
import { LAYER_CASES, firstRows, layerOf, openLayerCase } from './cases.ts';
import { expectOutcome } from './golden-suite.ts';

const BENCH = interpreterBench({ variant: 'portable' });

describe.each(['f16', 'bf16'])('%s', (dtype) => {
  it.each(LAYER_CASES.map((c) => [c.name, c] as const))('%s', async (_name, c) => {
    const { weights, input, tokens } = await openLayerCase(c);
    const spec = layerOf(c.text.replace('{', `{ dtype ${dtype} `), c.name);
    const reference = referenceLayer(await loadReference(lowerToGraphs(spec), weights, { capacity: 1, stored: true }));
    const layer = await BENCH.layer(spec, weights);
    for (const count of [5, tokens]) {
      const part = count === tokens ? input : firstRows(input, spec.hidden, count);
      expectOutcome(await layer.run(part), await reference.run(part), count, { gate: INTERPRETER_GATE, weightGate: 1e-6 });
    }
    await layer.close();
  });
});
