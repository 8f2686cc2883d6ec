/** WebGPU in Node: Dawn, from the package `webgpu`. */
import { NoWebGPUError } from '../core/errors.ts';
import type { GpuEntry } from '../webgpu/gpu-types.ts';
import { importOptional } from './import-optional.ts';
import { activateSoftwareDriver } from './software-driver.ts';

/** Dawn's instance must stay reachable as long as the process lives: collected, it takes the process with it. */
const KEY = Symbol.for('moec.gpu');

interface WebGpuPackage {
  create(flags: string[]): GpuEntry;
}

const isPackage = (value: unknown): value is WebGpuPackage =>
  typeof value === 'object' && value !== null && 'create' in value && typeof value.create === 'function';
const isEntry = (value: unknown): value is GpuEntry => typeof value === 'object' && value !== null && 'requestAdapter' in value;

const missing = (cause: unknown): never => {
  throw new NoWebGPUError('Node has no WebGPU of its own, and the package webgpu cannot be loaded', {
    fix: 'npm install webgpu (where npm asks for it: npm install-scripts approve webgpu), or lend a device: load({ device })',
    cause,
  });
};

/** @param flags for Dawn, such as `disable-dawn-features=timestamp_quantization`; only the first call's count. */
export async function nodeGpu(flags: readonly string[] = []): Promise<GpuEntry> {
  const held: unknown = Reflect.get(globalThis, KEY);
  if (isEntry(held)) return held;
  activateSoftwareDriver();
  const module = await importOptional('webgpu', () => import('webgpu')).catch(missing);
  if (!isPackage(module)) throw new NoWebGPUError('the package webgpu is not the one of npm that wraps Dawn', { fix: 'npm install webgpu@0.6' });
  const gpu = module.create([...flags]);
  Reflect.set(globalThis, KEY, gpu);
  return gpu;
}
