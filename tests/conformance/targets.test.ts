/** One spec on both targets: the same experts, and results as close as the storage allows. */
import { describe, expect, it } from 'vitest';
import { CUDA_SM80, CUDA_SM90A } from '../../src/target/cuda.ts';
import { type Deviation, HALF_GATES } from '../../src/runtime/core/metrics.ts';
import { hasCompiler } from '../codegen/cuda/emulate.ts';
import { DAWN_GATE, dawnBench } from './benches.ts';
import { LAYER_CASES, layerOf, openLayerCase, openModelCase } from './cases.ts';
import { cudaBench, rounding } from './cuda-bench.ts';
import { expectWithin } from './golden-suite.ts';

const WEBGPU = dawnBench();
/** Rows that feed products are rounded on CUDA where weights have 16 bits, and nowhere else. */
const GATES: Readonly<Record<'f32' | 'f16' | 'bf16', Deviation>> = { f32: DAWN_GATE, ...HALF_GATES };
const ORDER = [{ MOEC_EMULATE_ORDER: 'rev', MOEC_EMULATE_LATE: '1' }] as const;

const LAYERS = ['deepseekmoe_softmax_topk_shared', 'deepseek_v3_sigmoid_bias_group', 'qwen2_moe_shared_sigmoid_gate', 'gshard_top2_cap4_norm_after_drop'];

describe.skipIf(!hasCompiler)('WebGPU and CUDA', () => {
  it.each(LAYERS.flatMap((name) => (['f32', 'f16', 'bf16'] as const).map((dtype) => [name, dtype] as const)))('%s in %s', async (name, dtype) => {
    const found = LAYER_CASES.find((c) => c.name === name);
    if (found === undefined) throw new Error(`no case ${name}`);
    const { weights, input, tokens } = await openLayerCase(found);
    const spec = layerOf(dtype === 'f32' ? found.text : found.text.replace('{', `{ dtype ${dtype} `), name);
    const caps = rounding(dtype === 'bf16' ? CUDA_SM90A : CUDA_SM80);
    const [here, there] = [await WEBGPU.layer(spec, weights), await cudaBench({ caps }, ORDER).layer(spec, weights)];
    const [a, b] = [await here.run(input), await there.run(input)];
    expect(b.ids).toEqual(a.ids);
    expectWithin(b.y, a.y, tokens, GATES[dtype]);
    expect(b.faults).toBe(a.faults);
    await here.close();
    await there.close();
  }, 300_000);

  it('a whole model', async () => {
    const { spec, weights, ids } = await openModelCase('tiny_deepseekmoe_v1');
    const [here, there] = [await WEBGPU.model(spec, weights), await cudaBench({}, ORDER).model(spec, weights)];
    const lengths = [ids.length - 2, 1, 1];
    expectWithin(await there.forward(ids, lengths), await here.forward(ids, lengths), ids.length, GATES.f32);
    await here.close();
    await there.close();
  }, 300_000);
});
