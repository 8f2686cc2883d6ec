/** Dense products of few rows by teams that are subgroups: CUDA's form for decoding, on the interpreter. */
import { describe, expect, it } from 'vitest';
import type { TypedArray } from '../../../src/ir/kernel/interpret.ts';
import { headLinear, linear, rowsSchedule } from '../../../src/kernels/index.ts';
import type { HeadLinearProblem, LinearProblem } from '../../../src/kernels/index.ts';
import { bySubgroups } from '../../../src/kernels/schedule.ts';
import type { MatvecSchedule } from '../../../src/kernels/schedule.ts';
import { CUDA_SM80, CUDA_SM90A } from '../../../src/target/cuda.ts';
import { WEBGPU_BASELINE } from '../../../src/target/types.ts';
import type { Capabilities } from '../../../src/target/types.ts';
import { expectEveryMutationCaught } from '../../ir/kernel/mutate.ts';
import { expectClose, expectSameBits, gridOf, memoryOf, random, run, stored } from './harness.ts';
import { referenceGlu } from './reference.ts';

const FOLDED: Capabilities = { ...CUDA_SM80, maxGrid: 3 };
type Elem = 'f32' | 'f16' | 'bf16';

const problem = (p: Partial<LinearProblem>): LinearProblem => ({
  n: 10, k: 12, epilogue: { kind: 'none' }, scale: 1, residual: false, weightElem: 'bf16', maxRows: 8, ...p,
});

/** Operands of a problem and the numbers in them. */
function dataOf(p: LinearProblem, rows: number): { readonly operands: Record<string, TypedArray>; readonly want: Float64Array } {
  const m = p.epilogue.kind === 'glu' ? 2 * p.n : p.n;
  const x = stored(random(rows * p.k, 1), p.xElem ?? 'f32');
  const weight = stored(random(m * p.k, 2), p.weightElem, p.k);
  const bias = stored(random(m, 3), p.biasElem ?? 'f32');
  const residual = random(rows * p.n, 4);
  const want = new Float64Array(rows * p.n);
  const product = (t: number, j: number): number => {
    let sum = p.biasElem === undefined ? 0 : (bias.values[j] ?? NaN);
    for (let i = 0; i < p.k; i++) sum += (x.values[t * p.k + i] ?? NaN) * (weight.values[j * p.k + i] ?? NaN);
    return sum;
  };
  for (let t = 0; t < rows; t++) {
    for (let j = 0; j < p.n; j++) {
      const value = p.epilogue.kind === 'glu' ? referenceGlu(p.epilogue.activation, product(t, j), product(t, p.n + j), undefined) : product(t, j);
      want[t * p.n + j] = value * p.scale + (p.residual ? (residual[t * p.n + j] ?? NaN) : 0);
    }
  }
  return { operands: { x: x.data, weight: weight.data, bias: bias.data, residual }, want };
}

function compute(p: LinearProblem, T: number, s?: MatvecSchedule, caps = CUDA_SM80): Float32Array {
  const rows = T * (p.rowsPerToken ?? 1);
  const { operands, want } = dataOf(p, rows);
  const y = new Float32Array(rows * p.n);
  run(linear(p, s, caps), { ...operands, y }, { T, subgroups: true });
  expectClose(y, want);
  return y;
}

describe('linear', () => {
  it('takes any depth, width and number of rows', () => {
    for (const [n, k] of [[10, 256], [3, 300], [9, 7], [5, 40]] as const) {
      for (const T of [1, 2, 3, 5, 8]) compute(problem({ n, k }), T, undefined, T === 3 ? FOLDED : CUDA_SM80);
    }
  });

  it('gates, adds biases and residuals, scales, reads and writes 16 bits', () => {
    const glu = { kind: 'glu', activation: 'silu' } as const;
    for (const weightElem of ['f32', 'f16', 'bf16'] as const) {
      compute(problem({ k: 140, weightElem, epilogue: glu, biasElem: 'f32' }), 3);
      compute(problem({ k: 140, weightElem, xElem: 'bf16', scale: 0.5, residual: true, rowsPerToken: 2 }), 3, undefined, FOLDED);
    }
    const p = problem({ k: 140, xElem: 'f16', weightElem: 'f16' });
    const { operands } = dataOf(p, 3);
    const half = new Uint16Array(30);
    run(linear({ ...p, yElem: 'f16' }, undefined, CUDA_SM80), { ...operands, y: half }, { T: 3, subgroups: true });
    expect(half).toEqual(stored(compute(p, 3), 'f16').data);
  });

  it('gives a row the same bits whatever rows there are beside it, and however many accesses are under way', () => {
    for (const s of [undefined, { block: 64, team: 32, cols: 2, unroll: 3 }, { block: 32, team: 32, cols: 1 }]) {
      const p = problem({ n: 7, k: 520 });
      const { operands } = dataOf(p, 8);
      const one = (T: number): Float32Array => {
        const y = new Float32Array(T * 7);
        run(linear(p, s, CUDA_SM80), { ...operands, y }, { T, subgroups: true });
        return y;
      };
      const all = one(8);
      for (const T of [1, 2, 3, 4, 6]) expectSameBits(one(T), all.slice(0, T * 7));
      expectSameBits(all, compute(p, 8));
    }
  });

  it('runs split weights segment by segment', () => {
    const p = problem({ n: 11, k: 140, residual: true });
    const whole = compute(p, 3);
    const { operands } = dataOf(p, 3);
    for (const segmentRows of [4, 9]) {
      const y = new Float32Array(33);
      for (let first = 0; first < 11; first += segmentRows) {
        const count = Math.min(segmentRows, 11 - first);
        const weight = operands['weight']?.slice(first * 140, (first + count) * 140) ?? y;
        const constants = { 'segment.first': first, 'segment.count': count };
        run(linear({ ...p, segmentRows }, undefined, CUDA_SM80), { ...operands, weight, y }, { T: 3, constants, subgroups: true }, true);
      }
      expectSameBits(y, whole);
    }
  });
});

