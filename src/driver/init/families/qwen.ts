/** Softmax routers over GQA: mixtral, qwen2_moe, qwen3_moe, olmoe, ernie4_5_moe, minimax_m2, hunyuan_v1_moe. */
import { activation, dense, headLines, headsAttention, windows } from '../common.ts';
import { type Draft, line } from '../draft.ts';
import { ACTIVE, EXPERT_WIDTH, EXPERTS, moeBlock, perLayer, qwenPattern, sharedLine } from '../experts.ts';
import type { Reader } from '../reader.ts';

const none = (depth: number): undefined[] => Array.from({ length: depth }, () => undefined);
const always = (): boolean => true;
const biasOf = (r: Reader, name: string, fallback: boolean, parts: string): { readonly parts: string; readonly from: string } => {
  const flag = r.flag(name, fallback);
  return { parts: flag.value ? parts : '', from: flag.from };
};

export function mixtral(r: Reader): Draft {
  const { lines, hidden, depth } = headLines(r, { context: 131_072, eps: 1e-5, tied: false });
  const attention = headsAttention(r, { hidden, theta: 1e6, bias: { parts: '', from: '' }, kvFallback: 8 });
  const network = activation(r);
  r.ignore('router_jitter_noise');
  return {
    head: lines,
    ...attention,
    overrides: windows(r, depth, { layers: 'all' }),
    ffns: perLayer(
      depth,
      always,
      () =>
        moeBlock({
          experts: r.int(['num_local_experts', 'num_experts']),
          active: r.int(ACTIVE),
          network,
          width: r.int('intermediate_size'),
          router: line('router softmax top-k renormalize', 'always so in this family'),
        }),
      () => dense(network, r.int('intermediate_size')),
    ),
  };
}

/** Qwen2-MoE: biases on q, k, v; one shared expert behind a sigmoid gate. */
export function qwen2Moe(r: Reader): Draft {
  const { lines, hidden, depth } = headLines(r, { context: 32_768, eps: 1e-6, tied: false });
  const attention = headsAttention(r, { hidden, theta: 10_000, bias: biasOf(r, 'qkv_bias', true, 'q k v') });
  const network = activation(r);
  const norm = r.flag('norm_topk_prob', false);
  const sparse = qwenPattern(r);
  return {
    head: lines,
    ...attention,
    overrides: windows(r, depth, { layers: 'ask', optIn: true }),
    ffns: perLayer(
      depth,
      sparse,
      () => {
        const shared = r.int('shared_expert_intermediate_size', { fallback: 5632, min: 0 });
        return moeBlock({
          experts: r.int(EXPERTS),
          active: r.int(ACTIVE),
          network,
          width: r.int(EXPERT_WIDTH),
          shared: shared.value === 0 ? undefined : line(`shared 1 of ${network} ${shared.value} gated`, shared.from),
          router: line(`router softmax top-k${norm.value ? ' renormalize' : ''}`, norm.from),
        });
      },
      () => dense(network, r.int('intermediate_size')),
    ),
  };
}

export function qwen3Moe(r: Reader): Draft {
  const { lines, hidden, depth } = headLines(r, { context: 32_768, eps: 1e-6, tied: false });
  const attention = headsAttention(r, {
    hidden,
    theta: 10_000,
    bias: biasOf(r, 'attention_bias', false, 'q k v o'),
    qkNorm: { kind: 'head', from: 'always so in this family' },
    kvFallback: 4,
  });
  const network = activation(r);
  const norm = r.flag('norm_topk_prob', false);
  const sparse = qwenPattern(r);
  return {
    head: lines,
    ...attention,
    overrides: windows(r, depth, { layers: 'all', optIn: true }),
    ffns: perLayer(
      depth,
      sparse,
      () =>
        moeBlock({
          experts: r.int(EXPERTS),
          active: r.int(ACTIVE),
          network,
          width: r.int(EXPERT_WIDTH),
          router: line(`router softmax top-k${norm.value ? ' renormalize' : ''}`, norm.from),
        }),
      () => dense(network, r.int('intermediate_size')),
    ),
  };
}

export function olmoe(r: Reader): Draft {
  const { lines, hidden, depth } = headLines(r, { context: 4096, eps: 1e-5, tied: false });
  if (r.has('clip_qkv')) r.cannot('clip_qkv', 'queries, keys and values are not clipped');
  r.ignore('clip_qkv');
  const attention = headsAttention(r, {
    hidden,
    theta: 10_000,
    bias: biasOf(r, 'attention_bias', false, 'q k v o'),
    qkNorm: { kind: 'full', from: 'always so in this family' },
  });
  const network = activation(r);
  const norm = r.flag('norm_topk_prob', false);
  const block = moeBlock({
    experts: r.int(EXPERTS),
    active: r.int(ACTIVE),
    network,
    width: r.int('intermediate_size'),
    router: line(`router softmax top-k${norm.value ? ' renormalize' : ''}`, norm.from),
  });
  return { head: lines, ...attention, overrides: none(depth), ffns: Array.from({ length: depth }, () => block) };
}

