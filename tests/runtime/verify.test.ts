import { describe, expect, it } from 'vitest';
import { type CompileOptions, compileSpec } from '../../src/driver/compile.ts';
import { goldenVectors } from '../../src/driver/golden.ts';
import { PackageError } from '../../src/runtime/core/errors.ts';
import { type Golden, type GoldenVector, decodeGolden, encodeGolden } from '../../src/runtime/core/golden.ts';
import { deviation } from '../../src/runtime/core/metrics.ts';
import { proceduralIds, proceduralInput, proceduralWeights } from '../../src/runtime/core/procedural.ts';
import type { VerifyReport } from '../../src/runtime/core/verify.ts';
import { type PackageParts, verifyPackage } from '../../src/runtime/webgpu/load.ts';
import { LAYER_CASES } from '../lower/specs.ts';

const spec = LAYER_CASES['mixtral_top2'];
if (spec === undefined) throw new Error('no spec');
const compiled = compileSpec(spec);
const bytes = goldenVectors(spec, compiled.graphs);
const quiet = { onWarning: () => undefined };
const parts = (golden: Uint8Array, options?: CompileOptions): PackageParts => {
  const { manifest, texts } = options === undefined ? compiled : compileSpec(spec, options);
  return { manifest, kernels: texts, golden: () => Promise.resolve(golden) };
};
const run = (golden: Uint8Array): Promise<VerifyReport> => verifyPackage(parts(golden), quiet);

async function altered(change: (v: GoldenVector) => Partial<GoldenVector>): Promise<Uint8Array> {
  const golden = await decodeGolden(bytes);
  return encodeGolden({ ...golden, vectors: golden.vectors.map((v, i) => (i === 0 ? { ...v, ...change(v) } : v)) }, spec?.hidden ?? 1);
}

describe('golden vectors', () => {
  it('are read as they were written', async () => {
    const golden: Golden = {
      seed: 3,
      gate: { nmse: 1e-9, rowNmse: 1e-8 },
      vectors: [
        { name: 'a', ids: Int32Array.of(1, 2, 3), split: [2, 1], y: Float32Array.of(1, 2, 3, 4, 5, 6) },
        { name: 'b', x: Float32Array.of(1, 2, 3, 4), tokenIds: Int32Array.of(7, 8), sequenceLength: 1, y: Float64Array.of(1, 2, 3, 4), topkIndices: Int32Array.of(0, -1) },
      ],
    };
    const read = await decodeGolden(encodeGolden(golden, 2));
    expect(read).toMatchObject({ ...golden, vectors: [golden.vectors[0], { ...golden.vectors[1], y: Float32Array.of(1, 2, 3, 4) }] });
    expect(encodeGolden(golden, 2)).toEqual(encodeGolden(golden, 2));
    await expect(decodeGolden(new Uint8Array(4))).rejects.toMatchObject({ code: 'MOE5009' });
    await expect(decodeGolden(Uint8Array.of(2, 0, 0, 0, 0, 0, 0, 0, 0x7b, 0x7d))).rejects.toThrow(PackageError);
  });

  it('pass on this device, and say so', async () => {
    const report = await run(bytes);
    expect(report).toMatchObject({ ok: true, twin: false });
    expect(report.vectors.map((v) => v.tokens)).toEqual([3, 12]);
    for (const v of report.vectors) expect(v.observed.nmse).toBeLessThan(v.allowed.nmse);
  });

  it.each(['f16', 'bf16'] as const)('pass with weights stored as %s', async (dtype) => {
    const halves = { ...spec, dtype };
    const { manifest, texts, graphs } = compileSpec(halves);
    const golden = goldenVectors(halves, graphs);
    expect(await verifyPackage({ manifest, kernels: texts, golden: () => Promise.resolve(golden) }, quiet)).toMatchObject({ ok: true });
    // Other roundings are seen: the weights of f32 are not these.
    expect((await run(golden)).ok).toBe(false);
  });

  it('fail for a wrong value in one token, a wrong expert, or no vectors', async () => {
    const wrongValue = await run(await altered((v) => ({ y: v.y.map((x, i) => (i === 5 ? x + 0.01 : x)) })));
    expect(wrongValue).toMatchObject({ ok: false, vectors: [{ ok: false }, { ok: true }] });
    const zeroToken = await run(await altered((v) => ({ y: v.y.map((x, i) => (i < 24 ? 0 : x)) })));
    expect(zeroToken.vectors[0]?.ok).toBe(false);
    const wrongId = await run(await altered((v) => ({ topkIndices: v.topkIndices?.map((e, i) => (i === 0 ? (e + 1) % 8 : e)) })));
    expect(wrongId.vectors[0]).toMatchObject({ ok: false, wrongIds: 1 });
    const golden = await decodeGolden(bytes);
    expect((await run(encodeGolden({ ...golden, vectors: [] }, 24))).ok).toBe(false);
    expect((await run(encodeGolden({ ...golden, seed: golden.seed + 1 }, 24))).ok).toBe(false);
  });
});

