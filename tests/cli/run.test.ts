/** `moec run --target reference`: golden values to 1e-12, and what it says about inputs and weights that do not fit. */
import { closeSync, mkdirSync, openSync, readdirSync, readFileSync, readSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type NewTensor, writeSafetensors } from '../../src/runtime/core/safetensors.ts';
import { memoryBytes, openSafetensors, readF64, type TensorSet } from '../../src/runtime/core/tensors.ts';
import { build, errorOf, GOLDEN, jsonOf, moec, type Outcome, scratch, SPECS } from './moec.ts';

const dir = scratch();
const at = (name: string): string => join(dir, name);
const golden = (name: string): string => join(GOLDEN, `${name}.safetensors`);
const open = (path: string): Promise<TensorSet> => openSafetensors(memoryBytes(readFileSync(path)));
const CASE = 'deepseekmoe_softmax_topk_shared';
const HASH = 'hash_layer_random_and_balanced';
// The width of that case.
const hashWidth = 16;
const MODEL = join(GOLDEN, 'models/tiny_mixtral');

function run(name: string, given: { readonly weights?: string; readonly input?: string; readonly output?: string; readonly more?: readonly string[] } = {}): Promise<Outcome> {
  const { weights = golden(name), input = golden(name), output = at('out.safetensors'), more = [] } = given;
  return moec(['run', join(SPECS, `${name}.moe`), '--weights', weights, '--input', input, '--output', output, '--target', 'reference', ...more]);
}

async function worst(name: string, output: string, expected: string, tensor: string): Promise<number> {
  const [got, want] = [await readF64(await open(output), tensor), await readF64(await open(expected), tensor)];
  expect(got.length, name).toBe(want.length);
  const size = Math.sqrt(want.reduce((n, x) => n + x * x, 0) / want.length);
  return want.reduce((n, x, i) => Math.max(n, Math.abs(x - (got[i] ?? Number.NaN))), 0) / size;
}

const tensor = (name: string, shape: readonly number[], dtype: 'F32' | 'I32' = 'F32'): NewTensor => {
  const n = shape.reduce((a, b) => a * b, 1);
  return dtype === 'F32' ? { name, dtype, shape, data: Float32Array.from({ length: n }, (_, i) => Math.sin(i)) } : { name, dtype, shape, data: new Int32Array(n) };
};

beforeAll(async () => {
  await build();
  mkdirSync(at('empty'));
  const spec = await moec(['init', '--from', MODEL, '-o', at('mixtral.moe')]);
  expect(spec.code, spec.stderr).toBe(0);
});
afterAll(() => rmSync(dir, { recursive: true }));

describe('golden values', () => {
  it.each([CASE, HASH, 'gshard_top2_cap4_norm_before_drop', 'expert_choice', 'gpt_oss_clamped_swiglu_bias'])('%s to 1e-12', async (name) => {
    const output = at(`${name}.safetensors`);
    const done = await run(name, { output, more: ['--trace'] });
    expect(done, done.stderr).toMatchObject({ code: 0, stdout: '' });
    expect(await worst(name, output, golden(name), 'y')).toBeLessThan(1e-12);
    const [got, want] = [await open(output), await open(golden(name))];
    expect([...got.names()].sort()).toEqual(['expert_counts', 'topk_indices', 'topk_weights', 'y']);
    if (want.info('topk_indices') !== undefined && name === CASE) {
      expect(await readF64(got, 'topk_indices')).toEqual(await readF64(want, 'topk_indices'));
      expect(await worst(name, output, golden(name), 'topk_weights')).toBeLessThan(1e-12);
    }
  });

  it('a model, from init alone', async () => {
    const output = at('logits.safetensors');
    const args = ['--weights', MODEL, '--input', join(MODEL, 'expected.safetensors'), '--output', output, '--target', 'reference', '--json'];
    const done = await moec(['run', at('mixtral.moe'), ...args]);
    expect(done.code, done.stderr).toBe(0);
    expect(jsonOf(done)).toMatchObject({ output, tensors: [{ name: 'logits', dtype: 'F64' }] });
    expect(await worst('tiny_mixtral', output, join(MODEL, 'expected.safetensors'), 'logits')).toBeLessThan(1e-12);
  });

  it('no tokens give an empty result, and [B, S, d] keeps its shape', async () => {
    for (const lead of [[0], [2, 3]]) {
      writeFileSync(at('x.safetensors'), writeSafetensors([tensor('x', [...lead, 32])]));
      const done = await run(CASE, { input: at('x.safetensors'), more: ['--json'] });
      expect(done.code, done.stderr).toBe(0);
      expect(jsonOf(done)['tensors']).toMatchObject([{ name: 'y', shape: [...lead, 32] }]);
    }
  });

  it('replaces an existing output whole', async () => {
    const output = at('replaced.safetensors');
    writeFileSync(output, 'x'.repeat(100_000));
    expect((await run(CASE, { output })).code).toBe(0);
    expect(await worst(CASE, output, golden(CASE), 'y')).toBeLessThan(1e-12);
  });
});

