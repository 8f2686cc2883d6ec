/** `moec compile`, `verify` and `run` of a package that lies outside of every project. */
import { createHash } from 'node:crypto';
import { cpSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { build, errorOf, GOLDEN, jsonOf, moec, scratch, SPECS } from './moec.ts';

const dir = scratch();
const at = (name: string): string => join(dir, name);
const CASE = 'deepseekmoe_softmax_topk_shared';
const SPEC = join(SPECS, `${CASE}.moe`);
const TENSORS = join(GOLDEN, `${CASE}.safetensors`);
const inDir = { cwd: dir };

const contents = (root: string): Map<string, string> =>
  new Map(
    readdirSync(root, { withFileTypes: true, recursive: true })
      .filter((e) => e.isFile())
      .map((e) => join(e.parentPath, e.name))
      .sort()
      .map((path) => [path.slice(root.length), readFileSync(path, 'base64')]),
  );

beforeAll(async () => {
  await build();
  const made = await moec(['compile', SPEC, '--out', 'pkg'], inDir);
  expect(made, made.stderr).toMatchObject({ code: 0, stdout: '' });
});
afterAll(() => rmSync(dir, { recursive: true }));

describe('compile', () => {
  it('writes the same bytes again, over itself and elsewhere, and leaves nothing else behind', async () => {
    const first = contents(at('pkg'));
    expect((await moec(['compile', SPEC, '--out', 'pkg'], inDir)).code).toBe(0);
    const other = await moec(['compile', SPEC, '--out', at('deep/er/pkg'), '--json']);
    expect(jsonOf(other)).toMatchObject({ out: at('deep/er/pkg'), name: CASE, files: first.size });
    expect(contents(at('pkg'))).toEqual(first);
    expect(contents(at('deep/er/pkg'))).toEqual(first);
    expect(readdirSync(dir).filter((f) => f.startsWith('.'))).toEqual([]);
  });

  it.each<readonly [string, string, RegExp]>([
    ['the directory you are in', '.', /is the directory you are in/],
    ['one above it', '..', /is the directory you are in/],
    ['a directory with files of others', 'mine', /not empty/],
    ['a file', 'file', /not a directory/],
  ])('refuses %s', async (_what, out, words) => {
    mkdirSync(at('mine'), { recursive: true });
    writeFileSync(at('mine/notes.txt'), 'keep');
    writeFileSync(at('file'), 'keep');
    const run = await moec(['compile', SPEC, '--out', out, '--json'], inDir);
    expect(run.code).toBe(5);
    expect(errorOf(run).message).toMatch(words);
    expect(readFileSync(at('mine/notes.txt'), 'utf8')).toBe('keep');
    expect(readFileSync(at('file'), 'utf8')).toBe('keep');
  });

  it('holds a checkpoint against the spec before anything is written', async () => {
    const run = await moec(['compile', SPEC, '--out', 'never', '--weights', join(GOLDEN, 'mixtral_top2.safetensors')], inDir);
    expect(run.code).toBe(5);
    expect(run.stderr).toMatch(/MOE5008[^]*expected \[15, 32\]/);
    expect(readdirSync(dir)).not.toContain('never');
  });

  it('says that --out is missing', async () => {
    expect(await moec(['compile', SPEC], inDir)).toMatchObject({ code: 2, stdout: '' });
  });
});

describe('a package', () => {
  it('verifies itself, and runs with the bits of its spec', async () => {
    const verified = await moec(['verify', 'pkg', '--json'], inDir);
    expect(verified.code, verified.stderr).toBe(0);
    expect(jsonOf(verified)).toMatchObject({ ok: true });
    const tensors = ['--weights', TENSORS, '--input', TENSORS, '--trace'];
    for (const [what, output] of [['pkg', 'package.safetensors'], [SPEC, 'spec.safetensors']] as const) {
      const run = await moec(['run', what, ...tensors, '--output', output], inDir);
      expect(run.code, run.stderr).toBe(0);
    }
    expect(readFileSync(at('package.safetensors')).equals(readFileSync(at('spec.safetensors')))).toBe(true);
  });

  it('that was changed is refused with 5, and one whose golden values are others fails with 4', async () => {
    cpSync(at('pkg'), at('wrong'), { recursive: true });
    const file = at('wrong/golden/data.js');
    const text = readFileSync(file, 'utf8');
    const [quoted = ''] = /"[A-Za-z0-9+/=]{100,}"/.exec(text) ?? [];
    const bytes = Buffer.from(quoted.slice(1, -1), 'base64');
    const header = JSON.parse(bytes.subarray(8, 8 + Number(bytes.readBigUInt64LE(0))).toString()) as Record<string, { data_offsets?: readonly [number, number] }>;
    const [begin = 0] = header['0.y']?.data_offsets ?? [];
    bytes.writeFloatLE(1000, 8 + Number(bytes.readBigUInt64LE(0)) + begin);
    writeFileSync(file, text.replace(quoted, JSON.stringify(bytes.toString('base64'))));
    const changed = await moec(['verify', 'wrong'], inDir);
    expect(changed).toMatchObject({ code: 5, stdout: '' });
    expect(changed.stderr).toMatch(/golden\/data\.js/);

    // Somebody who also replaces the digest gets past that, but not past the device.
    const digest = (path: string): string => createHash('sha256').update(readFileSync(path)).digest('hex');
    for (const name of ['manifest.json', 'manifest.js']) {
      const manifest = readFileSync(at(`wrong/${name}`), 'utf8');
      writeFileSync(at(`wrong/${name}`), manifest.replace(digest(at('pkg/golden/data.js')), digest(file)));
    }
    const run = await moec(['verify', 'wrong'], inDir);
    expect(run.code, run.stderr).toBe(4);
    expect(run.stdout).toMatch(/WRONG/);
  });

  it('takes no spec for a package, and no package for a spec', async () => {
    expect((await moec(['verify', SPEC])).code).toBe(5);
    const analyzed = await moec(['analyze', 'pkg'], inDir);
    expect(analyzed.code).toBe(5);
    expect(analyzed.stderr).toContain('is a directory');
    const reference = await moec(['run', 'pkg', '--weights', TENSORS, '--input', TENSORS, '--output', 'y', '--target', 'reference'], inDir);
    expect(reference).toMatchObject({ code: 2, stdout: '' });
  });
});
