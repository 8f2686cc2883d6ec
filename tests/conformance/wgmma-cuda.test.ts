/**
 * Layers with weights in 16 bits on the kernels of sm_90a, played by the emulator: plans made on the device, tensor maps made by the
 * host, products by warpgroups. So few processors and buckets that long calls are not needed to get there.
 */
import { spawnSync } from 'node:child_process';
import { describe, expect, it } from 'vitest';
import { compileSpec } from '../../src/driver/compile.ts';
import { loadReference } from '../../src/driver/reference.ts';
import { lowerToGraphs } from '../../src/lower/model-to-graph.ts';
import { HALF_GATES } from '../../src/runtime/core/metrics.ts';
import { CUDA_SM90A } from '../../src/target/cuda.ts';
import { referenceLayer } from './benches.ts';
import { LAYER_CASES, firstRows, layerOf, openLayerCase } from './cases.ts';
import { cudaBench, rounding } from './cuda-bench.ts';
import { expectOutcome } from './golden-suite.ts';

const caps = rounding({ ...CUDA_SM90A, tokenBuckets: [], multiprocessors: 3 });
const BENCH = cudaBench({ caps }, [
  { MOEC_EMULATE_ORDER: 'rev', MOEC_EMULATE_LATE: '1' },
  { MOEC_EMULATE_ORDER: 'rand:3', MOEC_EMULATE_LATE: '0' },
]);
/** Shared experts, biases with clamped units, dropped rows: in each, both products of the experts are multiplied by warpgroups. */
const CASES = ['deepseekmoe_2b_like_1s_63r_top7', 'gpt_oss_clamped_swiglu_bias', 'gshard_top2_cap6_norm_after_drop'];

describe.skipIf(spawnSync('g++', ['--version']).status !== 0)('bf16 on warpgroups', () => {
  it.each(CASES)('%s', { timeout: 300_000 }, async (name) => {
    const c = LAYER_CASES.find((x) => x.name === name);
    if (c === undefined) throw new Error(`no case ${name}`);
    const { weights, input, tokens } = await openLayerCase(c);
    const spec = layerOf(c.text.replace('{', '{ dtype bf16 '), c.name);
    const { kernels } = compileSpec(spec, { caps }).kernels;
    expect(kernels.filter((k) => k.source.schedule['variant'] === 'wgmma').length).toBe(2);
    const reference = referenceLayer(await loadReference(lowerToGraphs(spec), weights, { capacity: 1, stored: true }));
    const layer = await BENCH.layer(spec, weights);
    for (const count of [tokens > 8 ? tokens : 2 * tokens, 9]) {
      const part = firstRows(input, spec.hidden, count);
      expectOutcome(await layer.run(part), await reference.run(part), count, { gate: HALF_GATES.bf16, weightGate: 1e-6 });
    }
    await layer.close();
  });
});
