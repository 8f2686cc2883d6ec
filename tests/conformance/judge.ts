/**
 * Judges a layer's results against the f64 evaluator where rounding may decide: two scores so close that f32 cannot
 * tell them apart let either expert be chosen, and then the rest is computed from the choice that was made; results
 * that cancel are held to what a relative error of 2^-22 in every number of the input would do to them.
 */
import { type Data, evaluate } from '../../src/ir/graph/evaluate/evaluate.ts';
import { type Graph, type Node, type RouteAttrs, type Value, isOp } from '../../src/ir/graph/types.ts';
import { lowerToGraphs } from '../../src/lower/model-to-graph.ts';
import type { LayerSpec } from '../../src/model/types.ts';
import { type Deviation, deviation } from '../../src/runtime/core/metrics.ts';
import { uniforms } from '../../src/runtime/core/random.ts';
import type { LayerOutcome } from './benches.ts';
import type { LayerInput } from './cases.ts';
import { proceduralLayerWeights } from './procedural.ts';

/** Relative distance of scores that f32 arithmetic may confuse: 8 × the router's error. */
const CLOSE = 1e-5;
/** Relative size of the noise that stands for rounding, and how many times its effect an error may be. */
const NOISE = 2 ** -22;
const SLACK = 64;
/** Largest error of a route weight, of the largest weight (or 1). */
const WEIGHT_GATE = 2e-6;

export interface Verdict {
  /** Empty where all is well. */
  readonly problems: readonly string[];
  /** Rows in which rounding decided. */
  readonly close: number;
}

export interface Judge {
  readonly spec: LayerSpec;
  /** What the evaluator says. */
  expected(input: LayerInput): LayerOutcome;
  verdict(input: LayerInput, actual: LayerOutcome, gate: Deviation): Verdict;
}

type Weights = ReadonlyMap<string, Data>;
interface Evaluated extends LayerOutcome {
  readonly logits: Float64Array;
}

const floats = (data: Data | undefined): Float64Array => Float64Array.from(data ?? []);
const signed = (ids: Data | undefined): Int32Array => Int32Array.from(ids ?? [], (e) => e | 0);

function graphOf(spec: LayerSpec): Graph {
  const [graph] = lowerToGraphs(spec).sections;
  if (graph === undefined) throw new Error('a layer without a graph');
  return graph;
}

const routeOf = (graph: Graph): Extract<Node, { op: 'moe.route' }> => {
  const node = graph.nodes.find((n) => isOp(n, 'moe.route'));
  if (node === undefined || !isOp(node, 'moe.route')) throw new Error('no router');
  return node;
};

function run(graph: Graph, weights: Weights, { x, tokenIds, seq }: LayerInput, tokens: number, more: Weights = new Map()): Evaluated {
  const params = new Map<string, Data>([...weights, ['x', Float64Array.from(x)], ...more]);
  if (tokenIds !== undefined) params.set('ids', tokenIds);
  const { results, faults } = evaluate(graph, { params, size: { T: tokens, past: 0, seq: seq ?? tokens, cap: 1 } });
  const { y, topk_indices: ids, topk_weights: route, logits } = results;
  return { y: floats(y), ids: signed(ids), routeWeights: floats(route), faults, logits: floats(logits) };
}

/** The graph with its routing left out: ids and weights are inputs. */
function withoutRouting(graph: Graph, ids: Value, weights: Value): Graph {
  const input = (name: string, value: Value): Graph['params'][number] => ({ name, value, role: { kind: 'input' } });
  return {
    ...graph,
    params: [...graph.params, input('forced ids', ids), input('forced weights', weights)],
    nodes: graph.nodes.filter((n) => n.op !== 'moe.route' && n.op !== 'moe.capacity'),
  };
}

const noisy = (data: Data, next: () => number): Data =>
  data instanceof Float64Array ? data.map((v) => v * (1 + NOISE * (2 * next() - 1))) : data;

const softmax = (l: readonly number[]): number[] => {
  const max = Math.max(...l);
  const e = l.map((v) => Math.exp(v - max));
  const sum = e.reduce((a, b) => a + b, 0);
  return e.map((v) => v / sum);
};

function scores(kind: RouteAttrs['score'], logits: readonly number[]): number[] {
  if (kind === 'softmax') return softmax(logits);
  return logits.map((l) => (kind === 'sigmoid' ? 1 / (1 + Math.exp(-l)) : kind === 'none' ? l : Math.sqrt(Math.log1p(Math.exp(l)))));
}

