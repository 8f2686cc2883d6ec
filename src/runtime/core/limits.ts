/** Whether a device can hold and run a program: asked before anything is allocated. */
import type { Manifest, ManifestKernel, ManifestParam } from './abi.ts';
import type { DeviceInfo, DeviceLimits } from './backend.ts';
import { meets } from './for-device.ts';
import { FeatureMissingError, LimitTooSmallError, OutOfMemoryError, showBytes } from './errors.ts';
import { bindingBytes } from './size.ts';
import { rowBytes } from './quant.ts';
import { matrixOf, type WeightParam, weightsOf } from './weights.ts';

/** One buffer of a weight: rows [first, first + rows) of its bank · n rows. */
export interface Segment {
  readonly first: number;
  readonly rows: number;
  readonly bytes: number;
}

/** How a weight is split over buffers. `segmentRows` counts experts of a bank, or rows of a matrix. */
export function segmentsOf(param: ManifestParam & WeightParam): readonly Segment[] {
  const { banked, bank, n, k } = matrixOf(param);
  const total = bank * n;
  const step = param.segmentRows === undefined ? total : param.segmentRows * (banked ? n : 1);
  const segments: Segment[] = [];
  for (let first = 0; first < total; first += step) {
    const rows = Math.min(step, total - first);
    segments.push({ first, rows, bytes: rows * rowBytes(param.elem, k) });
  }
  return segments.length === 0 ? [{ first: 0, rows: 0, bytes: 0 }] : segments;
}

function tooSmall(limit: string, needed: number, available: number, what: string, fix: string): never {
  throw new LimitTooSmallError(`${what} needs ${limit} ≥ ${needed}, the device offers ${available}`, { details: { limit, needed, available, what }, fix });
}

/** The first variant whose requirements the device meets. @throws FeatureMissingError */
export function chooseVariant(kernel: ManifestKernel, device: Pick<DeviceInfo, 'features' | 'subgroupSize'>): ManifestKernel['variants'][number] {
  const variant = kernel.variants.find((v) => meets(device, v.requires));
  if (variant !== undefined) return variant;
  const features = new Set(device.features);
  const missing = [...new Set(kernel.variants.flatMap((v) => v.requires.features.filter((f) => !features.has(f))))];
  throw new FeatureMissingError(`kernel ${kernel.name} needs the device feature ${missing.join(' or ')}`, {
    details: { kernel: kernel.name, missing },
    fix: 'compile the spec for a device without it, or request the feature when you create the device that you lend',
  });
}

/** What to do where a device is too small for the profile that a program was compiled for. */
function smallerProfile({ target, limits }: Manifest): string {
  const portable = target === 'cuda' ? '--arch sm_80' : '--limits baseline';
  const larger = 'use a device with larger limits';
  return portable.endsWith(` ${limits.profile}`) ? larger : `compile the spec with ${portable}, or ${larger}`;
}

/** Compares every static need with the device. @throws LimitTooSmallError, OutOfMemoryError */
export function checkLimits(manifest: Manifest, device: DeviceInfo, memoryLimit: number | undefined): void {
  const have: DeviceLimits = device.limits;
  const smaller = smallerProfile(manifest);
  for (const k of manifest.kernels) {
    if (k.access.length > have.maxBindings) tooSmall('maxStorageBuffersPerShaderStage', k.access.length, have.maxBindings, `kernel ${k.name}`, smaller);
    if (k.block > have.maxThreadsPerBlock) tooSmall('maxComputeInvocationsPerWorkgroup', k.block, have.maxThreadsPerBlock, `kernel ${k.name}`, smaller);
    if (k.sharedBytes > have.maxSharedBytes) tooSmall('maxComputeWorkgroupStorageSize', k.sharedBytes, have.maxSharedBytes, `kernel ${k.name}`, smaller);
  }
  let total = 0;
  for (const { name, param } of weightsOf(manifest.sections, manifest.sequence)) {
    for (const { bytes } of segmentsOf(param)) {
      const padded = bindingBytes(bytes);
      total += padded;
      if (padded > have.maxBindingBytes) tooSmall('maxStorageBufferBindingSize', padded, have.maxBindingBytes, `weight ${name}`, smaller);
      if (padded > have.maxBufferBytes) tooSmall('maxBufferSize', padded, have.maxBufferBytes, `weight ${name}`, smaller);
    }
  }
  if (memoryLimit !== undefined && total > memoryLimit) {
    throw new OutOfMemoryError(`the weights take ${showBytes(total)}, over the memory limit of ${showBytes(memoryLimit)}`, {
      details: { needed: total, budget: memoryLimit },
      fix: 'raise memoryLimit, store the weights as bf16 or f16 (`dtype` in the spec), or run a smaller model',
    });
  }
}

/** One buffer that a call needs, against what a binding may cover. @throws LimitTooSmallError */
export function checkCallBytes(bytes: number, limits: DeviceLimits, what: string, tokens: number): void {
  const available = Math.min(limits.maxBindingBytes, limits.maxBufferBytes);
  if (bytes <= available) return;
  const fit = Math.max(0, Math.floor((tokens * available) / bytes));
  throw new LimitTooSmallError(`${what} takes ${showBytes(bytes)} for ${tokens} tokens, and one binding of this device holds ${showBytes(available)}`, {
    details: { limit: 'maxStorageBufferBindingSize', needed: bytes, available, tokens, fit },
    fix: fit > 0 ? `call with about ${fit} tokens at most` : 'use a device with larger limits',
  });
}
