/** Specs built by hand, for tests of the lowering that want nothing of the language. */
import type {
  Attention,
  Ffn,
  HeadsAttention,
  LatentAttention,
  LayerFfn,
  LayerKind,
  LayerSpec,
  ModelSpec,
  MoeLayerFfn,
  Router,
} from '../../src/model/types.ts';

const SPAN = { file: 'test.moe', start: 0, end: 1 };

export const swiglu = (width: number, more: Partial<Ffn> = {}): Ffn => ({
  gated: true,
  activation: 'silu',
  width,
  bias: false,
  fused: 'halves',
  ...more,
});
export const twoMatrix = (width: number, activation: Ffn['activation'], bias = false): Ffn => ({
  ...swiglu(width),
  gated: false,
  activation,
  bias,
});

export const router = (more: Partial<Router> = {}): Router => ({
  score: 'softmax',
  logitBias: false,
  selectionBias: false,
  select: { kind: 'top-k' },
  weights: 'scores',
  scale: 1,
  applyTo: 'output',
  precision: 'f32',
  ...more,
});

export const SUM = { p: 1, eps: 0, epsMode: 'add' } as const;

export const moe = (
  experts: number,
  active: number,
  expert: Ffn,
  r: Partial<Router> = {},
  shared?: MoeLayerFfn['shared'],
): MoeLayerFfn => ({
  kind: 'moe',
  experts,
  active,
  expert,
  router: router(r),
  ...(shared !== undefined && { shared }),
});

export const shared = (count: number, width: number, gate: 'none' | 'sigmoid' = 'none'): NonNullable<MoeLayerFfn['shared']> => ({
  count,
  ffn: swiglu(width),
  gate,
});

export const layer = (name: string, hidden: number, ffn: LayerFfn, more: Partial<LayerSpec> = {}): LayerSpec => ({
  kind: 'layer',
  name,
  span: SPAN,
  hidden,
  dtype: 'f32',
  deterministic: 'run',
  ffn,
  residual: false,
  ...more,
});

