/** Emulated libraries with AddressSanitizer: they find what reads beyond its buffer, by kernel and line. In a process of their own. */
import { spawnSync } from 'node:child_process';
import { createRequire } from 'node:module';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, describe, expect, it, vi } from 'vitest';
import { openPackageLibrary } from '../../../src/runtime/node/cuda-package.ts';
import { buildInCache } from '../../../src/runtime/node/cuda-builder.ts';
import { findCxx } from '../../../src/runtime/node/cuda-compilers.ts';
import { CUDA_CACHE } from '../../conformance/cuda-sources.ts';
import { emptyFolder, testModule } from './module.ts';

afterEach(() => vi.unstubAllEnvs());

const koffi = createRequire(import.meta.url).resolve('koffi');

/** Runs `add` over 64 numbers, `blocks` blocks of 64 threads. */
const SCRIPT = `
import koffi from ${JSON.stringify(koffi)};
koffi.config({ async_stack_size: 8 << 20, sync_stack_size: 8 << 20 });
const [path, blocks] = process.argv.slice(2);
const library = koffi.load(path);
const open = library.func('int moec_open(int device, void *out, void *error, int size)');
const kernel = library.func('int moec_kernel(uint64_t handle, const char *name)');
const alloc = library.func('int moec_alloc(uint64_t handle, uint64_t bytes, void *out)');
const run = library.func('int moec_run(uint64_t handle, const void *words, uint64_t count, uint64_t graph)');
const made = (call) => { const out = new BigUint64Array(1); if (call(out) !== 0) throw new Error('refused'); return out[0]; };
const handle = made((out) => open(0, out, new Uint8Array(512), 512));
const [x, y] = [0, 1].map(() => made((out) => alloc(handle, 256, out)));
const words = BigUint64Array.of(0n, BigInt(kernel(handle, 'add')), BigInt(blocks) | (1n << 32n), 1n | (2n << 32n), x, y);
process.exit(run(handle, words, 6, 0));
`;

describe('AddressSanitizer', () => {
  it('is told of where the process was started without it', { timeout: 120_000 }, async () => {
    const { cuda, files } = testModule('sm_80');
    const { directory } = await buildInCache(files, CUDA_CACHE, { cuda, emulate: true, sanitize: true });
    vi.stubEnv('MOEC_EMULATE_ASAN', '1');
    vi.stubEnv('LD_PRELOAD', '');
    await expect(openPackageLibrary(directory, cuda, true)).rejects.toMatchObject({ name: 'NoCudaLibraryError', fix: expect.stringContaining('LD_PRELOAD=') as string });
  });

  it('finds a kernel that reads beyond its buffer', { timeout: 120_000 }, async () => {
    const { cuda, files } = testModule('sm_80');
    const { path } = await buildInCache(files, CUDA_CACHE, { cuda, emulate: true, sanitize: true });
    const runtime = spawnSync(findCxx(), ['-print-file-name=libasan.so']).stdout.toString().trim();
    const script = join(emptyFolder(), 'run.mjs');
    writeFileSync(script, SCRIPT);
    const env = { ...process.env, LD_PRELOAD: runtime, ASAN_OPTIONS: 'detect_leaks=0' };
    const run = (blocks: number): { readonly status: number | null; readonly text: string } => {
      const { status, stderr } = spawnSync(process.execPath, [script, path, String(blocks)], { env });
      return { status, text: stderr.toString() };
    };
    expect(run(1)).toEqual({ status: 0, text: '' });
    const { status, text } = run(2);
    expect(status).not.toBe(0);
    expect(text).toMatch(/heap-buffer-overflow[^]*READ of size 4[^]* in add\(float const\*, float\*\) .*first\.cuh:\d+/);
  });
});
