/** Useful work of a call, and the micro-kernels that peaks are measured with. */
import { describe, expect, it } from 'vitest';
import { microKernel, type MicroName } from '../../../src/driver/bench/micro-kernels.ts';
import { whatRuns, workOf } from '../../../src/driver/bench/work.ts';
import { type Compiled, type CompileOptions, compileSpec, PASS_NAMES } from '../../../src/driver/compile.ts';
import { contestants, denseTwin, itself } from '../../../src/driver/variants.ts';
import type { Spec } from '../../../src/model/types.ts';
import { dawnDevice } from '../../conformance/dawn.ts';
import { layer, MODEL_CASES, moe, shared, swiglu } from '../../lower/specs.ts';

const HIDDEN = 16;
const WIDTH = 8;
const spec = layer('t', HIDDEN, moe(8, 2, swiglu(WIDTH), {}, shared(1, WIDTH)), { residual: true });
/** Buckets for any device alone, so that the manifest is what a device without further qualities is served. */
const compile = (s: Spec, options: CompileOptions = {}): Compiled => compileSpec(s, { plans: [], ...options });

describe('work', () => {
  const fused = compile(spec);
  const TOKENS = 24;

  it('counts the spec’s own operations, whatever fuses', () => {
    const without = PASS_NAMES.map((pass) => compile(spec, { disabled: new Set([pass]) }));
    const flops = workOf(fused, fused.manifest, TOKENS).flops;
    for (const c of without) expect(workOf(c, c.manifest, TOKENS).flops).toBe(flops);
    // Two routed experts and the shared one, three matrices each, and the router.
    const products = 2 * TOKENS * (3 * 3 * HIDDEN * WIDTH + 8 * HIDDEN);
    expect(flops).toBeGreaterThan(products);
    expect(flops).toBeLessThan(1.2 * products);
  });

  it('moves fewer bytes where more fuses, and none of the experts that nobody chose', () => {
    const plain = compile(spec, { disabled: new Set(PASS_NAMES.filter((p) => p.startsWith('fuse-'))) });
    const routed = { rows: 2 * TOKENS, touched: 8 };
    const all = workOf(fused, fused.manifest, TOKENS, routed).bytes;
    expect(workOf(plain, plain.manifest, TOKENS, routed).bytes).toBeGreaterThan(all);
    expect(all - workOf(fused, fused.manifest, TOKENS, { ...routed, touched: 3 }).bytes).toBe(5 * 3 * HIDDEN * WIDTH * 4);
    expect(workOf(fused, fused.manifest, TOKENS).bytes).toBe(all);
  });

  it('does the rows that were not dropped', () => {
    const all = workOf(fused, fused.manifest, TOKENS).flops;
    expect(all - workOf(fused, fused.manifest, TOKENS, { rows: TOKENS, touched: 8 }).flops).toBeGreaterThan(2 * TOKENS * 3 * HIDDEN * WIDTH - 1);
  });

  it.each(Object.entries<Spec>(MODEL_CASES))('of the model %s is that of its sections as often as they run, the head for one token', (_name, model) => {
    const made = compile(model);
    const [one, many] = [1, 6].map((n) => workOf(made, made.manifest, n));
    expect(one?.flops).toBeGreaterThan(0);
    expect(many?.flops).toBeGreaterThan(one?.flops ?? Infinity);
    expect(many?.flops).toBeLessThan(7 * (one?.flops ?? 0));
    expect(many?.bytes).toBeGreaterThan(one?.bytes ?? Infinity);
  });

  it('tells contestants that do the same from those that do not', () => {
    const runs = (c: Compiled, tokens: number): string => whatRuns(c.manifest, (file) => c.texts.get(file), tokens);
    expect(runs(compile(spec), 4)).toBe(runs(fused, 4));
    const noPlan = compile(spec, { disabled: new Set(['plan']) });
    expect(runs(noPlan, 4)).toBe(runs(fused, 4));
    expect(runs(noPlan, 64)).not.toBe(runs(fused, 64));
  });
});

describe('contestants', () => {
  it('by their words', () => {
    expect(contestants(spec, 'passes')?.map((c) => c.without)).toEqual([...PASS_NAMES]);
    expect(contestants(spec, 'no-plan')).toMatchObject([{ name: 'no-plan', without: 'plan' }]);
    expect(contestants(spec, 'dense')).toMatchObject([{ name: 'dense', spec: denseTwin(spec) }]);
    expect(contestants(spec, 'unfused')?.[0]?.options.disabled?.size).toBeGreaterThan(3);
    for (const word of ['', 'no-', 'no-such', 'fused', 'PASSES']) expect(contestants(spec, word)).toBeUndefined();
    expect(itself(spec)).toEqual({ name: 'fused', spec, options: {} });
  });
});

describe('micro-kernels', () => {
  it.each(['copy', 'fma', 'load', 'load4', 'shared', 'empty'] satisfies MicroName[])('%s runs within its buffers', async (name) => {
    const { kernel, text, buffers, perBlock } = microKernel(name);
    expect(perBlock).toBeGreaterThan(0);
    const device = await dawnDevice();
    device.pushErrorScope('validation');
    const module = device.createShaderModule({ code: text });
    const pipeline = await device.createComputePipelineAsync({ layout: 'auto', compute: { module, entryPoint: kernel.variants[0]?.entry ?? '' } });
    const BLOCKS = 3;
    const made = buffers(BLOCKS).map((size) => device.createBuffer({ size, usage: 0x80 | 0x8 | 0x4 }));
    const [source] = made;
    const target = made.at(-1);
    if (source === undefined || target === undefined) throw new Error('no buffers');
    const filled = Float32Array.from({ length: source.size / 4 }, (_, i) => (1 + (i % 7)) / 16);
    if (made.length > 1) device.queue.writeBuffer(source, 0, filled);
    const staging = device.createBuffer({ size: target.size, usage: 0x1 | 0x8 });
    const encoder = device.createCommandEncoder();
    const pass = encoder.beginComputePass();
    pass.setPipeline(pipeline);
    pass.setBindGroup(0, device.createBindGroup({ layout: pipeline.getBindGroupLayout(0), entries: made.map((buffer, binding) => ({ binding, resource: { buffer } })) }));
    pass.dispatchWorkgroups(BLOCKS);
    pass.end();
    encoder.copyBufferToBuffer(target, 0, staging, 0, target.size);
    device.queue.submit([encoder.finish()]);
    expect((await device.popErrorScope())?.message).toBeUndefined();
    await staging.mapAsync(1);
    const got = new Float32Array(staging.getMappedRange().slice(0));
    for (const b of [...made, staging]) b.destroy();
    expect(got.every((v) => Number.isFinite(v))).toBe(true);
    if (name === 'copy') expect(got).toEqual(filled);
    // Every element of the last block was written: all kernels but one add up positive numbers.
    else if (name !== 'empty') expect(got.slice(-64).every((v) => v > 0)).toBe(true);
    else expect(got[0]).toBe(1);
  });
});
