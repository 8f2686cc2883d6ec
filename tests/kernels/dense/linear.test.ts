import { describe, expect, it } from 'vitest';
import { headLinear, linear, linearShape } from '../../../src/kernels/dense/linear.ts';
import type { HeadLinearProblem, LinearProblem } from '../../../src/kernels/dense/linear.ts';
import { linearSchedule } from '../../../src/kernels/dense/matmul.ts';
import type { LinearSchedule } from '../../../src/kernels/dense/matmul.ts';
import { evalSize } from '../../../src/base/size.ts';
import { CAPS, FOURS, NARROW, expectClose, expectSameBits, gridOf, random, run, stored } from './harness.ts';
import { referenceAct, referenceGlu } from './reference.ts';

const problem = (p: Partial<LinearProblem>): LinearProblem => ({
  n: 10, k: 12, epilogue: { kind: 'none' }, scale: 1, residual: false, weightElem: 'f32', ...p,
});

const TILES: readonly LinearSchedule[] = [
  { bm: 8, bn: 8, tm: 4, tn: 2, bk: 8, staging: 'register', oneRow: 0 },
  { bm: 4, bn: 16, tm: 2, tn: 4, bk: 4, staging: 'shared', oneRow: 0 },
  { bm: 1, bn: 4, tm: 1, tn: 1, bk: 8, staging: 'shared', oneRow: 0 },
];
const BROADCAST: LinearSchedule = { bm: 8, bn: 8, tm: 4, tn: 2, bk: 8, staging: 'broadcast', oneRow: 0 };
const MATVEC: LinearSchedule = { bm: 8, bn: 8, tm: 8, tn: 1, bk: 8, staging: 'register', oneRow: 1 };

interface Data {
  readonly x: Float32Array;
  readonly weight: ReturnType<typeof stored>;
  readonly bias: ReturnType<typeof stored>;
  readonly residual: Float32Array;
}

const factor = (p: LinearProblem): number => (p.epilogue.kind === 'glu' ? 2 : 1);

function makeData(p: LinearProblem, rows: number): Data {
  const m = factor(p) * p.n;
  return {
    x: random(rows * p.k, 1),
    weight: stored(random(m * p.k, 2), p.weightElem, p.k),
    bias: stored(random(m, 3), p.biasElem ?? 'f32'),
    residual: random(rows * p.n, 4),
  };
}

/** The definition, in f64. */
function reference(p: LinearProblem, d: Data, rows: number): Float64Array {
  const y = new Float64Array(rows * p.n);
  const product = (t: number, j: number): number => {
    let sum = p.biasElem === undefined ? 0 : (d.bias.values[j] ?? NaN);
    for (let i = 0; i < p.k; i++) sum += (d.x[t * p.k + i] ?? NaN) * (d.weight.values[j * p.k + i] ?? NaN);
    return sum;
  };
  for (let t = 0; t < rows; t++) {
    for (let j = 0; j < p.n; j++) {
      const { epilogue } = p;
      const first = product(t, j);
      const value = epilogue.kind === 'none' ? first
        : epilogue.kind === 'act' ? referenceAct(epilogue.activation, first)
        : referenceGlu(epilogue.activation, first, product(t, p.n + j), epilogue.clamp);
      y[t * p.n + j] = value * p.scale + (p.residual ? (d.residual[t * p.n + j] ?? NaN) : 0);
    }
  }
  return y;
}

function compute(p: LinearProblem, d: Data, T: number, s?: LinearSchedule, caps = CAPS): Float32Array {
  const y = new Float32Array(T * (p.rowsPerToken ?? 1) * p.n);
  run(linear(p, s, caps), { x: d.x, weight: d.weight.data, bias: d.bias.data, residual: d.residual, y }, { T, subgroups: caps.subgroups, subgroupSize: caps.subgroupSize });
  return y;
}

