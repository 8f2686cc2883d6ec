/**
 * The computation of a spec under three rules (`moec analyze`).
 *
 * `paper` is the rule behind the tables of DeepSeekMoE (arXiv 2401.06066), which is DeepSeek-LLM's M = 72 L d² + 12 L d s with the
 * head added: training FLOPs (2 per multiply-add, times 3) of every matrix product, attention in full and as if it were
 * multi-head; feed-forward parts count 8 d² parameters for each activated *standard* FFN, whatever the real width. Embedding
 * lookup, router, norms, softmax and activations are free.
 */
import { activeExperts, hasRouterMatrix } from './weights.ts';
import type { Attention, Ffn, LayerFfn, LayerKind, Spec } from './types.ts';

export interface Flops {
  /** For all tokens: the paper's rule. */
  readonly paper: number;
  /** The paper's rule with the spec's own widths, heads and latent ranks. */
  readonly exact: number;
  /** Inference: a third of `exact`. */
  readonly forward: number;
  /** What one prefill really multiplies: as `forward`, but causal (and windowed) attention, with routers. */
  readonly prefill: number;
}

const ffnMatrices = (ffn: Ffn, hidden: number): number => (ffn.gated ? 3 : 2) * ffn.width * hidden;

/** Parameters of the feed-forward matrices that one token passes through, router not counted. */
export function activeFfnMatrices(ffn: LayerFfn, hidden: number): number {
  if (ffn.kind === 'dense') return ffnMatrices(ffn.ffn, hidden);
  const shared = ffn.shared === undefined ? 0 : ffnMatrices(ffn.shared.ffn, hidden);
  return activeExperts(ffn) * ffnMatrices(ffn.expert, hidden) + shared;
}

/** Authors align widths to 64, 128 or 256, which makes a layer up to 3.2 % larger than the whole number of FFNs it is counted as. */
const ALIGNMENT_SLACK = 0.035;

/**
 * How many standard FFNs (8 d² parameters: SwiGLU of width 8d/3, or two matrices of width 4d) a layer activates, nominally:
 * the whole number that its width stands for where one is within the alignment slack, else the true ratio.
 * 6 + 2 experts of 1408 at d = 2048 are 2.06 of them and count as 2, as in the paper.
 */
export function standardFfns(ffn: LayerFfn, hidden: number): number {
  const ratio = activeFfnMatrices(ffn, hidden) / (8 * hidden * hidden);
  const whole = Math.round(ratio);
  return whole >= 1 && Math.abs(ratio - whole) <= ALIGNMENT_SLACK * whole ? whole : ratio;
}

/** Parameters of the attention projections. */
function attentionMatrices(a: Attention, hidden: number): number {
  if (a.kind === 'heads') return 2 * hidden * a.headDim * (a.heads + a.kvHeads);
  const q = a.heads * (a.nopeDim + a.ropeDim);
  const queries = a.qLora === undefined ? q * hidden : a.qLora * (hidden + q);
  return queries + (a.kvLora + a.ropeDim) * hidden + a.heads * (a.nopeDim + a.vDim) * a.kvLora + hidden * a.heads * a.vDim;
}

/** Width of the score product plus that of the value product, over all heads. */
const scoreWidth = (a: Attention): number =>
  a.kind === 'heads' ? 2 * a.heads * a.headDim : a.heads * (a.nopeDim + a.ropeDim + a.vDim);

/** Query-key pairs that causality and the window leave of tokens². */
function seenPairs(tokens: number, window: number | undefined): number {
  const w = Math.min(tokens, window ?? tokens);
  return (w * (w + 1)) / 2 + (tokens - w) * w;
}

const routerMatrix = (ffn: LayerFfn, hidden: number): number => {
  if (ffn.kind === 'dense') return 0;
  return (hasRouterMatrix(ffn) ? ffn.experts * hidden : 0) + (ffn.shared?.gate === 'sigmoid' ? hidden : 0);
};

/** The FLOPs of a spec for one sequence of `tokens` tokens. */
export function countFlops(spec: Spec, tokens: number): Flops {
  const d = spec.hidden;
  const layers: readonly { readonly ffn: LayerFfn; readonly attention?: Attention; readonly count: number }[] =
    spec.kind === 'layer'
      ? [{ ffn: spec.ffn, count: 1 }]
      : spec.kinds.map((k: LayerKind, i) => ({ ...k, count: spec.layers.filter((x) => x === i).length }));
  const head = spec.kind === 'model' ? spec.vocab * d : 0;
  let nominal = head;
  let real = head;
  let routers = 0;
  let paperScores = 0;
  let realScores = 0;
  let causalScores = 0;
  for (const { ffn, attention, count } of layers) {
    nominal += count * 8 * d * d * standardFfns(ffn, d);
    real += count * activeFfnMatrices(ffn, d);
    routers += count * routerMatrix(ffn, d);
    if (attention === undefined) continue;
    nominal += count * 4 * d * d;
    real += count * attentionMatrices(attention, d);
    paperScores += count * 2 * d * tokens * tokens;
    realScores += count * scoreWidth(attention) * tokens * tokens;
    causalScores += count * scoreWidth(attention) * seenPairs(tokens, attention.kind === 'heads' ? attention.window : undefined);
  }
  const exact = 6 * (tokens * real + realScores);
  return {
    paper: 6 * (tokens * nominal + paperScores),
    exact,
    forward: exact / 3,
    prefill: 2 * (tokens * (real + routers) + causalScores),
  };
}
