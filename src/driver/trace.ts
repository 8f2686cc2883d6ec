/** Where the tokens of a call went: the routing of every mixture layer, from the reference evaluator. */
import type { Graph } from '../ir/graph/types.ts';
import type { GraphProgram } from '../lower/graph-program.ts';
import type { TensorSet } from '../runtime/core/tensors.ts';
import { loadReference } from './reference.ts';

export interface LayerRouting {
  readonly layer: number;
  readonly experts: number;
  readonly slots: number;
  /** [T, slots], best first; DROPPED where a slot is not used. */
  readonly ids: Uint32Array;
  readonly weights: Float64Array;
}

/** The section with its routing as results, where it has any. */
function withRouting(graph: Graph): { readonly graph: Graph; readonly experts: number; readonly slots: number } | undefined {
  for (const node of graph.nodes) {
    if (node.op !== 'moe.route') continue;
    const { ids, weights } = node.outs;
    return { graph: { ...graph, results: { ...graph.results, topk_indices: ids, topk_weights: weights } }, experts: node.attrs.experts, slots: node.attrs.slots };
  }
  return undefined;
}

/** Runs the model up to each mixture layer. For small models: every layer runs the ones before it again. */
export async function traceRouting(program: GraphProgram, weights: TensorSet, ids: Int32Array): Promise<readonly LayerRouting[]> {
  const traced: LayerRouting[] = [];
  for (const [at, { section, layer }] of program.sequence.entries()) {
    const graph = program.sections[section];
    const routed = graph === undefined ? undefined : withRouting(graph);
    if (routed === undefined || layer === undefined) continue;
    const sections = program.sections.map((s, i) => (i === section ? routed.graph : s));
    const reference = await loadReference({ sections, sequence: program.sequence.slice(0, at + 1) }, weights, { capacity: ids.length });
    const { results } = reference.run({ ids });
    traced.push({
      layer,
      experts: routed.experts,
      slots: routed.slots,
      ids: Uint32Array.from(results['topk_indices'] ?? []),
      weights: Float64Array.from(results['topk_weights'] ?? []),
    });
  }
  return traced;
}
