/** Tensor names of attention and of what surrounds the layers, in released checkpoints. */
import type { TensorSource } from '../../ir/graph/types.ts';
import type { HeadsAttention, LatentAttention } from '../../model/types.ts';
import { DBRX_PREFIX, LAYER_PREFIX } from './scope.ts';
import { matrix, pick, stacked, vector } from './source.ts';

const SELF = `${LAYER_PREFIX}self_attn.`;

const matrices = (names: readonly string[], n: number, k: number): readonly TensorSource[] => names.map((name) => matrix(name, n, k));
const vectors = (names: readonly string[], n: number): readonly TensorSource[] => names.map((name) => vector(name, n));

export const embedding = (vocab: number, d: number): readonly TensorSource[] =>
  matrices(['model.embed_tokens.weight', 'transformer.wte.weight'], vocab, d);
export const headWeight = (vocab: number, d: number): readonly TensorSource[] => matrices(['lm_head.weight'], vocab, d);
export const headBias = (vocab: number): readonly TensorSource[] => vectors(['lm_head.bias'], vocab);

export type NormPlace = 'attention' | 'ffn' | 'final';

const NORM_NAMES: Readonly<Record<NormPlace, readonly string[]>> = {
  attention: [`${LAYER_PREFIX}input_layernorm`, `${LAYER_PREFIX}operator_norm`, `${DBRX_PREFIX}norm_attn_norm.norm_1`],
  ffn: [`${LAYER_PREFIX}post_attention_layernorm`, `${LAYER_PREFIX}ffn_norm`, `${DBRX_PREFIX}norm_attn_norm.norm_2`],
  final: ['model.norm', 'transformer.norm_f', 'model.embedding_norm'],
};

export const normVector = (place: NormPlace, which: 'weight' | 'bias', d: number): readonly TensorSource[] =>
  vectors(
    NORM_NAMES[place].map((name) => `${name}.${which}`),
    d,
  );

type Projection = 'q' | 'k' | 'v' | 'o';

/** Rows of DBRX's fused q, k, v projection before those of `which`. */
function fusedStart(a: HeadsAttention, which: Exclude<Projection, 'o'>): number {
  const [q, kv] = [a.heads * a.headDim, a.kvHeads * a.headDim];
  return { q: 0, k: q, v: q + kv }[which];
}

export function projection(a: HeadsAttention, which: Projection, n: number, k: number): readonly TensorSource[] {
  if (which === 'o')
    return matrices([`${SELF}o_proj.weight`, `${SELF}out_proj.weight`, `${DBRX_PREFIX}norm_attn_norm.attn.out_proj.weight`], n, k);
  const all = (a.heads + 2 * a.kvHeads) * a.headDim;
  const fused = [`${SELF}qkv_proj.weight`, `${DBRX_PREFIX}norm_attn_norm.attn.Wqkv.weight`];
  return [matrix(`${SELF}${which}_proj.weight`, n, k), ...fused.map((name) => pick(matrix(name, all, k), fusedStart(a, which)))];
}

export const projectionBias = (which: Projection, n: number): readonly TensorSource[] =>
  vectors(which === 'o' ? [`${SELF}o_proj.bias`, `${SELF}out_proj.bias`] : [`${SELF}${which}_proj.bias`], n);

export const qkNorm = (which: 'q' | 'k', n: number): readonly TensorSource[] => {
  const long = which === 'q' ? 'query' : 'key';
  return vectors([`${SELF}${which}_norm.weight`, `${SELF}${which}_layernorm.weight`, `${SELF}${long}_layernorm.weight`], n);
};

export const sinks = (heads: number): readonly TensorSource[] => vectors([`${SELF}sinks`], heads);

/** A plain matrix or norm of latent attention by its released name. */
export const latentMatrix = (name: string, n: number, k: number): readonly TensorSource[] => matrices([`${SELF}${name}.weight`], n, k);
export const latentNorm = (name: string, n: number): readonly TensorSource[] => vectors([`${SELF}${name}.weight`], n);

/**
 * `kv_b_proj` [heads · (nope + v), kvLora] cut into heads: the key rows transposed ([heads, kvLora, nope], to absorb
 * them into the queries) and the value rows ([heads, v, kvLora]).
 */
export function keyUp(a: LatentAttention): readonly TensorSource[] {
  const whole = stacked(`${SELF}kv_b_proj.weight`, a.heads, a.nopeDim + a.vDim, a.kvLora);
  return [{ ...whole, n: { axis: 1, start: 0, step: 1 } }];
}

export function valueUp(a: LatentAttention): readonly TensorSource[] {
  return [pick(stacked(`${SELF}kv_b_proj.weight`, a.heads, a.nopeDim + a.vDim, a.kvLora), a.nopeDim)];
}
