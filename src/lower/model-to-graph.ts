/**
 * Model → graph IR: one graph per section, unfused. A model is `embed`, one `layer.<kind>` for each distinct layer kind
 * and `head`; a layer spec is the one section `layer`. What the graphs compute is the spec's meaning, word for word.
 */
import { tensor } from '../ir/graph/op-spec.ts';
import type { Graph, Value } from '../ir/graph/types.ts';
import { assertValidGraph } from '../ir/graph/verify.ts';
import type { LayerFfn, LayerKind, LayerSpec, ModelSpec, Spec } from '../model/types.ts';
import type { GraphProgram } from './graph-program.ts';
import { lowerAttention } from './model-to-graph-attention.ts';
import { lowerDense } from './model-to-graph-ffn.ts';
import { lowerMoe, type MoeResult } from './model-to-graph-moe.ts';
import { hiddenNorm, matrixParam, maybe, newSection, type SectionBuilder, vectorParam } from './model-to-graph-section.ts';
import * as names from './weights/attention.ts';
import { LAYER_SCOPE, MODEL_SCOPE } from './weights/scope.ts';
import { vector } from './weights/source.ts';

const hiddenInput = (s: SectionBuilder): Value => s.graph.param('x', tensor('f32', 'T', s.hidden), { kind: 'input' });

function lowerFfn(s: SectionBuilder, ffn: LayerFfn, x: Value, vocab: number | undefined): MoeResult | { readonly y: Value } {
  return ffn.kind === 'dense' ? { y: lowerDense(s, ffn.ffn, x, 'dense') } : lowerMoe(s, ffn, x, vocab);
}

/** The embedding table: the head of a model with tied embeddings reads the same parameter. */
const embeddingTable = (s: SectionBuilder, spec: ModelSpec): Value =>
  matrixParam(s, 'embed.weight', spec.vocab, spec.hidden, names.embedding(spec.vocab, spec.hidden));

function embedSection(spec: ModelSpec): Graph {
  const s = newSection('embed', MODEL_SCOPE, spec);
  s.graph.at(spec.span);
  const ids = s.graph.param('ids', tensor('i32', 'T'), { kind: 'input' });
  return s.graph.finish({ y: s.graph.add('embed', { ids, table: embeddingTable(s, spec) }, { scale: spec.embedding.multiplier }).y });
}

function layerSection(spec: ModelSpec, kind: LayerKind, index: number): Graph {
  const s = newSection(`layer.${index}`, MODEL_SCOPE, spec);
  s.graph.at(kind.span);
  const norm = (x: Value, place: 'attention' | 'ffn'): Value =>
    hiddenNorm(s, x, spec.norm, s.scope.canonical(place === 'attention' ? 'attn_norm' : 'ffn_norm'), (which) =>
      names.normVector(place, which, spec.hidden),
    );
  const residual = (x: Value, y: Value): Value => s.graph.add('add', { a: x, b: y }, { scale: spec.residualMultiplier }).y;
  const x = hiddenInput(s);
  const middle = residual(x, lowerAttention(s, kind.attention, norm(x, 'attention'), spec.norm));
  return s.graph.finish({ y: residual(middle, lowerFfn(s, kind.ffn, norm(middle, 'ffn'), spec.vocab).y) });
}

function headSection(spec: ModelSpec): Graph {
  const s = newSection('head', MODEL_SCOPE, spec);
  s.graph.at(spec.span);
  const x = hiddenNorm(s, hiddenInput(s), spec.norm, 'norm', (which) => names.normVector('final', which, spec.hidden));
  const { tied } = spec.embedding;
  const weight = tied
    ? embeddingTable(s, spec)
    : matrixParam(s, 'head.weight', spec.vocab, spec.hidden, names.headWeight(spec.vocab, spec.hidden));
  const bias = spec.head.bias ? vectorParam(s, 'head.bias', spec.vocab, names.headBias(spec.vocab)) : undefined;
  const attrs = { epilogue: { kind: 'none' }, scale: 1 / spec.head.divisor } as const;
  return s.graph.finish({ y: s.graph.add('linear', { x, weight, ...maybe('bias', bias) }, attrs).y });
}

/** Names of the norm before a layer alone. */
const layerNorm = (which: 'weight' | 'bias', d: number): ReturnType<typeof names.normVector> =>
  ['norm', 'post_attention_layernorm', 'input_layernorm'].map((name) => vector(`${name}.${which}`, d));

function aloneSection(spec: LayerSpec): Graph {
  const s = newSection('layer', LAYER_SCOPE, spec);
  s.graph.at(spec.span);
  const x = hiddenInput(s);
  const normed = spec.norm === undefined ? x : hiddenNorm(s, x, spec.norm, 'norm', (which) => layerNorm(which, spec.hidden));
  const out = lowerFfn(s, spec.ffn, normed, spec.vocab);
  const y = spec.residual ? s.graph.add('add', { a: x, b: out.y }, { scale: 1 }).y : out.y;
  return s.graph.finish('ids' in out ? { y, topk_weights: out.weights, topk_indices: out.ids } : { y });
}

/**
 * The graphs of a spec and the order in which they run.
 * @throws Error for a spec that the model room should have refused
 */
export function lowerToGraphs(spec: Spec): GraphProgram {
  const program = spec.kind === 'layer' ? lowerAlone(spec) : lowerModel(spec);
  for (const graph of program.sections) assertValidGraph(graph, 'after lowering');
  return program;
}

const lowerAlone = (spec: LayerSpec): GraphProgram => ({ sections: [aloneSection(spec)], sequence: [{ section: 0, layer: undefined }] });

function lowerModel(spec: ModelSpec): GraphProgram {
  const layers = spec.kinds.map((kind, i) => layerSection(spec, kind, i));
  return {
    sections: [embedSection(spec), ...layers, headSection(spec)],
    sequence: [
      { section: 0, layer: undefined },
      ...spec.layers.map((kind, layer) => ({ section: 1 + kind, layer })),
      { section: 1 + layers.length, layer: undefined },
    ],
  };
}