describe('what does not fit', () => {
  const refused = async (words: RegExp, code: string | undefined, given: Parameters<typeof run>[1], name = CASE): Promise<string> => {
    const output = at('never.safetensors');
    const done = await run(name, { output, ...given, more: ['--json'] });
    expect(done.code, done.stdout).toBe(5);
    const error = errorOf(done);
    expect(error.message).toMatch(words);
    if (code !== undefined) expect(done.stderr).toContain(`error[${code}]`);
    expect(done.stderr).not.toMatch(/^ +at /m);
    expect(statSync(output, { throwIfNoEntry: false })).toBeUndefined();
    return error.message;
  };
  const file = (name: string, tensors: readonly NewTensor[]): string => {
    writeFileSync(at(name), writeSafetensors(tensors));
    return at(name);
  };

  it('x of another width names both shapes', () => refused(/x has the shape \[4, 24\]/, 'MOE5030', { input: file('w.safetensors', [tensor('x', [4, 24])]) }));
  it('x without dims', () => refused(/x has the shape/, 'MOE5030', { input: file('v.safetensors', [tensor('x', [32])]) }));
  it('x of too many dims', () => refused(/x has the shape \[1, 2, 3, 32\]/, 'MOE5030', { input: file('u.safetensors', [tensor('x', [1, 2, 3, 32])]) }));
  it('no x', () => refused(/no tensor "x"/, 'MOE5030', { input: file('t.safetensors', [tensor('input', [4, 32])]) }));
  it('no token ids for a hash router', () => refused(/no tensor "input_ids"|no tensor "token_ids"/, 'MOE5030', { input: file('s.safetensors', [tensor('x', [4, hashWidth])]) }, HASH));

  it('weights of another model list every tensor with its shapes', async () => {
    const message = await refused(/7 problems/, 'MOE5008', { weights: golden('mixtral_top2') });
    expect(message).toContain('tensor "gate.weight" is [8, 24], expected [15, 32]');
    expect(message).toMatch(/no tensor "shared\.up_proj" \[24, 32\]/);
  });

  it('a misspelt tensor is recognised', async () => {
    const set = await open(golden(CASE));
    const names = ['gate.weight', 'experts.gate_proj', 'experts.up_proj', 'experts.down_proj', 'shared.gate_proj', 'shared.up_proj', 'shared.down_proj'];
    const tensors = names.map((n) => ({ ...tensor(n, set.info(n)?.shape ?? []), name: n === 'gate.weight' ? 'gaet.weight' : n }));
    const message = await refused(/one problem/, 'MOE5008', { weights: file('misspelt.safetensors', tensors) });
    expect(message).toMatch(/no tensor "gate\.weight" \[15, 32\][^\n]*is it "gaet\.weight"\?/);
  });

  it('a transposed tensor is named as such', async () => {
    const set = await open(golden(CASE));
    const tensors = [...set.names()].map((n) => ({ ...tensor(n, set.info(n)?.shape ?? []) }));
    const turned = tensors.map((t) => (t.name === 'gate.weight' ? tensor('gate.weight', [32, 15]) : t));
    expect(await refused(/\[32, 15\], expected \[15, 32\]/, 'MOE5008', { weights: file('turned.safetensors', turned) })).toMatch(/transposed/);
  });

  it.each([0, 4, 8, 100, 3000])('weights cut to %i bytes', async (bytes) => {
    const buffer = Buffer.alloc(bytes);
    const fd = openSync(golden(CASE), 'r');
    readSync(fd, buffer, 0, bytes, 0);
    closeSync(fd);
    writeFileSync(at('cut.safetensors'), buffer);
    expect(await refused(/cut\.safetensors, byte \d+/, 'MOE5009', { weights: at('cut.safetensors') })).not.toContain('undefined');
  });

  it('weights that are a spec', () => refused(/header/, 'MOE5009', { weights: join(SPECS, `${CASE}.moe`) }));
  it('weights that are not there', () => refused(/nowhere: no such file/, 'MOE5009', { weights: at('nowhere') }));
  it('a directory without weights', () => refused(/no \*\.safetensors/, 'MOE5009', { weights: at('empty') }));
  it('an input that is not there', () => refused(/nowhere: no such file/, 'MOE5009', { input: at('nowhere') }));
  it('an output in a directory that is not there', () => refused(/cannot be written: its directory does not exist/, undefined, { output: at('no/out.safetensors') }));

  it('an output that is a directory stays one', async () => {
    const done = await run(CASE, { output: at('empty') });
    expect(done.code).toBe(5);
    expect(done.stderr).toContain('it is a directory');
    expect(readdirSync(at('empty'))).toEqual([]);
  });

  it('never writes over the files it reads', async () => {
    writeFileSync(at('both.safetensors'), readFileSync(golden(CASE)));
    const before = readFileSync(at('both.safetensors'));
    const done = await run(CASE, { input: at('both.safetensors'), output: at('both.safetensors') });
    expect(done.code).toBe(2);
    expect(readFileSync(at('both.safetensors')).equals(before)).toBe(true);
  });

  it('token ids out of the vocabulary or of fractions', async () => {
    for (const ids of [Int32Array.of(0, 1_000_000), Int32Array.of(-1)]) {
      const input = file('ids.safetensors', [{ name: 'input_ids', dtype: 'I32', shape: [ids.length], data: ids }]);
      const done = await moec(['run', at('mixtral.moe'), '--weights', MODEL, '--input', input, '--output', at('never'), '--target', 'reference']);
      expect(done.code, done.stderr).toBe(5);
      expect(done.stderr).toMatch(/token id/);
      expect(done.stderr).not.toContain('internal');
    }
    const input = file('ids.safetensors', [tensor('input_ids', [3])]);
    const done = await moec(['run', at('mixtral.moe'), '--weights', MODEL, '--input', input, '--output', at('never'), '--target', 'reference']);
    expect(done.code, done.stderr).toBe(5);
    expect(done.stderr).toMatch(/integers were expected/);
  });

  it('a directory that is no package', async () => {
    const done = await moec(['run', at('empty'), '--weights', golden(CASE), '--input', golden(CASE), '--output', at('never')]);
    expect(done.code).toBe(5);
    expect(done.stderr).toMatch(/is not a package of moec/);
  });

  it('leaves no temporary files', () => expect(readdirSync(dir).filter((f) => f.includes('.tmp-'))).toEqual([]));
});
