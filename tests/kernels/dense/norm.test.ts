import { describe, expect, it } from 'vitest';
import { norm, normSchedule } from '../../../src/kernels/dense/norm.ts';
import { normTeams } from '../../../src/kernels/dense/norm-teams.ts';
import type { NormTeams } from '../../../src/kernels/dense/norm-teams.ts';
import type { NormProblem, NormSchedule } from '../../../src/kernels/dense/norm.ts';
import { CUDA_SM80 } from '../../../src/target/cuda.ts';
import { expectEveryMutationCaught } from '../../ir/kernel/mutate.ts';
import { CAPS, NARROW, expectClose, expectSameBits, gridOf, memoryOf, random, run, stored } from './harness.ts';

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

function compute(p: NormProblem, d: Data, T: number, s?: NormSchedule | NormTeams, caps = CAPS, subgroups = false): Float32Array {
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

describe('norm by teams', () => {
  const FOLDED = { ...CUDA_SM80, maxGrid: 3 };

  it('normalises runs by subgroups and by blocks', () => {
    for (const kind of ['rms', 'layer'] as const) {
      for (const [dim, groups] of [[1, 1], [33, 1], [128, 1], [512, 4], [600, 3], [516, 1], [2100, 1]] as const) {
        for (const T of [1, 5]) {
          const p = problem({ kind, dim, groups, eps: 1e-3, weightElem: 'bf16', ...(kind === 'layer' ? { biasElem: 'f32' } : {}) });
          const d = makeData(p, T);
          expectClose(compute(p, d, T, undefined, T === 5 ? FOLDED : CUDA_SM80, true), reference(p, d, T), 4e-6);
        }
      }
    }
    const p = problem({ dim: 24, groups: 2, rowsPerToken: 3 });
    const d = makeData(p, 6);
    expectClose(compute(p, d, 2, undefined, CUDA_SM80, true), reference(p, d, 6), 4e-6);
  });

  it('chooses by the length of a run', () => {
    expect(normTeams(problem({ dim: 4096, groups: 32 }), CUDA_SM80)).toEqual({ block: 128, team: 32 });
    expect(normTeams(problem({ dim: 2048 }), CUDA_SM80)).toEqual({ block: 128, team: 128 });
    expect(normTeams(problem({ dim: 7168 }), CUDA_SM80)).toEqual({ block: 512, team: 512 });
    expect(normTeams(problem({ dim: 65_536 }), CUDA_SM80)).toBeUndefined();
    expect(normTeams(problem({ dim: 2048 }), CAPS)).toBeUndefined();
    expect(() => norm(problem({ dim: 64 }), { block: 64, team: 16 }, CUDA_SM80)).toThrow(/neither subgroups nor blocks/);
    expect(() => norm(problem({ dim: 4096 }), { block: 32, team: 32 }, CUDA_SM80)).toThrow(/32 accesses a thread/);
  });

  it('survives no mutation', () => {
    // Runs that fill their teams, and runs that do not: what is beyond a run is no access of it, however long the loop. Reductions
    // have room for the smallest subgroups there are.
    const beyond = [/for load/, /for mean_u/, /for spread_u/, /for put/, /shared parts_f32/];
    for (const [s, dim, maxGrid, equivalent] of [
      [{ block: 64, team: 32 }, 256, 2, []],
      [{ block: 64, team: 64 }, 276, 3, beyond],
    ] as const) {
      const p = problem({ kind: 'layer', dim, groups: 1, biasElem: 'f32' });
      const d = makeData(p, 5);
      const launch = norm(p, s, { ...CUDA_SM80, maxGrid });
      const memory = (): ReturnType<typeof memoryOf> => memoryOf(launch, { x: d.x, weight: d.weight.data, bias: d.bias.data, y: new Float32Array(5 * dim) });
      expectEveryMutationCaught(launch.kernel, [{ grid: gridOf(launch, 5), scalars: { T: 5 }, poison: ['y'], memory }], { subgroups: true, equivalent });
    }
  });
});
