/** Packages for CUDA from their parts to results: libraries missing, foreign and right, and the emulator only where it is asked for. */
import { spawnSync } from 'node:child_process';
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { afterEach, describe, expect, it, vi } from 'vitest';
import { compileSpec } from '../../../src/driver/compile.ts';
import { gateOf, goldenVectors } from '../../../src/driver/golden.ts';
import { cudaSources } from '../../../src/driver/package.ts';
import { CUDA_SM80 } from '../../../src/driver/profiles.ts';
import type { ManifestCuda } from '../../../src/runtime/core/abi.ts';
import type { RunOptions } from '../../../src/runtime/core/load.ts';
import { type PackageParts, loadLayer, openCudaBackend, verifyPackage } from '../../../src/runtime/cuda/load.ts';
import { buildInCache } from '../../../src/runtime/node/cuda-builder.ts';
import { findCxx } from '../../../src/runtime/node/cuda-compilers.ts';
import { loadCudaLibrary, nodeKoffi } from '../../../src/runtime/node/cuda-library.ts';
import { LAYER_CASES, openLayerCase } from '../../conformance/cases.ts';
import { CUDA_CACHE, sharedSources } from '../../conformance/cuda-sources.ts';
import { emptyFolder } from './module.ts';

afterEach(() => vi.unstubAllEnvs());

const layerCase = LAYER_CASES.find((c) => c.name === 'mixtral_top2');
if (layerCase === undefined) throw new Error('no such case');
const opened = await openLayerCase(layerCase);
const compiled = compileSpec(opened.spec, { caps: CUDA_SM80 });
const { manifest, kernels } = cudaSources(compiled, { cuda: sharedSources() });
const cuda: ManifestCuda = manifest.cuda ?? { arch: 'sm_80', directory: '', parts: [], module: '', sources: '' };
const weights = join(import.meta.dirname, '../../golden/mixtral_top2.safetensors');
const golden = (): Promise<Uint8Array> => Promise.resolve(goldenVectors(opened.spec, compiled.graphs, gateOf(opened.spec, compiled.kernels)));

const built = (): ReturnType<typeof buildInCache> => buildInCache(kernels, CUDA_CACHE, { cuda, emulate: true });
const partsIn = (directory: string): PackageParts => ({ manifest, directory, golden });

function heard(): { readonly warnings: string[]; readonly options: RunOptions } {
  const warnings: string[] = [];
  return { warnings, options: { onWarning: (w) => void warnings.push(w) } };
}

describe('a package', () => {
  it('runs on the emulator, and says so', { timeout: 120_000 }, async () => {
    const { directory } = await built();
    const { warnings, options } = heard();
    const layer = await loadLayer(partsIn(pathToFileURL(`${directory}/`).href), { weights, emulate: true, ...options });
    const trace = await layer.forward(opened.input.x, { trace: true });
    expect([...trace.topkIndices]).toEqual([...opened.ids]);
    expect(layer.stats()).toMatchObject({ device: { backend: 'cuda', software: true }, calls: 1 });
    expect(warnings).toEqual([expect.stringMatching(/^the CUDA device is played by the CPU/) as string]);
    expect((await layer.verify()).ok).toBe(true);
    await layer.dispose();
    await layer.dispose();
    expect(layer.stats().memory.total).toBe(0);
    await expect(layer.forward(opened.input.x)).rejects.toMatchObject({ name: 'DisposedError' });
  });

  it('verifies itself, on its twin where it has one, whose library is another', { timeout: 120_000 }, async () => {
    const { directory } = await built();
    expect(await verifyPackage(partsIn(directory), { emulate: true, ...heard().options })).toMatchObject({ ok: true, twin: false });
    const twin = (): Promise<PackageParts> => Promise.resolve(partsIn(directory));
    const parts = { ...partsIn('/nowhere'), twin };
    expect(await verifyPackage(parts, { emulate: true, ...heard().options })).toMatchObject({ ok: true, twin: true });
    const layer = await loadLayer({ ...partsIn(directory), twin }, { weights, emulate: true, ...heard().options });
    expect(await layer.verify()).toMatchObject({ ok: true, twin: true });
    await layer.dispose();
  });

  it('whose library was not built says how to build it, and takes no emulator in secret', async () => {
    const { directory } = await built();
    await expect(loadLayer(partsIn(directory), { weights })).rejects.toMatchObject({
      name: 'NoCudaLibraryError',
      code: 'MOE5016',
      message: expect.stringContaining('-sm_80.so') as string,
      fix: expect.stringMatching(/build\.js .*nvcc.*load\(\{ emulate: true \}\) runs the emulated library that is there/) as string,
    });
    const empty = emptyFolder();
    mkdirSync(join(empty, 'cuda'));
    writeFileSync(join(empty, 'cuda/build.js'), '');
    await expect(loadLayer(partsIn(empty), { weights, emulate: true })).rejects.toMatchObject({ name: 'NoCudaLibraryError', fix: `node ${join(empty, 'cuda/build.js')} --emulate (it needs g++)` });
    await expect(verifyPackage(partsIn(join(empty, 'golden')))).rejects.toMatchObject({ fix: expect.stringContaining(`node ${join(empty, 'cuda/build.js')} `) as string });
  });

  it('is emulated where the environment says so', { timeout: 120_000 }, async () => {
    const { directory } = await built();
    vi.stubEnv('MOEC_CUDA_EMULATE', '1');
    const layer = await loadLayer(partsIn(directory), { weights, ...heard().options });
    expect(layer.stats().device.software).toBe(true);
    await layer.dispose();
    // The caller's word counts more.
    await expect(loadLayer(partsIn(directory), { weights, emulate: false })).rejects.toMatchObject({ name: 'NoCudaLibraryError' });
  });

  it('that needs more than the device has is refused before anything is allocated', { timeout: 120_000 }, async () => {
    const { directory } = await built();
    const demanding = { ...manifest, kernels: manifest.kernels.map((k) => ({ ...k, sharedBytes: 1 << 20 })) };
    await expect(loadLayer({ manifest: demanding, directory, golden }, { weights, emulate: true, ...heard().options })).rejects.toMatchObject({ code: 'MOE5004' });
    await expect(loadLayer({ manifest: { ...manifest, cuda: undefined }, directory, golden }, { weights, emulate: true })).rejects.toMatchObject({ name: 'PackageError' });
    vi.stubEnv('MOEC_EMULATE_MEMORY', String(manifest.limits.weightBytes - 16));
    await expect(loadLayer(partsIn(directory), { weights, emulate: true, ...heard().options })).rejects.toMatchObject({ name: 'OutOfMemoryError' });
  });

  it('with the library of other kernels is told apart', { timeout: 120_000 }, async () => {
    const { directory } = await built();
    const renamed = { ...manifest, kernels: manifest.kernels.map((k) => ({ ...k, variants: k.variants.map((v) => ({ ...v, entry: `${v.entry}_x` })) })) };
    await expect(loadLayer({ manifest: renamed, directory, golden }, { weights, emulate: true, ...heard().options })).rejects.toMatchObject({ name: 'PackageError' });
  });

  it('opens as a device alone', { timeout: 120_000 }, async () => {
    const { directory } = await built();
    const backend = await openCudaBackend({ directory, manifest, emulate: true, ...heard().options });
    expect(backend.cuda).toMatchObject({ capability: 90, multiprocessors: 4 });
    backend.dispose();
  });
});

