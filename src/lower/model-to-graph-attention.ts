/** Attention of one layer kind as graph nodes: from the normalised hidden state to the output projection. */
import { stableHash } from '../base/hash.ts';
import { tensor } from '../ir/graph/op-spec.ts';
import type { Value } from '../ir/graph/types.ts';
import { inverseFrequencies, ropeMultiplier } from '../model/rope.ts';
import type { Attention, HeadsAttention, LatentAttention, Norm, Rope } from '../model/types.ts';
import { bankParam, matrixParam, maybe, plainLinear, type SectionBuilder, vectorParam } from './model-to-graph-section.ts';
import * as names from './weights/attention.ts';

/** The cos/sin table of a rope, named by its content so that layers share it. */
function ropeTable(s: SectionBuilder, rope: Rope): Value {
  const role = { kind: 'rope', inverseFrequencies: inverseFrequencies(rope), scale: ropeMultiplier(rope) } as const;
  return s.graph.param(`rope.${stableHash(role).slice(0, 8)}`, tensor('f32', 'cap', rope.dim), role);
}

const rotate = (s: SectionBuilder, x: Value, rope: Rope, heads: number, headDim: number): Value =>
  s.graph.add('rope', { x, table: ropeTable(s, rope) }, { heads, headDim, dim: rope.dim, style: rope.style }).y;

/** Appends to the cache of the layer; the result is the whole cache. */
function append(s: SectionBuilder, x: Value, which: 'k' | 'v', width: number): Value {
  const cache = s.graph.param(s.scope.canonical(`cache.${which}`), tensor('f32', 'cap', width), { kind: 'state' });
  return s.graph.add('cache_append', { x, cache }, {}).cache;
}

type Projection = 'q' | 'k' | 'v' | 'o';

function project(s: SectionBuilder, a: HeadsAttention, x: Value, which: Projection, n: number, k: number): Value {
  const w = matrixParam(s, s.scope.canonical(`attn.${which}.weight`), n, k, names.projection(a, which, n, k));
  const bias = a.bias[which] ? vectorParam(s, s.scope.canonical(`attn.${which}.bias`), n, names.projectionBias(which, n)) : undefined;
  return plainLinear(s, x, w, bias);
}

/** RMS norm of queries or keys: over each head, or over the whole projection. */
function headNorm(s: SectionBuilder, a: HeadsAttention, x: Value, which: 'q' | 'k', heads: number, eps: number): Value {
  if (a.qkNorm === 'none') return x;
  const groups = a.qkNorm === 'head' ? heads : 1;
  const n = (heads * a.headDim) / groups;
  const w = vectorParam(s, s.scope.canonical(`attn.${which}_norm.weight`), n, names.qkNorm(which, n));
  return s.graph.add('norm', { x, weight: w }, { kind: 'rms', eps, groups }).y;
}

function headsAttention(s: SectionBuilder, a: HeadsAttention, x: Value, norm: Norm): Value {
  const { heads, kvHeads, headDim, rope } = a;
  const turned = (which: 'q' | 'k', count: number): Value => {
    const raw = headNorm(s, a, project(s, a, x, which, count * headDim, s.hidden), which, count, norm.eps);
    return rope === undefined ? raw : rotate(s, raw, rope, count, headDim);
  };
  const q = turned('q', heads);
  const k = append(s, turned('k', kvHeads), 'k', kvHeads * headDim);
  const v = append(s, project(s, a, x, 'v', kvHeads * headDim, s.hidden), 'v', kvHeads * headDim);
  const sinks = a.sinks ? vectorParam(s, s.scope.canonical('attn.sinks'), heads, names.sinks(heads)) : undefined;
  const { y } = s.graph.add(
    'attention',
    { q, k, v, ...maybe('sinks', sinks) },
    { heads, kvHeads, qkDim: headDim, vDim: headDim, scale: a.scale, ...(a.window !== undefined && { window: a.window }), vFromK: false },
  );
  return project(s, a, y, 'o', s.hidden, heads * headDim);
}

