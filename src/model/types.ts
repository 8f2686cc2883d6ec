/**
 * The Model: what the user meant, every number known and every default filled in.
 * Made by this room from the AST, read by `lower`, `analyze` and `fit`. Plain data.
 */
import type { QUANT_GROUP } from '../base/quant.ts';
import type { Span } from '../diagnostics/types.ts';

/** Storage of parameters. Activations, router arithmetic and accumulation are always f32. */
export type StorageDType = 'f32' | 'f16' | 'bf16';

/** Storage of the matrices of routed and shared experts, quantised symmetrically in groups along the depth. */
export interface ExpertStorage {
  readonly values: 'int8' | 'int4';
  readonly group: typeof QUANT_GROUP;
  readonly scales: 'f16' | 'f32';
}

export interface Norm {
  readonly kind: 'rms' | 'layer';
  readonly eps: number;
  /** Only layer norm may carry a bias. */
  readonly bias: boolean;
}

export interface Rope {
  readonly theta: number;
  /** How many of a head's dims rotate (even); the rest pass through. */
  readonly dim: number;
  /** `half`: pairs (i, i + dim/2); `interleaved`: pairs (2i, 2i + 1). */
  readonly style: 'half' | 'interleaved';
  readonly scaling?: RopeScaling;
}

export type RopeScaling =
  | { readonly kind: 'linear'; readonly factor: number }
  | {
      readonly kind: 'yarn';
      readonly factor: number;
      readonly originalContext: number;
      readonly betaFast: number;
      readonly betaSlow: number;
      /** DeepSeek's pair; absent in models whose cos/sin are scaled by 0.1 ln(factor) + 1. */
      readonly mscale?: number;
      readonly mscaleAllDim?: number;
      /** Whether the correction range is rounded to whole dims (gpt-oss: no). */
      readonly truncate: boolean;
    };

/** Multi-head and grouped-query attention. */
export interface HeadsAttention {
  readonly kind: 'heads';
  readonly heads: number;
  readonly kvHeads: number;
  readonly headDim: number;
  readonly bias: { readonly q: boolean; readonly k: boolean; readonly v: boolean; readonly o: boolean };
  /** RMSNorm of q and k: over each head, or over the whole projection. */
  readonly qkNorm: 'none' | 'head' | 'full';
  readonly rope?: Rope;
  /** Keys older than `window` tokens (the own one included) are not seen. */
  readonly window?: number;
  /** One learned logit per head joins the softmax and is then discarded (gpt-oss). */
  readonly sinks: boolean;
  /** Softmax scale, YaRN's mscale² included. */
  readonly scale: number;
}

/** Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434 §2.1). */
export interface LatentAttention {
  readonly kind: 'mla';
  readonly heads: number;
  /** Rank of the query compression; absent where queries are projected directly. */
  readonly qLora?: number;
  readonly kvLora: number;
  readonly nopeDim: number;
  readonly ropeDim: number;
  readonly vDim: number;
  readonly rope: Rope;
  readonly scale: number;
}

export type Attention = HeadsAttention | LatentAttention;

export type Activation = 'silu' | 'gelu' | 'gelu-tanh' | 'relu';

/** One feed-forward network, dense or one expert of a bank. */
export interface Ffn {
  /** Gated: down(act(gate x) * up x). Otherwise: wo(act(wi x)). */
  readonly gated: boolean;
  readonly activation: Activation;
  readonly width: number;
  readonly bias: boolean;
  /** gate = min(gate, limit), up = clamp(up, ±limit), h = (up + upOffset) · gate · sigmoid(alpha · gate). */
  readonly clamp?: { readonly limit: number; readonly alpha: number; readonly upOffset: number };
  /** How a fused gate-up tensor lies in the checkpoint. */
  readonly fused: 'halves' | 'interleaved';
}

export interface SharedExperts {
  /** How many experts the spec counts; they are stored and run as one FFN of width `ffn.width`. */
  readonly count: number;
  /** The one FFN that stands for all shared experts: width = count × expert width unless the spec says otherwise. */
  readonly ffn: Ffn;
  /** `sigmoid`: the shared output is multiplied by sigmoid(w_g · x) (Qwen). */
  readonly gate: 'none' | 'sigmoid';
}

export type RouterScore = 'softmax' | 'sigmoid' | 'sqrt-softplus' | 'none';

