/** A spec with quantised experts from the shell: compile, verify, run with a checkpoint, and a checkpoint that cannot be quantised. */
import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { numberToBf16 } from '../../src/runtime/core/f16.ts';
import { deviation } from '../../src/runtime/core/metrics.ts';
import { type NewTensor, writeSafetensors } from '../../src/runtime/core/safetensors.ts';
import { memoryBytes, openSafetensors, readF64 } from '../../src/runtime/core/tensors.ts';
import { random } from '../kernels/dense/harness.ts';
import { build, errorOf, jsonOf, moec, scratch } from './moec.ts';

const dir = scratch();
const at = (name: string): string => join(dir, name);
const inDir = { cwd: dir };
const [E, D, W] = [6, 64, 96];

const numbers = (n: number, seed: number): Float32Array => random(n, seed).map((v) => v / 8);
const f32 = (name: string, shape: readonly number[], seed: number): NewTensor => ({ name, dtype: 'F32', shape, data: numbers(shape.reduce((a, b) => a * b, 1), seed) });
const bf16 = (t: NewTensor): NewTensor => ({ ...t, dtype: 'BF16', data: Uint16Array.from(t.data as Float32Array, numberToBf16) });
const weights = (bad?: number): readonly NewTensor[] => {
  const up = f32('experts.up_proj', [E, W, D], 3);
  if (bad !== undefined && up.data instanceof Float32Array) up.data[(2 * W + 7) * D + 5] = bad;
  return [f32('gate.weight', [E, D], 1), bf16(f32('experts.gate_proj', [E, W, D], 2)), up, bf16(f32('experts.down_proj', [E, D, W], 4))];
};
const spec = (dtype: string): string => `layer q {\n  hidden ${D}  dtype ${dtype}\n  moe { experts ${E} of swiglu ${W}  active 2 }\n}\n`;

async function y(file: string): Promise<Float64Array> {
  return readF64(await openSafetensors(memoryBytes(readFileSync(at(file)))), 'y');
}

beforeAll(async () => {
  await build();
  mkdirSync(dir, { recursive: true });
  writeFileSync(at('int4.moe'), spec('f16 experts int4'));
  writeFileSync(at('f32.moe'), spec('f32'));
  writeFileSync(at('w.safetensors'), writeSafetensors(weights()));
  writeFileSync(at('nan.safetensors'), writeSafetensors(weights(NaN)));
  writeFileSync(at('x.safetensors'), writeSafetensors([{ name: 'x', dtype: 'F32', shape: [20, D], data: numbers(20 * D, 9).map((v) => 8 * v) }]));
});
afterAll(() => rmSync(dir, { recursive: true }));

describe('quantised experts', () => {
  it('compile to a package that verifies itself and tells what quantising costs', { timeout: 120_000 }, async () => {
    expect(await moec(['compile', 'int4.moe', '--out', 'pkg', '--weights', 'w.safetensors'], inDir)).toMatchObject({ code: 0 });
    const verified = await moec(['verify', 'pkg', '--json'], inDir);
    expect(verified.code, verified.stderr).toBe(0);
    const { quantisation } = jsonOf(verified) as { readonly quantisation?: { readonly nmse: number } };
    expect(quantisation?.nmse).toBeGreaterThan(1e-3);
    expect(quantisation?.nmse).toBeLessThan(5e-2);
    expect((await moec(['verify', 'pkg'], inDir)).stdout).toMatch(/quantised experts cost NMSE .* \(a figure, not a gate\)/);
  });

  it('run with the values that are stored, on the device and in the reference', { timeout: 120_000 }, async () => {
    const run = async (what: string, output: string, ...more: string[]): Promise<void> => {
      const done = await moec(['run', what, '--weights', 'w.safetensors', '--input', 'x.safetensors', '--output', output, ...more], inDir);
      expect(done.code, done.stderr).toBe(0);
    };
    await run('pkg', 'package.out');
    await run('int4.moe', 'reference.out', '--target', 'reference');
    await run('f32.moe', 'exact.out', '--target', 'reference');
    const stored = await y('reference.out');
    expect(deviation(await y('package.out'), stored, 20).nmse).toBeLessThan(1e-9);
    const cost = deviation(stored, await y('exact.out'), 20).nmse;
    expect(cost).toBeGreaterThan(1e-4);
    expect(cost).toBeLessThan(0.1);
  });

  it('tell which weight of a checkpoint cannot be stored', { timeout: 120_000 }, async () => {
    for (const target of [[], ['--target', 'reference']]) {
      const run = await moec(['run', 'int4.moe', '--weights', 'nan.safetensors', '--input', 'x.safetensors', '--output', 'never', '--json', ...target], inDir);
      expect(run.code).toBe(5);
      expect(errorOf(run).message).toMatch(/NaN at \[2, 7, 5\] of tensor "experts\.up_proj" cannot be stored as int4_f16/);
    }
  });

  it('are refused where groups do not divide a depth', async () => {
    writeFileSync(at('odd.moe'), spec('f16 experts int4').replace(`swiglu ${W}`, 'swiglu 100'));
    const checked = await moec(['check', 'odd.moe'], inDir);
    expect(checked.code).toBe(1);
    expect(checked.stderr + checked.stdout).toMatch(/MOE3051[^]*100 = 3 x 32 \+ 4/);
  });
});
