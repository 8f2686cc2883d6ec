/** Packages for CUDA: what they hold, that they are the same everywhere, and that a stranger builds, types and runs one (emulated). */
import { execFileSync, spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { cpSync, mkdirSync, mkdtempSync, readdirSync, rmSync, statSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import ts from 'typescript';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { allTargets } from '../../src/cli/all-targets.ts';
import { packageSources } from '../../src/cli/runtime-files.ts';
import { emitPackage, type PackageFiles, UNHASHED } from '../../src/codegen/package/emit.ts';
import { compileSpec } from '../../src/driver/compile.ts';
import { twinOf } from '../../src/driver/golden.ts';
import { buildPackage } from '../../src/driver/package.ts';
import { CUDA_SM80 } from '../../src/driver/profiles.ts';
import { cudaSourcesText } from '../../src/runtime/core/cuda-sources.ts';
import * as errors from '../../src/runtime/core/errors.ts';
import { encodeGolden } from '../../src/runtime/core/golden.ts';
import { readManifest } from '../../src/runtime/core/manifest.ts';
import { checkPackageFiles } from '../../src/runtime/node/package-dir.ts';
import { LAYER_CASES } from '../lower/specs.ts';

const ROOT = join(import.meta.dirname, '../..');
const NAME = 'mixtral-top2';
const sources = packageSources();
const spec = LAYER_CASES['mixtral_top2'];
if (spec === undefined) throw new Error('no spec');
const compiled = compileSpec(spec, { caps: CUDA_SM80 });
const golden = encodeGolden({ seed: 1, gate: { nmse: 1e-9, rowNmse: 1e-8 }, vectors: [] }, 32);
const twin = compileSpec(twinOf(spec), { caps: CUDA_SM80 });
const emit = (withTwin: boolean, reverse = false): PackageFiles => {
  const turn = <V>(m: ReadonlyMap<string, V>): ReadonlyMap<string, V> => (reverse ? new Map([...m].reverse()) : m);
  const parts = { manifest: compiled.manifest, kernels: turn(compiled.texts), runtime: turn(sources.runtime), cuda: turn(sources.cuda), golden };
  return emitPackage(withTwin ? { ...parts, twin: { manifest: twin.manifest, kernels: turn(twin.texts) } } : parts);
};
const text = (files: PackageFiles, path: string): string => {
  const data = files.get(path);
  if (typeof data !== 'string') throw new Error(`no text ${path}`);
  return data;
};

describe('the files of a package', () => {
  const files = emit(true);
  const paths = [...files.keys()];

  it('hold all that a library is made of, twice where there is a twin', () => {
    for (const prefix of ['', 'golden/']) {
      const { cuda, kernels, target, limits } = readManifest(JSON.parse(text(files, `${prefix}manifest.json`)));
      expect(target).toBe('cuda');
      expect(cuda).toMatchObject({ arch: 'sm_80', directory: 'cuda', module: 'cuda/module.cu' });
      expect(limits.profile).toBe('sm_80');
      for (const part of cuda?.parts ?? []) for (const [, name = ''] of text(files, prefix + part).matchAll(/#include "(.*)"/g)) expect(paths).toContain(`${prefix}cuda/${name}`);
      for (const k of kernels) {
        expect(k.variants).toHaveLength(1);
        expect(text(files, prefix + (k.variants[0]?.file ?? ''))).toContain(` ${k.variants[0]?.entry ?? '?'}(`);
      }
      const own = paths.filter((p) => p.startsWith(`${prefix}cuda/`)).map((p): [string, string] => [p.slice(prefix.length), text(files, p)]);
      expect(createHash('sha256').update(cudaSourcesText(own)).digest('hex')).toBe(cuda?.sources);
    }
    for (const path of ['cuda/build.js', 'cuda/prelude.cuh', 'cuda/emulator.h', 'cuda/host.cuh', 'runtime/cuda/load.js', 'runtime/node/cuda-build.js']) expect(paths).toContain(path);
    expect(JSON.parse(text(files, 'package.json'))).toMatchObject({ peerDependencies: { koffi: expect.any(String) as string }, peerDependenciesMeta: { koffi: { optional: true } } });
    for (const field of ['scripts', 'bin', 'dependencies', 'gypfile']) expect(JSON.parse(text(files, 'package.json'))).not.toHaveProperty(field);
  });

  it('hold nothing of WebGPU, as packages for WebGPU hold nothing of CUDA', () => {
    const webgpu = [...buildPackage(spec, {}, sources).files];
    expect(webgpu.filter(([p]) => /cuda/i.test(p) || p.endsWith('.cuh')).map(([p]) => p)).toEqual([]);
    expect(paths.filter((p) => /webgpu|wgsl|^kernels\/|software-driver/.test(p))).toEqual([]);
    for (const all of [files, new Map(webgpu)]) {
      // Every import of every module is there.
      for (const [path, data] of all) {
        if (typeof data !== 'string' || !/\.(js|d\.ts)$/.test(path)) continue;
        for (const [, target = ''] of data.matchAll(/(?:from|import)\s*\(?\s*['"](\.[^'"]+)['"]/g)) expect([...all.keys()], path).toContain(join(dirname(path), target));
      }
    }
  });

  it('are the same bytes for the same input, with the digest of every file and no trace of the machine', () => {
    const again = emit(true, true);
    expect([...again.keys()]).toEqual(paths);
    for (const [path, data] of again) expect(data, path).toEqual(files.get(path));
    const { files: digests } = readManifest(JSON.parse(text(files, 'manifest.json')));
    expect(Object.keys(digests).sort()).toEqual(paths.filter((p) => !UNHASHED.includes(p)).sort());
    for (const [path, data] of files) {
      const shown = typeof data === 'string' ? data : Buffer.from(data).toString('latin1');
      expect(shown, path).not.toMatch(/\/(?:work|home|root|tmp)\/|\b20[2-9]\d-\d\d-\d\d\b/);
      if (/\.(cuh?|h)$/.test(path)) expect(shown, path).toMatch(/^[\t\n\x20-\x7e]*$/);
    }
  });

  it('have entries that parse and export every error of their target', () => {
    for (const path of ['index.js', 'index.d.ts', 'src/index.ts', 'golden/twin.js', 'cuda/build.js']) {
      const source = ts.createSourceFile(path, text(files, path), ts.ScriptTarget.Latest, true);
      expect((source as unknown as { parseDiagnostics: readonly unknown[] }).parseDiagnostics, path).toEqual([]);
    }
    const all = Object.entries(errors).flatMap(([name, value]) => (typeof value === 'function' && value.prototype instanceof Error ? [name] : []));
    const exported = (t: PackageFiles): string[] => (/export \{ ([^}]*) \} from '.\/runtime\/core\/errors.js'/.exec(text(t, 'index.js'))?.[1] ?? '').split(', ');
    const webgpu = emitPackage({ ...compileSpec(spec), kernels: new Map(), runtime: new Map(), golden });
    expect([...new Set([...exported(files), ...exported(webgpu)])].sort()).toEqual(all.sort());
    expect(text(files, 'src/index.ts')).toContain("new URL('../', import.meta.url)");
    expect(text(files, 'README.md')).toContain('cuda/build.js');
  });

  it('of all targets stand side by side', () => {
    const both = allTargets(new Map([['webgpu', buildPackage(spec, {}, sources).files], ['cuda', files]]), 'moec 0.0.0');
    expect(JSON.parse(String(both.get('package.json')))).toMatchObject({ name: NAME, exports: { '.': { default: './webgpu/index.js' }, './cuda': { default: './cuda/index.js' } } });
    for (const [path, data] of files) expect(both.get(`cuda/${path}`)).toBe(data);
    expect([...both.keys()].filter((p) => !p.includes('/')).sort()).toEqual(['README.md', 'package.json', 'targets.json']);
  });
});

const hasCompiler = spawnSync('g++', ['--version']).status === 0;

describe.skipIf(!hasCompiler || process.platform !== 'linux')('an installed package', () => {
  let dir = '';
  let consumer = '';
  const installed = (): string => join(consumer, 'node_modules', NAME);
  const run = (command: string, args: readonly string[], env: Readonly<Record<string, string>> = {}): string =>
    execFileSync(command, [...args], { cwd: consumer, encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'], env: { ...process.env, ...env } });

  beforeAll(() => {
    dir = mkdtempSync(join(tmpdir(), 'moec-cuda-package-'));
    for (const [path, data] of buildPackage(spec, { caps: CUDA_SM80 }, sources).files) {
      mkdirSync(dirname(join(dir, 'pkg', path)), { recursive: true });
      writeFileSync(join(dir, 'pkg', path), data);
    }
    consumer = join(dir, 'consumer');
    mkdirSync(consumer);
    writeFileSync(join(consumer, 'package.json'), JSON.stringify({ name: 'consumer', private: true, type: 'module' }));
    const tarball = run('npm', ['pack', '--silent', '--pack-destination', dir, join(dir, 'pkg')]).trim().split('\n').pop() ?? '';
    run('npm', ['install', '--offline', '--no-audit', '--no-fund', join(dir, tarball)]);
    symlinkSync(join(ROOT, 'node_modules/koffi'), join(consumer, 'node_modules/koffi'), 'dir');
  }, 240_000);
  afterAll(() => rmSync(dir, { recursive: true, force: true }));

  it('says how to build the library that is not there', () => {
    writeFileSync(join(consumer, 'early.mjs'), `import { verify } from '${NAME}';\nawait verify({ emulate: true }).catch((e) => console.log(JSON.stringify([e.name, e.code, e.fix])));\n`);
    const [name, code, fix] = JSON.parse(run(process.execPath, ['early.mjs'])) as string[];
    expect([name, code]).toEqual(['NoCudaLibraryError', 'MOE5016']);
    expect(fix).toMatch(/cuda\/build\.js --emulate/);
  });

  it('builds, loads, traces and verifies itself', () => {
    const [library = ''] = run(process.execPath, [join(installed(), 'cuda/build.js'), '--emulate']).trim().split('\n');
    expect(statSync(library).size).toBeGreaterThan(10_000);
    const weights = join(ROOT, 'tests/golden/mixtral_top2.safetensors');
    writeFileSync(
      join(consumer, 'main.mjs'),
      `import { info, load, verify, NoCudaLibraryError } from '${NAME}';
const warnings = [];
const layer = await load({ weights: ${JSON.stringify(weights)}, emulate: true, onWarning: (w) => warnings.push(w) });
const x = new Float32Array(3 * info.hidden).fill(0.5);
const { y, topkIndices, expertCounts } = await layer.forward(x, { trace: true });
const own = await layer.verify();
await layer.dispose();
const report = await verify({ emulate: true, onWarning: () => undefined });
// Emulation is never chosen silently.
const alone = await verify().catch((e) => e instanceof NoCudaLibraryError);
console.log(JSON.stringify([y.length, topkIndices.length, expertCounts.reduce((a, b) => a + b), own.ok, report.ok, alone, warnings.length]));
`,
    );
    expect(JSON.parse(run(process.execPath, ['main.mjs']))).toEqual([3 * spec.hidden, 6, 6, true, true, true, 1]);
    expect(JSON.parse(run(process.execPath, ['-e', `import('${NAME}').then(async ({ verify }) => console.log((await verify({ onWarning: () => undefined })).ok))`], { MOEC_CUDA_EMULATE: '1' }))).toBe(true);
  }, 240_000);

  it('is as it was written, its libraries aside; a changed or an added source is told', async () => {
    const broken = join(dir, 'broken');
    cpSync(installed(), broken, { recursive: true });
    if (readdirSync(broken).includes('cuda')) mkdirSync(join(broken, 'cuda/lib'), { recursive: true });
    writeFileSync(join(broken, 'cuda/lib/moec-000000000000-sm_80.so'), '');
    expect((await checkPackageFiles(broken)).target).toBe('cuda');
    writeFileSync(join(broken, 'cuda/extra.cuh'), '');
    writeFileSync(join(broken, 'cuda/part0.cu'), '');
    await expect(checkPackageFiles(broken)).rejects.toMatchObject({ code: 'MOE5014', details: { problems: ['"cuda/part0.cu" was changed', '"cuda/extra.cuh" was added'] } });
  });

  it('type-checks under strict, without the DOM, Node or WebGPU types', () => {
    writeFileSync(
      join(consumer, 'consumer.ts'),
      `import { info, load, verify, CudaArchitectureError, NoCudaDeviceError, type DeviceOptions, type Layer, type VerifyReport } from '${NAME}';
export const kind: 'layer' = info.kind;
export async function main(weights: string): Promise<number> {
  const options: DeviceOptions = { device: 0, emulate: false };
  try {
    const layer: Layer = await load({ weights, ...options });
    const y: Float32Array = await layer.forward(new Float32Array(info.hidden));
    await layer.dispose();
    const report: VerifyReport = await verify(options);
    return y.length + report.vectors.length;
  } catch (e) {
    if (e instanceof CudaArchitectureError || e instanceof NoCudaDeviceError) return e.fix.length;
    throw e;
  }
}
// @ts-expect-error weights are required
export const none = (): Promise<unknown> => load({});
`,
    );
    const options = { strict: true, noUncheckedIndexedAccess: true, exactOptionalPropertyTypes: true, skipLibCheck: false, target: 'es2022', lib: ['es2022'], types: [], noEmit: true, module: 'nodenext' };
    writeFileSync(join(consumer, 'tsconfig.json'), JSON.stringify({ compilerOptions: options, include: ['consumer.ts'] }));
    run(process.execPath, [join(ROOT, 'node_modules/typescript/bin/tsc'), '-p', '.']);
  }, 120_000);
});
