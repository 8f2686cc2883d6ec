/** From the parts of a CUDA package and a user's options to a model that runs. For Node: browsers have no CUDA. */
import type { Manifest } from '../core/abi.ts';
import { PackageError } from '../core/errors.ts';
import { type PackagePartsOf, type RunOptions, type TargetDevice, loadLayerOn, loadModelOn, verifyPackageOn, warn } from '../core/load.ts';
import type { Layer, Model } from '../core/model.ts';
import type { WeightsInput } from '../core/open.ts';
import type { VerifyReport } from '../core/verify.ts';
import { openPackageLibrary } from '../node/cuda-package.ts';
import { openPath } from '../node/paths.ts';
import { CudaBackend } from './backend.ts';

interface CudaProgram {
  readonly manifest: unknown;
  /** The folder that holds the manifest, as a path or a `file:` URL. */
  readonly directory: string;
}

/** What a package consists of at run time. */
export type PackageParts = PackagePartsOf<CudaProgram>;

export interface DeviceOptions extends RunOptions {
  /** Number of the GPU, from 0; default 0. */
  readonly device?: number;
  /**
   * Lets the CPU play the device: right, but slow. Needs the library that `cuda/build.js --emulate` builds. Default: only where the
   * environment says MOEC_CUDA_EMULATE=1.
   */
  readonly emulate?: boolean;
}

export interface LoadOptions extends DeviceOptions {
  readonly weights: WeightsInput;
}

export interface OpenCudaOptions extends DeviceOptions {
  readonly directory: string;
  readonly manifest: Manifest;
}

/**
 * The device for a program of a package.
 * @throws NoKoffiError, NoCudaLibraryError, NoCudaDriverError, NoCudaDeviceError, CudaArchitectureError, PackageError
 */
export async function openCudaBackend(options: OpenCudaOptions): Promise<CudaBackend> {
  const { directory, manifest } = options;
  if (manifest.cuda === undefined) throw new PackageError('manifest.json has no member `cuda`', { fix: 'compile the package again: --target cuda' });
  const library = await openPackageLibrary(directory, manifest.cuda, options.emulate);
  const backend = await CudaBackend.open(library, options.device);
  if (backend.info.software) warn(options, `the CUDA device is played by the CPU (${backend.info.name}); it is right, but slow`);
  return backend;
}

function targetOf(options: DeviceOptions): TargetDevice<CudaProgram> {
  return {
    openPath,
    // A library holds the kernels of one program.
    runsAny: false,
    open: ({ directory }, manifest) => openCudaBackend({ ...options, directory, manifest }),
    // The kernels are in the library.
    text: () => '',
  };
}

/** Loads the package of a whole model. @throws any error of `core/errors.ts` */
export async function loadModel(parts: PackageParts, options: LoadOptions): Promise<Model> {
  return loadModelOn(parts, options.weights, targetOf(options), options);
}

/** Loads the package of a layer alone. @throws any error of `core/errors.ts` */
export async function loadLayer(parts: PackageParts, options: LoadOptions): Promise<Layer> {
  return loadLayerOn(parts, options.weights, targetOf(options), options);
}

/** Runs the golden vectors without any weights; the report tells what failed, nothing is thrown for it. */
export async function verifyPackage(parts: PackageParts, options: DeviceOptions = {}): Promise<VerifyReport> {
  return verifyPackageOn(parts, targetOf(options), options);
}
