/** From a package and a user's options to a model that runs: the same for all targets, which differ in how a device is opened. */
import type { Manifest } from './abi.ts';
import type { Backend } from './backend.ts';
import { DisposedError, type Signal, throwIfAborted } from './errors.ts';
import { decodeGolden } from './golden.ts';
import { readManifest } from './manifest.ts';
import { type Layer, type Model, makeLayer, makeModel } from './model.ts';
import { type OpenPath, type WeightsInput, openWeights } from './open.ts';
import { type OnProgress, type Program, compileProgram } from './program.ts';
import { checkpointWeights } from './provider.ts';
import { Session } from './session.ts';
import { type VerifyOptions, type VerifyReport, requireVerified, runGolden } from './verify.ts';

/** One program of a package; targets add where its kernels are. */
export interface ProgramParts {
  readonly manifest: unknown;
}

/** What a package consists of at run time. */
export type PackagePartsOf<P extends ProgramParts> = P & {
  /** The bytes of golden.bin. */
  golden(): Promise<Uint8Array>;
  /** The scaled-down program that golden.bin is for, where this one is too large. */
  readonly twin?: () => Promise<P>;
};

/** Options of all targets. */
export interface RunOptions {
  /** Bytes of device memory that may be used in all. */
  readonly memoryLimit?: number;
  readonly signal?: Signal;
  readonly onProgress?: OnProgress;
  /** Told things worth knowing, such as a CPU that plays the device. Default: console.warn. */
  readonly onWarning?: (message: string) => void;
}

/** How a target runs a package. */
export interface TargetDevice<P extends ProgramParts> {
  /** Undefined where there is no file system. */
  readonly openPath: OpenPath | undefined;
  /** Whether a device that was opened for one program runs others too. */
  readonly runsAny: boolean;
  open(part: P, manifest: Manifest): Promise<Backend>;
  /** Text of a kernel by its file in the package; undefined where the package lacks it. */
  text(part: P, file: string): string | undefined;
}

export function warn(options: RunOptions, message: string): void {
  if (options.onWarning === undefined) console.warn(`moec: ${message}`);
  else options.onWarning(message);
}

interface Watching extends VerifyOptions {
  readonly onProgress?: OnProgress | undefined;
}

/** Makes programs ready for a target. */
type Compile<P extends ProgramParts> = (part: P, manifest: Manifest, backend: Backend, options: Watching) => Promise<Program>;

const compilerFor =
  <P extends ProgramParts>(target: TargetDevice<P>): Compile<P> =>
  (part, manifest, backend, options) =>
    compileProgram(manifest, (file) => target.text(part, file), backend, options);

/** The golden vectors, on a device of their own. */
async function verifyApart<P extends ProgramParts>(
  parts: PackagePartsOf<P>,
  twin: P | undefined,
  target: TargetDevice<P>,
  options: Watching,
): Promise<VerifyReport> {
  const part = twin ?? parts;
  const manifest = readManifest(part.manifest);
  const backend = await target.open(part, manifest);
  try {
    const program = await compilerFor(target)(part, manifest, backend, options);
    return await runGolden(program, await decodeGolden(await parts.golden()), twin !== undefined, options);
  } finally {
    backend.dispose();
  }
}

/** The same beside a program that is loaded, on its device where that can be. */
async function verifyBeside<P extends ProgramParts>(
  parts: PackagePartsOf<P>,
  own: Program,
  target: TargetDevice<P>,
  options: VerifyOptions,
): Promise<VerifyReport> {
  const twin = await parts.twin?.();
  if (twin === undefined) return runGolden(own, await decodeGolden(await parts.golden()), false, options);
  if (!target.runsAny) return verifyApart(parts, twin, target, options);
  const program = await compilerFor(target)(twin, readManifest(twin.manifest), own.backend, options);
  return runGolden(program, await decodeGolden(await parts.golden()), true, options);
}

interface Opened {
  readonly session: Session;
  readonly verify: (options?: VerifyOptions) => Promise<VerifyReport>;
  readonly dispose: () => Promise<void>;
}

async function open<P extends ProgramParts>(
  parts: PackagePartsOf<P>,
  weights: WeightsInput,
  target: TargetDevice<P>,
  options: RunOptions,
): Promise<Opened> {
  throwIfAborted(options.signal);
  const manifest = readManifest(parts.manifest);
  const set = await openWeights(weights, target.openPath, options.signal);
  let backend: Backend | undefined;
  try {
    const provider = checkpointWeights(manifest, set);
    backend = await target.open(parts, manifest);
    const program = await compilerFor(target)(parts, manifest, backend, options);
    const session = await Session.create(program, provider, options);
    const device = backend;
    let disposed: Promise<void> | undefined;
    return {
      session,
      verify: async (o = {}) => {
        if (disposed !== undefined) throw new DisposedError();
        return requireVerified(await verifyBeside(parts, program, target, o));
      },
      dispose: () => (disposed ??= session.dispose().finally(() => device.dispose())),
    };
  } catch (error) {
    backend?.dispose();
    await set.close();
    throw error;
  }
}

/** Loads the package of a whole model. @throws any error of `errors.ts` */
export async function loadModelOn<P extends ProgramParts>(
  parts: PackagePartsOf<P>,
  weights: WeightsInput,
  target: TargetDevice<P>,
  options: RunOptions,
): Promise<Model> {
  const { session, verify, dispose } = await open(parts, weights, target, options);
  return makeModel(session, verify, dispose);
}

/** Loads the package of a layer alone. @throws any error of `errors.ts` */
export async function loadLayerOn<P extends ProgramParts>(
  parts: PackagePartsOf<P>,
  weights: WeightsInput,
  target: TargetDevice<P>,
  options: RunOptions,
): Promise<Layer> {
  const { session, verify, dispose } = await open(parts, weights, target, options);
  return makeLayer(session, verify, dispose);
}

/** Runs the golden vectors without any weights; the report tells what failed, nothing is thrown for it. */
export async function verifyPackageOn<P extends ProgramParts>(
  parts: PackagePartsOf<P>,
  target: TargetDevice<P>,
  options: RunOptions,
): Promise<VerifyReport> {
  return verifyApart(parts, await parts.twin?.(), target, options);
}
