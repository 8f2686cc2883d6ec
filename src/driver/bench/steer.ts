/**
 * Inputs that make a layer's own router choose wished experts. Nothing of the layer changes: its router's weights stay procedural, and
 * the hidden states get the component that the router's matrix turns into wished logits, the rest of them being random.
 */
import type { Graph, NodeOf, Value } from '../../ir/graph/types.ts';
import { proceduralIds, proceduralInput, proceduralWeights } from '../../runtime/core/procedural.ts';
import { hashText, signedUnit } from '../../runtime/core/random.ts';
import { weightSections } from '../reference.ts';
import { chooseExperts, chooseIds, type Routing } from './choices.ts';

export interface SteeredInput {
  /** Hidden states [tokens, hidden]. */
  readonly x: Float32Array;
  /** Token ids, for routers that read them. */
  readonly ids: Int32Array | undefined;
}

/** Why a layer's router cannot be steered. */
export class SteerError extends Error {}

/** Logits wished of experts that are chosen and of the others, before a spread of a quarter. */
const CHOSEN = 2;
const OTHERS = -1;
const SPREAD = 0.25;

/** logits = x · rowsᵀ + bias, up to a positive factor for each token. */
interface Affine {
  readonly rows: readonly Float64Array[];
  readonly bias: Float64Array;
}

interface Weights {
  /** Values of a parameter of the graph. */
  of(value: Value): Float64Array;
}

const producer = (graph: Graph, value: Value): Graph['nodes'][number] | undefined =>
  graph.nodes.find((node) => Object.values(node.outs).some((out: Value | undefined) => out?.id === value.id));

function weightsOf(graph: Graph, seed: number, experts: number): Weights {
  const params = weightSections([graph])[0]?.params ?? [];
  return {
    of(value) {
      const name = graph.params.find((p) => p.value.id === value.id)?.name;
      const param = params.find((p) => p.name === name);
      if (param === undefined || param.role.kind !== 'weight') throw new SteerError('its router reads something that is no weight');
      return proceduralWeights({ ...param, role: param.role }, undefined, seed, experts);
    },
  };
}

const dot = (a: ArrayLike<number>, b: ArrayLike<number>): number => {
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += (a[i] ?? 0) * (b[i] ?? 0);
  return sum;
};

/** The router's logits as a map of the layer's input. */
function logitsOf(graph: Graph, route: NodeOf<'moe.route'>, weights: Weights): Affine {
  const linear = route.ins.logits === undefined ? undefined : producer(graph, route.ins.logits);
  if (linear?.op !== 'linear') throw new SteerError('its router’s logits are no product of its input');
  const { experts } = route.attrs;
  const gate = weights.of(linear.ins.weight);
  const hidden = gate.length / experts;
  const bias = linear.ins.bias === undefined ? new Float64Array(experts) : weights.of(linear.ins.bias);
  const rows = Array.from({ length: experts }, (_, e) => gate.slice(e * hidden, (e + 1) * hidden));
  const norm = producer(graph, linear.ins.x);
  if (norm === undefined) return { rows, bias };
  if (norm.op !== 'norm' || norm.attrs.groups !== 1) throw new SteerError('its router does not read its input, or the norm of it');
  // The norm divides by the size of x, the same for all experts of a token; a layer norm first takes the mean away.
  const scale = weights.of(norm.ins.weight);
  const shift = norm.ins.bias === undefined ? undefined : weights.of(norm.ins.bias);
  rows.forEach((row, e) => {
    if (shift !== undefined) bias[e] = (bias[e] ?? 0) + dot(row, shift);
    row.forEach((v, i) => (row[i] = v * (scale[i] ?? 1)));
    if (norm.attrs.kind === 'layer') {
      const mean = row.reduce((a, b) => a + b, 0) / hidden;
      row.forEach((v, i) => (row[i] = v - mean));
    }
  });
  return { rows, bias };
}

