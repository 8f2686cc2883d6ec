/** The one adapter that all of this process run on, by Dawn from the package that moec uses. */
import { acquireDevice, type Acquired } from '../../../src/runtime/webgpu/acquire.ts';
import { nodeGpu } from '../../../src/runtime/node/gpu.ts';
import type { LentGpu } from '../../../src/runtime/webgpu/gpu-types.ts';

export interface Shared {
  readonly acquired: Acquired;
  /** The same device as its full type. */
  readonly device: GPUDevice;
}

let shared: Promise<Shared> | undefined;

// moec's own types name only what it needs of a device; Dawn's has all of the standard's.
const isFullDevice = (device: unknown): device is GPUDevice => typeof device === 'object' && device !== null && 'createComputePipelineAsync' in device;

export function sharedDevice(): Promise<Shared> {
  shared ??= (async () => {
    const acquired = await acquireDevice({ gpu: await nodeGpu(), features: ['subgroups'] });
    if (!isFullDevice(acquired.device)) throw new Error('not a GPUDevice');
    return { acquired, device: acquired.device };
  })();
  return shared;
}

/** Libraries made for browsers look for `navigator.gpu` and the standard's constants. */
export async function injectNavigatorGpu(): Promise<void> {
  const gpu: LentGpu = await nodeGpu();
  const { globals } = await import('webgpu');
  Object.assign(globalThis, globals);
  const navigator: unknown = Reflect.get(globalThis, 'navigator');
  if (typeof navigator === 'object' && navigator !== null) Object.defineProperty(navigator, 'gpu', { value: gpu, configurable: true });
  else Object.defineProperty(globalThis, 'navigator', { value: { gpu, userAgent: 'node' }, configurable: true });
}
