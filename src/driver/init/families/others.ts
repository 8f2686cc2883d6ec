/** Families with rules of their own: granitemoe, gpt_oss, phimoe, llama4_text, and dense LLaMA-like models. */
import { activation, dense, headLines, headsAttention, windows, type WindowOptions } from '../common.ts';
import { type Draft, line, numeral } from '../draft.ts';
import { ACTIVE, EXPERTS, moeBlock, perLayer } from '../experts.ts';
import type { Reader } from '../reader.ts';

const none = (depth: number): undefined[] => Array.from({ length: depth }, () => undefined);

/** Granite: fixed multipliers on embedding, residual, attention and logits. */
export function granite(r: Reader): Draft {
  const embedding = r.real('embedding_multiplier', 1);
  const residual = r.real('residual_multiplier', 1);
  const logits = r.real('logits_scaling', 1);
  const extra = [
    ...(embedding.value === 1 ? [] : [line(`embedding multiplier ${numeral(embedding.value)}`, embedding.from)]),
    ...(logits.value === 1 ? [] : [line(`head divisor ${numeral(logits.value)}`, logits.from)]),
    ...(residual.value === 1 ? [] : [line(`residual multiplier ${numeral(residual.value)}`, residual.from)]),
  ];
  const { lines, hidden, depth } = headLines(r, { context: 2048, eps: 1e-6, tied: false, extra });
  const bias = r.flag('attention_bias', false);
  const attention = headsAttention(r, {
    hidden,
    theta: 10_000,
    bias: { parts: bias.value ? 'q k v o' : '', from: bias.from },
    scale: r.real('attention_multiplier', 1),
  });
  const block = moeBlock({
    experts: r.int(['num_local_experts', 'num_experts']),
    active: r.int(ACTIVE),
    network: activation(r),
    width: r.int('intermediate_size'),
    router: line('router softmax top-k weights softmax', 'softmax over the chosen logits'),
  });
  // `embedding` stands once per model.
  const tied = lines.findIndex((l) => l.code === 'embedding tied');
  const multiplier = lines.findIndex((l) => l.code.startsWith('embedding multiplier'));
  const head =
    tied < 0 || multiplier < 0
      ? lines
      : lines.flatMap((l, i) => {
          if (i === multiplier) return [];
          return i === tied ? [line(`embedding tied multiplier ${numeral(embedding.value)}`, l.note, embedding.from)] : [l];
        });
  return { head, ...attention, overrides: none(depth), ffns: Array.from({ length: depth }, () => block) };
}

const GPT_OSS_YARN = {
  rope_type: 'yarn',
  factor: 32,
  beta_fast: 32,
  beta_slow: 1,
  truncate: false,
  original_max_position_embeddings: 4096,
};

/** gpt-oss: sinks, alternating windows, biases everywhere, clamped SwiGLU with gate and up columns in turn. */
export function gptOss(r: Reader): Draft {
  const { lines, hidden, depth } = headLines(r, { context: 131_072, eps: 1e-5, tied: false });
  const bias = r.flag('attention_bias', true);
  r.ignore('initial_context_length', 'hidden_act');
  const attention = headsAttention(r, {
    hidden,
    theta: 150_000,
    bias: { parts: bias.value ? 'q k v o' : '', from: bias.from },
    extra: [line('sinks', 'always so in this family')],
    kvFallback: 8,
    headDim: 64,
    ...(r.isNull('rope_scaling') ? {} : { scaling: GPT_OSS_YARN }),
  });
  const limit = r.real('swiglu_limit', 7);
  const overrides = windows(r, depth, { layers: 'alternate', fallback: 128 });
  const block = moeBlock({
    experts: r.int(EXPERTS),
    active: r.int(ACTIVE),
    network: 'swiglu',
    width: r.int('intermediate_size'),
    suffix: ` bias interleaved clamp ${numeral(limit.value)} alpha 1.702 offset 1`,
    router: line('router softmax logit-bias top-k weights softmax', 'softmax over the chosen logits'),
  });
  return { head: lines, ...attention, overrides, ffns: Array.from({ length: depth }, () => block) };
}

/** Phi-3.5-MoE: SparseMixer, layer norms and a head with biases. */
export function phimoe(r: Reader): Draft {
  const headBias = r.flag('lm_head_bias', false);
  const { lines, hidden, depth } = headLines(r, {
    context: 131_072,
    eps: 1e-5,
    tied: false,
    norm: 'layer bias',
    extra: headBias.value ? [line('head bias', headBias.from)] : [],
  });
  const bias = r.flag('attention_bias', false);
  const attention = headsAttention(r, {
    hidden,
    theta: 1e6,
    bias: { parts: bias.value ? 'q k v o' : '', from: bias.from },
    kvFallback: 8,
  });
  const jitter = r.real('router_jitter_noise', 0.01);
  r.ignore('input_jitter_noise');
  const block = moeBlock({
    experts: r.int(['num_local_experts', 'num_experts']),
    active: r.int(ACTIVE),
    network: activation(r),
    width: r.int('intermediate_size'),
    router: line(`router sparse-mixer jitter ${numeral(jitter.value)}`, jitter.from),
  });
  return {
    head: lines,
    ...attention,
    overrides: windows(r, depth, { layers: 'all' }),
    ffns: Array.from({ length: depth }, () => block),
  };
}

