/** Graphs built by hand for tests of the graph IR. */
import { tensor } from '../../../src/ir/graph/op-spec.ts';
import { graphBuilder } from '../../../src/ir/graph/build.ts';
import type { Dim, DType, Graph, GraphParam, ParamRole, Value } from '../../../src/ir/graph/types.ts';

export const E = 6;
export const SLOTS = 2;
export const D = 8;
export const M = 5;
export const SHARED = 7;

/** A weight of one plain source of its own shape; vectors and banks of vectors have `rank` 1. */
export function weightRole(name: string, shape: readonly number[], rank: 1 | 2): ParamRole {
  const rows = shape.at(rank === 1 ? -1 : -2) ?? 0;
  const source = { name, shape, n: { axis: 0, start: 0, step: 1 }, k: { start: 0, step: rank === 1 ? 0 : 1 } } as const;
  return { kind: 'weight', parts: [{ rows, sources: [source] }] };
}

export interface Declare {
  input(name: string, ...shape: readonly Dim[]): Value;
  weight(name: string, ...shape: readonly number[]): Value;
  vector(name: string, ...shape: readonly number[]): Value;
}

export function declare(add: (name: string, type: ReturnType<typeof tensor>, role: ParamRole) => Value, dtype: DType = 'f32'): Declare {
  return {
    input: (name, ...shape) => add(name, tensor('f32', ...shape), { kind: 'input' }),
    weight: (name, ...shape) => add(name, tensor(dtype, ...shape), weightRole(name, shape, 2)),
    vector: (name, ...shape) => add(name, tensor(dtype, ...shape), weightRole(name, shape, 1)),
  };
}

const EXPERTS = {
  experts: E,
  slots: SLOTS,
  score: 'sigmoid',
  select: { kind: 'top-k' },
  weights: 'scores',
  renormalize: { p: 1, eps: 1e-9, epsMode: 'add' },
  scale: 1.5,
} as const;
const CLAMP = { limit: 2, alpha: 1.1, upOffset: 0.5 } as const;
const NORM = { kind: 'layer', eps: 1e-5 } as const;

/** norm → MoE with gated shared experts, biases and a residual of half weight: every step its own op. */
export function unfusedLayer(mode: 'direct' | 'sorted' = 'direct'): Graph {
  const g = graphBuilder('layer');
  const p = declare((name, type, role) => g.param(name, type, role));
  const x = p.input('x', 'T', D);
  const xn = g.add('norm', { x, weight: p.vector('norm', D), bias: p.vector('normBias', D) }, { ...NORM, groups: 1 }).y;
  const plain = { epilogue: { kind: 'none' }, scale: 1 } as const;
  const logits = g.add('linear', { x: xn, weight: p.weight('router', E, D), bias: p.vector('routerBias', E) }, plain).y;
  const { weights, ids } = g.add('moe.route', { logits, selectionBias: p.vector('selection', E) }, EXPERTS);
  const { plan } = g.add('moe.plan', { ids }, { experts: E, slots: SLOTS, mode, tileRows: 4 });
  const rows = g.add('moe.permute', { x: xn, plan }, {}).y;
  const grouped = { gather: false, epilogue: { kind: 'none' }, combine: false, weighted: false, scale: 1 } as const;
  const half = (name: 'gate' | 'up'): Value =>
    g.add(
      'moe.grouped_linear',
      { x: rows, plan, ids, weight: p.weight(`e.${name}`, E, M, D), bias: p.vector(`e.${name}.bias`, E, M) },
      grouped,
    ).y;
  const h = g.add('glu', { gate: half('gate'), up: half('up') }, { activation: 'silu', clamp: CLAMP }).y;
  const down = g.add(
    'moe.grouped_linear',
    { x: h, plan, ids, weight: p.weight('e.down', E, D, M), bias: p.vector('e.down.bias', E, D) },
    grouped,
  ).y;
  const routed = g.add('moe.combine', { x: down, plan, ids, weights }, { slots: SLOTS, scale: 1 }).y;
  const sharedHalf = (name: 'gate' | 'up'): Value =>
    g.add('linear', { x: xn, weight: p.weight(`s.${name}`, SHARED, D), bias: p.vector(`s.${name}.bias`, SHARED) }, plain).y;
  const sh = g.add('glu', { gate: sharedHalf('gate'), up: sharedHalf('up') }, { activation: 'silu', clamp: CLAMP }).y;
  const s = g.add('linear', { x: sh, weight: p.weight('s.down', D, SHARED), bias: p.vector('s.down.bias', D) }, plain).y;
  const gate = g.add('linear', { x: xn, weight: p.weight('s.sigmoid', 1, D) }, plain).y;
  const gated = g.add('gate_mul', { x: s, gate }, {}).y;
  const both = g.add('add', { a: routed, b: gated }, { scale: 1 }).y;
  return g.finish({ y: g.add('add', { a: x, b: both }, { scale: 0.5 }).y, topk_weights: weights, topk_indices: ids });
}

