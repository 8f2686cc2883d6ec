import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { NumericsError } from '../../src/runtime/core/errors.ts';
import { hashAt, hashText, mix32, signedUnit, uniforms } from '../../src/runtime/core/random.ts';
import { argmax, createSampler } from '../../src/runtime/core/sampler.ts';

/** Fixed for good: seeds of users and golden vectors stand on them. */
const MIXED = [0, 1753845952, 3507691905, 1734902346];
const DRAWN = [80, 498, 516, 731];

const softmax = (logits: readonly number[], temperature: number): number[] => {
  const top = Math.max(...logits);
  const e = logits.map((l) => Math.exp((l - top) / temperature));
  const sum = e.reduce((a, b) => a + b, 0);
  return e.map((x) => x / sum);
};

/** The tokens that top-k and then top-p leave, by definition. */
function kept(logits: readonly number[], temperature: number, topK: number, topP: number): Set<number> {
  const order = softmax(logits, temperature).map((p, id) => ({ p, id })).sort((a, b) => b.p - a.p || a.id - b.id).slice(0, topK);
  const total = order.reduce((s, c) => s + c.p, 0);
  const out = new Set<number>();
  let reached = 0;
  for (const c of order) {
    if (out.size > 0 && reached >= topP * total * (1 + 1e-9)) break;
    out.add(c.id);
    reached += c.p;
  }
  return out;
}

/** Equal or well apart, so that rounding decides no order. */
const logits = fc.array(fc.integer({ min: -64, max: 64 }).map((x) => x / 8), { minLength: 1, maxLength: 40 });

describe('sampling', () => {
  it('takes the first of the largest logits at temperature 0', () => {
    expect(argmax(Float32Array.of(1, 3, 3, 2))).toBe(1);
    expect(createSampler({})(Float32Array.of(-Infinity, -5, -Infinity))).toBe(1);
    expect(createSampler({ temperature: 0 })(Float32Array.of(-0, 0))).toBe(0);
  });

  it('refuses logits that are not numbers, and rows without any', () => {
    for (const t of [0, 1]) {
      expect(() => createSampler({ temperature: t })(Float32Array.of(1, NaN))).toThrow(NumericsError);
      expect(() => createSampler({ temperature: t })(Float32Array.of(-Infinity))).toThrow(NumericsError);
      expect(createSampler({ temperature: t })(Float32Array.of(1, Infinity))).toBe(1);
    }
  });

  it('draws equal tokens for equal seeds, and different ones for others', () => {
    const row = Float32Array.from({ length: 1000 }, (_, i) => Math.sin(i));
    const draw = (seed: number): number[] => {
      const sample = createSampler({ temperature: 1, seed });
      return Array.from({ length: 20 }, () => sample(row));
    };
    expect(draw(5)).toEqual(draw(5));
    expect(draw(5)).not.toEqual(draw(6));
    expect(draw(2 ** 40)).not.toEqual(draw(0));
    expect(draw(7).slice(0, 4)).toEqual(DRAWN);
    const u = uniforms(1);
    expect([u(), u()]).toEqual([uniforms(1)(), expect.any(Number)]);
  });

  it('stays within top-k and top-p', () => fc.assert(
    fc.property(logits, fc.double({ min: 0.2, max: 3, noNaN: true }), fc.integer({ min: 1, max: 50 }), fc.double({ min: 0.05, max: 1, noNaN: true }), fc.nat(1e6), (row, temperature, topK, topP, seed) => {
      const allowed = kept(row, temperature, topK, topP);
      const sample = createSampler({ temperature, topK, topP, seed });
      for (let i = 0; i < 20; i++) expect(allowed.has(sample(Float32Array.from(row)))).toBe(true);
    }),
    { numRuns: 200 },
  ));

  it('follows the probabilities', () => {
    const row = [2, 1, 0, -1, 3];
    for (const [temperature, topK, topP] of [[1, 5, 1], [0.7, 5, 1], [1, 3, 1], [1, 5, 0.8]] as const) {
      const allowed = kept(row, temperature, topK, topP);
      const p = softmax(row, temperature).map((x, i) => (allowed.has(i) ? x : 0));
      const total = p.reduce((a, b) => a + b, 0);
      const sample = createSampler({ temperature, topK, topP, seed: 11 });
      const counts = [0, 0, 0, 0, 0];
      const n = 40_000;
      for (let i = 0; i < n; i++) {
        const id = sample(Float32Array.from(row));
        counts[id] = (counts[id] ?? 0) + 1;
      }
      // Chi-square with at most 4 degrees of freedom: 28 is far beyond chance.
      const chi = counts.reduce((s, c, i) => s + ((p[i] ?? 0) === 0 ? c * 1e9 : (c - ((p[i] ?? 0) / total) * n) ** 2 / (((p[i] ?? 0) / total) * n)), 0);
      expect(chi).toBeLessThan(28);
    }
  });
});

describe('integer hashes', () => {
  it('are fixed', () => {
    expect([0, 1, 2, 0xffffffff].map(mix32)).toEqual(MIXED);
    expect(hashText('layers.0.router', 1)).toBe(hashText('layers.0.router', 1));
    expect(hashText('a', 1)).not.toBe(hashText('a', 2));
    expect(hashText('a', 1)).not.toBe(hashText('b', 1));
  });

  it('are a bijection of the index, uniform, and uncorrelated', () => {
    const key = hashText('x', 3);
    const seen = new Set(Array.from({ length: 100_000 }, (_, i) => hashAt(key, i)));
    expect(seen.size).toBeGreaterThan(99_990);
    const values = Array.from({ length: 100_000 }, (_, i) => signedUnit(key, i));
    const mean = (a: readonly number[]): number => a.reduce((s, v) => s + v, 0) / a.length;
    expect(Math.abs(mean(values))).toBeLessThan(0.01);
    expect(Math.abs(mean(values.map((v) => v * v)) - 1 / 3)).toBeLessThan(0.005);
    expect(Math.abs(mean(values.slice(1).map((v, i) => v * (values[i] ?? 0))))).toBeLessThan(0.01);
    expect(values.every((v) => v >= -1 && v < 1 && Math.fround(v) === v)).toBe(true);
    expect(hashAt(key, 2 ** 32)).not.toBe(hashAt(key, 0));
  });
});
