import { describe, expect, it } from 'vitest';
import { DROPPED, capacity, combine, permute } from '../../../src/kernels/index.ts';
import { CUDA_SM80 } from '../../../src/target/cuda.ts';
import type { CapacityProblem, CombineProblem } from '../../../src/kernels/index.ts';
import { CAPS, NARROW, dataOf, expectClose, expectIds, expectWeights, planOf, random, reference, run } from './harness.ts';
import { makeIds, makePlan } from './plans.ts';

/** A team of threads an expert, and a block an expert. */
const DEVICES = [
  ['teams', CAPS, NARROW],
  ['blocks', CUDA_SM80, { ...CUDA_SM80, maxGrid: 3 }],
] as const;

describe.each(DEVICES)('plan by %s', (_name, device, folded) => {
  // A block of a thousand threads takes the interpreter its time.
  const small = device.subgroups ? { block: 64, piece: 2 } : undefined;
  it('sorts rows by expert, token and slot', () => {
    for (const [T, slots, experts] of [
      [1, 1, 1],
      [2, 2, 5],
      [3, 4, 4],
      [7, 3, 13],
      [17, 2, 8],
      [17, 6, 64],
      [40, 1, 3],
      [33, 8, 31],
    ] as const) {
      for (const tileRows of [1, 4, 8]) makePlan(makeIds(T, slots, experts, T), experts, slots, tileRows, small, device);
      makePlan(makeIds(T, slots, experts, T, 0.4), experts, slots, 8, small, folded);
    }
  });

  it('takes any load: all on one expert, on the last one, evenly, none at all', () => {
    for (const only of [0, 3, 6]) makePlan(new Uint32Array(50).fill(only), 7, 1, 8, undefined, device);
    makePlan(
      Uint32Array.from({ length: 56 }, (_, i) => i % 7),
      7,
      2,
      8,
      undefined,
      device,
    );
    makePlan(
      Uint32Array.from({ length: 60 }, (_, i) => (i % 6) + (i % 6 >= 3 ? 1 : 0)),
      7,
      2,
      4,
      undefined,
      device,
    );
    makePlan(new Uint32Array(12).fill(DROPPED), 5, 3, 8, undefined, device);
  });

  it('gives one result whatever the schedule', () => {
    const ids = makeIds(29, 4, 10, 3, 0.2);
    const first = makePlan(ids, 10, 4, 8, undefined, device);
    const schedules = device.subgroups
      ? [
          { block: 32, piece: 1 },
          { block: 64, piece: 3 },
          { block: 96, piece: 4 },
        ]
      : [
          { block: 32, team: 32 },
          { block: 32, team: 1 },
          { block: 64, team: 16 },
          { block: 8, team: 2 },
        ];
    for (const s of schedules) {
      expect(Array.from(makePlan(ids, 10, 4, 8, s, device).buffer)).toEqual(Array.from(first.buffer));
    }
  });

  it('is linear in the tokens', () => {
    const [T, slots, experts] = [3000, 4, 9];
    makePlan(makeIds(T, slots, experts, 1), experts, slots, 8, undefined, device);
  });
});

describe('capacity', () => {
  const check = (p: CapacityProblem, T: number, seq: number, drop = 0, caps = CAPS): Uint32Array => {
    const ids = makeIds(T, p.slots, p.experts, T + seq, drop);
    const weights = random(T * p.slots, 5).map((x) => x + 1.1);
    const [weightsOut, idsOut] = [new Float32Array(weights.length), new Uint32Array(ids.length)];
    run(capacity(p, undefined, caps), { weights, ids, weightsOut, idsOut }, { T, seq }, ['weightsOut', 'idsOut']);
    const shape = ['T', p.slots] as const;
    const want = reference('moe.capacity', { weights: { shape, data: weights }, ids: { shape, data: ids } }, p, { T, seq });
    expectIds(idsOut, dataOf(want, 'ids'));
    expectWeights(weightsOut, dataOf(want, 'weights'));
    return idsOut;
  };

  for (const renormalize of ['none', 'before', 'after'] as const) {
    it(`drops in the order of choices, renormalised ${renormalize}`, () => {
      const tokens = (n: number): CapacityProblem['limit'] => ({ kind: 'tokens', tokens: n });
      for (const [T, seq] of [
        [1, 1],
        [17, 17],
        [20, 10],
        [7, 3],
        [12, 5],
      ] as const) {
        for (const n of [0, 1, 3, 100]) check({ experts: 4, slots: 2, limit: tokens(n), renormalize }, T, seq, 0, n === 3 ? NARROW : CAPS);
      }
      check({ experts: 4, slots: 1, limit: tokens(3), renormalize }, 20, 10, 0.3);
      check({ experts: 40, slots: 3, limit: tokens(1), renormalize }, 33, 33);
      check({ experts: 1, slots: 1, limit: tokens(2), renormalize }, 10, 5);
      for (const factor of [1, 1.25, 0.5, 2]) {
        for (const seq of [3, 16, 17]) check({ experts: 5, slots: 2, limit: { kind: 'factor', factor, min: 1 }, renormalize }, 34, seq);
      }
    });
  }

  it('computes a capacity of decimal factors exactly', () => {
    // 0.29 · 100 is 28.999999999999996 in binary floating point.
    const ids = new Uint32Array(100);
    const weights = new Float32Array(100).fill(1);
    const [weightsOut, idsOut] = [new Float32Array(100), new Uint32Array(100)];
    const p: CapacityProblem = { experts: 1, slots: 1, limit: { kind: 'factor', factor: 0.29, min: 4 }, renormalize: 'none' };
    run(capacity(p, undefined, CAPS), { weights, ids, weightsOut, idsOut }, { T: 100 }, ['weightsOut', 'idsOut']);
    expect(idsOut.filter((id) => id === 0).length).toBe(29);
  });
});

