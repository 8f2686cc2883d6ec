/** What the graph passes share: looking at a node's surroundings, putting nodes in place of others, trying every place. */
import { showDims } from '../../ir/graph/op-spec.ts';
import { operands, paramsById, producers, results, sortNodes, useCounts } from '../../ir/graph/rewrite.ts';
import { isOp, type Graph, type GraphParam, type Node, type NodeOf, type OpName, type Value } from '../../ir/graph/types.ts';
import type { PassEvent } from '../pass.ts';

/** A graph with the questions passes ask of it answered once. */
export interface Scene {
  readonly graph: Graph;
  /** The node of op `op` that makes the value; undefined for parameters and other ops. */
  maker<K extends OpName>(op: K, value: Value | undefined): NodeOf<K> | undefined;
  /** How often the value is read; results of the graph count. */
  uses(value: Value): number;
  /** The parameter the value is, where it is one. */
  param(value: Value): GraphParam | undefined;
  /** Whether `value` is computed from `from`, through any number of nodes. */
  dependsOn(value: Value, from: Value): boolean;
}

export function sceneOf(graph: Graph): Scene {
  const made = producers(graph);
  const counts = useCounts(graph);
  const params = paramsById(graph);
  const dependsOn = (value: Value, from: Value, seen: Set<string>): boolean => {
    if (value.id === from.id) return true;
    if (seen.has(value.id)) return false;
    seen.add(value.id);
    const node = made.get(value.id);
    return node !== undefined && operands(node).some(([, v]) => dependsOn(v, from, seen));
  };
  return {
    graph,
    maker(op, value) {
      const node = value && made.get(value.id);
      return node !== undefined && isOp(node, op) ? node : undefined;
    },
    uses: (value) => counts.get(value.id) ?? 0,
    param: (value) => params.get(value.id),
    dependsOn: (value, from) => dependsOn(value, from, new Set()),
  };
}

/** A node in a report: its op and first result. */
export const describe = (node: Node): string => `${node.op} %${results(node)[0]?.[1].id ?? '?'}`;

/** A value in a report, with its shape. */
export const describeValue = (value: Value): string =>
  value.type.kind === 'plan' ? `%${value.id}` : `%${value.id} ${value.type.dtype}${showDims(value.type.shape)}`;

export const sameValue = (a: Value | undefined, b: Value | undefined): boolean => a?.id === b?.id;

/** A value under a key, or nothing: optional operands are left out, never undefined. */
export const maybe = <K extends string>(key: K, value: Value | undefined): { readonly [N in K]?: Value } =>
  (value === undefined ? {} : { [key]: value }) as { readonly [N in K]?: Value };

/** The graph without `gone`, with `made` where the last of `gone` stood; values keep their ids, so order is all that is mended. */
export function substitute(graph: Graph, gone: readonly Node[], made: readonly Node[]): Graph {
  const away = new Set(gone);
  const last = graph.nodes.findLast((node) => away.has(node));
  const nodes = graph.nodes.flatMap((node) => (node === last ? made : away.has(node) ? [] : [node]));
  return sortNodes({ ...graph, nodes });
}

/** What trying a rewrite at one node gave; undefined: the node is not of the kind the pass looks for. */
export type Attempt = { readonly graph: Graph; readonly what: string } | { readonly refused: string } | undefined;

/** Tries every node until nothing fires any more. A place is reported once for every time it fired; refusals as they stand at the end. */
export function rewriteAll(
  graph: Graph,
  report: (event: Omit<PassEvent, 'pass'>) => void,
  attempt: (scene: Scene, node: Node) => Attempt,
): Graph {
  let current = graph;
  for (;;) {
    const refused: Omit<PassEvent, 'pass'>[] = [];
    const scene = sceneOf(current);
    let next: Graph | undefined;
    for (const node of current.nodes) {
      const result = attempt(scene, node);
      if (result === undefined) continue;
      if ('refused' in result) refused.push({ kind: 'refused', where: describe(node), what: result.refused });
      else {
        report({ kind: 'fired', where: describe(node), what: result.what });
        next = result.graph;
        break;
      }
    }
    if (next === undefined) {
      refused.forEach(report);
      return current;
    }
    current = next;
  }
}