/** Solves (rows · rowsᵀ) c = v for any v; a little is added to the diagonal, so that there is a solution where rows depend on each other. */
function gramSolver(rows: readonly Float64Array[]): (v: Float64Array) => Float64Array {
  const n = rows.length;
  const l = Array.from({ length: n }, () => new Float64Array(n));
  const at = (i: number, j: number): number => l[i]?.[j] ?? 0;
  const ridge = 1e-9 * Math.max(...rows.map((r) => dot(r, r)), Number.MIN_VALUE);
  for (let i = 0; i < n; i++) {
    const own = l[i] ?? new Float64Array(n);
    for (let j = 0; j <= i; j++) {
      let sum = dot(rows[i] ?? [], rows[j] ?? []) + (i === j ? ridge : 0);
      for (let m = 0; m < j; m++) sum -= at(i, m) * at(j, m);
      own[j] = i === j ? Math.sqrt(Math.max(sum, ridge)) : sum / at(j, j);
    }
  }
  return (v) => {
    const c = v.slice();
    for (let i = 0; i < n; i++) {
      for (let j = 0; j < i; j++) c[i] = (c[i] ?? 0) - at(i, j) * (c[j] ?? 0);
      c[i] = (c[i] ?? 0) / at(i, i);
    }
    for (let i = n - 1; i >= 0; i--) {
      for (let j = i + 1; j < n; j++) c[i] = (c[i] ?? 0) - at(j, i) * (c[j] ?? 0);
      c[i] = (c[i] ?? 0) / at(i, i);
    }
    return c;
  };
}

const combination = (rows: readonly Float64Array[], c: Float64Array, hidden: number): Float64Array => {
  const out = new Float64Array(hidden);
  rows.forEach((row, e) => {
    const factor = c[e] ?? 0;
    for (let i = 0; i < hidden; i++) out[i] = (out[i] ?? 0) + factor * (row[i] ?? 0);
  });
  return out;
};

/** Hidden states of mean square 1 for which the logits of each token's `chosen` experts [tokens, slots] are above all others. */
function statesFor({ rows, bias }: Affine, chosen: Uint32Array, slots: number, seed: number): Float32Array {
  const experts = rows.length;
  const hidden = rows[0]?.length ?? 0;
  const tokens = chosen.length / slots;
  const solve = gramSolver(rows);
  const noise = proceduralInput(seed, tokens, hidden);
  const key = hashText('logits', seed);
  const x = new Float32Array(tokens * hidden);
  for (let t = 0; t < tokens; t++) {
    const wished = new Set(chosen.subarray(t * slots, (t + 1) * slots));
    const logits = Float64Array.from({ length: experts }, (_, e) => (wished.has(e) ? CHOSEN : OTHERS) + SPREAD * signedUnit(key, t * experts + e) - (bias[e] ?? 0));
    const steering = combination(rows, solve(logits), hidden);
    const free = noise.subarray(t * hidden, (t + 1) * hidden);
    const blind = combination(rows, solve(Float64Array.from(rows, (row) => dot(row, free))), hidden).map((v, i) => (free[i] ?? 0) - v);
    // The router's own part may take nine tenths of a state's square; where it needs more it is scaled down.
    const need = dot(steering, steering);
    const scale = Math.min(1, Math.sqrt((0.9 * hidden) / Math.max(need, Number.MIN_VALUE)));
    const rest = dot(blind, blind);
    const fill = rest < 1e-6 * hidden ? 0 : Math.sqrt(Math.max(0, hidden - need * scale * scale) / rest);
    for (let i = 0; i < hidden; i++) x[t * hidden + i] = scale * (steering[i] ?? 0) + fill * (blind[i] ?? 0);
  }
  return x;
}

/**
 * The input of a call of `tokens` tokens.
 * @param graph of a layer alone, unfused
 * @throws SteerError where the layer has no router, or one whose choices are not its input's
 */
export function steeredInput(graph: Graph, hidden: number, vocab: number, routing: Routing, tokens: number, seed: number): SteeredInput {
  const found = graph.nodes.find((node) => node.op === 'moe.route');
  const route = found?.op === 'moe.route' ? found : undefined;
  const readsIds = graph.params.some((p) => p.role.kind === 'input' && p.name !== 'x');
  const plain: SteeredInput = { x: proceduralInput(seed, tokens, hidden), ids: readsIds ? proceduralIds(seed, tokens, vocab) : undefined };
  if (routing.kind === 'random') return plain;
  if (route === undefined) throw new SteerError('it has no router');
  const { attrs, ins } = route;
  if (attrs.select.kind === 'expert-choice') throw new SteerError('its experts choose their tokens, each the same number');
  const weights = weightsOf(graph, seed, attrs.experts);
  if (ins.table !== undefined) return { ...plain, ids: chooseIds(routing, attrs, weights.of(ins.table), tokens, seed) };
  return { ...plain, x: statesFor(logitsOf(graph, route, weights), chooseExperts(routing, attrs, tokens, seed), attrs.slots, seed) };
}
