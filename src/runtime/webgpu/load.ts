/** From the parts of a WebGPU package and a user's options to a model that runs. */
import type { Manifest } from '../core/abi.ts';
import type { Backend } from '../core/backend.ts';
import { type PackagePartsOf, type RunOptions, type TargetDevice, loadLayerOn, loadModelOn, verifyPackageOn, warn } from '../core/load.ts';
import type { Layer, Model } from '../core/model.ts';
import type { OpenPath, WeightsInput } from '../core/open.ts';
import type { VerifyReport } from '../core/verify.ts';
import { acquireDevice, navigatorGpu } from './acquire.ts';
import { WebGpuBackend } from './backend.ts';
import type { GpuEntry, LentDevice, LentGpu } from './gpu-types.ts';

/** Texts of kernels by their file in the package. */
export type KernelTexts = ReadonlyMap<string, string>;

interface WebGpuProgram {
  readonly manifest: unknown;
  readonly kernels: KernelTexts;
}

/** What a package consists of at run time. */
export type PackageParts = PackagePartsOf<WebGpuProgram>;

export interface DeviceOptions extends RunOptions {
  /** A GPUDevice to borrow; it is not destroyed by `dispose`. */
  readonly device?: LentDevice;
  /** Instead of `navigator.gpu`. */
  readonly gpu?: LentGpu;
  readonly powerPreference?: 'high-performance' | 'low-power';
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

async function openBackend(manifest: Manifest, options: DeviceOptions, platform: Platform | undefined): Promise<Backend> {
  const gpu = options.gpu ?? navigatorGpu() ?? (options.device === undefined ? await platform?.gpu() : undefined);
  const acquired = await acquireDevice({
    device: options.device,
    gpu,
    powerPreference: options.powerPreference,
    features: featuresOf(manifest),
    signal: options.signal,
  });
  if (acquired.software && options.device === undefined) {
    warn(options, `the WebGPU device is played by the CPU (${acquired.name}); it is right, but slow`);
  }
  return new WebGpuBackend(acquired, manifest.model.name);
}

async function targetOf(options: DeviceOptions): Promise<TargetDevice<WebGpuProgram>> {
  const platform = await nodePlatform();
  return {
    openPath: platform?.openPath,
    runsAny: true,
    open: (_part, manifest) => openBackend(manifest, options, platform),
    text: ({ kernels }, file) => kernels.get(file),
  };
}

/** Loads the package of a whole model. @throws any error of `core/errors.ts` */
export async function loadModel(parts: PackageParts, options: LoadOptions): Promise<Model> {
  return loadModelOn(parts, options.weights, await targetOf(options), options);
}

/** Loads the package of a layer alone. @throws any error of `core/errors.ts` */
export async function loadLayer(parts: PackageParts, options: LoadOptions): Promise<Layer> {
  return loadLayerOn(parts, options.weights, await targetOf(options), options);
}

/** Runs the golden vectors without any weights; the report tells what failed, nothing is thrown for it. */
export async function verifyPackage(parts: PackageParts, options: DeviceOptions = {}): Promise<VerifyReport> {
  return verifyPackageOn(parts, await targetOf(options), options);
}
