/** A package holds forms of a model for several kinds of devices: what of it serves the one at hand. */
import type { Manifest, ManifestDevice, ManifestKernel, ManifestSection } from './abi.ts';
import type { DeviceInfo } from './backend.ts';

type Bucket = ManifestSection['buckets'][number];

const matches = (wanted: ManifestDevice | undefined, info: DeviceInfo): boolean =>
  wanted === undefined ||
  ((wanted.subgroupSize === undefined || wanted.subgroupSize === info.subgroupSize) && (wanted.adapter === undefined || wanted.adapter === info.adapter));

/** Whether a device meets what a variant of a kernel requires. */
export const meets = (device: Pick<DeviceInfo, 'features' | 'subgroupSize'>, { features, subgroupSize }: ManifestKernel['variants'][number]['requires']): boolean =>
  features.every((f) => device.features.includes(f)) && (subgroupSize === undefined || subgroupSize === device.subgroupSize);

/** Forms for particular devices may need more than the package asks of every device. */
function runs(kernel: ManifestKernel | undefined, info: DeviceInfo): boolean {
  const { limits } = info;
  if (kernel === undefined) return false;
  return kernel.variants.some((v) => meets(info, v.requires)) && kernel.block <= limits.maxThreadsPerBlock && kernel.sharedBytes <= limits.maxSharedBytes && kernel.access.length <= limits.maxBindings;
}

/** The buckets that a call may reach: those behind one that takes any number of tokens are not. */
function reachable(buckets: readonly Bucket[], usable: (bucket: Bucket) => boolean): readonly Bucket[] {
  const own = buckets.filter(usable);
  const last = own.findIndex((b) => b.maxTokens === null);
  return last < 0 ? own : own.slice(0, last + 1);
}

/** The same program with the buckets for this device alone, and the kernels that they use. */
export function forDevice(manifest: Manifest, info: DeviceInfo): Manifest {
  const usable = (b: Bucket): boolean => b.device === undefined || (matches(b.device, info) && b.steps.every((s) => runs(manifest.kernels[s.kernel], info)));
  const sections = manifest.sections.map((s) => ({ ...s, buckets: reachable(s.buckets, usable) }));
  const used = new Set(sections.flatMap((s) => s.buckets.flatMap((b) => b.steps.map((st) => st.kernel))));
  const kept = manifest.kernels.map((_, i) => i).filter((i) => used.has(i));
  const indexOf = new Map(kept.map((old, i) => [old, i]));
  return {
    ...manifest,
    kernels: kept.flatMap((i) => manifest.kernels[i] ?? []),
    sections: sections.map((s) => ({
      ...s,
      buckets: s.buckets.map((b) => ({ ...b, steps: b.steps.map((st) => ({ ...st, kernel: indexOf.get(st.kernel) ?? 0 })) })),
    })),
  };
}
