import { describe, expect, it } from 'vitest';
import { norm, normSchedule } from '../../../src/kernels/dense/norm.ts';
import type { NormProblem, NormSchedule } from '../../../src/kernels/dense/norm.ts';
import { CAPS, NARROW, expectClose, expectSameBits, random, run, stored } from './harness.ts';

const problem = (p: Partial<NormProblem>): NormProblem => ({ kind: 'rms', dim: 12, groups: 1, eps: 1e-6, weightElem: 'f32', ...p });

interface Data {
  readonly x: Float32Array;
  readonly weight: ReturnType<typeof stored>;
  readonly bias: ReturnType<typeof stored>;
}

const makeData = (p: NormProblem, rows: number): Data => ({
  x: random(rows * p.dim, 1).map((v) => v * 3 + 1),
  weight: stored(random(p.dim / p.groups, 2), p.weightElem),
  bias: stored(random(p.dim / p.groups, 3), p.biasElem ?? 'f32'),
});

/** The definition, in f64. */
function reference(p: NormProblem, d: Data, rows: number): Float64Array {
  const n = p.dim / p.groups;
  const y = new Float64Array(rows * p.dim);
  for (let r = 0; r < rows * p.groups; r++) {
    const run = Array.from(d.x.subarray(r * n, (r + 1) * n));
    const mean = p.kind === 'rms' ? 0 : run.reduce((a, b) => a + b, 0) / n;
    const spread = run.reduce((a, b) => a + (b - mean) ** 2, 0) / n;
    run.forEach((v, i) => {
      const bias = p.biasElem === undefined ? 0 : (d.bias.values[i] ?? NaN);
      y[r * n + i] = ((v - mean) / Math.sqrt(spread + p.eps)) * (d.weight.values[i] ?? NaN) + bias;
    });
  }
  return y;
}

function compute(p: NormProblem, d: Data, T: number, s?: NormSchedule, caps = CAPS, subgroups = false): Float32Array {
  const y = new Float32Array(T * (p.rowsPerToken ?? 1) * p.dim);
  run(norm(p, s, caps), { x: d.x, weight: d.weight.data, bias: d.bias.data, y }, { T, subgroups });
  return y;
}

describe('norm', () => {
  it('normalises rows of any width, each independent of the others', () => {
    for (const kind of ['rms', 'layer'] as const) {
      for (const dim of [1, 3, 10, 31, 33, 40]) {
        for (const T of [1, 2, 3, 7]) {
          // A layer norm of one column is 0 / √eps.
          const p = problem({ kind, dim, eps: 1e-3, ...(kind === 'layer' ? { biasElem: 'f32' } : {}) });
          const d = makeData(p, T);
          const y = compute(p, d, T, { block: 8 }, NARROW);
          expectClose(y, reference(p, d, T), 4e-6);
          const last = { ...d, x: d.x.slice((T - 1) * dim) };
          expectSameBits(compute(p, last, 1, { block: 8 }), y.slice((T - 1) * dim));
        }
      }
    }
  });

  it('normalises groups and several rows a token, with weights of two bytes', () => {
    for (const [dim, groups, weightElem] of [[12, 4, 'f16'], [40, 4, 'bf16'], [33, 3, 'f16'], [6, 6, 'f32']] as const) {
      const p = problem({ dim, groups, weightElem, rowsPerToken: 2 });
      const d = makeData(p, 6);
      expectClose(compute(p, d, 3), reference(p, d, 6), 4e-6);
    }
    const p = problem({ kind: 'layer', dim: 24, groups: 2, weightElem: 'bf16', biasElem: 'f16' });
    const d = makeData(p, 2);
    expectClose(compute(p, d, 2), reference(p, d, 2), 4e-6);
  });

  it('sums with subgroups where there are any', () => {
    const p = problem({ dim: 1000 });
    const d = makeData(p, 2);
    expect(normSchedule(p, CAPS).block).toBe(64);
    expectClose(compute(p, d, 2, undefined, CAPS, true), reference(p, d, 2), 4e-6);
  });

  it('has an answer for a row of zeros and for a mean far from zero', () => {
    const p = problem({ dim: 8 });
    const zeros = { ...makeData(p, 1), x: new Float32Array(8) };
    for (const v of compute(p, zeros, 1)) expect(Math.abs(v)).toBe(0);
    const layer = problem({ kind: 'layer', dim: 8 });
    const far = { ...makeData(layer, 1), x: Float32Array.from({ length: 8 }, (_, i) => 1e4 + i) };
    expectClose(compute(layer, far, 1), reference(layer, far, 1), 1e-5);
  });

  it('refuses groups that do not divide the row', () => {
    expect(() => norm(problem({ dim: 10, groups: 3 }), undefined, CAPS)).toThrow(/dim \/ groups/);
  });
});
