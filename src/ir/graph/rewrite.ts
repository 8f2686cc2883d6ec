/** What passes need to change a graph: who makes and who uses a value, replacing values, dropping what nobody reads. */
import { type FreshId, freshIds } from './build.ts';
import type { Graph, GraphParam, Node, OpName, Type, Value } from './types.ts';

/** Operands of a node by name, the absent ones left out. */
export const operands = (node: Node): readonly (readonly [name: string, value: Value])[] =>
  Object.entries<Value | undefined>({ ...node.ins }).flatMap(([name, value]) => (value === undefined ? [] : [[name, value] as const]));

/** Results of a node by name. */
export const results = (node: Node): readonly (readonly [name: string, value: Value])[] =>
  Object.entries<Value | undefined>({ ...node.outs }).flatMap(([name, value]) => (value === undefined ? [] : [[name, value] as const]));

/** A source of ids that are new in `graph`. */
export function freshFor(graph: Graph): FreshId {
  return freshIds([...graph.params.map((p) => p.value.id), ...graph.nodes.flatMap((node) => results(node).map(([, v]) => v.id))]);
}

/** The node that makes each value; parameters have none. */
export function producers(graph: Graph): ReadonlyMap<string, Node> {
  return new Map(graph.nodes.flatMap((node) => results(node).map(([, value]) => [value.id, node] as const)));
}

/** The nodes that read each value, in graph order, once per node. */
export function consumers(graph: Graph): ReadonlyMap<string, readonly Node[]> {
  const map = new Map<string, Node[]>();
  for (const node of graph.nodes) {
    for (const id of new Set(operands(node).map(([, value]) => value.id))) map.set(id, [...(map.get(id) ?? []), node]);
  }
  return map;
}

/** How often each value is read; a result of the graph counts as a read. Values nobody reads are absent. */
export function useCounts(graph: Graph): ReadonlyMap<string, number> {
  const counts = new Map<string, number>();
  const count = (value: Value): void => void counts.set(value.id, (counts.get(value.id) ?? 0) + 1);
  for (const node of graph.nodes) for (const [, value] of operands(node)) count(value);
  for (const value of Object.values(graph.results)) count(value);
  return counts;
}

/** The parameter behind each value that is one. */
export const paramsById = (graph: Graph): ReadonlyMap<string, GraphParam> => new Map(graph.params.map((p) => [p.value.id, p]));

/** Follows a chain of replacements to its end. */
const resolve = (value: Value, map: ReadonlyMap<string, Value>): Value => {
  let current = value;
  for (let next = map.get(current.id); next !== undefined && next.id !== current.id; next = map.get(current.id)) current = next;
  return current;
};

/** The node with its operands replaced; the node itself where none is. */
export function replaceOperands(node: Node, map: ReadonlyMap<string, Value>): Node {
  if (!operands(node).some(([, value]) => map.has(value.id))) return node;
  const ins = Object.fromEntries(operands(node).map(([name, value]) => [name, resolve(value, map)]));
  // Operands keep their names, so the node keeps its op's type.
  return { ...node, ins } as unknown as Node;
}

/** The node with another value as its operand `name`. */
export function replaceOperand(node: Node, name: string, value: Value): Node {
  // Operands keep their names, so the node keeps its op's type.
  return { ...node, ins: { ...node.ins, [name]: value } } as unknown as Node;
}

/** Every value whose id is a key of `types` has that type instead, wherever it is made, read or returned. */
export function retype(graph: Graph, types: ReadonlyMap<string, Type>): Graph {
  if (types.size === 0) return graph;
  const of = (value: Value): Value => {
    const type = types.get(value.id);
    return type === undefined ? value : { ...value, type };
  };
  const all = (values: readonly (readonly [string, Value])[]): Record<string, Value> =>
    Object.fromEntries(values.map(([name, value]) => [name, of(value)]));
  return {
    ...graph,
    params: graph.params.map((p) => ({ ...p, value: of(p.value) })),
    // Operands and results keep their names, so each node keeps its op's type.
    nodes: graph.nodes.map((node) => ({ ...node, ins: all(operands(node)), outs: all(results(node)) }) as unknown as Node),
    results: all(Object.entries(graph.results)),
  };
}

/** Every read of a key of `map` becomes a read of its value, in nodes and results. */
export function replaceValues(graph: Graph, map: ReadonlyMap<string, Value>): Graph {
  if (map.size === 0) return graph;
  const replaced = Object.entries(graph.results).map(([name, value]) => [name, resolve(value, map)] as const);
  return { ...graph, nodes: graph.nodes.map((node) => replaceOperands(node, map)), results: Object.fromEntries(replaced) };
}

/** What a rewrite of one node gives: nodes in its place, and values that replace its results. */
export interface Replacement {
  readonly nodes: readonly Node[];
  readonly values?: ReadonlyMap<string, Value>;
}

/** Visits nodes in order; `undefined` keeps a node. Replacements made earlier are visible to later nodes. */
export function rewriteNodes(graph: Graph, rewrite: (node: Node) => Replacement | undefined): Graph {
  const values = new Map<string, Value>();
  const nodes: Node[] = [];
  for (const old of graph.nodes) {
    const node = replaceOperands(old, values);
    const made = rewrite(node);
    nodes.push(...(made === undefined ? [node] : made.nodes));
    for (const [id, value] of made?.values ?? []) values.set(id, value);
  }
  return replaceValues({ ...graph, nodes }, values);
}

/** Ops that change something besides their results. */
const HAS_EFFECT: ReadonlySet<OpName> = new Set<OpName>(['cache_append']);

/** Drops nodes whose results nobody reads (effects stay) and parameters nobody reads (inputs stay). */
export function removeDead(graph: Graph): Graph {
  const live = new Set(Object.values(graph.results).map((value) => value.id));
  const kept: Node[] = [];
  for (const node of graph.nodes.toReversed()) {
    if (!HAS_EFFECT.has(node.op) && !results(node).some(([, value]) => live.has(value.id))) continue;
    kept.push(node);
    for (const [, value] of operands(node)) live.add(value.id);
  }
  const params = graph.params.filter((p) => p.role.kind === 'input' || live.has(p.value.id));
  if (kept.length === graph.nodes.length && params.length === graph.params.length) return graph;
  return { ...graph, params, nodes: kept.toReversed() };
}

/** Nodes so that every value is made before it is read, otherwise in the order they have. @throws Error for a circle */
export function sortNodes(graph: Graph): Graph {
  const made = producers(graph);
  const done = new Set<Node>();
  const open = new Set<Node>();
  const nodes: Node[] = [];
  const visit = (node: Node): void => {
    if (done.has(node)) return;
    if (open.has(node)) throw new Error(`the nodes of ${graph.name} depend on each other in a circle`);
    open.add(node);
    for (const [, value] of operands(node)) {
      const before = made.get(value.id);
      if (before !== undefined) visit(before);
    }
    done.add(node);
    nodes.push(node);
  };
  graph.nodes.forEach(visit);
  return { ...graph, nodes };
}
