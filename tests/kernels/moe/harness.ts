/** Runs the expert families on the interpreter, and single ops on the f64 reference, from the same operands. */
import { expect } from 'vitest';
import { evalSize } from '../../../src/base/size.ts';
import { at, type Data, type Evaluate, type PlanData } from '../../../src/ir/graph/evaluate/data.ts';
import { combine, groupedLinear, permute, plan } from '../../../src/ir/graph/evaluate/experts.ts';
import { capacity, route } from '../../../src/ir/graph/evaluate/route.ts';
import type { Dim, NodeOf, OpName, Ops, Value } from '../../../src/ir/graph/types.ts';
import { interpret } from '../../../src/ir/kernel/interpret.ts';
import type { TypedArray } from '../../../src/ir/kernel/interpret.ts';
import type { Kernel, ScalarName } from '../../../src/ir/kernel/types.ts';
import type { Launch, LaunchGroup } from '../../../src/kernels/index.ts';
import { finishKernel } from '../../../src/passes/kernel/pipeline.ts';
import type { Capabilities } from '../../../src/target/types.ts';
import { memoryOf } from '../dense/harness.ts';
import type { MutationRun } from '../../ir/kernel/mutate.ts';

export { CAPS, FOURS, NARROW, expectClose, expectSameBits, maxRelative, random, stored } from '../dense/harness.ts';

export interface Call {
  readonly T: number;
  readonly seq?: number;
  readonly constants?: Partial<Record<ScalarName, number>>;
  readonly subgroups?: boolean;
  /** Threads of a subgroup: known to the expansion too; 32 where not said. */
  readonly subgroupSize?: number | undefined;
}

export type Operands = Readonly<Record<string, TypedArray>>;

const finishedKernels = new WeakMap<Kernel, Kernel>();

/** Finishes a kernel, once for all runs of it. */
export function finished(kernel: Kernel, subgroups = false, subgroupSize?: number): Kernel {
  if (subgroups) return finishKernel(kernel, { subgroups, ...(subgroupSize !== undefined && { subgroupSize }) });
  const known = finishedKernels.get(kernel) ?? finishKernel(kernel, { subgroups: false });
  finishedKernels.set(kernel, known);
  return known;
}

/** The family's launches, made once for a problem, a schedule and a device. */
export function remember<P, S, R>(
  family: (problem: P, schedule: S, caps: Capabilities) => R,
): (problem: P, schedule: S, caps: Capabilities) => R {
  const made = new Map<string, R>();
  return (problem, schedule, caps) => {
    const key = JSON.stringify([problem, schedule, caps]);
    const launch = made.get(key) ?? family(problem, schedule, caps);
    made.set(key, launch);
    return launch;
  };
}

const envOf = (call: Call): { T: number; past: number; seq: number; cap: number } => ({
  T: call.T,
  past: 0,
  seq: call.seq ?? call.T,
  cap: 0,
});

export const gridOf = (launch: Launch, call: Call): [number, number, number] => {
  const [x, y, z] = launch.grid;
  const env = envOf(call);
  return [evalSize(x, env), evalSize(y, env), evalSize(z, env)];
};

/**
 * Runs one launch, or a group with its scratch. Operands in `results` and all scratch count as never written; each
 * cell of a result must be, unless it stands in `partial`.
 */
export function run(
  work: Launch | LaunchGroup,
  operands: Operands,
  call: Call,
  results: readonly string[],
  partial: readonly string[] = [],
): void {
  const group: LaunchGroup = 'launches' in work ? work : { launches: [work], scratch: [] };
  const env = envOf(call);
  const scratch: Record<string, TypedArray> = {};
  for (const s of group.scratch)
    scratch[s.name] = s.elem === 'f32' ? new Float32Array(evalSize(s.size, env)) : new Uint32Array(evalSize(s.size, env));
  const written = new Set<string>();
  for (const launch of group.launches) {
    const kernel = finished(launch.kernel, call.subgroups, call.subgroupSize);
    const nameOf = (operand: string): string => kernel.params[launch.operands.indexOf(operand)]?.name ?? '';
    const fresh = [...results, ...Object.keys(scratch)].filter((o) => launch.operands.includes(o) && !written.has(o));
    const scalars = { ...env, ...call.constants };
    const outcome = interpret(kernel, {
      grid: gridOf(launch, call),
      memory: memoryOf(launch, { ...operands, ...scratch }),
      scalars,
      poison: fresh.map(nameOf),
      ...(call.subgroupSize !== undefined && { subgroupSize: call.subgroupSize }),
    });
    for (const o of fresh) {
      if (!partial.includes(o)) expect(outcome.unwritten[nameOf(o)], `${o} of ${kernel.name}`).toEqual([]);
      written.add(o);
    }
  }
  expect(results.filter((r) => !written.has(r))).toEqual([]);
}

