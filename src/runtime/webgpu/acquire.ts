/** Gets a device: the caller's own, or a new one with all that the adapter offers. Never another kind of processor in secret. */
import { AbortError, DeviceLostError, InputError, NoAdapterError, NoWebGPUError, type Signal, throwIfAborted } from '../core/errors.ts';
import { type GpuAdapter, type GpuAdapterInfo, type GpuDevice, type GpuEntry, type LentDevice, type LentGpu, isDevice, isGpu } from './gpu-types.ts';

export interface AcquireOptions {
  /** A device to borrow; it is never destroyed here. */
  readonly device?: LentDevice | undefined;
  /** Instead of `navigator.gpu`. */
  readonly gpu?: LentGpu | undefined;
  readonly powerPreference?: 'high-performance' | 'low-power' | undefined;
  /** Features worth having; those that the adapter lacks are left out. */
  readonly features: readonly string[];
  readonly signal?: Signal | undefined;
}

export interface Acquired {
  readonly device: GpuDevice;
  readonly owned: boolean;
  readonly name: string;
  readonly adapter: string;
  readonly subgroupSize?: number;
  readonly software: boolean;
  readonly features: readonly string[];
}

const LIMITS = [
  'maxStorageBufferBindingSize',
  'maxBufferSize',
  'maxStorageBuffersPerShaderStage',
  'maxComputeInvocationsPerWorkgroup',
  'maxComputeWorkgroupSizeX',
  'maxComputeWorkgroupStorageSize',
  'maxComputeWorkgroupsPerDimension',
] as const;

const SOFTWARE = /llvmpipe|lavapipe|swiftshader|softpipe|basic render|software/i;

function describe(info: GpuAdapterInfo | undefined): Pick<Acquired, 'name' | 'adapter' | 'subgroupSize' | 'software'> {
  const words = [info?.description, info?.device, [info?.vendor, info?.architecture].filter((w) => w !== undefined && w !== '').join(' ')];
  const name = words.find((w) => w !== undefined && w !== '') ?? 'unnamed device';
  const { subgroupMinSize: least, subgroupMaxSize: most } = info ?? {};
  return {
    name,
    adapter: [info?.vendor, info?.architecture, info?.device, info?.description].map((w) => w ?? '').join(' / '),
    ...(least !== undefined && least > 0 && least === most ? { subgroupSize: least } : {}),
    software: info?.isFallbackAdapter === true || words.some((w) => w !== undefined && SOFTWARE.test(w)),
  };
}

/** `navigator.gpu` where there is one. */
export function navigatorGpu(): GpuEntry | undefined {
  const navigator: unknown = Reflect.get(globalThis, 'navigator');
  const gpu = typeof navigator === 'object' && navigator !== null && 'gpu' in navigator ? navigator.gpu : undefined;
  return isGpu(gpu) ? gpu : undefined;
}

const present = (device: GpuDevice | GpuAdapter, features: readonly string[]): string[] => features.filter((f) => device.features.has(f));

/** @throws NoWebGPUError, NoAdapterError */
export async function acquireDevice(options: AcquireOptions): Promise<Acquired> {
  const { device: lent, features, signal } = options;
  throwIfAborted(signal);
  if (lent !== undefined) {
    if (!isDevice(lent)) throw new InputError('the device to borrow is not a GPUDevice', { fix: 'load({ device }): what adapter.requestDevice() resolves to' });
    return { device: lent, owned: false, ...describe(lent.adapterInfo), features: present(lent, features) };
  }
  const gpu = options.gpu ?? navigatorGpu();
  if (!isGpu(gpu)) {
    throw new NoWebGPUError('this JavaScript engine has no WebGPU', {
      fix: 'in Node: npm install webgpu; in a browser: use a version with WebGPU, over https or on localhost; or lend a device: load({ device })',
    });
  }
  const adapter = await gpu.requestAdapter({ powerPreference: options.powerPreference ?? 'high-performance' });
  throwIfAborted(signal);
  if (adapter === null) {
    throw new NoAdapterError('WebGPU is here, but it offers no adapter', {
      fix: 'install a Vulkan, Metal or D3D12 driver (on Linux without a GPU: mesa-vulkan-drivers); `moec doctor` looks closer',
    });
  }
  const requiredLimits: Record<string, number> = {};
  for (const name of LIMITS) {
    const value = adapter.limits[name];
    if (Number.isFinite(value)) requiredLimits[name] = value;
  }
  const wanted = present(adapter, features);
  try {
    const device = await adapter.requestDevice({ requiredLimits, requiredFeatures: wanted, label: 'moec' });
    return { device, owned: true, ...describe(adapter.info ?? device.adapterInfo), features: wanted };
  } catch (error) {
    if (signal?.aborted === true) throw new AbortError(undefined, { cause: error });
    throw new DeviceLostError('the adapter gave no device', { cause: error, fix: 'close other programs that use the GPU and try again' });
  }
}