describe('permute and combine', () => {
  const shapes = [
    [1, 1, 1, 1],
    [3, 2, 5, 3],
    [7, 3, 4, 10],
    [17, 2, 8, 32],
    [5, 4, 4, 33],
    [2, 6, 64, 40],
  ] as const;

  it('copies the rows of the plan', () => {
    for (const [T, slots, experts, dim] of shapes) {
      const ids = makeIds(T, slots, experts, 2, 0.25);
      const x = random(T * dim, 1);
      for (const mode of ['sorted', 'direct'] as const) {
        const planned = { experts, slots, mode, tileRows: 8 };
        const { buffer } = makePlan(ids, experts, slots, 8);
        const by = planOf(reference('moe.plan', { ids: { shape: ['T', slots], data: ids } }, planned, { T }));
        const y = new Float32Array(T * slots * dim);
        run(permute({ ...planned, dim }, undefined, dim === 10 ? NARROW : CAPS), { x, plan: buffer, y }, { T }, ['y'], ['y']);
        const want = dataOf(reference('moe.permute', { x: { shape: ['T', dim], data: x }, plan: by }, {}, { T }), 'y');
        want.forEach((v, i) => {
          if (!Number.isNaN(v)) expect(y[i]).toBe(v);
        });
      }
    }
  });

  it('sums the slots in order, with everything that joins the sum', () => {
    const forms: Partial<CombineProblem>[] = [
      {},
      { weights: true },
      { weights: true, shared: true },
      { weights: true, shared: true, sharedGate: true, residual: true, scale: 0.5 },
      { shared: true, sharedGate: true },
      { weights: true, residual: true },
      { weights: true, scale: 2 },
    ];
    for (const [T, slots, experts, n] of shapes) {
      const ids = makeIds(T, slots, experts, 2, 0.25);
      const { buffer, want: sorted } = makePlan(ids, experts, slots, 8);
      const [weights, shared, sharedGate, residual] = [
        random(T * slots, 1),
        random(T * n, 2),
        random(T, 3).map((v) => v * 4),
        random(T * n, 4),
      ];
      for (const mode of ['sorted', 'direct'] as const) {
        const by =
          mode === 'sorted'
            ? sorted
            : planOf(reference('moe.plan', { ids: { shape: ['T', slots], data: ids } }, { experts, slots, mode, tileRows: 8 }, { T }));
        // Rows that no slot uses hold NaN: nothing may read them.
        const x = random(T * slots * n, 5);
        by.expertOf.forEach((e, row) => e < 0 && x.fill(NaN, row * n, (row + 1) * n));
        for (const form of forms) {
          const p: CombineProblem = {
            experts,
            slots,
            mode,
            tileRows: 8,
            n,
            weights: false,
            shared: false,
            sharedGate: false,
            residual: false,
            scale: 1,
            ...form,
          };
          const y = new Float32Array(T * n);
          const operands = { x, plan: buffer, ids, weights, shared, sharedGate, residual };
          run(combine(p, undefined, n === 33 ? NARROW : CAPS), { ...operands, y }, { T }, ['y']);
          const ahead = new Float32Array(T * n);
          run(combine(p, { block: 16, ahead: 1 }, CAPS), { ...operands, y: ahead }, { T }, ['y']);
          expect(ahead).toEqual(y);
          const row = ['T', n] as const;
          const ins = {
            x: { shape: ['P', n] as const, data: x },
            plan: by,
            ids: { shape: ['T', slots] as const, data: ids },
            ...(p.weights ? { weights: { shape: ['T', slots] as const, data: weights } } : {}),
            ...(p.shared ? { shared: { shape: row, data: shared } } : {}),
            ...(p.sharedGate ? { sharedGate: { shape: ['T', 1] as const, data: sharedGate } } : {}),
            ...(p.residual ? { residual: { shape: row, data: residual } } : {}),
          };
          expectClose(y, dataOf(reference('moe.combine', ins, { slots, scale: p.scale }, { T }), 'y'));
        }
      }
    }
  });
});