/** The same layer with everything in attributes: four nodes, the plan among them. */
export function fusedLayer(mode: 'direct' | 'sorted' = 'sorted'): Graph {
  const g = graphBuilder('layer');
  const p = declare((name, type, role) => g.param(name, type, role));
  const x = p.input('x', 'T', D);
  const { weights, ids, xn, gate } = g.add(
    'moe.route',
    {
      x,
      normWeight: p.vector('norm', D),
      normBias: p.vector('normBias', D),
      gate: p.weight('router', E, D),
      gateBias: p.vector('routerBias', E),
      selectionBias: p.vector('selection', E),
      sharedGate: p.weight('s.sigmoid', 1, D),
    },
    { ...EXPERTS, norm: NORM },
  );
  if (xn === undefined || gate === undefined) throw new Error('the fused router gives xn and gate');
  const { plan } = g.add('moe.plan', { ids }, { experts: E, slots: SLOTS, mode, tileRows: 4 });
  const first = g.add(
    'moe.grouped_linear',
    {
      x: xn,
      plan,
      ids,
      weight: p.weight('e.gate_up', E, 2 * M, D),
      bias: p.vector('e.gate_up.bias', E, 2 * M),
      sharedWeight: p.weight('s.gate_up', 2 * SHARED, D),
      sharedBias: p.vector('s.gate_up.bias', 2 * SHARED),
    },
    { gather: true, epilogue: { kind: 'glu', activation: 'silu', clamp: CLAMP }, combine: false, weighted: false, scale: 1 },
  );
  if (first.shared === undefined) throw new Error('the fused projection gives the shared rows');
  const { y } = g.add(
    'moe.grouped_linear',
    {
      x: first.y,
      plan,
      ids,
      weight: p.weight('e.down', E, D, M),
      bias: p.vector('e.down.bias', E, D),
      routeWeights: weights,
      sharedX: first.shared,
      sharedWeight: p.weight('s.down', D, SHARED),
      sharedBias: p.vector('s.down.bias', D),
      sharedGate: gate,
      residual: x,
    },
    { gather: false, epilogue: { kind: 'none' }, combine: true, weighted: true, scale: 0.5 },
  );
  return g.finish({ y, topk_weights: weights, topk_indices: ids });
}

export const weightShape = (param: GraphParam): readonly number[] =>
  param.value.type.kind === 'tensor' ? param.value.type.shape.filter((dim) => typeof dim === 'number') : [];

/** Names that text formats trip over. */
export const HOSTILE: readonly string[] = [
  '"',
  '\\',
  '\n',
  '\u2028',
  '`${1}`',
  '*/',
  '__proto__',
  'constructor',
  'a b = c(d)',
  '%x',
  '../..',
  '{"a":1}',
  '] n 0:0:1',
  '',
  '\u0000',
  '😀',
  'return',
  '" [1] n 0:0:1 k 0:1',
];
