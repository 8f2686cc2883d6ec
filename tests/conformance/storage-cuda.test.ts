/**
 * Weights and rows stored in 16 bits, on CUDA kernels under the emulator: the golden checkpoints rounded by the loader, against the
 * evaluator on the same rounded weights. Rows between products are rounded on the way, which the gates are made for.
 */
import { describe, it } from 'vitest';
import { loadReference } from '../../src/driver/reference.ts';
import { lowerToGraphs } from '../../src/lower/model-to-graph.ts';
import type { Deviation } from '../../src/runtime/core/metrics.ts';
import { CUDA_SM80, CUDA_SM90A } from '../../src/target/cuda.ts';
import { hasCompiler } from '../codegen/cuda/emulate.ts';
import { referenceLayer } from './benches.ts';
import { LAYER_CASES, firstRows, layerOf, openLayerCase, openModelCase } from './cases.ts';
import { cudaBench, ORDERS } from './cuda-bench.ts';
import { expectOutcome, expectWithin } from './golden-suite.ts';

/**
 * All rows together as in wide layers; single rows twice as far: with widths of 16 to 40 the rounding of a row averages out less than
 * it does in the layers that gates are made for.
 */
const GATES: Readonly<Record<'f16' | 'bf16', Deviation>> = {
  f16: { nmse: 5e-7, rowNmse: 4e-6 },
  bf16: { nmse: 3e-5, rowNmse: 1.2e-4 },
};

/** Which instructions multiply: those of single warps, or those of four. */
const TARGETS = { f16: CUDA_SM80, bf16: CUDA_SM90A } as const;

describe.skipIf(!hasCompiler).each(['f16', 'bf16'] as const)('%s', (dtype) => {
  const bench = cudaBench({ caps: TARGETS[dtype] }, ORDERS.slice(0, 3));
  it.each(LAYER_CASES.map((c) => [c.name, c] as const))('%s', { timeout: 600_000 }, async (_name, c) => {
    const { weights, input, tokens } = await openLayerCase(c);
    const spec = layerOf(c.text.replace('{', `{ dtype ${dtype} `), c.name);
    const reference = referenceLayer(await loadReference(lowerToGraphs(spec), weights, { capacity: 1, stored: true }));
    const layer = await bench.layer(spec, weights);
    // One token, a few, and all.
    for (const count of [1, 5, tokens]) {
      const part = count === tokens ? input : firstRows(input, spec.hidden, count);
      const { nmse, rowNmse } = GATES[dtype];
      const gate = { nmse: count === tokens ? nmse : rowNmse, rowNmse };
      expectOutcome(await layer.run(part), await reference.run(part), count, { gate, weightGate: 1e-6 });
    }
    await layer.close();
  });
});

/**
 * Attention over heads and over a latent: queries, cached keys and values, and what attention gives, in f16. No router of these
 * models has two scores so close that the rounding of the layers before it would decide between experts.
 */
describe.skipIf(!hasCompiler)('models in f16', () => {
  const bench = cudaBench({ caps: CUDA_SM80 }, ORDERS.slice(0, 2));
  it.each(['tiny_qwen3_moe', 'tiny_deepseek_v2_lite'])('%s', { timeout: 600_000 }, async (name) => {
    const { spec: wide, weights, ids } = await openModelCase(name);
    const spec = { ...wide, dtype: 'f16' } as const;
    const reference = await loadReference(lowerToGraphs(spec), weights, { capacity: 32, stored: true });
    const logits = reference.run({ ids }).results['y'] ?? [];
    const model = await bench.model(spec, weights);
    for (const lengths of [[ids.length], [6, 1, 1, ids.length - 8]]) expectWithin(await model.forward(ids, lengths), logits, ids.length, GATES.f16);
    await model.close();
  });
});
