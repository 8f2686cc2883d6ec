/**
 * Weights stored in 16 bits, on CUDA kernels under the emulator: the golden checkpoints rounded by the loader, against the evaluator
 * on the same rounded weights. Rows as narrow as these stay f32; kernels that round them all the same are tested too.
 */
import { describe, it } from 'vitest';
import { loadReference } from '../../src/driver/reference.ts';
import { lowerToGraphs } from '../../src/lower/model-to-graph.ts';
import { type Deviation, HALF_GATES } from '../../src/runtime/core/metrics.ts';
import { CUDA_SM80, CUDA_SM90A } from '../../src/target/cuda.ts';
import { hasCompiler } from '../codegen/cuda/emulate.ts';
import { type Bench, referenceLayer } from './benches.ts';
import { LAYER_CASES, type LayerCase, MODEL_CASES, firstRows, layerOf, openLayerCase, openModelCase } from './cases.ts';
import { cudaBench, ORDERS, rounding, ROUNDING_GATES } from './cuda-bench.ts';
import { expectOutcome, expectWithin } from './golden-suite.ts';

type Half = 'f16' | 'bf16';
const HALVES = ['f16', 'bf16'] as const;
/** Which instructions multiply where rows are rounded: those of single warps, or those of four. */
const TARGETS = { f16: CUDA_SM80, bf16: CUDA_SM90A } as const;
const TIMEOUT = 600_000;

/** @param gateOf by the tokens of a call and of the case */
async function checkLayer(c: LayerCase, dtype: Half, bench: Bench, gateOf: (count: number, tokens: number) => Deviation): Promise<void> {
  const { weights, input, tokens } = await openLayerCase(c);
  const spec = layerOf(c.text.replace('{', `{ dtype ${dtype} `), c.name);
  const reference = referenceLayer(await loadReference(lowerToGraphs(spec), weights, { capacity: 1, stored: true }));
  const layer = await bench.layer(spec, weights);
  // One token, a few, all, and more than the decode form serves.
  for (const count of new Set([1, 5, tokens, Math.max(9, tokens)])) {
    const part = count === tokens ? input : firstRows(input, spec.hidden, count);
    expectOutcome(await layer.run(part), await reference.run(part), count, { gate: gateOf(count, tokens), weightGate: 1e-6 });
  }
  await layer.close();
}

async function checkModel(name: string, dtype: Half, bench: Bench, gate: Deviation): Promise<void> {
  const { spec: wide, weights, ids } = await openModelCase(name);
  const spec = { ...wide, dtype };
  const reference = await loadReference(lowerToGraphs(spec), weights, { capacity: 32, stored: true });
  const logits = reference.run({ ids }).results['y'] ?? [];
  const model = await bench.model(spec, weights);
  for (const lengths of [[ids.length], [6, 1, 1, ids.length - 8]]) expectWithin(await model.forward(ids, lengths), logits, ids.length, gate);
  await model.close();
}

const layers = LAYER_CASES.map((c) => [c.name, c] as const);
/** Attention over heads and over a latent. */
const TWO_MODELS = ['tiny_qwen3_moe', 'tiny_deepseek_v2_lite'];
/** A bank of each form, shared experts, biases with clamped units, dropped rows, weights on the input: f16 differs in how it is rounded alone. */
const SOME = /^(deepseekmoe_2b|deepseek_v3_sigmoid|expert_choice_c1|gpt_oss|gshard_top2_cap4_norm_after|hash_layer_random|llama4|qwen2)/;

describe.skipIf(!hasCompiler).each(HALVES)('%s', (dtype) => {
  const bench = cudaBench({ caps: TARGETS[dtype] });
  it.each(layers)('%s', { timeout: TIMEOUT }, (_name, c) => checkLayer(c, dtype, bench, () => HALF_GATES[dtype]));
  it.each(dtype === 'f16' ? TWO_MODELS : MODEL_CASES)('%s', { timeout: TIMEOUT }, (name) => checkModel(name, dtype, bench, HALF_GATES[dtype]));
});

describe.skipIf(!hasCompiler).each(HALVES)('%s, narrow rows rounded', (dtype) => {
  const bench = cudaBench({ caps: rounding(TARGETS[dtype]) }, ORDERS.slice(0, 3));
  const { nmse, rowNmse } = ROUNDING_GATES[dtype];
  // Few rows together are worth no more than one.
  const gateOf = (count: number, tokens: number): Deviation => ({ nmse: count < tokens ? rowNmse : nmse, rowNmse });
  const chosen = dtype === 'f16' ? layers.filter(([name]) => SOME.test(name)) : layers;
  it.each(chosen)('%s', { timeout: TIMEOUT }, (_name, c) => checkLayer(c, dtype, bench, gateOf));
});

/** Queries, cached keys and values, and what attention gives. No router of these models has two scores so close that such rounding would decide. */
describe.skipIf(!hasCompiler)('models in f16, narrow rows rounded', () => {
  const bench = cudaBench({ caps: rounding(CUDA_SM80) }, ORDERS.slice(0, 2));
  it.each(TWO_MODELS)('%s', { timeout: TIMEOUT }, (name) => checkModel(name, 'f16', bench, ROUNDING_GATES.f16));
});