it('a product per head, whole and split', () => {
  const p: HeadLinearProblem = { heads: 3, n: 5, k: 140, weightElem: 'bf16', maxRows: 8 };
  const T = 3;
  const x = random(T * 3 * 140, 1);
  const weight = stored(random(3 * 5 * 140, 2), 'bf16');
  const want = Float64Array.from({ length: T * 15 }, (_, i) => {
    const [row, j] = [Math.floor(i / 5), i % 5];
    let sum = 0;
    for (let c = 0; c < 140; c++) sum += (x[row * 140 + c] ?? NaN) * (weight.values[((row % 3) * 5 + j) * 140 + c] ?? NaN);
    return sum;
  });
  const y = new Float32Array(T * 15);
  run(headLinear(p, undefined, FOLDED), { x, weight: weight.data, y }, { T, subgroups: true });
  expectClose(y, want);
  const split = new Float32Array(T * 15);
  for (const [first, count] of [[0, 2], [2, 1]] as const) {
    const constants = { 'segment.first': first, 'segment.count': count };
    const part = weight.data.slice(first * 700, (first + count) * 700);
    run(headLinear({ ...p, segmentRows: 2 }, undefined, CUDA_SM80), { x, weight: part, y: split }, { T, constants, subgroups: true }, true);
  }
  expectSameBits(split, y);
});

describe('schedules', () => {
  it('keep 40 KiB a processor under way for one token of the attention of the models', () => {
    for (const [n, k] of [[2048, 2048], [4096, 2048], [2048, 4096]] as const) {
      const s = rowsSchedule({ ...problem({ n, k }), heads: 1, products: 1 }, CUDA_SM90A);
      const threads = Math.min(384, ((n / (s?.cols ?? 1)) * 32) / 132);
      expect((s?.unroll ?? 0) * (s?.cols ?? 0) * 8 * threads).toBeGreaterThanOrEqual(40 * 1024);
    }
  });

  it('are for devices with subgroups of one size, and for few rows', () => {
    const shape = { ...problem({}), heads: 1, products: 1 } as const;
    expect(rowsSchedule(shape, WEBGPU_BASELINE)).toBeUndefined();
    expect(rowsSchedule({ ...shape, maxRows: 9 }, CUDA_SM80)).toBeUndefined();
    const { maxRows: _rows, ...any } = shape;
    expect(rowsSchedule(any, CUDA_SM80)).toBeUndefined();
    const s = rowsSchedule(shape, CUDA_SM80);
    expect(s !== undefined && bySubgroups(s, CUDA_SM80)).toBe(true);
    expect(() => linear(problem({}), { block: 64, team: 16, cols: 1 }, CUDA_SM80)).toThrow(/no subgroup/);
    expect(() => linear(problem({ maxRows: 20 }), { block: 64, team: 32, cols: 1 }, CUDA_SM80)).toThrow(/at most 8 rows/);
  });
});

it('no mutation goes unnoticed', () => {
  const elems: readonly Elem[] = ['f32', 'f16'];
  for (const weightElem of elems) {
    const p = problem({ n: 5, k: 148, weightElem, maxRows: 4, residual: true });
    const launch = linear(p, { block: 64, team: 32, cols: 1 }, FOLDED);
    const runs = [1, 2, 3, 4].map((T) => ({
      grid: gridOf(launch, T),
      scalars: { T },
      poison: ['y'],
      memory: () => memoryOf(launch, { ...dataOf(p, T).operands, y: new Float32Array(T * 5) }),
    }));
    // Rows beyond the call's are no rows either.
    expectEveryMutationCaught(launch.kernel, runs, { subgroups: true, equivalent: [/for rows4_y/] });
  }
});
