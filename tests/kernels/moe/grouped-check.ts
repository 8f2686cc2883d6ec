/** Runs problems of `grouped_linear` on the interpreter and compares with the reference. */
import { expect } from 'vitest';
import type { PlanData } from '../../../src/ir/graph/evaluate/data.ts';
import { groupedLinear } from '../../../src/kernels/index.ts';
import type { Epilogue, GroupedProblem, GroupedSchedule, WeightElem } from '../../../src/kernels/index.ts';
import { CAPS, dataOf, expectClose, planOf, random, reference, remember, run, stored } from './harness.ts';
import type { Operands, Tensor } from './harness.ts';
import { makePlan } from './plans.ts';

export type Form = Pick<GroupedProblem, 'experts' | 'slots' | 'n' | 'k'> & Partial<GroupedProblem>;
export const problem = (f: Form): GroupedProblem => ({
  mode: 'sorted',
  tileRows: 4,
  gather: false,
  epilogue: { kind: 'none' },
  weightElem: 'f32',
  routeWeights: false,
  combine: false,
  scale: 1,
  residual: false,
  ...f,
});

const launchOf = remember(groupedLinear);

export interface Data {
  readonly operands: Record<string, NonNullable<Operands[string]>>;
  readonly ins: Record<string, Tensor | PlanData>;
  readonly by: PlanData;
}

/** Operands of a problem; rows of x that no slot uses are NaN. */
export function makeData(p: GroupedProblem, T: number, ids: Uint32Array): Data {
  const operands: Data['operands'] = { ids };
  const ins: Data['ins'] = { ids: { shape: ['T', p.slots], data: ids } };
  const m = p.n * (p.epilogue.kind === 'glu' ? 2 : 1);
  const add = (name: string, shape: Tensor['shape'], values: Float32Array, elem: WeightElem = 'f32'): void => {
    const kept = stored(values, elem, Number(shape.at(-1)));
    operands[name] = kept.data;
    ins[name] = { shape, data: kept.values };
  };
  const { buffer, want } = makePlan(ids, p.experts, p.slots, p.tileRows);
  const by = p.mode === 'sorted' ? want : planOf(reference('moe.plan', { ids: { shape: ['T', p.slots], data: ids } }, { ...p }, { T }));
  operands['plan'] = buffer;
  ins['plan'] = by;
  const rows = p.gather ? T : T * p.slots;
  const x = random(rows * p.k, 1);
  if (!p.gather) by.expertOf.forEach((e, row) => e < 0 && x.fill(NaN, row * p.k, (row + 1) * p.k));
  add('x', [p.gather ? 'T' : 'P', p.k], x, p.xElem);
  add('weight', [p.experts, m, p.k], random(p.experts * m * p.k, 2), p.weightElem);
  if (p.biasElem !== undefined) add('bias', [p.experts, m], random(p.experts * m, 3), p.biasElem);
  if (p.routeWeights) add('routeWeights', ['T', p.slots], random(T * p.slots, 4));
  const s = p.shared;
  if (s !== undefined) {
    const sm = s.n * (p.epilogue.kind === 'glu' ? 2 : 1);
    if (s.ownX) add('sharedX', ['T', s.k], random(T * s.k, 5), s.xElem);
    add('sharedWeight', [sm, s.k], random(sm * s.k, 6), s.weightElem);
    if (s.biasElem !== undefined) add('sharedBias', [sm], random(sm, 7), s.biasElem);
    if (s.gate) add('sharedGate', ['T', 1], random(T, 8));
  }
  if (p.residual) add('residual', ['T', p.n], random(T * p.n, 9));
  return { operands, ins, by };
}

export interface Result {
  readonly y: Float32Array;
  readonly shared: Float32Array;
}

/** Runs a problem, with a split bank where it says so, and compares the rows in use with the reference. */
export function check(p: GroupedProblem, T: number, ids: Uint32Array, schedule?: GroupedSchedule, caps = CAPS, tolerance = 2e-6): Result {
  const { operands, ins, by } = makeData(p, T, ids);
  const y = new Float32Array((p.combine ? T : T * p.slots) * p.n).fill(NaN);
  const shared = new Float32Array(T * (p.shared?.n ?? 0)).fill(NaN);
  const launch = launchOf(p, schedule, caps);
  expect(new Set(launch.operands).size).toBe(launch.operands.length);
  const results = [...launch.operands].filter((o) => o === 'y' || o === 'shared');
  const step = p.segmentRows ?? p.experts;
  for (let first = 0; first < p.experts; first += step) {
    const count = Math.min(step, p.experts - first);
    const part = (name: string): NonNullable<Operands[string]> => {
      const all = operands[name] ?? new Float32Array(0);
      const per = all.length / p.experts;
      return all.slice(first * per, (first + count) * per);
    };
    const constants = { 'segment.first': first, 'segment.count': count };
    const whole = step >= p.experts;
    const once = first === 0 ? results : results.filter(() => false);
    run(
      launch,
      { ...operands, weight: part('weight'), y, shared },
      { T, constants, subgroups: caps.subgroups, subgroupSize: caps.subgroupSize },
      whole ? results : once,
      whole && p.combine ? [] : ['y', ...(whole ? [] : ['shared'])],
    );
  }
  const { epilogue, gather, scale } = p;
  const want = reference(
    'moe.grouped_linear',
    ins,
    { epilogue, gather, scale, combine: p.combine, weighted: p.combine && p.routeWeights },
    { T },
  );
  const rows = dataOf(want, 'y');
  if (p.combine) expectClose(y, rows, tolerance);
  else {
    const used = Array.from(by.expertOf.keys()).filter((row) => (by.expertOf[row] ?? -1) >= 0);
    const pick = (a: ArrayLike<number>): number[] => used.flatMap((row) => Array.from({ length: p.n }, (_, j) => a[row * p.n + j] ?? NaN));
    expectClose(pick(y), pick(rows), tolerance);
    if (p.shared !== undefined) expectClose(shared, dataOf(want, 'shared'), tolerance);
  }
  return { y, shared };
}

export const GLU: Epilogue = { kind: 'glu', activation: 'silu' };
export const CLAMPED: Epilogue = { kind: 'glu', activation: 'silu', clamp: { limit: 1, alpha: 1.702, upOffset: 1 } };
