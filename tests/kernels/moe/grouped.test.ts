import { describe, expect, it } from 'vitest';
import { combine, groupedLinear } from '../../../src/kernels/index.ts';
import type { Epilogue, GroupedProblem, GroupedSchedule } from '../../../src/kernels/index.ts';
import { CLAMPED, type Form, GLU, check, makeData, problem } from './grouped-check.ts';
import { CAPS, FOURS, NARROW, expectSameBits, run } from './harness.ts';
import { makeIds } from './plans.ts';

describe('grouped linear', () => {
  for (const mode of ['sorted', 'direct'] as const) {
    describe(mode, () => {
      const ids = (T: number, p: Form, drop = 0): Uint32Array => makeIds(T, p.slots, p.experts, T, drop);

      it('takes every size and number of tokens', () => {
        for (const [experts, slots, n, k] of [
          [1, 1, 1, 1],
          [2, 2, 3, 10],
          [5, 3, 33, 31],
          [13, 2, 10, 40],
          [3, 1, 40, 33],
        ] as const) {
          for (const T of [1, 2, 7, 17]) {
            for (const gather of [true, false])
              check(
                problem({ mode, experts, slots, n, k, gather }),
                T,
                ids(T, { experts, slots, n, k }, gather ? 0 : 0.3),
                undefined,
                T === 7 ? NARROW : CAPS,
              );
          }
        }
      });

      it('takes any load', () => {
        const p = problem({ mode, experts: 5, slots: 1, n: 9, k: 12, gather: true });
        for (const e of [0, 2, 4]) check(p, 11, new Uint32Array(11).fill(e));
        check(
          p,
          12,
          Uint32Array.from({ length: 12 }, (_, i) => [0, 1, 3, 4][i % 4] ?? 0),
        );
      });

      it('applies epilogues, biases and input weights', () => {
        const size = { mode, experts: 4, slots: 2, n: 11, k: 20 };
        const epilogues: Epilogue[] = [
          GLU,
          CLAMPED,
          { kind: 'glu', activation: 'gelu' },
          { kind: 'glu', activation: 'gelu-tanh' },
          { kind: 'act', activation: 'relu' },
          { kind: 'act', activation: 'gelu-tanh' },
          { kind: 'act', activation: 'gelu' },
          { kind: 'act', activation: 'silu' },
        ];
        for (const epilogue of epilogues) {
          check(problem({ ...size, epilogue, gather: true }), 5, ids(5, size));
          check(problem({ ...size, epilogue, biasElem: 'f32', routeWeights: true }), 5, ids(5, size, 0.2));
        }
      });

      it('reads half-precision weights of odd and even depth', () => {
        for (const k of [12, 10, 7]) {
          for (const elem of ['f16', 'bf16'] as const) {
            const size = { mode, experts: 3, slots: 2, n: 6, k };
            check(problem({ ...size, weightElem: elem, biasElem: elem, epilogue: GLU, gather: true }), 5, ids(5, size));
          }
        }
      });

      it('runs the shared FFN beside the experts', () => {
        for (const [n, sharedN] of [
          [10, 33],
          [33, 10],
          [8, 8],
        ] as const) {
          const size = { mode, experts: 4, slots: 2, n, k: 12 };
          const shared = { n: sharedN, k: 12, weightElem: 'f32', ownX: false, gate: false } as const;
          for (const T of [1, 6, 9]) {
            check(problem({ ...size, gather: true, epilogue: GLU, shared }), T, ids(T, size, 0.2));
            check(
              problem({ ...size, biasElem: 'f32', shared: { ...shared, k: 7, ownX: true, biasElem: 'f16', weightElem: 'bf16' } }),
              T,
              ids(T, size),
              undefined,
              NARROW,
            );
          }
        }
      });

      it('runs split banks segment by segment, bit for bit as a whole one', () => {
        const size = { mode, experts: 7, slots: 2, n: 9, k: 12 };
        const p = problem({
          ...size,
          gather: true,
          epilogue: GLU,
          biasElem: 'f32',
          shared: { n: 5, k: 12, weightElem: 'f32', ownX: false, gate: false },
        });
        const whole = check(p, 9, ids(9, size));
        for (const segmentRows of [1, 3, 7]) {
          const split = check({ ...p, segmentRows }, 9, ids(9, size));
          expectSameBits(split.y, whole.y);
          expectSameBits(split.shared, whole.shared);
        }
      });

      it('gives one result in all schedules that keep the order of sums', () => {
        const size = { mode, experts: 4, slots: 3, n: 21, k: 28 };
        const p = problem({ ...size, gather: true, epilogue: GLU, shared: { n: 30, k: 28, weightElem: 'f32', ownX: false, gate: false } });
        const first = check(p, 7, ids(7, size));
        const schedules: GroupedSchedule[] =
          mode === 'sorted'
            ? [
                { tile: { bm: 4, bn: 8, bk: 8, tm: 2, tn: 2, staging: 'shared' } },
                { tile: { bm: 4, bn: 16, bk: 12, tm: 1, tn: 4, staging: 'shared' } },
                { tile: { bm: 4, bn: 32, bk: 4, tm: 4, tn: 1, staging: 'register' } },
              ]
            : [{ matvec: { block: 8, team: 1, cols: 1 } }, { matvec: { block: 32, team: 1, cols: 3 } }];
        for (const s of schedules) {
          const other = check(p, 7, ids(7, size), s);
          expectSameBits(other.y, first.y);
          expectSameBits(other.shared, first.shared);
        }
      });
    });
  }

  it('has the same bits where subgroups hand rows round', () => {
    const shared = { n: 30, k: 28, weightElem: 'f32', ownX: false, gate: false } as const;
    for (const [k, tm, tn, bn] of [[28, 4, 2, 8], [7, 2, 1, 8], [40, 4, 1, 4]] as const) {
      const size = { experts: 4, slots: 3, n: 21, k };
      const tile = { bm: 4, bn, bk: 4, tm, tn, staging: 'broadcast' } as const;
      const forms: Partial<GroupedProblem>[] = [
        { gather: true, epilogue: GLU, shared: { ...shared, k } },
        { gather: true, epilogue: GLU, biasElem: 'f32', routeWeights: true, segmentRows: 3 },
        { shared: { ...shared, k: 12, ownX: true }, weightElem: 'f16' },
      ];
      for (const form of forms) {
        const p = problem({ ...size, ...form });
        const first = check(p, 7, makeIds(7, 3, 4, 7, 0.2), { tile: { ...tile, staging: 'register' } });
        const other = check(p, 7, makeIds(7, 3, 4, 7, 0.2), { tile }, FOURS);
        expectSameBits(other.y, first.y);
        expectSameBits(other.shared, first.shared);
      }
    }
    expect(() => groupedLinear(problem({ experts: 4, slots: 3, n: 21, k: 28 }), { tile: { bm: 4, bn: 8, bk: 4, tm: 4, tn: 2, staging: 'broadcast' } }, CAPS))
      .toThrow(/no known size/);
  });

  it('has the same bits with the schedules for small subgroups', () => {
    const shared = { n: 19, weightElem: 'f32', ownX: false, gate: false } as const;
    for (const k of [28, 7, 40]) {
      const size = { experts: 4, slots: 3, n: 19, k };
      const forms: Partial<GroupedProblem>[] = [
        { mode: 'direct', gather: true, epilogue: GLU, shared: { ...shared, k } },
        { mode: 'direct', epilogue: GLU, biasElem: 'f32', routeWeights: true, segmentRows: 3 },
        { mode: 'direct', combine: true, routeWeights: true, residual: true, scale: 2, shared: { ...shared, ownX: true, gate: true, k: 12 } },
        { mode: 'direct', combine: true, routeWeights: true, weightElem: 'bf16', biasElem: 'f32' },
        { mode: 'sorted', combine: true, routeWeights: true },
        ...[1, 4, 8, 12, 16].map((tileRows) => ({ mode: 'sorted', tileRows, gather: true, epilogue: GLU }) as const),
        ...[4, 8, 12].map((tileRows) => ({ mode: 'sorted', tileRows }) as const),
      ];
      for (const form of forms) {
        const p = problem({ ...size, ...form });
        const ids = makeIds(5, 3, 4, 7, form.gather === true ? 0 : 0.2);
        const first = check(p, 5, ids);
        const other = check(p, 5, ids, undefined, FOURS);
        expectSameBits(other.y, first.y);
        expectSameBits(other.shared, first.shared);
      }
    }
  });

  it('splits the depth over teams', () => {
    const size = { mode: 'direct', experts: 4, slots: 2, n: 21, k: 40 } as const;
    const ids = makeIds(5, 2, 4, 1, 0.2);
    const shared = { n: 9, k: 40, weightElem: 'f32', ownX: false, gate: false } as const;
    for (const matvec of [
      { block: 32, team: 8, cols: 1 },
      { block: 16, team: 2, cols: 2 },
      { block: 32, team: 32, cols: 3 },
    ]) {
      check(problem({ ...size, gather: true, epilogue: GLU, biasElem: 'f32', shared }), 5, ids, { matvec });
      check(problem({ ...size, combine: true, routeWeights: true, shared: { ...shared, n: 21, k: 12, ownX: true } }), 5, ids, { matvec });
    }
  });

  it('gives rows the same bits in tiles and by themselves', () => {
    const size = { experts: 4, slots: 2, n: 18, k: 24, gather: true, epilogue: GLU, biasElem: 'f32' } as const;
    const ids = makeIds(8, 2, 4, 3);
    const sorted = problem({ ...size, mode: 'sorted' });
    const { by } = makeData(sorted, 8, ids);
    const tiles = check(sorted, 8, ids).y;
    const rows = check(problem({ ...size, mode: 'direct' }), 8, ids).y;
    by.rowOf.forEach((row, slot) => expectSameBits(tiles.slice(row * 18, (row + 1) * 18), rows.slice(slot * 18, (slot + 1) * 18)));
  });
});