describe('linear', () => {
  it('computes any shape, every form with the same bits', () => {
    for (const k of [1, 3, 10, 31, 33, 40]) {
      for (const [T, n] of [[1, 10], [2, 1], [3, 33], [7, 3], [17, 10]] as const) {
        const p = problem({ k, n });
        const d = makeData(p, T);
        const first = compute(p, d, T, TILES[0]);
        expectClose(first, reference(p, d, T));
        for (const s of TILES.slice(1)) expectSameBits(compute(p, d, T, s), first);
        expectSameBits(compute(p, d, T, BROADCAST, FOURS), first);
        if (T <= 8) expectSameBits(compute({ ...p, maxRows: 8 }, d, T, MATVEC), first);
        if (T <= 8) expectSameBits(compute({ ...p, maxRows: 8 }, d, T, { ...BROADCAST, tm: 8, oneRow: 1 }, FOURS), first);
      }
    }
  });

  it('computes with the schedules it chooses itself, grids folded', () => {
    for (const [T, n] of [[1, 130], [5, 65], [40, 70]] as const) {
      const p = problem({ k: 20, n });
      const d = makeData(p, T);
      const want = reference(p, d, T);
      const first = compute(p, d, T, undefined, NARROW);
      expectClose(first, want);
      if (T <= 8) expectSameBits(compute({ ...p, maxRows: 8 }, d, T, undefined, NARROW), first);
      expectSameBits(compute(p, d, T, undefined, { ...CAPS, target: 'cuda' }), first);
      for (const subgroupSize of [4, 8, 16]) {
        const small = { ...NARROW, subgroups: true, subgroupSize };
        expect(linearSchedule(linearShape(p), small)).toMatchObject({ staging: 'broadcast' });
        expectSameBits(compute(p, d, T, undefined, small), first);
        if (T <= 8) expectSameBits(compute({ ...p, maxRows: 8 }, d, T, undefined, small), first);
      }
    }
  });

  it('has bias, activations, gated units, scale and residual', () => {
    for (const epilogue of [
      { kind: 'none' },
      { kind: 'act', activation: 'silu' },
      { kind: 'act', activation: 'gelu' },
      { kind: 'glu', activation: 'silu' },
      { kind: 'glu', activation: 'gelu-tanh' },
      { kind: 'glu', activation: 'silu', clamp: { limit: 0.5, alpha: 1.702, upOffset: 1 } },
    ] as const) {
      for (const rest of [{ biasElem: 'f32' }, { scale: 0.25, residual: true }, { biasElem: 'f16', scale: -3, residual: true }] as const) {
        const p = problem({ epilogue, ...rest });
        const d = makeData(p, 5);
        const first = compute(p, d, 5, TILES[0]);
        expectClose(first, reference(p, d, 5), 4e-6);
        expectSameBits(compute(p, d, 5, BROADCAST, FOURS), first);
        expectSameBits(compute({ ...p, maxRows: 5 }, d, 5, MATVEC), first);
        expectSameBits(compute(p, d, 5, TILES[1]), first);
      }
    }
  });

  it('reads weights of two bytes', () => {
    for (const weightElem of ['f16', 'bf16'] as const) {
      for (const k of [7, 10, 16]) {
        const p = problem({ k, n: 5, weightElem, biasElem: weightElem });
        const d = makeData(p, 3);
        const first = compute(p, d, 3, TILES[0]);
        expectClose(first, reference(p, d, 3));
        expectSameBits(compute(p, d, 3, TILES[1]), first);
      }
    }
  });

  it('serves several rows a token', () => {
    const p = problem({ rowsPerToken: 3 });
    const d = makeData(p, 21);
    expectClose(compute(p, d, 7, TILES[0], NARROW), reference(p, d, 21));
  });

  it('computes the columns of each segment of a split weight, ragged ends included', () => {
    const p = problem({ n: 21, k: 6, segmentRows: 9, biasElem: 'f32', residual: true });
    for (const T of [1, 11]) {
      const d = makeData(p, T);
      const { segmentRows, ...whole } = p;
      const want = compute(whole, d, T, TILES[0]);
      for (const s of [TILES[0], TILES[1], MATVEC]) {
        const y = new Float32Array(T * p.n);
        for (let first = 0; first < p.n; first += segmentRows ?? 0) {
          const count = Math.min(segmentRows ?? 0, p.n - first);
          const weight = d.weight.data.slice(first * p.k, (first + count) * p.k);
          const constants = { 'segment.first': first, 'segment.count': count };
          run(linear(p, s, NARROW), { ...d, weight, bias: d.bias.data, y }, { T, constants }, true);
        }
        expectSameBits(y, want);
      }
    }
  });

  it('stays within the grid of the target for a large vocabulary', () => {
    const big = linear(problem({ n: 262_144, k: 8 }), undefined, CAPS);
    for (const T of [1, 4096, 100_000]) {
      const [x, y, z] = gridOf(big, T);
      expect(Math.max(x, y, z)).toBeLessThanOrEqual(CAPS.maxGrid);
      const s = linearSchedule({ heads: 1, products: 1, n: 262_144, k: 8, weightElem: 'f32' }, CAPS);
      const blocks = Math.ceil(T / s.bm) * Math.ceil(262_144 / s.bn);
      expect(x * y).toBeGreaterThanOrEqual(blocks);
      expect(x * y - blocks).toBeLessThan(y);
    }
    const decode = linear(problem({ n: 262_144, k: 8, maxRows: 8 }), undefined, CAPS);
    expect(decode.grid.every((g) => typeof g === 'number')).toBe(true);
    expect(evalSize(decode.grid[0], { T: 1, past: 0, seq: 1, cap: 0 })).toBe(4096);
  });

  it('refuses what it cannot do', () => {
    const glu = { kind: 'glu', activation: 'silu' } as const;
    expect(() => linear(problem({ epilogue: glu, segmentRows: 4 }), undefined, CAPS)).toThrow(/cannot be split/);
    expect(() => linear(problem({ n: 0 }), undefined, CAPS)).toThrow(/whole number/);
    expect(() => linear(problem({ n: 2 ** 20, k: 2 ** 15 - 1 }), undefined, CAPS)).toThrow(/2\^32/);
    expect(() => linear(problem({}), { ...MATVEC, bn: 512 }, CAPS)).toThrow(/512 threads/);
    expect(() => linear(problem({}), { ...MATVEC, tm: 3 }, CAPS)).toThrow(/does not divide/);
  });
});

