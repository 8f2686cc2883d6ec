/** From the parts of a package and a user's options to a model that runs. */
import { DisposedError, type Signal, throwIfAborted } from '../core/errors.ts';
import { decodeGolden } from '../core/golden.ts';
import { readManifest } from '../core/manifest.ts';
import { type Layer, type Model, makeLayer, makeModel } from '../core/model.ts';
import { type OpenPath, type WeightsInput, openWeights } from '../core/open.ts';
import { type OnProgress, type Program, compileProgram } from '../core/program.ts';
import { checkpointWeights } from '../core/provider.ts';
import { Session } from '../core/session.ts';
import { type VerifyOptions, type VerifyReport, requireVerified, runGolden } from '../core/verify.ts';
import type { Manifest } from '../core/abi.ts';
import { acquireDevice, navigatorGpu } from './acquire.ts';
import { WebGpuBackend } from './backend.ts';
import type { GpuEntry, LentDevice, LentGpu } from './gpu-types.ts';

/** Texts of kernels by their file in the package. */
export type KernelTexts = ReadonlyMap<string, string>;

/** What a package consists of at run time. */
export interface PackageParts {
  readonly manifest: unknown;
  readonly kernels: KernelTexts;
  /** The bytes of golden.bin. */
  golden(): Promise<Uint8Array>;
  /** The scaled-down program that golden.bin is for, where this one is too large. */
  readonly twin?: () => Promise<{ readonly manifest: unknown; readonly kernels: KernelTexts }>;
}

export interface DeviceOptions {
  /** A GPUDevice to borrow; it is not destroyed by `dispose`. */
  readonly device?: LentDevice;
  /** Instead of `navigator.gpu`. */
  readonly gpu?: LentGpu;
  readonly powerPreference?: 'high-performance' | 'low-power';
  /** Bytes of device memory that may be used in all. */
  readonly memoryLimit?: number;
  readonly signal?: Signal;
  readonly onProgress?: OnProgress;
  /** Told things worth knowing, such as a CPU that plays the device. Default: console.warn. */
  readonly onWarning?: (message: string) => void;
}

export interface LoadOptions extends DeviceOptions {
  readonly weights: WeightsInput;
}

interface Platform {
  gpu(): Promise<GpuEntry>;
  readonly openPath: OpenPath;
}

const isPlatform = (value: unknown): value is Platform => typeof value === 'object' && value !== null && 'gpu' in value && 'openPath' in value;

/** Node's part, from beside this file; undefined in a browser. The address is computed so that bundlers for browsers leave it alone. */
async function nodePlatform(): Promise<Platform | undefined> {
  const process: unknown = Reflect.get(globalThis, 'process');
  const versions: unknown = typeof process === 'object' && process !== null && 'versions' in process ? process.versions : undefined;
  if (typeof versions !== 'object' || versions === null || !('node' in versions)) return undefined;
  const here = import.meta.url;
  const extension = here.endsWith('.ts') ? 'ts' : 'js';
  const address = `${here.slice(0, here.lastIndexOf('/'))}/../node/platform.${extension}`;
  try {
    const module: unknown = await import(/* @vite-ignore */ /* webpackIgnore: true */ address);
    return isPlatform(module) ? module : undefined;
  } catch {
    // Bundled into another file: the caller must lend a device and give weights as bytes or by URL.
    return undefined;
  }
}

const featuresOf = (manifest: Manifest): string[] => [...new Set(manifest.kernels.flatMap((k) => k.variants.flatMap((v) => v.requires.features)))];

async function openBackend(manifest: Manifest, options: DeviceOptions, platform: Platform | undefined): Promise<WebGpuBackend> {
  const gpu = options.gpu ?? navigatorGpu() ?? (options.device === undefined ? await platform?.gpu() : undefined);
  const acquired = await acquireDevice({
    device: options.device,
    gpu,
    powerPreference: options.powerPreference,
    features: featuresOf(manifest),
    signal: options.signal,
  });
  if (acquired.software && options.device === undefined) {
    const warn = options.onWarning ?? ((message: string): void => console.warn(`moec: ${message}`));
    warn(`the WebGPU device is played by the CPU (${acquired.name}); it is right, but slow`);
  }
  return new WebGpuBackend(acquired, manifest.model.name);
}

async function verifyOn(parts: PackageParts, own: Program, options: VerifyOptions): Promise<VerifyReport> {
  const golden = await decodeGolden(await parts.golden());
  const twin = await parts.twin?.();
  if (twin === undefined) return runGolden(own, golden, false, options);
  const program = await compileProgram(readManifest(twin.manifest), (file) => twin.kernels.get(file), own.backend, options);
  return runGolden(program, golden, true, options);
}

async function open(parts: PackageParts, options: LoadOptions): Promise<{ session: Session; verify: (o?: VerifyOptions) => Promise<VerifyReport>; dispose: () => Promise<void> }> {
  throwIfAborted(options.signal);
  const manifest = readManifest(parts.manifest);
  const platform = await nodePlatform();
  const set = await openWeights(options.weights, platform?.openPath, options.signal);
  let backend: WebGpuBackend | undefined;
  try {
    const provider = checkpointWeights(manifest, set);
    backend = await openBackend(manifest, options, platform);
    const program = await compileProgram(manifest, (file) => parts.kernels.get(file), backend, options);
    const session = await Session.create(program, provider, options);
    const device = backend;
    let disposed: Promise<void> | undefined;
    return {
      session,
      verify: async (o = {}) => {
        if (disposed !== undefined) throw new DisposedError();
        return requireVerified(await verifyOn(parts, program, o));
      },
      dispose: () => (disposed ??= session.dispose().finally(() => device.dispose())),
    };
  } catch (error) {
    backend?.dispose();
    await set.close();
    throw error;
  }
}

/** Loads the package of a whole model. @throws any error of `core/errors.ts` */
export async function loadModel(parts: PackageParts, options: LoadOptions): Promise<Model> {
  const { session, verify, dispose } = await open(parts, options);
  return makeModel(session, verify, dispose);
}

/** Loads the package of a layer alone. @throws any error of `core/errors.ts` */
export async function loadLayer(parts: PackageParts, options: LoadOptions): Promise<Layer> {
  const { session, verify, dispose } = await open(parts, options);
  return makeLayer(session, verify, dispose);
}

/** Runs the golden vectors without any weights; the report tells what failed, nothing is thrown for it. */
export async function verifyPackage(parts: PackageParts, options: DeviceOptions = {}): Promise<VerifyReport> {
  const manifest = readManifest(parts.manifest);
  const backend = await openBackend(manifest, options, await nodePlatform());
  try {
    const golden = await decodeGolden(await parts.golden());
    const twin = await parts.twin?.();
    const part = twin ?? { manifest, kernels: parts.kernels };
    const program = await compileProgram(readManifest(part.manifest), (file) => part.kernels.get(file), backend, options);
    return await runGolden(program, golden, twin !== undefined, options);
  } finally {
    backend.dispose();
  }
}
