/** Products with quantised weights on the interpreter: every form against the reference with the values that the words stand for. */
import { describe, expect, it } from 'vitest';
import { QUANT_NAMES } from '../../src/base/quant.ts';
import { linear } from '../../src/kernels/dense/linear.ts';
import type { LinearProblem } from '../../src/kernels/dense/linear.ts';
import type { LinearSchedule } from '../../src/kernels/dense/matmul.ts';
import { groupedLinear } from '../../src/kernels/index.ts';
import { groupedSchedule } from '../../src/kernels/moe/grouped.ts';
import { piecesOf } from '../../src/kernels/weight-matrix.ts';
import { softwareTileRows } from '../../src/passes/graph/plan.ts';
import type { GroupedSchedule, WeightElem } from '../../src/kernels/index.ts';
import { legalTile } from '../../src/kernels/schedule.ts';
import type { MatvecSchedule } from '../../src/kernels/schedule.ts';
import { CUDA_SM80, CUDA_SM90A } from '../../src/target/cuda.ts';
import { CAPS, FOURS, expectClose, expectSameBits, random, run, stored } from './dense/harness.ts';
import { CLAMPED, type Form, GLU, check, problem } from './moe/grouped-check.ts';
import { makeIds } from './moe/plans.ts';

const TILES: readonly GroupedSchedule[] = [
  { tile: { bm: 4, bn: 8, bk: 8, tm: 2, tn: 2, staging: 'register' } },
  { tile: { bm: 4, bn: 8, bk: 16, tm: 4, tn: 1, staging: 'shared' } },
  { tile: { bm: 4, bn: 8, bk: 32, tm: 2, tn: 4, staging: 'shared' } },
];
const BROADCAST: GroupedSchedule = { tile: { bm: 4, bn: 8, bk: 8, tm: 4, tn: 2, staging: 'broadcast' } };