/** Llama 4's text model; what a spec cannot say of its attention is told. */
export function llama4(r: Reader): Draft {
  const { lines, hidden, depth } = headLines(r, { context: 131_072, eps: 1e-5, tied: false });
  const bias = r.flag('attention_bias', false);
  const attention = headsAttention(r, {
    hidden,
    theta: 500_000,
    bias: { parts: bias.value ? 'q k v o' : '', from: bias.from },
    style: 'interleaved',
    kvFallback: 8,
  });
  if (r.flag('use_qk_norm', true).value) r.cannot('use_qk_norm', 'queries and keys are not L2-normalised');
  if (r.has('attention_chunk_size'))
    r.cannot('attention_chunk_size', 'attention is not cut into chunks; results differ beyond the first one');
  if (r.flag('attn_temperature_tuning', true).value) r.cannot('attn_temperature_tuning', 'queries of far positions are not scaled');
  const types = r.list('layer_types');
  if (types !== undefined) r.note('`layer_types` (chunked and full attention) are not written');
  r.ignore(
    'intermediate_size_mlp',
    'attention_chunk_size',
    'floor_scale',
    'attn_scale',
    'for_llm_compressor',
    'no_rope_layer_interval',
  );
  const network = activation(r);
  const step = r.int('interleave_moe_layer_step', { fallback: 1 }).value;
  const listed = r.list('moe_layers');
  const sparse = (l: number): boolean => (listed === undefined ? l % step === step - 1 : listed.includes(l));
  // The list says 1 where a layer rotates; without it every fourth layer does not.
  const rotates = r.list('no_rope_layers');
  const given = rotates !== undefined && rotates.length > 0 ? rotates : undefined;
  const overrides = Array.from({ length: depth }, (_, l) =>
    (given === undefined ? (l + 1) % 4 !== 0 : given[l] === 1) ? undefined : 'rope none',
  );
  return {
    head: lines,
    ...attention,
    overrides,
    ffns: perLayer(
      depth,
      sparse,
      () => {
        const width = r.int('intermediate_size');
        return moeBlock({
          experts: r.int(['num_local_experts', 'num_experts']),
          active: r.int(ACTIVE, { fallback: 1 }),
          network,
          width,
          shared: line('shared 1', 'always so in this family'),
          router: line('router sigmoid top-k weights on input', 'the weight multiplies the input of the expert'),
        });
      },
      () => dense(network, r.int(['intermediate_size_mlp', 'intermediate_size'])),
    ),
  };
}

interface DenseFamily {
  readonly bias: string;
  readonly biasField?: string;
  readonly qkNorm?: boolean;
  readonly eps: number;
  readonly context: number;
  readonly windows: WindowOptions;
}

/** Dense decoders of LLaMA's shape. */
const llamaLike =
  (family: DenseFamily) =>
  (r: Reader): Draft => {
    const { lines, hidden, depth } = headLines(r, { context: family.context, eps: family.eps, tied: false });
    const flag = family.biasField === undefined ? undefined : r.flag(family.biasField, false);
    const parts = flag === undefined ? family.bias : flag.value ? family.bias : '';
    const attention = headsAttention(r, {
      hidden,
      theta: 10_000,
      bias: { parts, from: flag?.from ?? 'always so in this family' },
      qkNorm: family.qkNorm === true ? { kind: 'head', from: 'always so in this family' } : undefined,
    });
    const mlpBias = r.flag('mlp_bias', false).value ? ' bias' : '';
    const block = dense(activation(r), r.int('intermediate_size'), mlpBias);
    return {
      head: lines,
      ...attention,
      overrides: windows(r, depth, family.windows),
      ffns: Array.from({ length: depth }, () => block),
    };
  };

const QWEN_WINDOWS: WindowOptions = { layers: 'from-max-window-layers', optIn: true };

export const llama: (r: Reader) => Draft = llamaLike({
  bias: 'q k v o',
  biasField: 'attention_bias',
  eps: 1e-6,
  context: 2048,
  windows: { layers: 'all' },
});
export const mistral: (r: Reader) => Draft = llamaLike({
  bias: '',
  eps: 1e-6,
  context: 131_072,
  windows: { layers: 'all', fallback: 4096 },
});
export const qwen2: (r: Reader) => Draft = llamaLike({ bias: 'q k v', eps: 1e-6, context: 32_768, windows: QWEN_WINDOWS });
export const qwen3: (r: Reader) => Draft = llamaLike({
  bias: 'q k v o',
  biasField: 'attention_bias',
  qkNorm: true,
  eps: 1e-6,
  context: 32_768,
  windows: QWEN_WINDOWS,
});
