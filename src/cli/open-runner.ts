/** Something that runs: a spec compiled in memory, or a generated package. Both go through the runtime that ships in packages. */
import { existsSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { pathToFileURL } from 'node:url';
import { type CompileOptions, compileSpec } from '../driver/compile.ts';
import type { Spec } from '../driver/analysis.ts';
import type { TargetName } from '../driver/profiles.ts';
import type { Manifest } from '../runtime/core/abi.ts';
import type { Layer, Model } from '../runtime/core/model.ts';
import type { TensorSet } from '../runtime/core/tensors.ts';
import type { VerifyReport } from '../runtime/core/verify.ts';
import * as cuda from '../runtime/cuda/load.ts';
import { nodeKoffi } from '../runtime/node/cuda-library.ts';
import { checkPackageFiles } from '../runtime/node/package-dir.ts';
import { nodeGpu } from '../runtime/node/gpu.ts';
import * as webgpu from '../runtime/webgpu/load.ts';
import { buildProgram, type EmulateOption } from './cuda-program.ts';
import { findPackage } from './find-package.ts';
import { CommandError, EXIT, type Io } from './io.ts';
import type { InputShape, RunInputs, Trace } from './run-io.ts';

export interface Runner {
  readonly input: InputShape;
  readonly outputName: 'logits' | 'y';
  readonly outputWidth: number;
  /** As the driver calls it. */
  readonly device: string;
  forward(inputs: RunInputs, trace: boolean): Promise<{ readonly y: Float32Array; readonly trace: Trace | undefined }>;
  dispose(): Promise<void>;
}

const shapeOf = (m: Manifest['model']): InputShape => ({ kind: m.kind, hidden: m.hidden, needsTokenIds: m.needsTokenIds, vocab: m.vocab });

function modelRunner(model: Model, m: Manifest['model']): Runner {
  return {
    input: shapeOf(m),
    outputName: 'logits',
    outputWidth: m.vocab ?? 0,
    device: model.stats().device.name,
    forward: async ({ ids }) => ({ y: await model.forward(ids ?? new Int32Array(0)), trace: undefined }),
    dispose: () => model.dispose(),
  };
}

function layerRunner(layer: Layer, m: Manifest['model']): Runner {
  return {
    input: shapeOf(m),
    outputName: 'y',
    outputWidth: m.hidden,
    device: layer.stats().device.name,
    async forward({ x, ids, seq, tokens }, trace) {
      const options = { ...(ids === undefined ? {} : { tokenIds: ids }), ...(tokens === 0 ? {} : { sequenceLength: seq }) };
      if (!trace || !m.hasRouter) return { y: await layer.forward(x ?? new Float32Array(0), options), trace: undefined };
      const t = await layer.forward(x ?? new Float32Array(0), { ...options, trace: true });
      return { y: t.y, trace: { slots: m.slots, experts: m.experts, indices: t.topkIndices, weights: t.topkWeights } };
    },
    dispose: () => layer.dispose(),
  };
}

const golden = (): Promise<Uint8Array> => Promise.reject(new Error('a spec that is run by itself carries no golden vectors'));

/** Compiles a spec and loads it onto a device. */
export async function openSpec(spec: Spec, weights: TensorSet, options: CompileOptions): Promise<Runner> {
  const { manifest, texts } = compileSpec(spec, options);
  const { model } = manifest;
  const parts = { manifest, kernels: texts, golden };
  return model.kind === 'model' ? modelRunner(await webgpu.loadModel(parts, { weights }), model) : layerRunner(await webgpu.loadLayer(parts, { weights }), model);
}

/** The same on CUDA, where a compiler makes a library of the kernels first. */
export async function openCudaSpec(io: Io, spec: Spec, weights: TensorSet, options: CompileOptions & EmulateOption): Promise<Runner> {
  const { manifest, directory, emulate } = await buildProgram(io, compileSpec(spec, options), options);
  const { model } = manifest;
  const parts = { manifest, directory, golden };
  const load = { weights, emulate, onWarning: io.say };
  return model.kind === 'model' ? modelRunner(await cuda.loadModel(parts, load), model) : layerRunner(await cuda.loadLayer(parts, load), model);
}

interface PackageModule {
  readonly manifest: Manifest;
  load(options: EmulateOption & { readonly weights: string }): Promise<Model & Layer>;
  verify(options?: EmulateOption): Promise<VerifyReport>;
}

/** Absent where it was not said, so that the environment is asked. */
export const emulation = ({ emulate }: EmulateOption): EmulateOption => (emulate === undefined ? {} : { emulate });

const isPackageModule = (m: unknown): m is PackageModule =>
  typeof m === 'object' && m !== null && 'load' in m && typeof m.load === 'function' && 'manifest' in m;

export interface PackageChoice extends EmulateOption {
  /** What the package must be for; where a directory holds one for each target, which. */
  readonly target?: TargetName | undefined;
}

/** The module of a generated package, imported as a user would. */
export async function importPackage(path: string, { target, emulate }: PackageChoice = {}): Promise<PackageModule> {
  const directory = resolve(findPackage(path, target));
  const entry = join(directory, 'index.js');
  if (!existsSync(entry)) throw new CommandError(EXIT.io, `${directory} is not a package of moec: it has no index.js`, { fix: 'make one with moec compile FILE --out DIR' });
  const manifest = await checkPackageFiles(directory);
  if (emulate === true && manifest.target !== 'cuda') {
    throw new CommandError(EXIT.usage, `--emulate is for packages of cuda; ${directory} is one of ${manifest.target}`, { fix: 'leave --emulate out' });
  }
  // A package lies anywhere, with no `webgpu` or `koffi` near it: these are the ones that it then finds. Without them it looks for its own.
  await (manifest.target === 'cuda' ? nodeKoffi() : nodeGpu()).catch(() => undefined);
  const module: unknown = await import(pathToFileURL(entry).href);
  if (!isPackageModule(module)) throw new CommandError(EXIT.io, `${entry} is not the entry of a package of moec`, { fix: 'compile the package again' });
  return module;
}

/** Loads a generated package onto a device. */
export async function openPackage(directory: string, weights: string, choice: PackageChoice = {}): Promise<Runner> {
  const module = await importPackage(directory, choice);
  const loaded = await module.load({ weights, ...emulation(choice) });
  const { model } = module.manifest;
  return model.kind === 'model' ? modelRunner(loaded, model) : layerRunner(loaded, model);
}
