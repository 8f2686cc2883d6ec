/**
 * y = f(…) in f32  →  y = f(…) rounded to the 16-bit type of the weights, once, where it is written
 *   for rows that are only multiplied with such weights, combined over slots, attended to, or copied to where that happens;
 *   keys and values are narrowed together with the caches they are appended to.
 * route(x), product(x)  →  route(x) with a narrowed copy xn of x, product(xn)      where the router reads x without a norm
 * Legal where every reader takes such rows; in- and outputs of the section and whatever is computed with (the residual stream,
 * logits, weights of experts) stay f32. Only on targets whose kernels store 16 bits, for weights of 16 bits, and where those who
 * read the rows have columns enough for rounding to average out.
 * Saves half the bytes of those rows, written and read, and lets tensor cores take them as they are.
 */
import { makeNode } from '../../ir/graph/build.ts';
import { narrowable } from '../../ir/graph/ops.ts';
import { consumers, freshFor, operands, replaceOperand, results, retype, sortNodes } from '../../ir/graph/rewrite.ts';
import type { DType, Graph, Node, NodeOf, OpName, TensorType, Value } from '../../ir/graph/types.ts';
import { definePass, type Pass, type PassEvent, type PassOptions } from '../pass.ts';
import { bindingProblem } from './limits.ts';
import { describe, describeValue, type Scene, sceneOf } from './match.ts';

type Half = Extract<DType, 'f16' | 'bf16'>;
type Report = (event: Omit<PassEvent, 'pass'>) => void;

/** Operands that are rows to multiply, to sum, to attend to or to copy; all others are computed with in f32. */
const ROWS: Readonly<Partial<Record<OpName, readonly string[]>>> = {
  linear: ['x'],
  head_linear: ['x'],
  attention: ['q', 'k', 'v'],
  cache_append: ['x'],
  slice_heads: ['x'],
  concat_heads: ['a', 'b'],
  'moe.permute': ['x'],
  'moe.grouped_linear': ['x', 'sharedX'],
  'moe.combine': ['x', 'shared'],
};

const isHalf = (dtype: DType): dtype is Half => dtype === 'f16' || dtype === 'bf16';
const dtypeOf = ({ type }: Value): DType | undefined => (type.kind === 'tensor' ? type.dtype : undefined);
const inHalf = (value: Value, half: Half): TensorType | undefined => (value.type.kind === 'tensor' ? { ...value.type, dtype: half } : undefined);

/** The 16-bit type of the weights; undefined where there is none, or more than one. */
function halfOf(graph: Graph): Half | undefined {
  const found = new Set(graph.params.flatMap((p) => (p.role.kind === 'weight' ? [dtypeOf(p.value)] : [])).filter((d) => d !== undefined && isHalf(d)));
  const [half, another] = found;
  return half !== undefined && isHalf(half) && another === undefined ? half : undefined;
}

/** The weights that multiply the rows of an operand; rows of a gathering product serve the shared experts too. */
function weightsOn(node: Node, operand: string): readonly Value[] {
  if (node.op === 'linear' || node.op === 'head_linear') return [node.ins.weight];
  if (node.op !== 'moe.grouped_linear') return [];
  const { weight, sharedWeight, sharedX } = node.ins;
  const shared = sharedWeight === undefined ? [] : [sharedWeight];
  return operand === 'sharedX' ? shared : [weight, ...(sharedX === undefined ? shared : [])];
}

const columnsOf = ({ type }: Value): readonly number[] => {
  const last = type.kind === 'tensor' ? type.shape.at(-1) : undefined;
  return typeof last === 'number' ? [last] : [];
};

/** Columns over which an error of the operand spreads at least: of rows and results of a product, of the queries of attention. */
function widthOn(node: Node, operand: string, value: Value): number {
  if (node.op === 'attention') return Math.min(...columnsOf(node.ins.q));
  if (node.op === 'moe.combine') return Math.min(...columnsOf(value));
  if (node.op === 'linear' || node.op === 'head_linear') return Math.min(...columnsOf(value), ...columnsOf(node.outs.y));
  if (node.op !== 'moe.grouped_linear') return Infinity;
  const { y, shared = y } = node.outs;
  const own = operand === 'sharedX' ? [shared] : node.ins.sharedX === undefined ? [y, shared] : [y];
  return Math.min(...columnsOf(value), ...own.flatMap(columnsOf));
}

interface Narrowing {
  readonly half: Half;
  /** Columns that readers must have. */
  readonly width: number;
}

/** Why an operand must be f32; undefined where its rows may be narrowed. `narrowed`: values that will be. */
function readerProblem(node: Node, operand: string, value: Value, { half, width }: Narrowing, narrowed: ReadonlySet<string>): string | undefined {
  if (ROWS[node.op]?.includes(operand) !== true) return `${describe(node)} computes with it`;
  const wide = weightsOn(node, operand).find((w) => dtypeOf(w) !== half);
  if (wide !== undefined) return `${describe(node)} multiplies it by ${describeValue(wide)}`;
  const columns = widthOn(node, operand, value);
  if (columns < width) return `${describe(node)} has only ${columns} columns, rounding takes ${width}`;
  if (node.op === 'cache_append') return narrowed.has(node.outs.cache.id) ? undefined : `${describe(node)} keeps it in f32`;
  const isCopy = node.op === 'slice_heads' || node.op === 'concat_heads' || node.op === 'moe.permute';
  return !isCopy || narrowed.has(node.outs.y.id) ? undefined : `${describe(node)} copies it to f32`;
}

