/** The cuda target on the command line, a CPU playing the device. */
import { spawnSync } from 'node:child_process';
import { existsSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { deviation } from '../../src/runtime/core/metrics.ts';
import { readF32, readF64, readI32 } from '../../src/runtime/core/tensors.ts';
import { openPath } from '../../src/runtime/node/files.ts';
import { build, errorOf, GOLDEN, jsonOf, moec, type Outcome, scratch, SPECS } from './moec.ts';

const dir = scratch();
const at = (name: string): string => join(dir, name);
const CASE = 'deepseekmoe_softmax_topk_shared';
const SPEC = join(SPECS, `${CASE}.moe`);
const TENSORS = join(GOLDEN, `${CASE}.safetensors`);
const IO = ['--weights', TENSORS, '--input', TENSORS];
const hasCompiler = spawnSync('g++', ['--version']).status === 0;
const hasDriver = existsSync('/dev/nvidiactl');
/** A cache of its own: what is built there is built by these tests. */
const inDir = { cwd: dir, env: { XDG_CACHE_HOME: at('cache') } };
const cli = (...args: readonly string[]): Promise<Outcome> => moec(args, inDir);

async function expectGolden(file: string, traced: boolean): Promise<void> {
  const [actual, expected] = [await openPath(at(file)), await openPath(TENSORS)];
  const off = deviation(await readF32(actual, 'y'), await readF64(expected, 'y'), 12);
  expect(off.nmse).toBeLessThanOrEqual(1e-11);
  if (traced) expect(await readI32(actual, 'topk_indices')).toEqual(await readI32(expected, 'topk_indices'));
  await actual.close();
  await expected.close();
}

beforeAll(build, 120_000);
afterAll(() => rmSync(dir, { recursive: true }));

describe('compile', () => {
  it('writes a package whose texts `dump` prints too, and says how to build it', async () => {
    const made = await cli('compile', SPEC, '--target', 'cuda', '--out', 'pkg', '--skip-build');
    expect(made, made.stderr).toMatchObject({ code: 0, stdout: '' });
    expect(made.stderr).toMatch(/next: node pkg\/cuda\/build\.js, then moec verify pkg/);
    const dumped = jsonOf(await cli('dump', SPEC, '--stage', 'cuda', '--json'));
    for (const [path, text] of Object.entries(dumped)) expect(readFileSync(join(at('pkg'), path), 'utf8'), path).toBe(text);
    expect(JSON.parse(readFileSync(at('pkg/manifest.json'), 'utf8'))).toMatchObject({ target: 'cuda', limits: { profile: 'sm_80' } });
    const hopper = jsonOf(await cli('dump', SPEC, '--stage', 'manifest', '--target', 'cuda', '--arch', 'sm_90a', '--json'));
    expect(hopper).toMatchObject({ cuda: { arch: 'sm_90a' } });
  });

  it('for all targets writes a package for each, over itself too', async () => {
    for (let i = 0; i < 2; i++) {
      const made = await cli('compile', SPEC, '--target', 'all', '--out', 'all', '--skip-build', '--json');
      expect(made.code, made.stderr).toBe(0);
      expect(jsonOf(made)).toMatchObject({ packages: [{ target: 'webgpu', out: join('all', 'webgpu') }, { target: 'cuda', out: join('all', 'cuda') }] });
    }
    expect(readdirSync(at('all')).sort()).toEqual(['README.md', 'cuda', 'package.json', 'targets.json', 'webgpu']);
    const unsaid = await cli('verify', 'all', '--json');
    expect(unsaid.code).toBe(2);
    expect(errorOf(unsaid)).toMatchObject({ message: expect.stringMatching(/a package for each target/) as string, fix: expect.stringMatching(/--target/) as string });
  });

  it.each<readonly [string, readonly string[]]>([
    ['--emulate', ['--emulate']],
    ['--skip-build', ['--skip-build']],
    ['--arch', ['--arch', 'sm_80']],
  ])('refuses %s without its target', async (option, args) => {
    const run = await cli('compile', SPEC, '--out', 'never', ...args);
    expect(run.code).toBe(2);
    expect(run.stderr).toContain(`${option} is for --target cuda`);
    expect(existsSync(at('never'))).toBe(false);
  });
});

describe('a package of another target', () => {
  it('is refused by name', async () => {
    for (const args of [['verify', 'pkg', '--target', 'webgpu'], ['run', 'pkg', '--target', 'webgpu', ...IO, '--output', 'y.safetensors']]) {
      const run = await cli(...args);
      expect(run.code).toBe(2);
      expect(run.stderr).toMatch(/pkg is a package for cuda, not for webgpu/);
    }
    const run = await cli('verify', join('all', 'webgpu'), '--emulate');
    expect(run.code).toBe(2);
    expect(run.stderr).toMatch(/--emulate is for packages of cuda/);
  });
});

describe.skipIf(hasDriver)('without a GPU', () => {
  it('`run` and `verify` end with code 3, before anything is built, and name the way out', async () => {
    const spec = await cli('run', SPEC, '--target', 'cuda', ...IO, '--output', 'y.safetensors', '--json');
    expect(spec.code, spec.stderr).toBe(3);
    expect(errorOf(spec)).toMatchObject({ exitCode: 3, fix: expect.stringMatching(/--emulate/) as string });
    expect(existsSync(at('cache/moec/cuda'))).toBe(false);
    const verify = await cli('verify', 'pkg', '--target', 'cuda', '--json');
    expect(verify.code).toBe(3);
    expect(errorOf(verify).fix).toMatch(/build\.js/);
    expect((await cli('bench', SPEC, '--target', 'cuda')).code).toBe(3);
  });

  it('`doctor` lists what is there of CUDA and counts none of it as a failure', async () => {
    const { findings } = jsonOf(await cli('doctor', '--optional', '--json'));
    const named = new Map((findings as readonly { readonly what: string; readonly ok: boolean }[]).map((f) => [f.what, f.ok]));
    for (const what of ['koffi', 'CUDA compiler', 'C++ compiler']) expect(named.get(what), what).toBe(true);
  });

  it('`explain` and `fit` speak of the architecture', async () => {
    expect((await cli('explain', SPEC, '--target', 'cuda', '--arch', 'sm_90a')).stdout).toContain('"sm_90a"');
    expect(jsonOf(await cli('fit', SPEC, '--target', 'cuda', '--json'))).toMatchObject({ profiles: [{ limits: { name: 'sm_80' } }, { limits: { name: 'sm_90a' } }] });
  });
});

describe.skipIf(!hasCompiler || process.platform !== 'linux')('emulated', () => {
  const library = (): string[] => readdirSync(at('pkg/cuda/lib')).filter((f) => f.endsWith('.so'));

  it('`compile --emulate` builds what `verify --emulate` and `run --emulate` take', { timeout: 240_000 }, async () => {
    const made = await cli('compile', SPEC, '--target', 'cuda', '--out', 'pkg', '--emulate', '--json');
    expect(made.code, made.stderr).toBe(0);
    expect(jsonOf(made)).toMatchObject({ target: 'cuda', libraries: [{ emulated: true }] });
    expect(library()).toEqual([expect.stringMatching(/^moec-[0-9a-f]{12}-emulated\.so$/)]);
    const verified = await cli('verify', 'pkg', '--target', 'cuda', '--emulate', '--json');
    expect(verified.code, verified.stderr).toBe(0);
    expect(jsonOf(verified)).toMatchObject({ ok: true, device: expect.stringMatching(/emulator/) as string });
    const ran = await cli('run', 'pkg', '--emulate', ...IO, '--output', 'package.safetensors', '--trace');
    expect(ran.code, ran.stderr).toBe(0);
    await expectGolden('package.safetensors', true);
  });

  it('`run FILE` builds once, in the cache, and gives the bits of the package', { timeout: 240_000 }, async () => {
    for (const isFirst of [true, false]) {
      const ran = await cli('run', SPEC, '--target', 'cuda', '--emulate', ...IO, '--output', 'spec.safetensors', '--trace');
      expect(ran.code, ran.stderr).toBe(0);
      expect(/built in/.test(ran.stderr)).toBe(isFirst);
    }
    expect(readFileSync(at('spec.safetensors'))).toEqual(readFileSync(at('package.safetensors')));
    expect(readdirSync(at('cache/moec/cuda'))).toContain('objects');
  });

  it('`bench` times contestants, each with its own library', { timeout: 240_000 }, async () => {
    const run = await cli('bench', SPEC, '--target', 'cuda', '--emulate', '--tokens', '2', '--rounds', '2', '--json');
    expect(run.code, run.stderr).toBe(0);
    expect(jsonOf(run)).toMatchObject({ software: true, rows: [{ name: 'fused' }, { name: 'unfused' }] });
  });

  it('a source that was changed is told before anything runs', async () => {
    writeFileSync(at('pkg/cuda/prelude.cuh'), '// mine\n');
    const run = await cli('verify', 'pkg', '--emulate');
    expect(run.code).toBe(5);
    expect(run.stderr).toMatch(/"cuda\/prelude\.cuh" was changed/);
  });
});