/** ERNIE 4.5: softmax, a bias for selection, the denominator clamped from below. */
export function ernie(r: Reader): Draft {
  const { lines, hidden, depth } = headLines(r, { context: 131_072, eps: 1e-5, tied: true });
  const bias = biasOf(r, 'use_bias', false, 'q k v o');
  const attention = headsAttention(r, { hidden, theta: 500_000, bias, style: 'interleaved', kvFallback: 4 });
  const network = activation(r);
  const suffix = bias.parts === '' ? '' : ' bias';
  const start = r.int('moe_layer_start_index', { fallback: 1, min: 0 }).value;
  const end = r.int('moe_layer_end_index', { fallback: -1, min: -1 }).value;
  const interval = r.int('moe_layer_interval', { fallback: 1 }).value;
  const last = end < 0 ? depth - 1 : end;
  const min = r.real('moe_norm_min', 1e-12);
  return {
    head: lines,
    ...attention,
    overrides: none(depth),
    ffns: perLayer(
      depth,
      (l) => (l + 1) % interval === 0 && l >= start && l <= last,
      () =>
        moeBlock({
          experts: r.int(EXPERTS),
          active: r.int(ACTIVE),
          network,
          width: r.int(EXPERT_WIDTH),
          suffix,
          shared: sharedLine(r, ['moe_num_shared_experts'], 2),
          router: line(`router softmax selection-bias top-k renormalize clamp ${min.value.toExponential()}`, min.from),
        }),
      () => dense(network, r.int('intermediate_size'), suffix),
    ),
  };
}

/** MiniMax-M2: sigmoid, selection bias, q and k normalised over the whole projection. */
export function minimaxM2(r: Reader): Draft {
  const { lines, hidden, depth } = headLines(r, { context: 196_608, eps: 1e-6, tied: false });
  const norm = r.flag('use_qk_norm', true);
  r.ignore(
    'qk_norm_type',
    'use_routing_bias',
    'use_mtp',
    'num_mtp_modules',
    'mtp_transformer_layers',
    'attn_type_list',
    'scoring_func',
    'shared_intermediate_size',
  );
  const attention = headsAttention(r, {
    hidden,
    theta: 5e6,
    bias: { parts: '', from: '' },
    qkNorm: norm.value ? { kind: 'full', from: norm.from } : undefined,
    kvFallback: 8,
    headDim: 128,
  });
  const block = moeBlock({
    experts: r.int(['num_local_experts', 'num_experts']),
    active: r.int(ACTIVE),
    network: activation(r),
    width: r.int('intermediate_size'),
    router: line('router sigmoid selection-bias top-k renormalize', 'always so in this family'),
  });
  return { head: lines, ...attention, overrides: none(depth), ffns: Array.from({ length: depth }, () => block) };
}

/** Hunyuan: q and k are normalised after the rotation, which a spec cannot say. */
export function hunyuan(r: Reader): Draft {
  const { lines, hidden, depth } = headLines(r, { context: 2048, eps: 1e-5, tied: false });
  const norm = r.flag('use_qk_norm', true);
  if (norm.value) r.cannot('use_qk_norm', 'queries and keys are normalised before the rotation instead of after it; results differ');
  const attention = headsAttention(r, {
    hidden,
    theta: 10_000,
    bias: biasOf(r, 'attention_bias', false, 'q k v o'),
    qkNorm: norm.value ? { kind: 'head', from: norm.from } : undefined,
  });
  r.ignore(
    'use_mixed_mlp_moe',
    'num_shared_expert',
    'moe_intermediate_size',
    'cla_share_factor',
    'use_cla',
    'moe_layer_num_skipped',
    'norm_topk_prob',
  );
  const network = activation(r);
  const width = r.int('intermediate_size');
  const block = moeBlock({
    experts: r.intOrList(['num_experts', 'n_routed_experts']),
    active: r.intOrList(ACTIVE),
    network,
    width,
    shared: line(`shared 1 of ${network} ${width.value}`, 'shared_mlp'),
    router: line('router softmax top-k renormalize', 'always so in this family'),
  });
  return { head: lines, ...attention, overrides: none(depth), ffns: Array.from({ length: depth }, () => block) };
}