/** Why a cache stays f32: only attention may read it, which reads keys and values in one type. */
function cacheProblem(scene: Scene, { outs }: NodeOf<'cache_append'>): string | undefined {
  const attending = (value: Value): readonly NodeOf<'attention'>[] =>
    scene.graph.nodes.flatMap((n) => (n.op === 'attention' && [n.ins.k.id, n.ins.v?.id].includes(value.id) ? [n] : []));
  const isKept = (value: Value): boolean => {
    const append = scene.maker('cache_append', value);
    const own = append !== undefined && scene.uses(append.ins.cache) === 1 && scene.param(append.ins.cache)?.role.kind === 'state';
    return !own || scene.uses(value) !== attending(value).length;
  };
  const read = attending(outs.cache).flatMap(({ ins: { k, v } }) => (v === undefined ? [k] : [k, v]));
  const other = read.find(isKept);
  return other === undefined ? undefined : `something else than attention reads %${other.id}`;
}

/** Gives products a narrowed copy of the rows that a router reads without a norm. */
function copyForProducts(graph: Graph, narrowing: Narrowing, { caps }: PassOptions, report: Report): Graph {
  const { half } = narrowing;
  let current = graph;
  for (const route of graph.nodes) {
    if (route.op !== 'moe.route' || route.ins.x === undefined || route.attrs.norm !== undefined || route.outs.xn !== undefined) continue;
    const { x } = route.ins;
    const scene = sceneOf(current);
    const reads = (node: Node): readonly string[] =>
      operands(node).flatMap(([name, value]) => (value.id === x.id && readerProblem(node, name, value, narrowing, new Set()) === undefined ? [name] : []));
    const isEarlier = (node: Node): boolean => operands(route).some(([, value]) => results(node).some(([, made]) => scene.dependsOn(value, made)));
    const products = current.nodes.filter((node) => reads(node).length > 0 && !isEarlier(node));
    const type = inHalf(x, half);
    if (products.length === 0 || type === undefined) continue;
    const fresh = freshFor(current);
    const xn: Value = { id: fresh('route.xn'), type };
    const made = makeNode(fresh, 'moe.route', route.ins, route.attrs, route.span, { gate: 'omit', ...route.outs, xn });
    const problem = bindingProblem(made, caps);
    if (problem !== undefined) {
      report({ kind: 'refused', where: describe(route), what: `a copy of ${describeValue(x)} in ${half}: ${problem}` });
      continue;
    }
    const nodes = current.nodes.map((node) =>
      node === route ? made : products.includes(node) ? reads(node).reduce((n, name) => replaceOperand(n, name, xn), node) : node,
    );
    current = sortNodes({ ...current, nodes });
    report({ kind: 'fired', where: describe(route), what: `leaves a copy of %${x.id} in ${half} for ${products.map(describe).join(' and ')}` });
  }
  return current;
}

export const narrowRows: Pass<Graph> = definePass({
  name: 'narrow-rows',
  doc: 'rows that are only multiplied, combined, attended to or copied are stored in the 16-bit type of the weights',
  run(input, options, report) {
    if (!options.caps.stores16) return input;
    const half = halfOf(input);
    if (half === undefined) {
      report({ kind: 'refused', where: input.name, what: 'its weights are not all of one 16-bit type, to which rows could be narrowed' });
      return input;
    }
    const narrowing: Narrowing = { half, width: options.caps.roundedWidth };
    const graph = copyForProducts(input, narrowing, options, report);
    const scene = sceneOf(graph);
    const readersOf = consumers(graph);
    const kept = new Set(Object.values(graph.results).map((value) => value.id));
    const types = new Map<string, TensorType>();
    const events: Omit<PassEvent, 'pass'>[] = [];

    /** What an f32 value is read as: why it stays, and whether any reader would take it narrowed, were it wide. */
    const readings = (value: Value): { readonly problem: string | undefined; readonly wanted: boolean } => {
      const narrowed = new Set(types.keys());
      const problems = (width: number): readonly (string | undefined)[] =>
        (readersOf.get(value.id) ?? []).flatMap((node) =>
          operands(node).flatMap(([name, v]) => (v.id === value.id ? [readerProblem(node, name, v, { half, width }, narrowed)] : [])),
        );
      return { problem: problems(narrowing.width).find((p) => p !== undefined), wanted: problems(0).includes(undefined) };
    };
    const consider = (where: string, value: Value, own: string | undefined): void => {
      const type = inHalf(value, half);
      const { problem, wanted } = readings(value);
      if (type === undefined || dtypeOf(value) !== 'f32' || !wanted) return;
      const why = own ?? (kept.has(value.id) ? 'it is a result of the section' : problem);
      if (why === undefined) types.set(value.id, type);
      events.push({ kind: why === undefined ? 'fired' : 'refused', where, what: why === undefined ? `%${value.id} is stored in ${half}` : `%${value.id} stays f32: ${why}` });
    };
    // From the last node to the first: whether a copy may be narrow follows from those who read it.
    for (const node of graph.nodes.toReversed()) {
      if (node.op === 'cache_append') {
        const before = types.size;
        consider(describe(node), node.outs.cache, cacheProblem(scene, node));
        const type = inHalf(node.ins.cache, half);
        if (types.size > before && type !== undefined) types.set(node.ins.cache.id, type);
        continue;
      }
      const may = narrowable(node);
      for (const [name, value] of results(node).toReversed()) consider(describe(node), value, may.includes(name) ? undefined : `${node.op} stores f32`);
    }
    for (const { role, value, name } of graph.params) if (role.kind === 'input') consider(`param ${name}`, value, 'it is an input of the section');
    events.reverse().forEach(report);
    return retype(graph, types);
  },
});
