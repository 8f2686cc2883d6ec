/** Bytes that are not weights: activations by lifetime, scratch of the routing plan, KV cache. Activations are f32 throughout. */
import type { Attention, LayerFfn, Spec } from './types.ts';

const F32 = 4;

/** KV-cache bytes of one token over all layers; keys and values are kept in f32. Latent attention keeps the latent and one rotated key. */
export function kvBytesPerToken(spec: Spec): number {
  if (spec.kind === 'layer') return 0;
  const perLayer = spec.kinds.map(({ attention: a }) => (a.kind === 'heads' ? 2 * a.kvHeads * a.headDim : a.kvLora + a.ropeDim));
  return F32 * spec.layers.reduce((total, kind) => total + (perLayer[kind] ?? 0), 0);
}

/** Elements alive at once, per token, while attention runs: the residual stream, its norm, queries, keys, values and the result. */
function attentionElements(a: Attention, hidden: number): number {
  if (a.kind === 'heads') return 2 * hidden + 2 * a.heads * a.headDim + 2 * a.kvHeads * a.headDim;
  // Queries are folded into the latent space: one row of the latent and the rotated part per head.
  return 2 * hidden + a.heads * (a.nopeDim + a.ropeDim) + 2 * a.heads * (a.kvLora + a.ropeDim) + (a.qLora ?? 0);
}

/** Slots of routed rows per token. */
const slots = (ffn: LayerFfn): number => {
  if (ffn.kind === 'dense') return 0;
  return ffn.router.select.kind === 'expert-choice' ? ffn.experts : ffn.active;
};

function ffnElements(ffn: LayerFfn, hidden: number): number {
  if (ffn.kind === 'dense') return 2 * hidden + 2 * ffn.ffn.width;
  const routed = slots(ffn) * (ffn.expert.width + hidden + 2);
  const shared = ffn.shared === undefined ? 0 : ffn.shared.ffn.width + hidden + 1;
  return 2 * hidden + ffn.experts + routed + shared;
}

/** Scratch of the device-made routing plan: offsets per expert and one entry per routed row, in u32, with one tile of slack per expert. */
export function planBytes(spec: Spec, tokens: number): number {
  const ffns = spec.kind === 'layer' ? [spec.ffn] : spec.kinds.map((k) => k.ffn);
  return Math.max(0, ...ffns.map((f) => (f.kind === 'dense' ? 0 : 4 * (2 * tokens * slots(f) + 64 * f.experts))));
}

/** The most bytes of activations alive at once in a call of `tokens` tokens; sections reuse each other's scratch. */
export function activationBytes(spec: Spec, tokens: number): number {
  if (spec.kind === 'layer') return F32 * tokens * (ffnElements(spec.ffn, spec.hidden) + spec.hidden);
  const perSection = [
    ...spec.kinds.map((k) => Math.max(attentionElements(k.attention, spec.hidden), ffnElements(k.ffn, spec.hidden))),
    spec.hidden + spec.vocab,
  ];
  return F32 * tokens * (spec.hidden + Math.max(...perSection));
}