/** Whether two of the `count + 1` largest numbers are too close to be told apart. */
function closeAmong(values: readonly number[], count: number): boolean {
  const order = values.toSorted((a, b) => b - a).slice(0, count + 1);
  const scale = Math.max(...values.map(Math.abs));
  return order.some((v, i) => i > 0 && (order[i - 1] ?? NaN) - v <= CLOSE * scale);
}

/** Whether rounding may have changed what a token chooses, or the weights of it by a step. */
function closeRow(attrs: RouteAttrs, logits: readonly number[], bias: ArrayLike<number> | undefined): boolean {
  if (attrs.select.kind === 'sparse-mixer') {
    const { jitter } = attrs.select;
    const order = logits.toSorted((a, b) => b - a).slice(0, 2);
    const step = (max: number): boolean => logits.some((l) => Math.abs((max - l) / Math.max(Math.abs(l), max) - 2 * jitter) < CLOSE);
    return closeAmong(logits, 2) || order.some(step);
  }
  const q = scores(attrs.score, logits).map((s, e) => s + (bias?.[e] ?? 0));
  const { groups } = attrs;
  if (groups === undefined) return closeAmong(q, attrs.slots);
  const size = q.length / groups.count;
  const ofGroup = Array.from({ length: groups.count }, (_, g) => {
    const members = q.slice(g * size, (g + 1) * size).toSorted((a, b) => b - a);
    return groups.score === 'max' ? (members[0] ?? 0) : (members[0] ?? 0) + (members[1] ?? 0);
  });
  return closeAmong(ofGroup, groups.keep) || closeAmong(q, q.length);
}

/** Experts whose last token and first token not taken have close scores. */
function closeColumns(attrs: RouteAttrs, rows: readonly (readonly number[])[]): boolean {
  const all = rows.map((r) => scores(attrs.score, r));
  return Array.from({ length: attrs.experts }, (_, e) => all.map((r) => r[e] ?? 0)).some((column) => closeAmong(column, column.length));
}

const shown = (d: Deviation): string => `NMSE ${d.nmse.toExponential(2)}, row ${d.rowNmse.toExponential(2)}`;

function squaredErrors(actual: ArrayLike<number>, expected: ArrayLike<number>, rows: number): Float64Array {
  const out = new Float64Array(rows);
  const width = expected.length / rows;
  for (let i = 0; i < expected.length; i++) {
    const [a, e, t] = [actual[i] ?? NaN, expected[i] ?? NaN, Math.floor(i / width)];
    if (!Object.is(a, e)) out[t] = (out[t] ?? 0) + (a - e) ** 2;
  }
  return out;
}

/** Experts and weights row by row: equal, or different where `mayDiffer` says that rounding may decide. */
function judgeRouting(actual: LayerOutcome, expected: LayerOutcome, slots: number, mayDiffer: () => readonly boolean[]): Verdict {
  if (actual.ids.length !== expected.ids.length) return { problems: [`${actual.ids.length} ids, not ${expected.ids.length}`], close: 0 };
  const tokens = expected.ids.length / slots;
  const scale = Math.max(1, ...Array.from(expected.routeWeights, (w) => (Number.isFinite(w) ? Math.abs(w) : 1)));
  const equal = (i: number): boolean =>
    actual.ids[i] === expected.ids[i] &&
    Math.abs((actual.routeWeights[i] ?? NaN) - (expected.routeWeights[i] ?? NaN)) <= WEIGHT_GATE * scale;
  const places = (t: number): number[] => Array.from({ length: slots }, (_, s) => t * slots + s);
  const different = Array.from({ length: tokens }, (_, t) => t).filter((t) => !places(t).every(equal));
  if (different.length === 0) return { problems: [], close: 0 };
  const may = mayDiffer();
  const of = ({ ids, routeWeights }: LayerOutcome, t: number): string =>
    places(t)
      .map((i) => `${ids[i]} (${routeWeights[i]})`)
      .join(' ');
  const problems = different.filter((t) => may[t] !== true).map((t) => `token ${t}: experts ${of(actual, t)}, expected ${of(expected, t)}`);
  return { problems, close: different.length };
}