/** The layer cases of tests/golden: the spec of each, beside its file. */
export const LAYER_CASES: Readonly<Record<string, LayerSpec>> = Object.fromEntries(
  [
    layer('deepseekmoe_softmax_topk_shared', 32, moe(15, 3, swiglu(12), {}, shared(2, 24))),
    layer('deepseekmoe_2b_like_1s_63r_top7', 40, moe(63, 7, swiglu(8), {}, shared(1, 8))),
    layer('mixtral_top2', 24, moe(8, 2, swiglu(20), { renormalize: SUM })),
    layer('qwen3_moe_top8_norm', 24, moe(32, 8, swiglu(20), { renormalize: SUM })),
    layer('olmoe_top8_nonorm', 24, moe(32, 8, swiglu(20))),
    layer('qwen2_moe_shared_sigmoid_gate', 24, moe(12, 4, swiglu(20), {}, shared(1, 28, 'sigmoid'))),
    layer('granitemoe_topk_softmax', 24, moe(16, 4, swiglu(20), { weights: 'softmax-selected' })),
    layer('phimoe_sparsemixer_eval', 24, moe(8, 2, swiglu(20), { select: { kind: 'sparse-mixer', jitter: 0.01 } })),
    layer(
      'deepseek_v2_group_limited_softmax',
      32,
      moe(16, 4, swiglu(10), { groups: { count: 4, keep: 2, score: 'max' }, scale: 16 }, shared(2, 20)),
    ),
    ...[
      ['deepseek_v3_sigmoid_bias_group', 16, 4, 4, 2, 2.5] as const,
      ['deepseek_v3_negative_bias', 16, 4, 4, 2, 2.5] as const,
      ['deepseek_v3_one_group', 24, 6, 1, 1, 1] as const,
    ].map(([name, experts, active, count, keep, scale]) =>
      layer(
        name,
        32,
        moe(
          experts,
          active,
          swiglu(10),
          {
            score: 'sigmoid',
            selectionBias: true,
            groups: { count, keep, score: 'top2-sum' },
            renormalize: { p: 1, eps: 1e-20, epsMode: 'add' },
            scale,
          },
          shared(1, 10),
        ),
      ),
    ),
    layer(
      'ernie45_softmax_bias',
      24,
      moe(16, 4, swiglu(12), { selectionBias: true, renormalize: { p: 1, eps: 1e-12, epsMode: 'clamp' } }, shared(2, 24)),
    ),
    layer('minimax_m2_sigmoid_bias', 24, moe(16, 4, swiglu(12), { score: 'sigmoid', selectionBias: true, renormalize: SUM })),
    layer(
      'gpt_oss_clamped_swiglu_bias',
      24,
      moe(8, 4, swiglu(16, { bias: true, fused: 'interleaved', clamp: { limit: 7, alpha: 1.702, upOffset: 1 } }), {
        logitBias: true,
        weights: 'softmax-selected',
      }),
    ),
    layer('llama4_top1_sigmoid_input_scaled', 24, moe(8, 1, swiglu(16), { score: 'sigmoid', applyTo: 'input' }, shared(1, 16))),
    layer(
      'switch_top1_capacity',
      16,
      moe(4, 1, twoMatrix(24, 'relu'), { capacity: { limit: { kind: 'tokens', tokens: 3 }, renormalize: 'none' } }),
    ),
    ...([4, 6] as const).flatMap((tokens) =>
      (['before', 'after'] as const).map((renormalize) =>
        layer(
          `gshard_top2_cap${tokens}_norm_${renormalize}_drop`,
          16,
          moe(4, 2, twoMatrix(24, 'relu'), { capacity: { limit: { kind: 'tokens', tokens }, renormalize } }),
        ),
      ),
    ),
    layer(
      'hash_layer_random_and_balanced',
      16,
      moe(8, 1, twoMatrix(24, 'relu', true), { score: 'none', weights: 'one', select: { kind: 'hash', table: 'hash_table_random' } }),
      { vocab: 64 },
    ),
    layer('expert_choice', 16, moe(4, 2, twoMatrix(24, 'gelu-tanh'), { select: { kind: 'expert-choice', capacityFactor: 2 } })),
    layer('expert_choice_c1', 16, moe(4, 1, twoMatrix(24, 'gelu-tanh'), { select: { kind: 'expert-choice', capacityFactor: 1 } })),
  ].map((spec) => [spec.name, spec]),
);

// ---------------------------------------------------------------- tiny models

const HALF = { theta: 10000, dim: 8, style: 'half' } as const;
const NO_BIAS = { q: false, k: false, v: false, o: false };

const heads = (more: Partial<HeadsAttention> = {}): HeadsAttention => ({
  kind: 'heads',
  heads: 4,
  kvHeads: 4,
  headDim: 8,
  bias: NO_BIAS,
  qkNorm: 'none',
  rope: HALF,
  sinks: false,
  scale: 8 ** -0.5,
  ...more,
});

const mla = (more: Partial<LatentAttention> = {}): LatentAttention => ({
  kind: 'mla',
  heads: 4,
  kvLora: 16,
  nopeDim: 8,
  ropeDim: 8,
  vDim: 12,
  rope: { theta: 10000, dim: 8, style: 'interleaved' },
  scale: 16 ** -0.5,
  ...more,
});

const kind = (attention: Attention, ffn: LayerFfn): LayerKind => ({ attention, ffn, span: SPAN });
const dense = (width: number): LayerFfn => ({ kind: 'dense', ffn: swiglu(width) });

const model = (name: string, kinds: readonly LayerKind[], layers: readonly number[], more: Partial<ModelSpec> = {}): ModelSpec => ({
  kind: 'model',
  name,
  span: SPAN,
  hidden: 32,
  dtype: 'f32',
  deterministic: 'run',
  vocab: 48,
  context: 64,
  norm: { kind: 'rms', eps: 1e-6, bias: false },
  embedding: { tied: false, multiplier: 1 },
  head: { bias: false, divisor: 1 },
  residualMultiplier: 1,
  kinds,
  layers,
  ...more,
});