describe('experts', () => {
  it.each(QUANT_NAMES)('in %s: tiles of a sorted plan, every staging with the same bits', (weightElem) => {
    for (const [k, n, T] of [[32, 5, 7], [96, 10, 33], [64, 8, 65]] as const) {
      const p = problem({ experts: 3, slots: 2, n, k, weightElem, gather: true, epilogue: GLU });
      const ids = makeIds(T, 2, 3, 5, 0.2);
      const [first, ...others] = TILES.map((s) => check(p, T, ids, s).y);
      if (first === undefined) throw new Error('no tile');
      for (const y of [...others, check(p, T, ids, BROADCAST, FOURS).y]) expectSameBits(y, first);
    }
  });

  it.each(QUANT_NAMES)('in %s: rows of a direct plan, with the bits of the tiles', (weightElem) => {
    const form: Form = { experts: 3, slots: 2, n: 9, k: 96, weightElem, gather: true, epilogue: GLU, tileRows: 4 };
    const ids = makeIds(5, 2, 3, 7, 0);
    const rows = check(problem({ ...form, mode: 'direct' }), 5, ids).y;
    const pair = { matvec: { block: 8, team: 1, cols: 2 } } as const;
    expectSameBits(check(problem({ ...form, mode: 'direct' }), 5, ids, pair).y, rows);
    // Threads that are no subgroup.
    check(problem({ ...form, mode: 'direct' }), 5, ids, { matvec: { block: 16, team: 4, cols: 1 } });
    const sorted = check(problem(form), 5, ids).y;
    expect([...sorted].sort()).toEqual([...rows].sort());
  });

  it.each(QUANT_NAMES)('in %s: shared experts, biases, weights on the input, sums over the slots', (weightElem) => {
    const shared = { n: 7, k: 64, weightElem, biasElem: 'f32', ownX: true, gate: false } as const;
    const base: Form = { experts: 4, slots: 3, n: 7, k: 32, weightElem };
    const forms: readonly Form[] = [
      { ...base, epilogue: CLAMPED, biasElem: 'f32', routeWeights: true, shared },
      { ...base, mode: 'direct', epilogue: GLU, gather: true, routeWeights: true, shared: { ...shared, k: 32, ownX: false } },
      { ...base, mode: 'direct', combine: true, routeWeights: true, residual: true, scale: 0.5, shared: { ...shared, gate: true } },
      { ...base, mode: 'direct', combine: true, routeWeights: false },
      // Plain experts beside quantised shared ones, and the other way round.
      { ...base, weightElem: 'f16', epilogue: GLU, shared },
      { ...base, epilogue: GLU, shared: { ...shared, weightElem: 'bf16' } },
    ];
    for (const form of forms) for (const T of [1, 6]) check(problem(form), T, makeIds(T, 3, 4, T, 0.1));
  });

  it.each(QUANT_NAMES)('in %s: banks that are split', (weightElem) => {
    const base: Form = { experts: 5, slots: 2, n: 6, k: 64, weightElem, segmentRows: 2 };
    const ids = makeIds(9, 2, 5, 3, 0);
    check(problem({ ...base, gather: true, epilogue: GLU }), 9, ids);
    check(problem({ ...base, mode: 'direct', gather: true }), 9, ids);
    check(problem({ ...base, mode: 'direct', combine: true, routeWeights: true, residual: true }), 9, ids);
  });

  it.each(QUANT_NAMES)('in %s: teams that are subgroups', (weightElem) => {
    const caps = { ...CUDA_SM80, subgroupSize: 4 };
    for (const k of [32, 64, 160, 512]) {
      const form: Form = { experts: 3, slots: 2, n: 6, k, weightElem, mode: 'direct' };
      const ids = makeIds(3, 2, 3, k, 0);
      check(problem({ ...form, gather: true, epilogue: GLU, routeWeights: true }), 3, ids, { matvec: { block: 8, team: 4, cols: 2, unroll: 2 } }, caps, 5e-6);
      check(problem({ ...form, combine: true, routeWeights: true, residual: true, shared: { n: 6, k: 96, weightElem, ownX: true, gate: true } }), 3, ids, undefined, caps, 5e-6);
    }
    for (const k of [64, 2048]) check(problem({ experts: 2, slots: 1, n: 3, k, weightElem, mode: 'direct', gather: true }), 2, makeIds(2, 1, 2, 1, 0), undefined, CUDA_SM90A, 5e-6);
  });

  it('are refused where a schedule cannot read them, with a reason', () => {
    const shape = { k: 64, lanes: 4, count: 1, weightElem: 'int4_f16', xElem: 'f16' } as const;
    const why = (verdict: ReturnType<typeof legalTile>): string => (verdict.ok ? 'ok' : verdict.why);
    expect(why(legalTile({ variant: 'mma-sync', bm: 16, bn: 16, bk: 32, warpsM: 1, warpsN: 1, stages: 2 }, shape, CUDA_SM80))).toBe('mma-sync multiplies 16-bit weights, these are int4_f16');
    expect(why(legalTile({ variant: 'wgmma', bm: 64, bn: 64, bk: 64, consumers: 1, stages: 2 }, shape, CUDA_SM90A))).toBe('wgmma multiplies 16-bit weights, these are int4_f16');
    expect(why(legalTile({ bm: 4, bn: 8, bk: 4, tm: 2, tn: 2, staging: 'shared' }, shape, CAPS))).toContain('no multiple of 8');
    expect(why(legalTile({ bm: 4, bn: 128, bk: 8, tm: 4, tn: 2, staging: 'broadcast' }, shape, { ...CAPS, subgroups: true, subgroupSize: 64 }))).toContain('more than a group');
    expect(() => groupedLinear(problem({ experts: 2, slots: 1, n: 4, k: 40, weightElem: 'int8_f16' }), undefined, CAPS)).toThrow('no whole groups of 32');
  });

  it('take wider pieces than plain weights where a CPU plays the GPU, and no tensor cores elsewhere', () => {
    const small: typeof CAPS = { ...CAPS, subgroups: true, subgroupSize: 8 };
    const tile = (weightElem: WeightElem, tileRows: number, epilogue = GLU): unknown =>
      groupedSchedule(problem({ experts: 8, slots: 2, n: 512, k: 512, weightElem, tileRows, epilogue }), small).tile;
    expect(tile('f32', 8)).toMatchObject({ tm: 8, tn: 1, staging: 'broadcast' });
    expect(tile('int4_f16', 8)).toMatchObject({ tm: 8, tn: 2, staging: 'broadcast' });
    expect(tile('int8_f32', 12, { kind: 'none' })).toMatchObject({ tm: 12, tn: 4, staging: 'broadcast' });
    expect([softwareTileRows(8, 2, 128, 4), softwareTileRows(8, 2, 128, 8), softwareTileRows(8, 2, 128), softwareTileRows(8, 2, 8, 4)]).toEqual([8, 12, 12, 4]);
    for (const caps of [CUDA_SM80, CUDA_SM90A])
      expect(groupedSchedule(problem({ experts: 8, slots: 2, n: 512, k: 512, weightElem: 'int4_f16', tileRows: 64, xElem: 'f32' }), caps).tile?.variant).toBeUndefined();
  });

  it('are read in whole groups by narrow teams, in neighbouring words by wide ones', () => {
    expect(piecesOf('int4_f16', 512, 1)).toMatchObject({ words: 4, count: 16, span: 8 });
    expect(piecesOf('int8_f32', 512, 8)).toMatchObject({ words: 8, count: 16, span: 8 });
    expect(piecesOf('int8_f32', 64, 8)).toMatchObject({ words: 2, count: 8, span: 2 });
    expect(piecesOf('int4_f16', 512, 32)).toMatchObject({ words: 1, count: 64, span: 2 });
    expect(piecesOf('bf16', 512, 32)).toMatchObject({ words: 1, count: 128, span: 1 });
  });

  it('run by default on every target', () => {
    for (const caps of [CAPS, FOURS, CUDA_SM80, CUDA_SM90A]) {
      for (const mode of ['sorted', 'direct'] as const) {
        for (const tileRows of [4, 64, 128]) {
          if (mode === 'direct' && tileRows > 4) continue;
          const form: Form = { experts: 2, slots: 1, n: 40, k: 64, weightElem: 'int4_f16', gather: true, epilogue: GLU, tileRows, mode };
          check(problem(form), 9, makeIds(9, 1, 2, 1, 0), undefined, caps);
        }
      }
    }
  });
});

