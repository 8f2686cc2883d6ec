/** Every barrier, guard, bound and buffer size of the expert families matters: the interpreter or the results notice each change. */
import { describe, it } from 'vitest';
import { evalSize } from '../../../src/base/size.ts';
import type { TypedArray } from '../../../src/ir/kernel/interpret.ts';
import { DROPPED, capacity, combine, groupedLinear, permute, plan, planSize, route } from '../../../src/kernels/index.ts';
import type { GroupedProblem, Launch, RouteProblem } from '../../../src/kernels/index.ts';
import { CUDA_SM80 } from '../../../src/target/cuda.ts';
import { expectEveryMutationCaught } from '../../ir/kernel/mutate.ts';
import type { MutationRun } from '../../ir/kernel/mutate.ts';
import { CAPS, NARROW, mutationRun, random } from './harness.ts';
import { makeIds, makePlan } from './plans.ts';

/** Differs for a NaN only, which no score is. */
const KEY_OF_NAN = /max\(select\(bits/;
/** Differs for the key of −0 only, which is never made: −0 has the key of +0. */
const KEY_OF_MINUS_ZERO = /bits\.f32\(select\(key\[/;

const base: RouteProblem = {
  experts: 12,
  slots: 3,
  score: 'sigmoid',
  select: { kind: 'top-k' },
  weights: 'scores',
  scale: 1,
  source: { kind: 'logits' },
};
const outputs = (p: RouteProblem, T: number): Record<string, TypedArray> => ({
  weights: new Float32Array(T * p.slots),
  ids: new Uint32Array(T * p.slots),
  faults: new Uint32Array(4),
});

function checkRoute(
  p: RouteProblem,
  operands: Record<string, TypedArray>,
  schedule: { block: number; team: number; per: number },
  equivalent: RegExp[] = [],
  T = 5,
): void {
  const group = route(p, schedule, NARROW);
  const [launch] = group.launches;
  if (launch === undefined) throw new Error('no launch');
  const all = { ...outputs(p, T), ...operands };
  const poison = ['weights', 'ids', 'xn'].filter((o) => launch.operands.includes(o));
  expectEveryMutationCaught(launch.kernel, [mutationRun(launch, all, { T }, poison)], { equivalent });
}

describe('no mutation goes unnoticed', () => {
  const logits = random(5 * 12, 3).map((x) => Math.round(x * 6) / 2);
  logits.fill(NaN, 12, 24);
  logits[0] = Infinity;
  logits[27] = 3.4028234663852886e38;
  logits.fill(0.5, 36, 48);
  const table = Int32Array.from({ length: 21 }, (_, i) => (i * 5) % 13);
  const tokenIds = Int32Array.from([0, 6, 7, 3, -1]);
  const hidden = { x: random(5 * 12, 1), gate: random(9 * 12, 2), normWeight: random(12, 4), xn: new Float32Array(60) };
  // Logits that are bad, or as large as a number can be, come from x as well.
  hidden.x.fill(NaN, 0, 12);

  it('route: groups and bias', () => {
    checkRoute(
      {
        ...base,
        groups: { count: 4, keep: 2, score: 'top2-sum' },
        selectionBiasElem: 'f32',
        renormalize: { p: 1, eps: 0, epsMode: 'add' },
      },
      { logits, selectionBias: random(12, 5) },
      { block: 4, team: 1, per: 1 },
      [KEY_OF_NAN, KEY_OF_MINUS_ZERO],
    );
  });
  it('route: softmax, best groups', () => {
    checkRoute({ ...base, score: 'softmax', groups: { count: 4, keep: 2, score: 'max' } }, { logits }, { block: 8, team: 1, per: 1 }, [
      KEY_OF_NAN,
    ]);
  });
  it('route: softmax over the chosen', () => {
    checkRoute({ ...base, score: 'none', weights: 'softmax-selected' }, { logits }, { block: 8, team: 1, per: 1 }, [KEY_OF_NAN]);
  });
  it('route: table', () => {
    checkRoute({ ...base, select: { kind: 'hash', vocab: 7 } }, { logits, table, tokenIds }, { block: 4, team: 1, per: 1 });
  });
  it('route: sparse mixer', () => {
    checkRoute({ ...base, select: { kind: 'sparse-mixer', jitter: 0.3 } }, { logits }, { block: 4, team: 1, per: 1 }, [KEY_OF_NAN]);
  });
  it('route: from the hidden state', () => {
    const norm = { kind: 'rms', eps: 1e-5, weightElem: 'f32' } as const;
    // A pass more finds no experts. That the largest number is no bad one is held on logits.
    // Expert 9 would be the first one of its team.
    const equivalent = [KEY_OF_NAN, /to \+ 8: for pass/, /is_bad/, /e1 < 9/];
    checkRoute(
      { ...base, experts: 9, source: { kind: 'hidden', dim: 12, gateElem: 'f32', norm } },
      hidden,
      { block: 8, team: 2, per: 2 },
      equivalent,
    );
  });
  it('route: expert choice', () => {
    const p: RouteProblem = { ...base, experts: 3, slots: 3, score: 'softmax', select: { kind: 'expert-choice', capacityFactor: 1.5 } };
    const [, launch] = route(p, undefined, CAPS).launches;
    if (launch === undefined) throw new Error('no second launch');
    const T = 9;
    const kinds = random(3 * 3, 7).map((x) => x + 1);
    const scores = Float32Array.from({ length: T * 3 }, (_, i) => kinds[(Math.floor(i / 3) % 3) * 3 + (i % 3)] ?? 0);
    const run = mutationRun(launch, { scores, ids: new Uint32Array(27), weights: new Float32Array(27) }, { T }, ['ids', 'weights']);
    expectEveryMutationCaught(launch.kernel, [run], { equivalent: [KEY_OF_NAN] });
  });

  it('plan', () => {
    const [T, slots, experts, tileRows] = [9, 3, 5, 2];
    const ids = makeIds(T, slots, experts, 4, 0.2);
    const words = evalSize(planSize({ experts, slots, tileRows }), { T, past: 0, seq: T, cap: 0 });
    const launch = plan({ experts, slots, tileRows }, { block: 8, team: 4 }, CAPS);
    expectEveryMutationCaught(launch.kernel, [mutationRun(launch, { ids, plan: new Uint32Array(words) }, { T }, ['plan'])], {
      // Rows and tiles stand in different parts of one buffer; the pass that places barriers cannot know.
      equivalent: [/barrier: deleted/],
    });
  });

  it('plan by blocks', () => {
    const [T, slots, experts, tileRows] = [50, 3, 5, 2];
    const ids = makeIds(T, slots, experts, 4, 0.2);
    const words = evalSize(planSize({ experts, slots, tileRows }), { T, past: 0, seq: T, cap: 0 });
    // Runs of three accesses in pieces of two, by two subgroups; four grid places more than experts.
    const launch = plan({ experts, slots, tileRows }, { block: 64, piece: 2 }, { ...CUDA_SM80, maxGrid: 3 });
    expectEveryMutationCaught(launch.kernel, [mutationRun(launch, { ids, plan: new Uint32Array(words) }, { T }, ['plan'])], {
      subgroups: true,
      // As above; a piece more holds none of a run, and what is copied beyond a run is not read. The last cell is there for the stride.
      // The condition around a thread's own ids is one of theirs too.
      equivalent: [/barrier: deleted/, /for (count|put)_k/, /(count|put)_offset\) < run/, /shared stage/, /\(first \+ (count|put)_k\) < last/],
    });
  });

  it('capacity', () => {
    for (const renormalize of ['before', 'after'] as const) {
      const launch = capacity({ experts: 5, slots: 2, limit: { kind: 'factor', factor: 1.1, min: 1 }, renormalize }, { block: 4 }, NARROW);
      const T = 29;
      const operands = {
        weights: random(T * 2, 1).map((x) => x + 1.5),
        ids: makeIds(T, 2, 5, 4, 0.2),
        weightsOut: new Float32Array(T * 2),
        idsOut: new Uint32Array(T * 2),
      };
      // No slot asks for an expert beyond the last. Used slots and unused ones are different slots, whatever the order.
      const equivalent = [/to \+ 1: for expert/, /barrier: deleted @ 0\.1\/0\.9$/];
      expectEveryMutationCaught(launch.kernel, [mutationRun(launch, operands, { T, seq: 6 }, ['weightsOut', 'idsOut'])], { equivalent });
    }
  });

  const [T, slots, experts] = [5, 2, 3];
  const ids = Uint32Array.from([0, 1, 1, 2, DROPPED, 0, 2, 1, 0, 2]);
  it('permute and combine', () => {
    const { buffer } = makePlan(ids, experts, slots, 2);
    const common = { experts, slots, mode: 'sorted', tileRows: 2 } as const;
    const n = 10;
    const moved = permute({ ...common, dim: n }, { block: 16 }, CAPS);
    expectEveryMutationCaught(
      moved.kernel,
      [mutationRun(moved, { x: random(T * n, 1), plan: buffer, y: new Float32Array(T * slots * n) }, { T }, ['y'])],
      {
        // Rows beyond the last one are not in use either.
        equivalent: [/item < /],
      },
    );
    const summed = combine(
      { ...common, n, weights: true, shared: true, sharedGate: true, residual: true, scale: 0.5 },
      { block: 16 },
      CAPS,
    );
    const operands = {
      x: random(T * slots * n, 2),
      plan: buffer,
      weights: random(T * slots, 3),
      shared: random(T * n, 4),
      sharedGate: random(T, 5),
      residual: random(T * n, 6),
      y: new Float32Array(T * n),
    };
    expectEveryMutationCaught(summed.kernel, [mutationRun(summed, operands, { T }, ['y'])]);
    const ahead = combine({ ...common, n, weights: true, shared: false, sharedGate: false, residual: false, scale: 1 }, { block: 16, ahead: 1 }, CAPS);
    expectEveryMutationCaught(ahead.kernel, [mutationRun(ahead, operands, { T }, ['y'])]);
  });

  const [n, k] = [6, 5];
  const grouped: GroupedProblem = {
    experts,
    slots,
    mode: 'sorted',
    tileRows: 2,
    n,
    k,
    gather: true,
    epilogue: { kind: 'glu', activation: 'silu' },
    weightElem: 'f32',
    biasElem: 'f32',
    routeWeights: true,
    combine: false,
    scale: 1,
    residual: false,
    shared: { n: 9, k, weightElem: 'f32', ownX: false, gate: false },
  };
  const operandsOf = (p: GroupedProblem): Record<string, TypedArray> => {
    const m = p.n * (p.epilogue.kind === 'glu' ? 2 : 1);
    return {
      ids,
      plan: makePlan(ids, experts, slots, p.tileRows).buffer,
      x: random((p.gather ? T : T * slots) * k, 1),
      weight: random(experts * m * k, 2),
      bias: random(experts * m, 3),
      routeWeights: random(T * slots, 4),
      sharedX: random(T * k, 5),
      sharedWeight: random(2 * 9 * k, 6),
      sharedGate: random(T, 7),
      residual: random(T * p.n, 8),
      y: new Float32Array((p.combine ? T : T * slots) * p.n),
      shared: new Float32Array(T * 9),
    };
  };
  const FEW: typeof CAPS = { ...CAPS, maxGrid: 4 };
  /** The two steps of a bank split after its second expert. */
  const steps = (launch: Launch, operands: Record<string, TypedArray>, poison: readonly string[]): MutationRun[] =>
    [
      [0, 2],
      [2, 1],
    ].map(([first = 0, count = 0]) => {
      const per = (operands['weight']?.length ?? 0) / experts;
      const weight = operands['weight']?.slice(first * per, (first + count) * per) ?? new Float32Array(0);
      const constants = { 'segment.first': first, 'segment.count': count };
      return mutationRun(launch, { ...operands, weight }, { T, constants }, first === 0 ? poison : []);
    });

  it('grouped linear: tiles', () => {
    const launch = groupedLinear(grouped, { tile: { bm: 2, bn: 4, bk: 4, tm: 1, tn: 2, staging: 'register' } }, NARROW);
    // Without them blocks run whose rows or columns are all masked.
    const equivalent = [/rows > 0/, /^bound.*shared_row0 < %T/];
    expectEveryMutationCaught(launch.kernel, [mutationRun(launch, operandsOf(grouped), { T }, ['y', 'shared'])], { equivalent });
  });
  it('grouped linear: rows', () => {
    const p: GroupedProblem = { ...grouped, mode: 'direct', segmentRows: 2 };
    for (const matvec of [
      { block: 4, team: 1, cols: 1 },
      { block: 8, team: 2, cols: 1 },
    ]) {
      const launch = groupedLinear(p, { matvec }, FEW);
      // Columns that are not there are masked.
      expectEveryMutationCaught(launch.kernel, steps(launch, operandsOf(p), ['y', 'shared']), { equivalent: [/col0 < 6/] });
    }
  });
  it('grouped linear: combine', () => {
    const p: GroupedProblem = {
      ...grouped,
      mode: 'direct',
      gather: false,
      epilogue: { kind: 'none' },
      combine: true,
      residual: true,
      scale: 0.5,
      shared: { n, k, weightElem: 'f32', ownX: true, gate: true },
      segmentRows: 2,
    };
    for (const matvec of [
      { block: 4, team: 1, cols: 1 },
      { block: 8, team: 2, cols: 1 },
    ]) {
      const launch = groupedLinear(p, { matvec }, FEW);
      const operands = { ...operandsOf(p), sharedWeight: random(n * k, 6), y: random(T * n, 9) };
      expectEveryMutationCaught(launch.kernel, steps(launch, operands, ['y']));
    }
  });
});
