/** Expert products by teams that are subgroups: CUDA's form for few tokens, on the interpreter. */
import { describe, expect, it } from 'vitest';
import { groupedLinear } from '../../../src/kernels/index.ts';
import type { GroupedProblem } from '../../../src/kernels/index.ts';
import { groupedSchedule } from '../../../src/kernels/moe/grouped.ts';
import { CUDA_SM80, CUDA_SM90A } from '../../../src/target/cuda.ts';
import type { Capabilities } from '../../../src/target/types.ts';
import { expectEveryMutationCaught } from '../../ir/kernel/mutate.ts';
import type { MutationRun } from '../../ir/kernel/mutate.ts';
import { GLU, check, makeData, problem } from './grouped-check.ts';
import { expectSameBits, mutationRun } from './harness.ts';
import { makeIds } from './plans.ts';

const FOLDED: Capabilities = { ...CUDA_SM80, maxGrid: 3 };
/** Depths that fill rounds of the team, leave some accesses over, and hardly begin one. */
const DEPTHS = [256, 300, 7, 40];

describe('rows', () => {
  const ids = (T: number): Uint32Array => makeIds(T, 2, 4, T, 0.2);
  it('takes any depth, with everything beside it', () => {
    for (const k of DEPTHS) {
      const shared = { n: 9, k, weightElem: 'bf16', ownX: false, gate: false } as const;
      const p = problem({ mode: 'direct', experts: 4, slots: 2, n: 5, k, gather: true, weightElem: 'bf16', epilogue: GLU, shared });
      check(p, 3, ids(3), undefined, CUDA_SM80);
      check({ ...p, biasElem: 'f32', xElem: 'bf16', routeWeights: true }, 1, ids(1), undefined, FOLDED);
      check({ ...p, epilogue: { kind: 'none' }, weightElem: 'f32', shared: { ...shared, ownX: true, xElem: 'f16' } }, 2, ids(2), undefined, FOLDED);
    }
  });

  it('gives the same bits however many accesses are under way, and whatever the columns of a team', () => {
    const p = problem({ mode: 'direct', experts: 4, slots: 2, n: 7, k: 520, gather: true, weightElem: 'f16', epilogue: GLU });
    const first = check(p, 2, ids(2), { matvec: { block: 32, team: 32, cols: 1 } }, CUDA_SM80);
    for (const unroll of [2, 3, 5, 16]) {
      const other = check(p, 2, ids(2), { matvec: { block: 64, team: 32, cols: 2, unroll } }, CUDA_SM80);
      expectSameBits(other.y, first.y);
    }
  });

  it('runs split banks segment by segment', () => {
    const p = problem({ mode: 'direct', experts: 4, slots: 2, n: 7, k: 140, gather: true, weightElem: 'f16', biasElem: 'f32' });
    const whole = check(p, 3, ids(3), undefined, CUDA_SM80);
    for (const segmentRows of [1, 3]) expectSameBits(check({ ...p, segmentRows }, 3, ids(3), undefined, CUDA_SM80).y, whole.y);
  });
});

describe('combine', () => {
  const shared = { n: 5, k: 300, weightElem: 'bf16', ownX: true, gate: false } as const;
  const forms: Record<string, Partial<GroupedProblem>> = {
    plain: {},
    'bias and scale': { routeWeights: true, biasElem: 'f32', scale: 2.5 },
    residual: { routeWeights: true, residual: true, scale: 0.5 },
    'gated shared': { routeWeights: true, residual: true, shared: { ...shared, gate: true, biasElem: 'f32' } },
    gathered: { routeWeights: true, gather: true, shared: { ...shared, k: 150, ownX: false } },
    halves: { routeWeights: true, weightElem: 'f16', xElem: 'f16', shared: { ...shared, xElem: 'bf16' } },
  };
  const size = { experts: 6, slots: 3, n: 5, k: 150, combine: true } as const;
  for (const [name, form] of Object.entries(forms)) {
    it(name, () => {
      for (const mode of ['direct', 'sorted'] as const) {
        for (const [T, drop] of [[1, 0], [3, 0.3], [2, 1]] as const) {
          const ids = makeIds(T, 3, 6, T, drop);
          const p = problem({ ...size, mode, ...form });
          check(p, T, ids, undefined, T === 3 ? FOLDED : CUDA_SM80);
          for (const ways of [1, 4]) check(p, T, ids, { matvec: { block: 256, team: 32, cols: 2, unroll: 3, ways } }, CUDA_SM80);
          if (mode === 'direct') for (const segmentRows of [1, 4]) check({ ...p, segmentRows }, T, ids, undefined, CUDA_SM80, 4e-6);
        }
      }
    });
  }

  it('takes more ways than slots', () => {
    const p = problem({ ...size, mode: 'direct', slots: 1, routeWeights: true, shared });
    check(p, 2, makeIds(2, 1, 6, 1), { matvec: { block: 128, team: 32, cols: 1, unroll: 4, ways: 4 } }, CUDA_SM80);
  });
});

