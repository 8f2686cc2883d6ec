/** Which part of a layer each node belongs to, for reports: told by its weights, or by where its operands come from. */
import { operands, paramsById, producers } from '../ir/graph/rewrite.ts';
import type { Graph, Node, OpName } from '../ir/graph/types.ts';
import type { Step } from './program.ts';

type Group = Step['group'];

const ATTENTION: ReadonlySet<OpName> = new Set<OpName>(['rope', 'cache_append', 'attention', 'head_linear', 'slice_heads', 'concat_heads']);

/** Canonical names without the layer: `attn.q.weight`, `router.weight`, `ffn.gate_up.weight`. */
function groupOfParam(name: string): Group | undefined {
  const part = name.replace(/^layers\.\{l\}\./, '');
  if (/^(attn|cache)\b/.test(part)) return 'attention';
  if (/^(router|experts|shared|shared_gate)\b/.test(part)) return 'moe';
  return /^ffn\b/.test(part) ? 'dense' : undefined;
}

/** The group of every node of a section. */
export function groupsOf(graph: Graph): ReadonlyMap<Node, Group> {
  const params = paramsById(graph);
  const made = producers(graph);
  const groups = new Map<Node, Group>();
  const own = (node: Node): Group | undefined => {
    if (graph.name === 'embed' || graph.name === 'head') return graph.name;
    if (node.op.startsWith('moe.')) return 'moe';
    if (node.op === 'linear') {
      const weight = params.get(node.ins.weight.id);
      return weight && groupOfParam(weight.name);
    }
    // A norm of queries, keys or latents is attention's; what slices a feed-forward product is not.
    if (node.op === 'norm') return groupOfParam(params.get(node.ins.weight.id)?.name ?? '') ?? 'norm';
    return node.op !== 'slice_heads' && ATTENTION.has(node.op) ? 'attention' : undefined;
  };
  for (const node of graph.nodes) {
    // Sums name the branch they add last: the residual comes first.
    const from = operands(node).flatMap(([, value]) => {
      const before = made.get(value.id);
      const group = before && groups.get(before);
      return group === undefined || group === 'norm' ? [] : [group];
    });
    groups.set(node, own(node) ?? from.at(-1) ?? 'dense');
  }
  return groups;
}

/** Nodes of the mixture of a layer: its ops, sums and products, and the norm it starts with. */
export function mixtureNodes(graph: Graph): ReadonlySet<Node> {
  if (!graph.nodes.some((node) => node.op === 'moe.route')) return new Set();
  const groups = groupsOf(graph);
  const isMoe = (node: Node): boolean => groups.get(node) === 'moe';
  const made = producers(graph);
  const norms = graph.nodes.filter(isMoe).flatMap((node) =>
    operands(node).flatMap(([, value]) => {
      const before = made.get(value.id);
      return before !== undefined && groups.get(before) === 'norm' ? [before] : [];
    }),
  );
  return new Set([...graph.nodes.filter(isMoe), ...norms]);
}
