/** `moec analyze`: parameters, FLOPs and bytes of a spec, from its numbers alone. */
import { activationBytes, kvBytesPerToken } from './memory.ts';
import { countFlops, type Flops, standardFfns } from './flops.ts';
import type { Spec } from './types.ts';
import { activeBytes, copies, elements, tensorBytes, type WeightGroup, weightGroups, type WeightPart, type WeightTensor } from './weights.ts';

export interface ParamCounts {
  /** Every weight; input and output embeddings are two where they are not tied. */
  readonly total: number;
  /** The same with only the experts that run for one token. */
  readonly active: number;
  /** Without the input embedding (of a tied model: without the one matrix). */
  readonly activeWithoutInputEmbedding: number;
  readonly activeWithoutEmbeddings: number;
  /** All layers' routed experts, and those of them that run. */
  readonly experts: number;
  readonly activeExperts: number;
  readonly byPart: Readonly<Record<WeightPart, number>>;
}

export interface LayerAnalysis {
  /** Index of the layer kind and the layers of that kind. */
  readonly kind: number;
  readonly layers: readonly number[];
  readonly description: string;
  /** Of one such layer. */
  readonly params: { readonly total: number; readonly active: number; readonly byPart: Readonly<Partial<Record<WeightPart, number>>> };
  /** Standard FFNs (8 d²) that a token passes through, as the paper counts. */
  readonly standardFfns: number;
}

export interface Analysis {
  readonly name: string;
  readonly kind: Spec['kind'];
  readonly tokens: number;
  readonly params: ParamCounts;
  readonly flops: Flops;
  readonly bytes: {
    readonly weights: number;
    /** Of the weights one token touches: what decoding must read. */
    readonly activeWeights: number;
    /** Largest sum of live activations for one call of `tokens` tokens, an estimate from above. */
    readonly activations: number;
    readonly kvCachePerToken: number;
    readonly kvCache: number;
    readonly total: number;
  };
  readonly layers: readonly LayerAnalysis[];
}

/** Tokens that `analyze` counts for when the user does not say: a model's context; for a layer alone, a training sequence. */
export const defaultTokens = (spec: Spec): number => (spec.kind === 'model' ? spec.context : 2048);

const sum = (list: readonly WeightTensor[], f: (t: WeightTensor) => number): number => list.reduce((a, t) => a + f(t), 0);

function countParams(groups: readonly WeightGroup[], spec: Spec): ParamCounts {
  const byPart: Record<WeightPart, number> = {
    embedding: 0,
    head: 0,
    attention: 0,
    norm: 0,
    dense: 0,
    experts: 0,
    shared: 0,
    router: 0,
  };
  let active = 0;
  let activeRouted = 0;
  for (const group of groups) {
    for (const t of group.tensors) {
      byPart[t.part] += copies(group) * elements(t);
      active += copies(group) * t.activeElements;
      if (t.part === 'experts') activeRouted += copies(group) * t.activeElements;
    }
  }
  const embedding = byPart.embedding;
  const untiedHead = spec.kind === 'model' && !spec.embedding.tied ? spec.vocab * spec.hidden : 0;
  return {
    total: Object.values(byPart).reduce((a, b) => a + b, 0),
    active,
    activeWithoutInputEmbedding: active - embedding,
    activeWithoutEmbeddings: active - embedding - untiedHead,
    experts: byPart.experts,
    activeExperts: activeRouted,
    byPart,
  };
}

function describe(spec: Spec, index: number): string {
  const ffn = spec.kind === 'layer' ? spec.ffn : spec.kinds[index]?.ffn;
  const attention = spec.kind === 'layer' ? undefined : spec.kinds[index]?.attention;
  const parts: string[] = [];
  if (attention?.kind === 'mla') parts.push(`MLA ${attention.heads} heads`);
  if (attention?.kind === 'heads') {
    const grouped = attention.kvHeads === attention.heads ? '' : `/${attention.kvHeads}`;
    const window = attention.window === undefined ? '' : ` window ${attention.window}`;
    parts.push(`attention ${attention.heads}${grouped} x ${attention.headDim}${window}`);
  }
  if (ffn?.kind === 'dense') parts.push(`dense ${ffn.ffn.width}`);
  if (ffn?.kind === 'moe') {
    const active = ffn.router.select.kind === 'expert-choice' ? 'expert choice' : `${ffn.active} active`;
    const shared = ffn.shared === undefined ? '' : ` + ${ffn.shared.count} shared`;
    parts.push(`${ffn.experts} experts of ${ffn.expert.width}, ${active}${shared}`);
  }
  return parts.join(', ');
}

function analyzeLayers(groups: readonly WeightGroup[], spec: Spec): LayerAnalysis[] {
  return groups.flatMap((group) => {
    if (group.kind === undefined) return [];
    const byPart: Partial<Record<WeightPart, number>> = {};
    for (const t of group.tensors) byPart[t.part] = (byPart[t.part] ?? 0) + elements(t);
    const ffn = spec.kind === 'layer' ? spec.ffn : spec.kinds[group.kind]?.ffn;
    return [
      {
        kind: group.kind,
        layers: group.layers,
        description: describe(spec, group.kind),
        params: { total: sum(group.tensors, elements), active: sum(group.tensors, (t) => t.activeElements), byPart },
        standardFfns: ffn === undefined ? 0 : standardFfns(ffn, spec.hidden),
      },
    ];
  });
}

/** Everything `moec analyze` says about a spec; FLOPs, activations and the KV cache are those of one sequence of `tokens` tokens. */
export function analyze(spec: Spec, tokens: number = defaultTokens(spec)): Analysis {
  const groups = weightGroups(spec);
  const params = countParams(groups, spec);
  const activations = activationBytes(spec, tokens);
  const kvCachePerToken = kvBytesPerToken(spec);
  const bytes = (of: (t: WeightTensor, spec: Spec) => number): number =>
    groups.reduce((total, group) => total + copies(group) * sum(group.tensors, (t) => of(t, spec)), 0);
  const weights = bytes(tensorBytes);
  const embedding = sum(groups.flatMap((g) => g.tensors.filter((t) => t.part === 'embedding')), (t) => tensorBytes(t, spec));
  return {
    name: spec.name,
    kind: spec.kind,
    tokens,
    params,
    flops: countFlops(spec, tokens),
    bytes: {
      weights,
      activeWeights: bytes(activeBytes) - embedding,
      activations,
      kvCachePerToken,
      kvCache: kvCachePerToken * tokens,
      total: weights + activations + kvCachePerToken * tokens,
    },
    layers: analyzeLayers(groups, spec),
  };
}