const v3Moe = moe(
  8,
  3,
  swiglu(12),
  {
    score: 'sigmoid',
    selectionBias: true,
    groups: { count: 4, keep: 2, score: 'top2-sum' },
    renormalize: { p: 1, eps: 1e-20, epsMode: 'add' },
    scale: 2.5,
  },
  shared(1, 12),
);

const v3Yarn = {
  kind: 'yarn',
  factor: 4,
  originalContext: 16,
  betaFast: 32,
  betaSlow: 1,
  mscale: 1,
  mscaleAllDim: 1,
  truncate: true,
} as const;
const ossYarn = { kind: 'yarn', factor: 32, originalContext: 4096, betaFast: 32, betaSlow: 1, truncate: false } as const;

const ossAttention = heads({
  kvHeads: 2,
  headDim: 16,
  bias: { q: true, k: true, v: true, o: true },
  rope: { theta: 150000, dim: 16, style: 'half', scaling: ossYarn },
  sinks: true,
  scale: 16 ** -0.5,
});
const ossMoe = moe(4, 2, swiglu(24, { bias: true, fused: 'interleaved', clamp: { limit: 7, alpha: 1.702, upOffset: 1 } }), {
  logitBias: true,
  weights: 'softmax-selected',
});
const qwen2Attention = heads({ bias: { ...NO_BIAS, q: true, k: true, v: true } });

/** The models of tests/golden/models. */
export const MODEL_CASES: Readonly<Record<string, ModelSpec>> = Object.fromEntries(
  [
    model('tiny_deepseekmoe_v1', [kind(heads(), dense(40)), kind(heads(), moe(8, 3, swiglu(12), {}, shared(2, 24)))], [0, 1]),
    model('tiny_mixtral', [kind(heads({ kvHeads: 2 }), moe(4, 2, swiglu(24), { renormalize: SUM }))], [0, 0]),
    model(
      'tiny_qwen2_moe',
      [kind(qwen2Attention, dense(40)), kind(qwen2Attention, moe(8, 2, swiglu(12), {}, shared(1, 28, 'sigmoid')))],
      [0, 1],
    ),
    model(
      'tiny_qwen3_moe',
      [
        kind(
          heads({ kvHeads: 2, headDim: 16, qkNorm: 'head', rope: { ...HALF, dim: 16 }, scale: 0.25 }),
          moe(8, 2, swiglu(12), { renormalize: SUM }),
        ),
      ],
      [0, 0],
    ),
    model('tiny_olmoe', [kind(heads({ qkNorm: 'full' }), moe(8, 3, swiglu(12)))], [0, 0]),
    model('tiny_deepseek_v2_lite', [kind(mla(), dense(40)), kind(mla(), moe(8, 3, swiglu(12), {}, shared(2, 24)))], [0, 1]),
    model('tiny_deepseek_v3', [kind(mla({ qLora: 20 }), dense(40)), kind(mla({ qLora: 20 }), v3Moe)], [0, 1]),
    (() => {
      const attention = mla({
        qLora: 20,
        rope: { theta: 10000, dim: 8, style: 'interleaved', scaling: v3Yarn },
        scale: 16 ** -0.5 * (0.1 * Math.log(4) + 1) ** 2,
      });
      return model('tiny_deepseek_v3_yarn', [kind(attention, dense(40)), kind(attention, v3Moe)], [0, 1]);
    })(),
    model(
      'tiny_granitemoe',
      [kind(heads({ kvHeads: 2, scale: 0.015625 }), moe(8, 2, swiglu(12), { weights: 'softmax-selected' }))],
      [0, 0],
      {
        embedding: { tied: true, multiplier: 12 },
        head: { bias: false, divisor: 6 },
        residualMultiplier: 0.22,
      },
    ),
    model('tiny_gpt_oss', [kind({ ...ossAttention, window: 4 }, ossMoe), kind(ossAttention, ossMoe)], [0, 1], {
      norm: { kind: 'rms', eps: 1e-5, bias: false },
    }),
  ].map((spec) => [spec.name, spec]),
);