describe('schedules', () => {
  it('keep enough bytes under way to hide the latency of memory', () => {
    for (const [n, k] of [[1408, 2048], [1024, 2048], [768, 2048], [14336, 4096], [2048, 7168]] as const) {
      const { matvec } = groupedSchedule(problem({ mode: 'direct', experts: 64, slots: 6, n, k, weightElem: 'bf16', epilogue: GLU }), CUDA_SM90A);
      // A quarter of the threads that fit, two matrices of 8 bytes an access: 40 KiB a processor.
      expect((matvec?.unroll ?? 0) * 2 * 8 * 512).toBeGreaterThanOrEqual(40 * 1024);
    }
    for (const [n, k, slots] of [[2048, 1408, 6], [2048, 1024, 8], [2048, 768, 8]] as const) {
      const p = problem({ mode: 'direct', experts: 64, slots, n, k, weightElem: 'bf16', combine: true, routeWeights: true });
      const { matvec } = groupedSchedule(p, CUDA_SM90A);
      // The threads of one token: a team a column and way.
      const threads = (n * 32 * (matvec?.ways ?? 1)) / 132;
      expect((matvec?.unroll ?? 0) * 8 * threads).toBeGreaterThanOrEqual(40 * 1024);
    }
  });

  it('refuses ways and accesses under way where teams are no subgroups', () => {
    const p = problem({ mode: 'direct', experts: 4, slots: 2, n: 8, k: 64, combine: true });
    expect(() => groupedLinear(p, { matvec: { block: 64, team: 16, cols: 1, unroll: 2 } }, CUDA_SM80)).toThrow(/a team of 16 is no subgroup/);
    expect(() => groupedLinear(p, { matvec: { block: 96, team: 32, cols: 1, ways: 2 } }, CUDA_SM80)).toThrow(/2 ways do not divide 3 teams/);
  });
});

describe('no mutation goes unnoticed', () => {
  const T = 3;
  /** So few blocks a dimension that some are left over. */
  const FEW: Capabilities = { ...CUDA_SM80, maxGrid: 2 };
  const ids = Uint32Array.of(0, 1, 1, 0xffff_ffff, 2, 0);
  /** Two tokens' worth of operands, and the two steps of a bank split after its second expert. */
  const steps = (p: GroupedProblem, launch: ReturnType<typeof groupedLinear>, results: Record<string, Float32Array>, poison: readonly string[]): MutationRun[] =>
    [[0, 2], [2, 1]].map(([first = 0, count = 0]) => {
      const { operands } = makeData(p, T, ids);
      const per = (operands['weight']?.length ?? 0) / p.experts;
      const weight = operands['weight']?.slice(first * per, (first + count) * per) ?? new Float32Array(0);
      const constants = { 'segment.first': first, 'segment.count': count };
      return mutationRun(launch, { ...operands, weight, ...results }, { T, constants }, first === 0 ? poison : []);
    });
  const size = { experts: 3, slots: 2, n: 3, k: 148, mode: 'direct', segmentRows: 2, biasElem: 'f32' } as const;

  it('rows', () => {
    const p = problem({ ...size, gather: true, epilogue: GLU, shared: { n: 5, k: 148, weightElem: 'f32', ownX: false, gate: false } });
    const launch = groupedLinear(p, { matvec: { block: 64, team: 32, cols: 1, unroll: 1 } }, FEW);
    const results = { y: new Float32Array(T * 2 * 3), shared: new Float32Array(T * 5) };
    // Columns that are not there are masked.
    expectEveryMutationCaught(launch.kernel, steps(p, launch, results, ['y', 'shared']), { subgroups: true, equivalent: [/col0 < 3/] });
  });

  it('combine', () => {
    const shared = { n: 3, k: 140, weightElem: 'f32', biasElem: 'f32', ownX: true, gate: true } as const;
    for (const ways of [1, 2]) {
      const p = problem({ ...size, combine: true, routeWeights: true, residual: true, scale: 0.5, shared });
      const launch = groupedLinear(p, { matvec: { block: 128, team: 32, cols: 1, unroll: 1, ways } }, FEW);
      const y = Float32Array.from({ length: T * 3 }, (_, i) => i + 1);
      expectEveryMutationCaught(launch.kernel, steps(p, launch, { y }, ['y']), { subgroups: true });
    }
  });
});