describe('head_linear', () => {
  const compute = (p: HeadLinearProblem, T: number, x: Float32Array, weight: Float32Array, s?: LinearSchedule): Float32Array => {
    const y = new Float32Array(T * p.heads * p.n);
    const step = p.segmentRows ?? p.heads;
    for (let first = 0; first < p.heads; first += step) {
      const count = Math.min(step, p.heads - first);
      const constants = { 'segment.first': first, 'segment.count': count };
      const part = weight.slice(first * p.n * p.k, (first + count) * p.n * p.k);
      run(headLinear(p, s, NARROW), { x, weight: part, y }, { T, constants }, p.segmentRows !== undefined);
    }
    return y;
  };

  it('multiplies each head by its own matrix, also split over heads', () => {
    for (const [heads, n, k] of [[1, 3, 10], [3, 10, 4], [4, 1, 33], [5, 9, 6]] as const) {
      for (const T of [1, 7]) {
        const p: HeadLinearProblem = { heads, n, k, weightElem: 'f32' };
        const x = random(T * heads * k, 1);
        const weight = random(heads * n * k, 2);
        const want = new Float64Array(T * heads * n);
        for (let i = 0; i < want.length; i++) {
          const [t, h, j] = [Math.floor(i / (heads * n)), Math.floor(i / n) % heads, i % n];
          for (let c = 0; c < k; c++) want[i] = (want[i] ?? 0) + (x[(t * heads + h) * k + c] ?? NaN) * (weight[(h * n + j) * k + c] ?? NaN);
        }
        const first = compute(p, T, x, weight, TILES[0]);
        expectClose(first, want);
        expectSameBits(compute({ ...p, maxRows: 8 }, T, x, weight), first);
        if (heads > 1) expectSameBits(compute({ ...p, segmentRows: 2 }, T, x, weight, TILES[1]), first);
      }
    }
  });
});