describe('dense products with quantised weights', () => {
  const form = (p: Partial<LinearProblem>): LinearProblem => ({ n: 10, k: 96, epilogue: { kind: 'none' }, scale: 1, residual: false, weightElem: 'int4_f16', ...p });
  const compute = (p: LinearProblem, T: number, s?: LinearSchedule | MatvecSchedule, caps = CAPS): Float32Array => {
    const m = p.epilogue.kind === 'glu' ? 2 * p.n : p.n;
    const x = random(T * p.k, 1);
    const weight = stored(random(m * p.k, 2), p.weightElem, p.k);
    const y = new Float32Array(T * p.n);
    run(linear(p, s, caps), { x, weight: weight.data, y }, { T, subgroups: caps.subgroups, subgroupSize: caps.subgroupSize });
    if (m === p.n) {
      const want = Float64Array.from({ length: T * p.n }, (_, at) => {
        const [t, j] = [Math.floor(at / p.n), at % p.n];
        let sum = 0;
        for (let i = 0; i < p.k; i++) sum += (x[t * p.k + i] ?? NaN) * (weight.values[j * p.k + i] ?? NaN);
        return sum;
      });
      expectClose(y, want);
    }
    return y;
  };

  it.each(QUANT_NAMES)('%s: every form', (weightElem) => {
    const p = form({ weightElem });
    const register = { bm: 8, bn: 8, tm: 4, tn: 2, bk: 8, staging: 'register', oneRow: 0 } as const;
    const first = compute(p, 7, register);
    expectSameBits(compute(p, 7, { ...register, bk: 32, staging: 'shared' }), first);
    expectSameBits(compute(p, 7, { ...register, staging: 'broadcast' }, FOURS), first);
    expectSameBits(compute({ ...p, maxRows: 8 }, 7, { ...register, tm: 8, oneRow: 1 }), first);
    compute({ ...p, maxRows: 8 }, 1);
    for (const k of [32, 320]) for (const T of [1, 3, 8]) compute({ ...p, k, maxRows: 8 }, T, undefined, CUDA_SM80);
    compute({ ...p, epilogue: GLU }, 5);
  });
});
