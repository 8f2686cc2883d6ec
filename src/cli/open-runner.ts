/** Something that runs: a spec compiled in memory, or a generated package. Both go through the runtime that ships in packages. */
import { existsSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { pathToFileURL } from 'node:url';
import { type CompileOptions, compileSpec } from '../driver/compile.ts';
import type { Spec } from '../driver/analysis.ts';
import type { Manifest } from '../runtime/core/abi.ts';
import type { Layer, Model } from '../runtime/core/model.ts';
import type { TensorSet } from '../runtime/core/tensors.ts';
import type { VerifyReport } from '../runtime/core/verify.ts';
import { checkPackageFiles } from '../runtime/node/package-dir.ts';
import { nodeGpu } from '../runtime/node/gpu.ts';
import { loadLayer, loadModel } from '../runtime/webgpu/load.ts';
import { CommandError, EXIT } from './io.ts';
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

/** Compiles a spec and loads it onto a device. */
export async function openSpec(spec: Spec, weights: TensorSet, options: CompileOptions): Promise<Runner> {
  const { manifest, texts } = compileSpec(spec, options);
  const golden = (): Promise<Uint8Array> => Promise.reject(new Error('a spec run in memory carries no golden vectors'));
  const parts = { manifest, kernels: texts, golden };
  return spec.kind === 'model' ? modelRunner(await loadModel(parts, { weights }), manifest.model) : layerRunner(await loadLayer(parts, { weights }), manifest.model);
}

interface PackageModule {
  readonly manifest: Manifest;
  load(options: { readonly weights: string }): Promise<Model & Layer>;
  verify(): Promise<VerifyReport>;
}

const isPackageModule = (m: unknown): m is PackageModule =>
  typeof m === 'object' && m !== null && 'load' in m && typeof m.load === 'function' && 'manifest' in m;

/** The module of a generated package, imported as a user would. */
export async function importPackage(directory: string): Promise<PackageModule> {
  const entry = join(resolve(directory), 'index.js');
  if (!existsSync(entry) || !existsSync(join(resolve(directory), 'manifest.json'))) {
    throw new CommandError(EXIT.io, `${directory} is not a package of moec: it has no index.js with a manifest.json`, { fix: 'make one with moec compile FILE --out DIR' });
  }
  await checkPackageFiles(resolve(directory));
  // A package lies anywhere, with no `webgpu` near it: this Dawn is the one that it then finds. Without it the package looks for its own.
  await nodeGpu().catch(() => undefined);
  const module: unknown = await import(pathToFileURL(entry).href);
  if (!isPackageModule(module)) throw new CommandError(EXIT.io, `${directory}/index.js is not the entry of a package of moec`, { fix: 'compile the package again' });
  return module;
}

/** Loads a generated package onto a device. */
export async function openPackage(directory: string, weights: string): Promise<Runner> {
  const module = await importPackage(directory);
  const loaded = await module.load({ weights });
  const { model } = module.manifest;
  return model.kind === 'model' ? modelRunner(loaded, model) : layerRunner(loaded, model);
}
