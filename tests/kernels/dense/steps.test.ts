import { describe, expect, it } from 'vitest';
import { embed } from '../../../src/kernels/dense/embed.ts';
import type { EmbedProblem } from '../../../src/kernels/dense/embed.ts';
import { cacheAppend, concatHeads, sliceHeads } from '../../../src/kernels/dense/heads.ts';
import { act, add, gateMul, glu } from '../../../src/kernels/dense/pointwise.ts';
import { rope } from '../../../src/kernels/dense/rope.ts';
import type { RopeProblem } from '../../../src/kernels/dense/rope.ts';
import { CAPS, NARROW, expectClose, gridOf, random, run, stored } from './harness.ts';
import { referenceAct, referenceGlu } from './reference.ts';

const WIDTHS = [1, 3, 10, 31, 33, 40];
const TOKENS = [1, 2, 3, 7, 17];
const f32s = (n: number, f: (i: number) => number): Float32Array => Float32Array.from({ length: n }, (_, i) => f(i));
const each = (f: (T: number, width: number) => void): void => TOKENS.forEach((T) => WIDTHS.forEach((width) => f(T, width)));

describe('embed', () => {
  const problem = (p: Partial<EmbedProblem>): EmbedProblem => ({ vocab: 11, dim: 12, scale: 1, tableElem: 'f32', ...p });
  const IDS = Int32Array.of(3, 10, 0, 3, -1, 11, 2147483647, -2147483648, 7);
  const clamped = (id: number, vocab: number): number => Math.min(vocab - 1, Math.max(0, id));

  it('looks tokens up; ids outside the vocabulary are clamped and counted', () => {
    for (const dim of WIDTHS) {
      for (const tableElem of ['f32', 'f16', 'bf16'] as const) {
        const p = problem({ dim, tableElem, scale: dim === 10 ? 8 : 1 });
        const table = stored(random(p.vocab * dim, 5), tableElem);
        const y = new Float32Array(IDS.length * dim);
        const faults = Uint32Array.of(7, 1);
        run(embed(p, undefined, NARROW), { ids: IDS, table: table.data, y, faults }, { T: IDS.length });
        expect(y).toEqual(f32s(y.length, (i) => p.scale * (table.values[clamped(IDS[Math.floor(i / dim)] ?? 0, p.vocab) * dim + (i % dim)] ?? NaN)));
        expect(Array.from(faults)).toEqual([7, 1 + 4]);
      }
    }
  });

  it('writes only the tokens of the bound segment of a split table', () => {
    const p = problem({ dim: 6, segmentRows: 4 });
    const table = random(p.vocab * 6, 5);
    const y = new Float32Array(IDS.length * 6).fill(NaN);
    const faults = new Uint32Array(2);
    const launch = embed(p, undefined, CAPS);
    for (const [first, count] of [[0, 4], [4, 4], [8, 3]] as const) {
      const before = y.slice();
      const constants = { 'segment.first': first, 'segment.count': count };
      run(launch, { ids: IDS, table: table.slice(first * 6, (first + count) * 6), y, faults }, { T: IDS.length, constants }, true);
      IDS.forEach((id, t) => {
        const row = clamped(id, p.vocab);
        if (row < first || row >= first + count) expect(y.slice(t * 6, t * 6 + 6)).toEqual(before.slice(t * 6, t * 6 + 6));
      });
    }
    expect(y).toEqual(f32s(y.length, (i) => table[clamped(IDS[Math.floor(i / 6)] ?? 0, p.vocab) * 6 + (i % 6)] ?? NaN));
    expect(faults[1]).toBe(4);
  });
});

