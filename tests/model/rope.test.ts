/** Rotary frequencies against values computed with the published YaRN code in Python. */
import { describe, expect, it } from 'vitest';
import { inverseFrequencies, ropeMultiplier } from '../../src/model/index.ts';
import { softmaxMscale } from '../../src/model/rope.ts';
import type { Rope } from '../../src/model/types.ts';

const yarn = { kind: 'yarn', factor: 40, originalContext: 4096, betaFast: 32, betaSlow: 1, truncate: true } as const;
const rope = (dim: number, theta: number, scaling?: Rope['scaling']): Rope => ({
  theta,
  dim,
  style: 'half',
  ...(scaling === undefined ? {} : { scaling }),
});
const probes = (f: readonly number[]): (number | undefined)[] => [
  f[0],
  f[f.length / 4],
  f[f.length / 2],
  f[(3 * f.length) / 4],
  f[f.length - 1],
];
const sum = (f: readonly number[]): number => f.reduce((a, b) => a + b, 0);
const close = (a: readonly (number | undefined)[], b: readonly number[]): void =>
  b.forEach((x, i) => expect(Math.abs((a[i] ?? NaN) / x - 1)).toBeLessThan(1e-12));

describe('inverse frequencies', () => {
  it('are powers of theta without scaling', () => {
    expect(inverseFrequencies(rope(4, 100))).toEqual([1, 0.1]);
    expect(inverseFrequencies(rope(128, 10_000))).toHaveLength(64);
  });
  it('are divided by a linear factor', () => {
    expect(inverseFrequencies(rope(4, 100, { kind: 'linear', factor: 4 }))).toEqual([0.25, 0.025]);
  });
  it('follow YaRN: DeepSeek-V3', () => {
    const f = inverseFrequencies(rope(64, 10_000, yarn));
    close(probes(f), [1.0, 0.1, 0.0055, 2.5e-5, 3.33380358040831e-6]);
    close([sum(f)], [3.9489362740786857]);
  });
  it('follow YaRN without rounding the range: gpt-oss', () => {
    const f = inverseFrequencies(rope(64, 150_000, { ...yarn, factor: 32, truncate: false }));
    close(probes(f), [1.0, 0.050813274815461475, 0.00045648391922324086, 4.0999784818029795e-6, 3.0235114281192144e-7]);
    close([sum(f)], [3.180438276929865]);
  });
  it('follow YaRN where the ramp is one step: the tiny V3', () => {
    close(inverseFrequencies(rope(8, 10_000, { ...yarn, factor: 4, originalContext: 16 })), [1.0, 0.025, 0.0025, 0.00025]);
  });
});

describe('multipliers', () => {
  it('are 1 without YaRN', () => {
    expect(ropeMultiplier(rope(4, 100))).toBe(1);
    expect(softmaxMscale(rope(4, 100))).toBe(1);
    expect(softmaxMscale(undefined)).toBe(1);
  });
  it('are 0.1 ln(factor) + 1 where no mscales are named', () => {
    expect(ropeMultiplier(rope(64, 1e4, { ...yarn, factor: 32 }))).toBeCloseTo(1.3465735902799727, 14);
    expect(softmaxMscale(rope(64, 1e4, yarn))).toBe(1);
  });
  it('cancel in cos and sin for DeepSeek, and go squared into the softmax scale', () => {
    const v2like = rope(64, 1e4, { ...yarn, mscale: 0.7, mscaleAllDim: 0.7 });
    expect(ropeMultiplier(v2like)).toBe(1);
    expect(softmaxMscale(v2like)).toBeCloseTo((0.07 * Math.log(40) + 1) ** 2, 14);
    expect(ropeMultiplier(rope(64, 1e4, { ...yarn, mscale: 1, mscaleAllDim: 0 }))).toBeCloseTo(1.368887945411394, 14);
  });
});
