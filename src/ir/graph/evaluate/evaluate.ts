/**
 * The f64 reference: runs a graph node by node, every op in every fused form. Slow and plain on purpose;
 * it shares no code with kernels and is what every backend and every pass is compared with.
 */
import type { SizeEnv } from '../../../base/size.ts';
import type { Graph, Node, OpName, Value } from '../types.ts';
import { attention, cacheAppend, rope } from './attention.ts';
import { countElements, type Data, type Evaluate, type OpContext, type PlanData } from './data.ts';
import { act, add, concatHeads, embed, gateMul, glu, headLinear, linear, norm, sliceHeads } from './dense.ts';
import { combine, groupedLinear, permute, plan } from './experts.ts';
import { capacity, route } from './route.ts';

export type { Data, PlanData } from './data.ts';

const EVALUATE: { readonly [K in OpName]: Evaluate<K> } = {
  embed,
  norm,
  linear,
  head_linear: headLinear,
  glu,
  act,
  add,
  gate_mul: gateMul,
  slice_heads: sliceHeads,
  concat_heads: concatHeads,
  rope,
  cache_append: cacheAppend,
  attention,
  'moe.route': route,
  'moe.capacity': capacity,
  'moe.plan': plan,
  'moe.permute': permute,
  'moe.grouped_linear': groupedLinear,
  'moe.combine': combine,
};

export interface EvaluationEnv {
  /** Inputs, weights, rope tables and states by parameter name; states are changed in place. */
  readonly params: ReadonlyMap<string, Data>;
  readonly size: SizeEnv;
}

export interface Evaluation {
  readonly results: Readonly<Record<string, Data>>;
  /** Rows whose router logits were not all finite. */
  readonly faults: number;
}

const isPlan = (value: Data | PlanData): value is PlanData => 'rowOf' in value;

/** Slots of the graph's plan: what the symbol `P` stands for, per token. */
const slotsOf = (graph: Graph): number => graph.nodes.reduce((n, node) => (node.op === 'moe.plan' ? node.attrs.slots : n), 0);

/**
 * Runs a graph that verifies.
 * @throws Error for a parameter that is missing or has another number of elements, RangeError for an id out of range
 */
export function evaluate(graph: Graph, env: EvaluationEnv): Evaluation {
  const { size } = env;
  const slots = slotsOf(graph);
  const values = new Map<string, Data | PlanData>();
  let faults = 0;

  for (const { name, value } of graph.params) {
    const given = env.params.get(name);
    if (given === undefined) throw new Error(`parameter ${name} is missing`);
    const wanted = countElements(value.type, size, slots);
    if (given.length !== wanted) throw new Error(`parameter ${name} has ${given.length} elements, not ${wanted}`);
    values.set(value.id, given);
  }
  const read = (value: Value): Data | PlanData => {
    const known = values.get(value.id);
    if (known === undefined) throw new Error(`%${value.id} has no value yet`);
    return known;
  };
  const data = (value: Value): Data => {
    const known = read(value);
    if (isPlan(known)) throw new Error(`%${value.id} is a plan`);
    return known;
  };

  const run = <K extends OpName>(node: Node<K>): void => {
    const ctx: OpContext<K> = {
      node,
      size,
      data,
      plan(value) {
        const known = read(value);
        if (!isPlan(known)) throw new Error(`%${value.id} is not a plan`);
        return known;
      },
      zeros: (value) => new Float64Array(countElements(value.type, size, slots)),
      fault() {
        faults += 1;
      },
    };
    const made: Readonly<Record<string, Data | PlanData | undefined>> = { ...EVALUATE[node.op](ctx) };
    const outs: Readonly<Record<string, Value | undefined>> = { ...node.outs };
    for (const [name, value] of Object.entries(outs)) {
      const result = made[name];
      if (value === undefined) continue;
      if (result === undefined) throw new Error(`${node.op} gave no ${name}`);
      values.set(value.id, result);
    }
  };
  for (const node of graph.nodes) run(node);
  return { results: Object.fromEntries(Object.entries(graph.results).map(([name, value]) => [name, data(value)])), faults };
}