describe('rope', () => {
  function check(p: RopeProblem, T: number, past: number): void {
    const x = random(T * p.heads * p.headDim, 1);
    const half = p.dim / 2;
    const table = f32s((past + T) * p.dim, (i) => {
      const [position, j] = [Math.floor(i / p.dim), i % p.dim];
      const angle = position * 100 ** (-(j % half) / half);
      return j < half ? Math.cos(angle) : Math.sin(angle);
    });
    const want = Float64Array.from(x);
    for (let h = 0; h < T * p.heads; h++) {
      const position = past + Math.floor(h / p.heads);
      for (let i = 0; i < half; i++) {
        const a = h * p.headDim + (p.style === 'half' ? i : 2 * i);
        const c = a + (p.style === 'half' ? half : 1);
        const [cos, sin] = [table[position * p.dim + i] ?? NaN, table[position * p.dim + half + i] ?? NaN];
        want[a] = (x[a] ?? NaN) * cos - (x[c] ?? NaN) * sin;
        want[c] = (x[c] ?? NaN) * cos + (x[a] ?? NaN) * sin;
      }
    }
    const y = new Float32Array(x.length);
    run(rope(p, undefined, NARROW), { x, table, y }, { T, past });
    expectClose(y, want, 1e-6);
  }

  it('turns pairs of both styles at every position, whole heads and parts', () => {
    for (const style of ['half', 'interleaved'] as const) {
      for (const [heads, headDim, dim] of [[1, 2, 2], [3, 10, 4], [4, 6, 6], [1, 33, 8], [2, 40, 38]] as const) {
        for (const [T, past] of [[1, 0], [3, 5], [17, 0]] as const) check({ heads, headDim, dim, style }, T, past);
      }
    }
  });

  it('refuses an odd number of columns and more than a head has', () => {
    expect(() => rope({ heads: 1, headDim: 4, dim: 3, style: 'half' }, undefined, CAPS)).toThrow(/odd/);
    expect(() => rope({ heads: 1, headDim: 4, dim: 6, style: 'half' }, undefined, CAPS)).toThrow(/above/);
  });
});

describe('columns of heads', () => {
  it('slices', () => {
    for (const [heads, stride, start, length] of [[1, 1, 0, 1], [3, 10, 2, 8], [4, 12, 4, 8], [2, 33, 31, 2], [1, 40, 0, 33]] as const) {
      for (const T of TOKENS) {
        const x = random(T * heads * stride, 1);
        const y = new Float32Array(T * heads * length);
        run(sliceHeads({ heads, stride, start, length }, undefined, NARROW), { x, y }, { T });
        expect(y).toEqual(f32s(y.length, (i) => x[Math.floor(i / length) * stride + start + (i % length)] ?? NaN));
      }
    }
    expect(() => sliceHeads({ heads: 1, stride: 4, start: 2, length: 3 }, undefined, CAPS)).toThrow(/leave a head/);
  });

  it('concatenates', () => {
    for (const [heads, aDim, bDim] of [[1, 1, 1], [3, 10, 2], [4, 8, 4], [2, 31, 3], [1, 40, 33]] as const) {
      for (const T of TOKENS) {
        const [a, b] = [random(T * heads * aDim, 1), random(T * heads * bDim, 2)];
        const y = new Float32Array(T * heads * (aDim + bDim));
        run(concatHeads({ heads, aDim, bDim }, undefined, NARROW), { a, b, y }, { T });
        expect(y).toEqual(f32s(y.length, (i) => {
          const [h, c] = [Math.floor(i / (aDim + bDim)), i % (aDim + bDim)];
          return (c < aDim ? a[h * aDim + c] : b[h * bDim + c - aDim]) ?? NaN;
        }));
      }
    }
  });

  it('appends rows to the cache and leaves the others alone', () => {
    each((T, width) => {
      for (const past of [0, 5]) {
        const x = random(T * width, 1);
        const cache = random((T + past + 2) * width, 2);
        const before = cache.slice();
        run(cacheAppend({ width }, undefined, NARROW), { x, cache }, { T, past });
        expect(cache).toEqual(f32s(cache.length, (i) => {
          const own = i - past * width;
          return (own >= 0 && own < x.length ? x[own] : before[i]) ?? NaN;
        }));
      }
    });
  });
});

