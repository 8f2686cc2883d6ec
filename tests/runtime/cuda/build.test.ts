/** Building CUDA libraries: compilers found and missing, builders side by side, builds that fail. */
import { spawnSync } from 'node:child_process';
import { chmodSync, existsSync, mkdirSync, readFileSync, readdirSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { afterEach, describe, expect, it, vi } from 'vitest';
import type { ManifestCuda } from '../../../src/runtime/core/abi.ts';
import { CudaBackend } from '../../../src/runtime/cuda/backend.ts';
import { buildCudaLibrary, buildInCache, reportPath } from '../../../src/runtime/node/cuda-builder.ts';
import { findCxx, findNvcc } from '../../../src/runtime/node/cuda-compilers.ts';
import { compileFlags, libraryPath } from '../../../src/runtime/node/cuda-flags.ts';
import { loadCudaLibrary } from '../../../src/runtime/node/cuda-library.ts';
import { withLock } from '../../../src/runtime/node/cuda-lock.ts';
import { CUDA_CACHE } from '../../conformance/cuda-sources.ts';
import { emptyFolder, testModule } from './module.ts';

afterEach(() => vi.unstubAllEnvs());

/** A folder with the module's sources, as a package has them. */
function laidOut(change?: (path: string, text: string) => string): { readonly directory: string; readonly cuda: ManifestCuda } {
  const { cuda, files } = testModule('sm_80', change);
  const directory = emptyFolder();
  for (const [path, text] of files) {
    mkdirSync(dirname(join(directory, path)), { recursive: true });
    writeFileSync(join(directory, path), text);
  }
  return { directory, cuda };
}

/** A compiler that keeps its calls and makes what it is asked for out of nothing. @param says a shell command for its output */
function fakeCompiler(says = ''): { readonly path: string; readonly calls: () => string[] } {
  const folder = emptyFolder();
  const path = join(folder, 'g++');
  const log = join(folder, 'log');
  writeFileSync(
    path,
    `#!/bin/sh
echo "$@" >> ${log}
sleep 0.2
for last do :; done
while [ $# -gt 0 ]; do [ "$1" = -o ] && out="$2"; shift; done
echo made > "$out"
${says}
`,
  );
  chmodSync(path, 0o755);
  writeFileSync(log, '');
  return { path, calls: () => readFileSync(log, 'utf8').trim().split('\n').filter((l) => l !== '') };
}

const inLib = (directory: string): string[] => (existsSync(join(directory, 'cuda/lib')) ? readdirSync(join(directory, 'cuda/lib')).sort() : []);

describe('flags', () => {
  it('say for which devices the code is', () => {
    const device = compileFlags({ arch: 'sm_80', emulate: false }).join(' ');
    expect(device).toContain('-gencode arch=compute_80,code=sm_80 -gencode arch=compute_90,code=sm_90 -gencode arch=compute_80,code=compute_80 -DMOEC_ARCH=80');
    expect(device).toContain('--fmad=false');
    expect(compileFlags({ arch: 'sm_90a', emulate: false }).join(' ')).toMatch(/-gencode arch=compute_90a,code=sm_90a -DMOEC_ARCH=90 -DMOEC_HOPPER$/);
    expect(compileFlags({ arch: 'sm_80', emulate: true })).toContain('-ffp-contract=off');
  });

  it('and sources are in the library’s name', () => {
    const { cuda } = testModule('sm_80');
    const names = [
      libraryPath('/p', cuda, { arch: 'sm_80', emulate: false }),
      libraryPath('/p', cuda, { arch: 'sm_80', emulate: true }),
      libraryPath('/p', cuda, { arch: 'sm_80', emulate: true, sanitize: true }),
      libraryPath('/p', { ...cuda, sources: '0' }, { arch: 'sm_80', emulate: true }),
    ];
    expect(new Set(names).size).toBe(4);
    expect(names[0]).toMatch(/^\/p\/cuda\/lib\/moec-[0-9a-f]{12}-sm_80\.so$/);
    expect(names[1]).toMatch(/-emulated\.so$/);
  });
});

describe('compilers', () => {
  it('are found by option, environment and path', () => {
    const { path } = fakeCompiler();
    expect(findNvcc(path)).toBe(path);
    vi.stubEnv('NVCC', path);
    expect(findNvcc(undefined)).toBe(path);
    vi.stubEnv('CXX', path);
    expect(findCxx()).toBe(path);
    vi.stubEnv('CXX', '');
    vi.stubEnv('PATH', dirname(path));
    expect(findCxx()).toBe(path);
  });

  it('that are not there are told of, with what to do', () => {
    expect(() => findNvcc('/no/nvcc')).toThrow('/no/nvcc, which --nvcc names, is no program that can be run');
    vi.stubEnv('NVCC', 'no-such-nvcc');
    expect(() => findNvcc(undefined)).toThrow('no-such-nvcc, which the environment variable NVCC names');
    vi.stubEnv('CXX', '');
    vi.stubEnv('PATH', emptyFolder());
    expect(() => findCxx()).toThrow('no C++ compiler was found');
  });
});

describe('a build', () => {
  it('happens once, whoever asks', async () => {
    const { directory, cuda } = laidOut();
    const compiler = fakeCompiler();
    vi.stubEnv('CXX', compiler.path);
    const ask = { directory, cuda, emulate: true };
    const built = await Promise.all([1, 2, 3].map(() => buildCudaLibrary(ask)));
    expect(built.map((b) => b.built).sort()).toEqual([false, false, true]);
    expect(compiler.calls().length).toBe(3);
    expect((await buildCudaLibrary(ask)).built).toBe(false);
    expect(inLib(directory)).toEqual([expect.stringMatching(/^moec-[0-9a-f]{12}-emulated\.so$/)]);
  });

  it('takes objects that another build has made of the same texts', async () => {
    const cache = emptyFolder();
    const compiler = fakeCompiler('echo said of it');
    vi.stubEnv('CXX', compiler.path);
    const one = testModule('sm_80');
    const other = testModule('sm_80', (path, text) => (path.endsWith('second.cuh') ? `${text}// another\n` : text));
    const first = await buildInCache(one.files, cache, { cuda: one.cuda, emulate: true });
    const second = await buildInCache(other.files, cache, { cuda: other.cuda, emulate: true });
    expect(first.path).not.toBe(second.path);
    const compiled = compiler.calls().filter((c) => c.includes(' -c ')).map((c) => /(\w+)\.cu -o/.exec(c)?.[1]);
    expect(compiled.sort()).toEqual(['module', 'parts', 'parts']);
    // The report of both tells of all their units, those that were there already too.
    for (const { path } of [first, second]) expect(readFileSync(reportPath(path), 'utf8').match(/said of/g)?.length).toBe(2);
  });

  it('that fails shows the command and what the compiler said, and leaves nothing', async () => {
    const { directory, cuda } = laidOut((path, text) => (path.endsWith('first.cuh') ? text.replace('y[i] = x[i]', 'y[i] = z[i]') : text));
    await expect(buildCudaLibrary({ directory, cuda, emulate: true })).rejects.toMatchObject({
      name: 'CudaBuildError',
      code: 'MOE5020',
      message: expect.stringMatching(/^parts\.cu does not compile: the compiler ended with code 1\n\$ \S*g\+\+ .*-DMOEC_ARCH=80.*\n[^]*first\.cuh:\d+:\d+: error: ‘?'?z/) as string,
      details: { command: expect.stringContaining(' -c ') as string },
    });
    expect(inLib(directory)).toEqual([]);
  });

  it('of sources that are not the manifest’s is refused', async () => {
    const { directory, cuda } = laidOut();
    writeFileSync(join(directory, 'cuda/kernels/extra.cuh'), '');
    await expect(buildCudaLibrary({ directory, cuda, emulate: true })).rejects.toMatchObject({ name: 'PackageError' });
    await expect(buildCudaLibrary({ directory: emptyFolder(), cuda, emulate: true })).rejects.toMatchObject({ name: 'PackageError' });
  });

  it('can be given up', async () => {
    const { directory, cuda } = laidOut();
    vi.stubEnv('CXX', fakeCompiler().path);
    const abort = new AbortController();
    setTimeout(() => abort.abort(), 50);
    await expect(buildCudaLibrary({ directory, cuda, emulate: true, signal: abort.signal })).rejects.toMatchObject({ name: 'AbortError' });
    expect(inLib(directory)).toEqual([]);
    await expect(buildCudaLibrary({ directory, cuda, emulate: true, signal: abort.signal })).rejects.toMatchObject({ name: 'AbortError' });
  });

  it('clears away what a killed one left, and takes over its lock', async () => {
    const { directory, cuda } = laidOut();
    vi.stubEnv('CXX', fakeCompiler().path);
    const path = libraryPath(directory, cuda, { arch: 'sm_80', emulate: true });
    mkdirSync(`${path}.build-abcdef`, { recursive: true });
    writeFileSync(join(`${path}.build-abcdef`, 'part0.o'), 'half');
    // A process that has ended.
    const { pid } = spawnSync('true');
    writeFileSync(`${path}.lock`, JSON.stringify({ pid }));
    expect((await buildCudaLibrary({ directory, cuda, emulate: true })).built).toBe(true);
    expect(inLib(directory).length).toBe(1);
  });
});

describe('a lock', () => {
  it('is held by one at a time, and freed after a failure', async () => {
    const path = join(emptyFolder(), 'lock');
    let inside = 0;
    let most = 0;
    const hold = (fails: boolean): Promise<void> =>
      withLock(path, undefined, async () => {
        most = Math.max(most, ++inside);
        await new Promise((resolve) => setTimeout(resolve, 20));
        inside--;
        if (fails) throw new Error('inside');
      });
    const results = await Promise.allSettled([hold(true), hold(false), hold(true)]);
    expect(results.map((r) => r.status)).toEqual(['rejected', 'fulfilled', 'rejected']);
    expect(most).toBe(1);
    expect(existsSync(path)).toBe(false);
  });

  it('whose writer died before it said who it is is taken over', async () => {
    const path = join(emptyFolder(), 'lock');
    writeFileSync(path, '');
    expect(await withLock(path, undefined, () => Promise.resolve(1))).toBe(1);
  });
});

let nvcc: string | undefined;
try {
  nvcc = findNvcc(undefined);
} catch {
  nvcc = undefined;
}

describe.runIf(nvcc !== undefined)('nvcc', () => {
  it.each(['sm_80', 'sm_90a'] as const)('builds the same sources for %s, and tells of registers', { timeout: 300_000 }, async (arch) => {
    const { cuda, files } = testModule(arch);
    const { path } = await buildInCache(files, CUDA_CACHE, { cuda });
    expect(readFileSync(reportPath(path), 'utf8')).toMatch(/Used \d+ registers/);
    const library = await loadCudaLibrary(path);
    const { code, handle, error } = await library.open(0);
    if (code === 0) {
      expect(library.kernel(handle, 'scale')).toBeGreaterThanOrEqual(0);
      expect(library.close(handle)).toBe(0);
    } else {
      // No GPU, no driver, or another GPU than the kernels are for.
      expect(error).not.toBe('');
      await expect(CudaBackend.open(library)).rejects.toMatchObject({ code: expect.stringMatching(/^MOE501[789]$/) as string });
    }
  });
});