export function judgeOf(spec: LayerSpec, seed: number): Judge {
  const graph = graphOf(spec);
  const weights = proceduralLayerWeights(spec, seed);
  const route = routeOf(graph);
  const { attrs } = route;
  const { logits } = route.ins;
  const traced: Graph = logits === undefined ? graph : { ...graph, results: { ...graph.results, logits } };
  const last = graph.nodes.find((n) => isOp(n, 'moe.capacity'));
  const chosen = last !== undefined && isOp(last, 'moe.capacity') ? last.outs : route.outs;
  const forced = withoutRouting(graph, chosen.ids, chosen.weights);
  const biasName = graph.params.find((p) => p.value.id === route.ins.selectionBias?.id)?.name;
  const bias = biasName === undefined ? undefined : weights.get(biasName);
  const coupled = last !== undefined || attrs.select.kind === 'expert-choice';

  const tokensOf = (input: LayerInput): number => input.x.length / spec.hidden;

  /** Rows in which rounding may decide. */
  const closeRows = (expected: Evaluated, tokens: number): boolean[] => {
    if (expected.logits.length === 0) return Array.from({ length: tokens }, () => false);
    const rows = Array.from({ length: tokens }, (_, t) => Array.from(expected.logits.subarray(t * attrs.experts, (t + 1) * attrs.experts)));
    const close =
      attrs.select.kind === 'expert-choice'
        ? rows.map(() => closeColumns(attrs, rows))
        : rows.map((r) => attrs.select.kind !== 'hash' && closeRow(attrs, r, bias));
    return coupled ? close.map(() => close.some(Boolean)) : close;
  };

  /** Σ of squares per row of what noise in all inputs does. */
  const sensitivity = (input: LayerInput, graphUsed: Graph, more: Weights, of: 'y' | 'routeWeights', tokens: number): Float64Array => {
    const out = new Float64Array(tokens);
    const exact = run(graphUsed, weights, input, tokens, more)[of];
    for (let trial = 0; trial < 4; trial++) {
      const next = uniforms(seed + trial);
      const moved = new Map([...weights].map(([name, data]) => [name, noisy(data, next)]));
      const x = Float64Array.from(input.x, (v) => v * (1 + NOISE * (2 * next() - 1)));
      const route2 = new Map([...more].map(([name, data]) => [name, noisy(data, next)]));
      const other = run(graphUsed, moved, input, tokens, new Map<string, Data>([...route2, ['x', x]]));
      squaredErrors(other[of], exact, tokens).forEach((error, t) => {
        out[t] = (out[t] ?? 0) + error;
      });
    }
    return out;
  };

  /** Rows in which rounding may decide: scores that are close, or the same experts with weights that cancel. */
  const mayDiffer = (input: LayerInput, actual: LayerOutcome, expected: Evaluated): readonly boolean[] => {
    const tokens = tokensOf(input);
    const close = closeRows(expected, tokens);
    const errors = squaredErrors(actual.routeWeights, expected.routeWeights, tokens);
    const noise = sensitivity(input, graph, new Map(), 'routeWeights', tokens);
    const slots = expected.ids.length / tokens;
    const sameIds = (t: number): boolean =>
      actual.ids.subarray(t * slots, (t + 1) * slots).every((e, s) => e === expected.ids[t * slots + s]);
    return close.map((c, t) => c || (sameIds(t) && (errors[t] ?? NaN) <= SLACK * (noise[t] ?? 0)));
  };

  return {
    spec,
    expected: (input) => run(graph, weights, input, tokensOf(input)),
    verdict(input, actual, gate) {
      const tokens = tokensOf(input);
      const expected = run(traced, weights, input, tokens);
      const routing = judgeRouting(actual, expected, attrs.slots, () => mayDiffer(input, actual, expected));
      const problems = [...routing.problems];
      if (actual.faults !== expected.faults) problems.push(`${actual.faults} faults, not ${expected.faults}`);
      // Where rounding chose, the experts that were chosen are the ones to compute.
      const choice = new Map<string, Data>([
        ['forced ids', Uint32Array.from(actual.ids, (e) => e >>> 0)],
        ['forced weights', Float64Array.from(actual.routeWeights)],
      ]);
      const [used, more] = routing.close === 0 ? [graph, new Map<string, Data>()] : [forced, choice];
      const { y } = routing.close === 0 ? expected : run(used, weights, input, tokens, more);
      const off = deviation(actual.y, y, tokens);
      if (off.nmse > gate.nmse || off.rowNmse > gate.rowNmse) {
        const noise = sensitivity(input, used, more, 'y', tokens);
        squaredErrors(actual.y, y, tokens).forEach((error, t) => {
          const allowed = SLACK * (noise[t] ?? 0);
          if (!(error <= allowed))
            problems.push(`token ${t}: squared error ${error.toExponential(2)} of ${allowed.toExponential(2)}, ${shown(off)}`);
        });
      }
      return { problems, close: routing.close };
    },
  };
}
