/** Pieces of a graph as graphs of their own: what comes from outside becomes an input, what is read outside a result. */
import { operands, paramsById, results } from '../../ir/graph/rewrite.ts';
import type { Graph, GraphParam, Node, Value } from '../../ir/graph/types.ts';

/** What an input of a piece is for: decides which numbers it is fed with. */
export type InputKind = 'ids' | 'weights' | 'rows' | 'cache';

export interface Piece {
  readonly graph: Graph;
  readonly inputs: readonly { readonly name: string; readonly kind: InputKind; readonly value: Value }[];
}

/** Operands that are weights of routed rows: positive, about 1 in sum. */
const ROUTE_WEIGHTS: ReadonlySet<string> = new Set(['weights', 'routeWeights']);

function kindOf(node: Node, operand: string, value: Value): InputKind {
  if (operand === 'ids') return 'ids';
  if (ROUTE_WEIGHTS.has(operand) && node.op.startsWith('moe.')) return 'weights';
  return value.type.kind === 'tensor' && value.type.shape[0] === 'cap' ? 'cache' : 'rows';
}

const unused = (name: string, taken: ReadonlySet<string>): string => {
  let free = name;
  for (let n = 2; taken.has(free); n++) free = `${name}${n}`;
  return free;
};

/** @param nodes of the graph, in its order */
export function cut(graph: Graph, nodes: readonly Node[]): Piece {
  const params = paramsById(graph);
  const own = new Set(nodes);
  const made = new Map(nodes.flatMap((n) => results(n).map(([name, value]) => [value.id, { name, value }] as const)));
  const kept = new Map<string, GraphParam>();
  const inputs: Piece['inputs'][number][] = [];
  const names = new Set<string>();
  for (const node of nodes) {
    for (const [operand, value] of operands(node)) {
      if (made.has(value.id) || kept.has(value.id)) continue;
      const param = params.get(value.id);
      if (param?.role.kind === 'weight') {
        kept.set(value.id, param);
        continue;
      }
      const name = unused(operand, names);
      names.add(name);
      const kind = kindOf(node, operand, value);
      inputs.push({ name, kind, value });
      kept.set(value.id, { name, value, role: { kind: kind === 'cache' ? 'state' : 'input' } });
    }
  }
  const outside = new Set([
    ...Object.values(graph.results).map((v) => v.id),
    ...graph.nodes.filter((n) => !own.has(n)).flatMap((n) => operands(n).map(([, v]) => v.id)),
  ]);
  const out: Record<string, Value> = {};
  for (const [id, { name, value }] of made) if (outside.has(id) && value.type.kind === 'tensor') out[unused(name, new Set([...names, ...Object.keys(out)]))] = value;
  return { graph: { name: graph.name, params: [...kept.values()], nodes: [...nodes], results: out }, inputs };
}

/** The products of a mixture and what lies between them: from the plan to the last node that needs it. */
export function expertNodes(graph: Graph): readonly Node[] {
  const after = new Set<string>();
  const found = graph.nodes.filter((node) => {
    const isPart = node.op === 'moe.plan' || operands(node).some(([, v]) => after.has(v.id));
    if (isPart) for (const [, v] of results(node)) after.add(v.id);
    return isPart;
  });
  const last = found.findLastIndex((n) => n.op.startsWith('moe.'));
  return found.slice(0, last + 1);
}

/** Nodes that are units by themselves. */
export const SINGLE_OPS = ['linear', 'head_linear', 'attention'] as const;