/** For the mutation helper: fresh copies of the operands each time. */
export const mutationRun = (launch: Launch, operands: Operands, call: Call, poison: readonly string[]): MutationRun => ({
  grid: gridOf(launch, call),
  scalars: { ...envOf(call), ...call.constants },
  ...(call.subgroupSize !== undefined && { subgroupSize: call.subgroupSize }),
  poison: poison.map((o) => launch.kernel.params[launch.operands.indexOf(o)]?.name ?? o),
  memory: () => memoryOf(launch, Object.fromEntries(Object.entries(operands).map(([k, v]) => [k, v.slice()]))),
});

// ---------------------------------------------------------------- the reference

export interface Tensor {
  readonly shape: readonly Dim[];
  readonly data: TypedArray | Float64Array;
}

const EVALUATE = {
  'moe.route': route,
  'moe.capacity': capacity,
  'moe.plan': plan,
  'moe.permute': permute,
  'moe.grouped_linear': groupedLinear,
  'moe.combine': combine,
};
type MoeOp = keyof typeof EVALUATE;

export interface Reference {
  readonly out: Readonly<Record<string, Data | PlanData>>;
  readonly faults: number;
}

const isPlanData = (x: Tensor | PlanData): x is PlanData => 'rowOf' in x;

/** One op of the reference on plain tensors. */
export function reference<K extends MoeOp>(
  op: K,
  ins: Readonly<Record<string, Tensor | PlanData>>,
  attrs: Ops[K]['attrs'],
  call: Call,
): Reference {
  const held = new Map<string, Data | PlanData>();
  const values: Record<string, Value> = {};
  for (const [name, x] of Object.entries(ins)) {
    if (isPlanData(x)) {
      held.set(name, x);
      values[name] = { id: name, type: { kind: 'plan', experts: 0, slots: x.slots, mode: 'sorted', tileRows: 1 } };
      continue;
    }
    const isIndex = x.data instanceof Uint32Array || x.data instanceof Int32Array;
    held.set(name, isIndex ? x.data : Float64Array.from(x.data));
    values[name] = { id: name, type: { kind: 'tensor', dtype: isIndex ? 'u32' : 'f32', shape: x.shape } };
  }
  let faults = 0;
  const data = (v: Value): Data => {
    const x = held.get(v.id);
    if (x === undefined || 'rowOf' in x) throw new Error(`${v.id} is no tensor`);
    return x;
  };
  const evaluate: Evaluate<OpName> = EVALUATE[op] as Evaluate<OpName>;
  const node = { op, ins: values, attrs, outs: {} } as unknown as NodeOf<K>;
  const out = evaluate({
    node,
    size: envOf(call),
    data,
    plan(v: Value) {
      const x = held.get(v.id);
      if (x === undefined || !('rowOf' in x)) throw new Error(`${v.id} is no plan`);
      return x;
    },
    zeros: () => new Float64Array(0),
    fault() {
      faults += 1;
    },
  } as unknown as Parameters<Evaluate<OpName>>[0]);
  return { out: out as Reference['out'], faults };
}

export const dataOf = (r: Reference, name: string): Data => {
  const x = r.out[name];
  if (x === undefined || 'rowOf' in x) throw new Error(`no result ${name}`);
  return x;
};

export const planOf = (r: Reference): PlanData => {
  const x = r.out['plan'];
  if (x === undefined || !('rowOf' in x)) throw new Error('no plan');
  return x;
};

export const expectIds = (got: TypedArray, want: Data): void => expect(Array.from(got)).toEqual(Array.from(want));

export function expectWeights(got: Float32Array, want: Data, tolerance = 5e-6): void {
  expect(got.length).toBe(want.length);
  for (let i = 0; i < want.length; i++) {
    const error = Math.abs((got[i] ?? NaN) - at(want, i));
    if (!(error <= tolerance * Math.max(1, Math.abs(at(want, i))))) expect.fail(`weight ${i} is ${got[i]}, not ${want[i]}`);
  }
}
