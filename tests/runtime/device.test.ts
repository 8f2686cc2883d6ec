/** Devices that are missing, too small, broken or lost: on Dawn, and on adapters made up for the purpose. */
import { describe, expect, it, vi } from 'vitest';
import { compileSpec } from '../../src/driver/compile.ts';
import { WebGpuBackend } from '../../src/runtime/webgpu/backend.ts';
import { acquireDevice } from '../../src/runtime/webgpu/acquire.ts';
import type { GpuDevice } from '../../src/runtime/webgpu/gpu-types.ts';
import { type PackageParts, loadLayer } from '../../src/runtime/webgpu/load.ts';
import { nodeGpu } from '../../src/runtime/node/gpu.ts';
import { LAYER_CASES } from '../lower/specs.ts';
import { join } from 'node:path';

const spec = LAYER_CASES['mixtral_top2'];
if (spec === undefined) throw new Error('no spec');
const { manifest, texts } = compileSpec(spec);
const weights = join(import.meta.dirname, '../golden/mixtral_top2.safetensors');
const parts: PackageParts = { manifest, kernels: texts, golden: () => Promise.reject(new Error('none')) };
const x = new Float32Array(2 * spec.hidden).fill(0.25);
const quiet = { onWarning: () => undefined };

async function ownDevice(limits: Record<string, number> = {}): Promise<GpuDevice> {
  const adapter = await (await nodeGpu()).requestAdapter();
  if (adapter === null) throw new Error('no adapter');
  return adapter.requestDevice({ requiredLimits: limits, requiredFeatures: [] });
}

describe('devices', () => {
  it('that are not there are told apart', async () => {
    await expect(acquireDevice({ features: [] })).rejects.toMatchObject({ name: 'NoWebGPUError', code: 'MOE5001' });
    const gpu = { requestAdapter: () => Promise.resolve(null) };
    await expect(loadLayer(parts, { weights, gpu })).rejects.toMatchObject({ name: 'NoAdapterError', code: 'MOE5002', fix: expect.stringContaining('driver') as string });
    const refusing = { requestAdapter: () => Promise.resolve({ limits: {}, features: new Set(), requestDevice: () => Promise.reject(new Error('no')) }) };
    await expect(loadLayer(parts, { weights, gpu: refusing })).rejects.toMatchObject({ name: 'DeviceLostError' });
    await expect(loadLayer(parts, { weights, device: { queue: {}, limits: {}, features: {}, destroy: () => undefined } })).rejects.toMatchObject({ code: 'MOE5013' });
  });

  it('played by the CPU are announced', async () => {
    const warnings: string[] = [];
    const layer = await loadLayer(parts, { weights, onWarning: (w) => void warnings.push(w) });
    const { device } = layer.stats();
    expect(warnings.length).toBe(device.software ? 1 : 0);
    await layer.dispose();
  });

  it('that are lent stay, their buffers do not', async () => {
    const device = await ownDevice();
    const made = vi.spyOn(device, 'createBuffer');
    for (let i = 0; i < 3; i++) {
      const layer = await loadLayer(parts, { weights, device });
      await layer.forward(x);
      expect(layer.stats().memory.total).toBeGreaterThan(0);
      await layer.dispose();
      expect(layer.stats().memory.total).toBe(0);
    }
    for (const call of made.mock.calls) expect(call[0].label).toMatch(/^moec:/);
    device.createBuffer({ size: 16, usage: 128 }).destroy();
    device.destroy();
  });

  it('that are lost reject what runs and what follows', async () => {
    const device = await ownDevice();
    const layer = await loadLayer(parts, { weights, device });
    await layer.forward(x);
    device.destroy();
    await expect(layer.forward(x)).rejects.toMatchObject({ name: 'DeviceLostError', code: 'MOE5006' });
    await expect(layer.forward(x)).rejects.toMatchObject({ name: 'DeviceLostError' });
    await layer.dispose();
  });

  it('say what is wrong with a kernel, with its place', async () => {
    const file = manifest.kernels[0]?.variants.at(-1)?.file ?? '';
    const broken = new Map([...texts].map(([f, text]) => [f, f.startsWith(file.split('.')[0] ?? '') ? text.replace('@compute', 'let x = ;\n@compute') : text]));
    const errors = vi.spyOn(console, 'error').mockImplementation(() => undefined);
    await expect(loadLayer({ ...parts, kernels: broken }, { weights, ...quiet })).rejects.toMatchObject({
      name: 'ShaderCompileError',
      code: 'MOE5007',
      message: expect.stringMatching(/kernels\/.*\.wgsl:\d+:\d+ /) as string,
    });
    // Told once, by the rejection: nothing is left for the uncaptured-error handler.
    await new Promise((resolve) => setTimeout(resolve, 50));
    expect(errors).not.toHaveBeenCalled();
    errors.mockRestore();
  });

  it('with small limits are refused before anything is allocated', async () => {
    const device = await ownDevice();
    const made = vi.spyOn(device, 'createBuffer');
    const demanding = { ...manifest, kernels: manifest.kernels.map((k) => ({ ...k, sharedBytes: 1 << 20 })) };
    await expect(loadLayer({ ...parts, manifest: demanding }, { weights, device })).rejects.toMatchObject({ code: 'MOE5004', details: { needed: 1 << 20 } });
    expect(made).not.toHaveBeenCalled();
    device.destroy();
  });

  it('report out-of-memory as such and give everything back', async () => {
    const device = await ownDevice();
    const backend = new WebGpuBackend({ device, owned: true, name: 'x', adapter: 'x', software: true, features: [] }, 'test');
    await expect(backend.createBuffers([{ bytes: 1024, label: 'small' }, { bytes: 2 ** 52, label: 'vast' }])).rejects.toMatchObject({ code: 'MOE5005' });
    expect(backend.allocatedBytes).toBe(0);
    const [buffer] = await backend.createBuffers([{ bytes: 1024, label: 'small' }]);
    if (buffer === undefined) throw new Error('no buffer');
    backend.write(buffer, 4, Uint8Array.of(1, 2, 3, 4, 5));
    const [read] = await backend.run('test', [], [{ buffer, offset: 0, bytes: 10 }]);
    expect([...(read ?? [])]).toEqual([0, 0, 0, 0, 1, 2, 3, 4, 5, 0]);
    await expect(backend.run('bad copy', [{ k: 'copy', from: buffer, fromOffset: 0, to: buffer, toOffset: 2000, bytes: 16 }], [])).rejects.toMatchObject({ name: 'InternalError' });
    const both = await Promise.all([1, 2, 3].map(() => backend.run('parallel', [], [{ buffer, offset: 4, bytes: 4 }])));
    for (const [bytes] of both) expect([...(bytes ?? [])]).toEqual([1, 2, 3, 4]);
    backend.dispose();
    backend.dispose();
    expect(backend.allocatedBytes).toBe(0);
  });
});