/** A shared library of C++ text. */
function sharedLibrary(text: string): string {
  const folder = emptyFolder();
  writeFileSync(join(folder, 'a.cpp'), text);
  const path = join(folder, 'a.so');
  expect(spawnSync(findCxx(), ['-shared', '-fPIC', '-o', path, join(folder, 'a.cpp')]).status).toBe(0);
  return path;
}

describe('a library', () => {
  it('that is none, or of another version, is told apart', async () => {
    await expect(loadCudaLibrary('/no/such.so')).rejects.toMatchObject({ name: 'NoCudaLibraryError' });
    const text = join(emptyFolder(), 'text.so');
    writeFileSync(text, 'no library');
    await expect(loadCudaLibrary(text)).rejects.toMatchObject({ name: 'NoCudaLibraryError', message: expect.stringMatching(/cannot be loaded: ./) as string });
    await expect(loadCudaLibrary(sharedLibrary('int other;'))).rejects.toMatchObject({ name: 'PackageError', message: expect.stringContaining('has no function moec_abi') as string });
    const names = ['open', 'info', 'kernel', 'alloc', 'free', 'write', 'run', 'drop_graph', 'read', 'wait', 'time', 'error', 'close'];
    const all = names.map((n) => `extern "C" int moec_${n}() { return 0; }`).join('\n');
    await expect(loadCudaLibrary(sharedLibrary(`extern "C" int moec_abi() { return 2; }\n${all}`))).rejects.toMatchObject({
      name: 'PackageError',
      details: { found: 2, expected: 1 },
    });
  });

  it('needs koffi, from beside the runtime or from where the process runs', async () => {
    const held = await nodeKoffi();
    const key = Symbol.for('moec.koffi');
    const before = process.cwd();
    const missing = (): Promise<never> => Promise.reject(new Error('not installed'));
    try {
      Reflect.set(globalThis, key, undefined);
      process.chdir('/');
      await expect(nodeKoffi(missing)).rejects.toMatchObject({ name: 'NoKoffiError', code: 'MOE5015', fix: 'npm install koffi' });
      await expect(nodeKoffi(() => Promise.resolve({ default: {} }))).rejects.toMatchObject({ name: 'NoKoffiError', fix: 'npm install koffi@3.3' });
      const config = (settings?: object): object => {
        if (settings !== undefined) throw new Error('a library is loaded already');
        return { async_stack_size: 131_072 };
      };
      const small = { load: () => undefined, config };
      await expect(nodeKoffi(() => Promise.resolve(small))).rejects.toMatchObject({ name: 'NoKoffiError' });
      process.chdir(before);
      expect(typeof (await nodeKoffi(missing)).load).toBe('function');
    } finally {
      process.chdir(before);
      Reflect.set(globalThis, key, held);
    }
  });
});