/** A projection and the RMS norm behind it, by their released names. */
function latentLinear(s: SectionBuilder, x: Value, name: string, released: string, n: number, k: number): Value {
  return plainLinear(s, x, matrixParam(s, s.scope.canonical(`attn.${name}.weight`), n, k, names.latentMatrix(released, n, k)));
}

function latentNorm(s: SectionBuilder, x: Value, name: string, released: string, n: number, eps: number): Value {
  const w = vectorParam(s, s.scope.canonical(`attn.${name}.weight`), n, names.latentNorm(released, n));
  return s.graph.add('norm', { x, weight: w }, { kind: 'rms', eps, groups: 1 }).y;
}

/**
 * Latent attention in its absorbed form (arXiv 2405.04434 §2.1.2): a token leaves kvLora + ropeDim numbers in the cache,
 * W_UK is applied to the queries and W_UV to the attended latents, so that all heads share one key head.
 */
function latentAttention(s: SectionBuilder, a: LatentAttention, x: Value, norm: Norm): Value {
  const { heads, kvLora, nopeDim, ropeDim, vDim } = a;
  const stride = nopeDim + ropeDim;
  const g = s.graph;
  const slice = (value: Value, count: number, of: number, start: number, length: number): Value =>
    g.add('slice_heads', { x: value }, { heads: count, stride: of, start, length }).y;

  let q: Value;
  if (a.qLora === undefined) q = latentLinear(s, x, 'q', 'q_proj', heads * stride, s.hidden);
  else {
    const low = latentNorm(s, latentLinear(s, x, 'q_a', 'q_a_proj', a.qLora, s.hidden), 'q_a_norm', 'q_a_layernorm', a.qLora, norm.eps);
    q = latentLinear(s, low, 'q_b', 'q_b_proj', heads * stride, a.qLora);
  }
  const keyUp = bankParam(s, s.scope.canonical('attn.k_up.weight'), heads, kvLora, nopeDim, names.keyUp(a));
  const absorbed = g.add('head_linear', { x: slice(q, heads, stride, 0, nopeDim), weight: keyUp }, { heads }).y;
  const qRope = rotate(s, slice(q, heads, stride, nopeDim, ropeDim), a.rope, heads, ropeDim);
  const query = g.add('concat_heads', { a: absorbed, b: qRope }, { heads }).y;

  const kv = latentLinear(s, x, 'kv_a', 'kv_a_proj_with_mqa', kvLora + ropeDim, s.hidden);
  const latent = latentNorm(s, slice(kv, 1, kvLora + ropeDim, 0, kvLora), 'kv_a_norm', 'kv_a_layernorm', kvLora, norm.eps);
  const kRope = rotate(s, slice(kv, 1, kvLora + ropeDim, kvLora, ropeDim), a.rope, 1, ropeDim);
  const k = append(s, g.add('concat_heads', { a: latent, b: kRope }, { heads: 1 }).y, 'k', kvLora + ropeDim);

  const attended = g.add(
    'attention',
    { q: query, k },
    { heads, kvHeads: 1, qkDim: kvLora + ropeDim, vDim: kvLora, scale: a.scale, vFromK: true },
  ).y;
  const valueUp = bankParam(s, s.scope.canonical('attn.v_up.weight'), heads, vDim, kvLora, names.valueUp(a));
  const y = g.add('head_linear', { x: attended, weight: valueUp }, { heads }).y;
  return latentLinear(s, y, 'o', 'o_proj', s.hidden, heads * vDim);
}

/** @param x the normalised hidden state [T, hidden] @returns the output projection [T, hidden], before the residual */
export const lowerAttention = (s: SectionBuilder, a: Attention, x: Value, norm: Norm): Value =>
  a.kind === 'heads' ? headsAttention(s, a, x, norm) : latentAttention(s, a, x, norm);