describe('grouped linear with combine', () => {
  const shared = { n: 13, k: 10, weightElem: 'f32', ownX: true, gate: false } as const;
  const forms: Record<string, Partial<GroupedProblem>> = {
    plain: {},
    weighted: { routeWeights: true },
    'bias and scale': { routeWeights: true, biasElem: 'f32', scale: 2.5 },
    residual: { routeWeights: true, residual: true, scale: 0.5 },
    shared: { routeWeights: true, shared },
    'gated shared': { routeWeights: true, residual: true, shared: { ...shared, gate: true, biasElem: 'f32' } },
    gathered: { routeWeights: true, gather: true, shared: { ...shared, k: 24, ownX: false } },
    f16: { routeWeights: true, weightElem: 'f16', biasElem: 'f16', shared: { ...shared, weightElem: 'bf16', biasElem: 'bf16' } },
  };
  const size = { experts: 6, slots: 3, n: 13, k: 24, combine: true } as const;
  for (const [name, form] of Object.entries(forms)) {
    it(name, () => {
      for (const mode of ['direct', 'sorted'] as const) {
        for (const [T, drop] of [
          [1, 0],
          [3, 0.3],
          [8, 1],
        ] as const) {
          const ids = makeIds(T, 3, 6, T, drop);
          const p = problem({ ...size, mode, ...form });
          check(p, T, ids, undefined, T === 3 ? NARROW : CAPS);
          if (mode === 'direct') for (const segmentRows of [1, 4]) check({ ...p, segmentRows }, T, ids);
        }
      }
    });
  }

  it('equals the product and the sum in two kernels, bit for bit', () => {
    const T = 5;
    const ids = makeIds(T, 3, 6, 2, 0.2);
    const p = problem({
      ...size,
      mode: 'direct',
      routeWeights: true,
      residual: true,
      scale: 0.5,
      biasElem: 'f32',
      shared: { ...shared, gate: true },
    });
    const { operands } = makeData(p, T, ids);
    const fused = check(p, T, ids).y;
    const { routeWeights: _weights, ...rest } = operands;
    const apart: GroupedProblem = { ...p, combine: false, routeWeights: false, residual: false, scale: 1, shared: { ...shared } };
    const [rows, sharedRows, y] = [new Float32Array(T * 3 * 13), new Float32Array(T * 13), new Float32Array(T * 13)];
    run(groupedLinear(apart, undefined, CAPS), { ...rest, y: rows, shared: sharedRows }, { T }, ['y', 'shared'], ['y']);
    run(
      combine(
        {
          experts: 6,
          slots: 3,
          mode: 'direct',
          tileRows: 4,
          n: 13,
          weights: true,
          shared: true,
          sharedGate: true,
          residual: true,
          scale: 0.5,
        },
        undefined,
        CAPS,
      ),
      { ...operands, x: rows, weights: operands['routeWeights'] ?? rows, shared: sharedRows, y },
      { T },
      ['y'],
    );
    expectSameBits(y, fused);
  });
});

describe('grouped linear refuses', () => {
  const p = problem({ experts: 4, slots: 2, n: 8, k: 8 });
  it('what does not fit together', () => {
    expect(() => groupedLinear({ ...p, residual: true }, undefined, CAPS)).toThrow(/go with combine/);
    expect(() => groupedLinear({ ...p, combine: true, epilogue: GLU }, undefined, CAPS)).toThrow(/without an epilogue/);
    expect(() => groupedLinear({ ...p, experts: 70000, n: 70000 }, undefined, CAPS)).toThrow(/2\^32/);
    expect(() => groupedLinear(p, { tile: { bm: 8, bn: 8, bk: 8, tm: 8, tn: 1, staging: 'register' } }, CAPS)).toThrow(/tiles of 8 rows/);
    expect(() => groupedLinear(p, { tile: { bm: 4, bn: 4096, bk: 8, tm: 1, tn: 4, staging: 'register' } }, CAPS)).toThrow(/threads/);
    expect(() => groupedLinear({ ...p, shared: { n: 8, k: 8, weightElem: 'f32', ownX: false, gate: false } }, undefined, CAPS)).toThrow(
      /gathered/,
    );
  });
});
