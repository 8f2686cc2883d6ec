/** A manifest made ready on a device: kernels compiled, uniform ranges laid out. Holds no weights. */
import type { Manifest, ManifestKernel } from './abi.ts';
import { type Backend, type KernelHandle, UNIFORM_ALIGN } from './backend.ts';
import { PackageError, type Signal, throwIfAborted } from './errors.ts';
import { forDevice } from './for-device.ts';
import { chooseVariant } from './limits.ts';
import { headEntryOf } from './needs.ts';

export interface Progress {
  readonly phase: 'kernels' | 'weights';
  readonly done: number;
  readonly total: number;
  readonly unit: 'kernels' | 'bytes';
}
export type OnProgress = (progress: Progress) => void;

/** Scalars of one uniform range: what the kernel declares, and the constants of the step. */
export interface UniformSlot {
  readonly offset: number;
  readonly names: readonly string[];
  readonly constants: Readonly<Record<string, number>>;
  /** Written with the sizes of the head (which may run on fewer tokens), not of the body. */
  readonly head: boolean;
}

export interface Program {
  /** Of the package, without what is for other devices. */
  readonly manifest: Manifest;
  readonly backend: Backend;
  readonly kernels: readonly KernelHandle[];
  readonly uniforms: readonly UniformSlot[];
  /** By section, bucket and step; undefined where the kernel has no scalars. */
  uniformOf(section: number, bucket: number, step: number): UniformSlot | undefined;
  /** Index in `sequence` of the head, or −1 where the program has none. */
  readonly headEntry: number;
  readonly compileMs: number;
}

function layoutUniforms(manifest: Manifest, headSection: number): Pick<Program, 'uniforms' | 'uniformOf'> {
  const byKey = new Map<string, UniformSlot>();
  const byStep = new Map<string, UniformSlot>();
  manifest.sections.forEach((section, s) => {
    section.buckets.forEach((bucket, b) => {
      bucket.steps.forEach((step, i) => {
        const names = manifest.kernels[step.kernel]?.scalars ?? [];
        if (names.length === 0) return;
        const head = s === headSection;
        const used = Object.fromEntries(names.filter((n) => Object.hasOwn(step.constants, n)).map((n) => [n, step.constants[n] ?? 0]));
        const key = JSON.stringify([head, names, used]);
        const slot = byKey.get(key) ?? { offset: byKey.size * UNIFORM_ALIGN, names, constants: used, head };
        byKey.set(key, slot);
        byStep.set(`${s}.${b}.${i}`, slot);
      });
    });
  });
  return { uniforms: [...byKey.values()], uniformOf: (s, b, i) => byStep.get(`${s}.${b}.${i}`) };
}

/** Section a kernel is first used in, for its label. */
function sectionsOfKernels(manifest: Manifest): ReadonlyMap<number, string> {
  const out = new Map<number, string>();
  for (const s of manifest.sections) for (const b of s.buckets) for (const st of b.steps) if (!out.has(st.kernel)) out.set(st.kernel, s.name);
  return out;
}

/**
 * Compiles all kernels that the device at hand is served by, at once.
 * @param text of a file of the package
 * @throws ShaderCompileError, FeatureMissingError, PackageError, AbortError
 */
export async function compileProgram(
  whole: Manifest,
  text: (file: string) => string | undefined,
  backend: Backend,
  options: { readonly signal?: Signal | undefined; readonly onProgress?: OnProgress | undefined } = {},
): Promise<Program> {
  const start = performance.now();
  const manifest = forDevice(whole, backend.info);
  const sections = sectionsOfKernels(manifest);
  const total = manifest.kernels.length;
  let done = 0;
  const compile = async (kernel: ManifestKernel, index: number): Promise<KernelHandle> => {
    throwIfAborted(options.signal);
    const variant = chooseVariant(kernel, backend.info);
    const code = text(variant.file);
    if (code === undefined) throw new PackageError(`the package lacks ${variant.file}`, { details: { file: variant.file }, fix: 'compile the package again' });
    const handle = await backend.compile(kernel, variant, code, `moec:${sections.get(index) ?? 'unused'}/${kernel.name}`);
    done++;
    options.onProgress?.({ phase: 'kernels', done, total, unit: 'kernels' });
    return handle;
  };
  const kernels = await Promise.all(manifest.kernels.map(compile));
  throwIfAborted(options.signal);
  const headEntry = headEntryOf(manifest);
  const headSection = manifest.sequence[headEntry]?.section ?? -1;
  return { manifest, backend, kernels, headEntry, ...layoutUniforms(manifest, headSection), compileMs: performance.now() - start };
}