describe('16-bit storage', () => {
  const T = 3;
  const HALVES = ['f16', 'bf16'] as const;
  const halves = (n: number): Uint16Array => new Uint16Array(n);

  it('of rotated heads: arithmetic in f32, one rounding', () => {
    for (const elem of HALVES) {
      for (const dim of [4, 6]) {
        const p = { heads: 2, headDim: 6, dim, style: 'half' } as const;
        const x = stored(random(T * 12, 1), elem);
        const table = random(5 * dim, 2);
        const exact = new Float32Array(T * 12);
        run(rope(p, undefined, NARROW), { x: x.values, table, y: exact }, { T, past: 2 });
        const y = halves(T * 12);
        run(rope({ ...p, xElem: elem, yElem: elem }, undefined, NARROW), { x: x.data, table, y }, { T, past: 2 });
        expect(y).toEqual(stored(exact, elem).data);
        const wide = new Float32Array(T * 12);
        run(rope({ ...p, xElem: elem }, undefined, NARROW), { x: x.data, table, y: wide }, { T, past: 2 });
        expect(wide).toEqual(exact);
      }
    }
  });

  it('of columns and of the cache: copied as they are, or rounded once', () => {
    for (const elem of HALVES) {
      const [a, c] = [random(T * 24, 1), random(T * 8, 2)];
      const [aHalf, cHalf] = [stored(a, elem), stored(c, elem)];
      for (const xElem of ['f32', elem] as const) {
        const of = (half: typeof aHalf, values: Float32Array): Float32Array | typeof half.data => (xElem === 'f32' ? values : half.data);
        const [sliced, joined, cache] = [halves(T * 8), halves(T * 32), halves(5 * 24)];
        run(sliceHeads({ heads: 2, stride: 12, start: 4, length: 4, xElem, yElem: elem }, undefined, NARROW), { x: of(aHalf, a), y: sliced }, { T });
        expect(sliced).toEqual(Uint16Array.from(sliced, (_, i) => aHalf.data[Math.floor(i / 4) * 12 + 4 + (i % 4)] ?? 0));
        const parts = { a: of(aHalf, a), b: of(cHalf, c), y: joined };
        run(concatHeads({ heads: 2, aDim: 12, bDim: 4, aElem: xElem, bElem: xElem, yElem: elem }, undefined, NARROW), parts, { T });
        expect(joined).toEqual(Uint16Array.from(joined, (_, i) => {
          const [h, col] = [Math.floor(i / 16), i % 16];
          return (col < 12 ? aHalf.data[h * 12 + col] : cHalf.data[h * 4 + col - 12]) ?? 0;
        }));
        run(cacheAppend({ width: 24, xElem, cacheElem: elem }, undefined, NARROW), { x: of(aHalf, a), cache }, { T, past: 2 });
        expect(cache.slice(48)).toEqual(aHalf.data);
        expect(Array.from(cache.slice(0, 48))).toEqual(Array.from({ length: 48 }, () => 0));
      }
    }
  });
});

describe('arithmetic element by element', () => {
  const GATES = ['silu', 'gelu', 'gelu-tanh', 'relu'] as const;

  it('activates', () => {
    for (const activation of GATES) {
      each((T, width) => {
        const x = random(T * width, 1).map((v) => v * 6);
        const y = new Float32Array(x.length);
        run(act({ width, activation }, undefined, NARROW), { x, y }, { T });
        expectClose(y, Array.from(x, (v) => referenceAct(activation, v)), 2e-6);
      });
    }
  });

  it('gates, clamped or not, several rows a token', () => {
    for (const clamp of [undefined, { limit: 1.5, alpha: 1.702, upOffset: 1 }]) {
      const [gate, up] = [random(42, 1).map((v) => v * 4), random(42, 2).map((v) => v * 4)];
      const y = new Float32Array(42);
      const p = { width: 7, rowsPerToken: 2, activation: 'silu' as const, ...(clamp === undefined ? {} : { clamp }) };
      run(glu(p, undefined, NARROW), { gate, up, y }, { T: 3 });
      expectClose(y, Array.from(gate, (g, i) => referenceGlu('silu', g, up[i] ?? NaN, clamp)), 2e-6);
    }
  });

  it('adds, scaled', () => {
    each((T, width) => {
      const [a, b] = [random(T * width, 1), random(T * width, 2)];
      for (const scale of [1, -0.5]) {
        const y = new Float32Array(a.length);
        run(add({ width, scale }, undefined, NARROW), { a, b, y }, { T });
        expect(y).toEqual(f32s(a.length, (i) => (a[i] ?? NaN) + Math.fround((b[i] ?? NaN) * scale)));
      }
    });
  });

  it('multiplies rows by their gates', () => {
    each((T, width) => {
      const [x, gate] = [random(T * width, 1), random(T, 2).map((v) => v * 30)];
      const y = new Float32Array(x.length);
      run(gateMul({ width }, undefined, NARROW), { x, gate, y }, { T });
      expectClose(y, Array.from(x, (v, i) => v / (1 + Math.exp(-(gate[Math.floor(i / width)] ?? NaN)))));
    });
  });

  it('stays within the grid of the target', () => {
    const launch = act({ width: 16384, activation: 'silu', rowsPerToken: 8 }, undefined, CAPS);
    for (const T of [1, 1000, 131072]) {
      const [x, y] = gridOf(launch, T);
      expect(Math.max(x, y)).toBeLessThanOrEqual(CAPS.maxGrid);
      expect(x * y * launch.kernel.block).toBeGreaterThanOrEqual(T * 8 * 4096);
    }
  });
});