describe('deviations', () => {
  it('are those of their definitions', () => {
    expect(deviation([1, 2, 3, 4], [1, 2, 3, 4], 2)).toEqual({ nmse: 0, rowNmse: 0 });
    expect(deviation([0, 0, 3, 4], [3, 4, 3, 4], 2)).toEqual({ nmse: 0.5, rowNmse: 1 });
    // A small row is judged against a thousandth of the mean energy.
    expect(deviation([1e-6, 1000], [0, 1000], 2).rowNmse).toBeCloseTo(1e-12 / 500, 20);
    for (const bad of [NaN, Infinity]) expect(deviation([bad], [1], 1).nmse).toBe(Infinity);
    expect(deviation([Infinity, NaN], [Infinity, NaN], 1).nmse).toBe(0);
    expect(deviation([-Infinity], [Infinity], 1).nmse).toBe(Infinity);
    expect(deviation([1], [1, 2], 1).nmse).toBe(Infinity);
    expect(deviation([1], [0], 1).nmse).toBe(Infinity);
    expect(deviation([], [], 0)).toEqual({ nmse: 0, rowNmse: 0 });
  });
});

describe('procedural weights', () => {
  const param = (name: string, shape: readonly number[], elem: 'f32' | 'f16' | 'u32' = 'f32', step = 1): Parameters<typeof proceduralWeights>[0] => ({
    name, shape, elem,
    role: { kind: 'weight', parts: [{ rows: 1, sources: [{ name, shape, n: { axis: 0, start: 0, step: 1 }, k: { start: 0, step } }] }] },
  });
  it('are as documented, by layer, seed and kind', () => {
    const matrix = proceduralWeights(param('layers.{l}.q', [64, 48]), 2, 9, 0);
    expect(matrix.length).toBe(64 * 48);
    expect(Math.abs((48 * matrix.reduce((s, v) => s + v * v, 0)) / matrix.length - 1)).toBeLessThan(0.1);
    expect(proceduralWeights(param('layers.{l}.q', [64, 48]), 3, 9, 0)).not.toEqual(matrix);
    expect(proceduralWeights(param('layers.{l}.q', [64, 48]), 2, 8, 0)).not.toEqual(matrix);
    const norm = proceduralWeights(param('norm', [100], 'f32', 0), null, 1, 0);
    expect(Math.min(...norm)).toBeGreaterThanOrEqual(0.875);
    expect(Math.max(...norm)).toBeLessThan(1.125);
    const bias = proceduralWeights(param('experts.bias', [5, 20], 'f32', 0), null, 1, 0);
    expect(Math.max(...bias.map(Math.abs))).toBeLessThanOrEqual(0.125);
    const table = proceduralWeights(param('table', [500], 'u32', 0), null, 1, 7);
    expect(new Set(table)).toEqual(new Set([0, 1, 2, 3, 4, 5, 6]));
    expect([...proceduralIds(1, 50, 10)].every((id) => id >= 0 && id < 10)).toBe(true);
    expect(proceduralInput(1, 3, 4).length).toBe(12);
  });
});