export interface Router {
  /** Function of the logits; `none` only with a hash table and weight 1. */
  readonly score: RouterScore;
  /** A learned bias added to the logits (gpt-oss). */
  readonly logitBias: boolean;
  /** A bias added to the scores for selection only, never to the weights (DeepSeek-V3). */
  readonly selectionBias: boolean;
  /** Only the best `keep` of `count` equal groups take part; group score = best, or sum of the two best, biased scores. */
  readonly groups?: { readonly count: number; readonly keep: number; readonly score: 'max' | 'top2-sum' };
  readonly select:
    | { readonly kind: 'top-k' }
    /** Expert of a token = table[token id], a tensor [vocab] or [vocab, k] of the weights. */
    | { readonly kind: 'hash'; readonly table: string }
    /** Every expert takes its best T · capacityFactor / E tokens (arXiv 2202.09368). */
    | { readonly kind: 'expert-choice'; readonly capacityFactor: number }
    /** Phi-3.5's SparseMixer-2 in evaluation mode. */
    | { readonly kind: 'sparse-mixer'; readonly jitter: number };
  /** Weights are the scores of the selected, a softmax over the selected logits, or 1. */
  readonly weights: 'scores' | 'softmax-selected' | 'one';
  /** Divide by (Σ w^p)^(1/p), with eps added to, or clamping, the denominator. */
  readonly renormalize?: { readonly p: number; readonly eps: number; readonly epsMode: 'add' | 'clamp' };
  readonly scale: number;
  /** Whether the weight multiplies the expert's output or its input (Llama 4). */
  readonly applyTo: 'output' | 'input';
  readonly capacity?: Capacity;
  /** Logits in f32 (always so here), or as the checkpoint's authors ran them; kept for `explain`. */
  readonly precision: 'f32' | 'model';
}

/** Token dropping (Switch, GShard): slots beyond an expert's capacity within one sequence are dropped. */
export interface Capacity {
  /** `tokens`: that many slots per expert and sequence; `factor`: max(min, floor(factor · k · seq / experts)). */
  readonly limit:
    | { readonly kind: 'tokens'; readonly tokens: number }
    | { readonly kind: 'factor'; readonly factor: number; readonly min: number };
  /** Where weights are renormalised (p = 1 over the k choices): before dropping (GShard Alg. 1), after it (fairseq), or nowhere (Switch). */
  readonly renormalize: 'before' | 'after' | 'none';
}

export interface DenseLayerFfn {
  readonly kind: 'dense';
  readonly ffn: Ffn;
}

export interface MoeLayerFfn {
  readonly kind: 'moe';
  /** Routed experts (shared ones not counted). */
  readonly experts: number;
  /** Routed experts that run for one token. */
  readonly active: number;
  readonly expert: Ffn;
  readonly shared?: SharedExperts;
  readonly router: Router;
  /** The paper's notation when the user wrote it: mN and mK count shared experts. */
  readonly segmentation?: { readonly m: number; readonly n: number; readonly k: number; readonly shared: number };
}

export type LayerFfn = DenseLayerFfn | MoeLayerFfn;

/** One distinct kind of transformer layer; `ModelSpec.layers` says which layers are of which kind. */
export interface LayerKind {
  readonly attention: Attention;
  readonly ffn: LayerFfn;
  readonly span: Span;
}

interface UnitBase {
  readonly name: string;
  readonly span: Span;
  readonly hidden: number;
  readonly dtype: StorageDType;
  /** Absent: experts are stored in the `dtype`. */
  readonly expertStorage?: ExpertStorage;
  /** `batch`: a token's bits do not depend on the other tokens of the call. */
  readonly deterministic: 'run' | 'batch';
}

export interface ModelSpec extends UnitBase {
  readonly kind: 'model';
  readonly vocab: number;
  readonly context: number;
  readonly norm: Norm;
  readonly embedding: { readonly tied: boolean; readonly multiplier: number };
  readonly head: { readonly bias: boolean; /** logits are divided by this */ readonly divisor: number };
  readonly residualMultiplier: number;
  readonly kinds: readonly LayerKind[];
  /** Index into `kinds` for every layer, first layer first. */
  readonly layers: readonly number[];
}

/** One FFN or MoE layer alone: y = ffn(x), with a residual or norm only where the spec says so. */
export interface LayerSpec extends UnitBase {
  readonly kind: 'layer';
  readonly ffn: LayerFfn;
  readonly residual: boolean;
  readonly norm?: Norm;
  /** Token ids are below this; needed by hash routers only. */
  readonly vocab?: number;
}

export type Spec = ModelSpec | LayerSpec;
