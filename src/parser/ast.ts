/**
 * The abstract syntax of a `.moe` file: what was written, with the place of every clause and value.
 * Nothing is defaulted, inferred or checked for sense here. What the parser guarantees to readers:
 * - a clause stands at most once per block, and required parts of a clause are present;
 * - the two ways of counting experts are not mixed in one `moe` block, and a block has at most one of `ffn` and `moe`;
 * - numbers are finite. Signs, ranges and wholeness (`integer`) are the reader's to check.
 */
import type { Span } from '../diagnostics/types.ts';

interface Node {
  /** From the first to the last token of the construct. */
  readonly span: Span;
}

/** A number as written; `value` is its closest double, `integer` says that its value is a whole number up to 2^53. */
export interface Num extends Node {
  readonly value: number;
  readonly integer: boolean;
  /** The user's spelling, such as `102_400`. */
  readonly text: string;
}

/** One keyword out of several. */
export interface Word<T extends string> extends Node {
  readonly value: T;
}

/** An identifier or a quoted string, escapes resolved. Any Unicode text without control characters: never paste it into code. */
export interface Name extends Node {
  readonly value: string;
}

/** A keyword whose presence says it all. */
export type Flag = Node;

/** `vocab 102400` and the like. */
export interface NumClause extends Node {
  readonly value: Num;
}

export interface WordClause<T extends string> extends Node {
  readonly value: Word<T>;
}

export interface File extends Node {
  readonly units: readonly Unit[];
}

export type Unit = Model | LayerUnit;

/** `model NAME { … }` */
export interface Model extends Node {
  readonly kind: 'model';
  readonly name: Name;
  readonly vocab?: NumClause;
  readonly hidden?: NumClause;
  readonly context?: NumClause;
  /** `depth 28`: how many layers. May be left out where the layer blocks are all bounded: then one more than the highest index. */
  readonly depth?: NumClause;
  readonly dtype?: DType;
  readonly deterministic?: WordClause<'run' | 'batch'>;
  readonly norm?: Norm;
  readonly embedding?: Embedding;
  readonly head?: Head;
  /** `residual multiplier 0.22` */
  readonly residualMultiplier?: NumClause;
  /** The attention of every layer; `variant` must be given here. */
  readonly attention?: Attention;
  /** The feed-forward part of every layer that does not say its own, named by a layer block or not. */
  readonly ffn?: LayerFfn;
  readonly layers: readonly LayerBlock[];
}

/** `layer NAME { … }`: one feed-forward part alone. */
export interface LayerUnit extends Node {
  readonly kind: 'layer';
  readonly name: Name;
  readonly hidden?: NumClause;
  readonly vocab?: NumClause;
  readonly dtype?: DType;
  readonly deterministic?: WordClause<'run' | 'batch'>;
  readonly norm?: Norm;
  readonly residual?: Flag;
  readonly ffn?: LayerFfn;
}

/** `dtype f16`, `dtype f16 experts int4 group 32 scales f16` */
export interface DType extends WordClause<'f32' | 'f16' | 'bf16'> {
  readonly experts?: ExpertDType;
}

/** `experts int4`, with the `group` of values along the depth that share a scale, and the storage of the `scales`. */
export interface ExpertDType extends Node {
  readonly values: Word<'int8' | 'int4'>;
  readonly group?: NumClause;
  readonly scales?: Word<'f16' | 'f32'>;
}

/** `norm rms 1e-6`, `norm layer 1e-5 bias` */
export interface Norm extends Node {
  readonly kind: Word<'rms' | 'layer'>;
  readonly eps?: Num;
  readonly bias?: Flag;
}

/** `embedding tied multiplier 12` (at least one of the two) */
export interface Embedding extends Node {
  readonly tied?: Flag;
  readonly multiplier?: NumClause;
}

/** `head bias divisor 6` (at least one of the two) */
export interface Head extends Node {
  readonly bias?: Flag;
  /** Logits are divided by it. */
  readonly divisor?: NumClause;
}

/** `layer 0 { … }`, `layers 1..27 { … }`, `layers every 2 from 1 { … }`; the body may be empty. */
export interface LayerBlock extends Node {
  readonly selector: Selector;
  /** Without `variant`: the model's attention with these clauses changed. With it: instead of the model's. */
  readonly attention?: Attention;
  readonly ffn?: LayerFfn;
}

export type Selector =
  | (Node & { readonly kind: 'all' })
  /** The layers no other block names. */
  | (Node & { readonly kind: 'rest' })
  /** `first 3`: layers 0, 1, 2. */
  | (Node & { readonly kind: 'first'; readonly count: Num })
  /** `every 2 from 1 to 9`: 1, 3, 5, 7, 9; `from` defaults to 0, `to` (included) to the last layer. */
  | (Node & { readonly kind: 'every'; readonly step: Num; readonly from?: Num; readonly to?: Num })
  /** `0, 2, 5..9`; both ends are included. */
  | (Node & { readonly kind: 'list'; readonly ranges: readonly Range[] });

export interface Range extends Node {
  readonly first: Num;
  /** Absent for a single layer. */
  readonly last?: Num;
}

/**
 * `attention mha { … }`. All variants share one record: which clauses suit which variant is the reader's to check.
 * `mha` has as many key heads as query heads, `gqa` says `kv`.
 */
export interface Attention extends Node {
  readonly variant?: Word<'mha' | 'gqa' | 'mla'>;
  /** `heads 16 x 128`; `headDim` is absent in `heads 16`. */
  readonly heads?: Node & { readonly count: Num; readonly headDim?: Num };
  /** `kv 8`: key and value heads. */
  readonly kv?: NumClause;
  /** `bias q k v o`, `bias none`: an empty list. */
  readonly bias?: Node & { readonly parts: readonly Word<'q' | 'k' | 'v' | 'o'>[] };
  readonly qkNorm?: WordClause<'head' | 'full' | 'none'>;
  readonly rope?: Rope;
  /** `window 128`, `window none` (value undefined). */
  readonly window?: Node & { readonly value: Num | undefined };
  /** `sinks`, `sinks none` (enabled false). */
  readonly sinks?: Node & { readonly enabled: boolean };
  /** `scale 0.015625`: replaces 1/√headDim; YaRN's factor is not applied on top. */
  readonly scale?: NumClause;
  /** mla: `q-lora 1536` */
  readonly qLora?: NumClause;
  /** mla: `kv-lora 512` */
  readonly kvLora?: NumClause;
  /** mla: `nope 128`, the part of a query and key head that does not rotate; the rotating part is `rope THETA dim 64`. */
  readonly nope?: NumClause;
  /** mla: `value 128`, the width of a value head. */
  readonly value?: NumClause;
}

/** `rope none`, `rope 10000`, `rope 10000 dim 64 interleaved yarn { factor 40 original 4096 }`, `rope 10000 linear 4` */
export type Rope =
  | (Node & { readonly kind: 'none' })
  | (Node & {
      readonly kind: 'rope';
      readonly theta: Num;
      readonly dim?: NumClause;
      readonly style?: Word<'half' | 'interleaved'>;
      /** At most one scaling. */
      readonly scaling?: RopeScaling;
    });

export type RopeScaling = (Node & { readonly kind: 'linear'; readonly factor: Num }) | Yarn;

export interface Yarn extends Node {
  readonly kind: 'yarn';
  readonly factor?: NumClause;
  readonly original?: NumClause;
  readonly betaFast?: NumClause;
  readonly betaSlow?: NumClause;
  readonly mscale?: NumClause;
  readonly mscaleAllDim?: NumClause;
  readonly noTruncate?: Flag;
}

export type LayerFfn = Dense | Moe;

/** `ffn swiglu 10944` */
export interface Dense extends Node {
  readonly kind: 'dense';
  readonly network: Network;
}

/** `swiglu 1408`, `mlp gelu 4096 bias`, `swiglu 2880 bias interleaved clamp 7 alpha 1.702 offset 1` */
export interface Network extends Node {
  /** `swiglu` silu, `geglu` gelu, `geglu-tanh` gelu-tanh, `reglu` relu: gated. `mlp`: two matrices. */
  readonly gated: boolean;
  readonly activation: Word<'silu' | 'gelu' | 'gelu-tanh' | 'relu'>;
  readonly width: Num;
  readonly bias?: Flag;
  readonly clamp?: Node & { readonly limit: Num; readonly alpha?: NumClause; readonly offset?: NumClause };
  /** A fused gate-up tensor has gate and up rows in turn; otherwise all gate rows come first. */
  readonly interleaved?: Flag;
}

/** `moe { … }` */
export interface Moe extends Node {
  readonly kind: 'moe';
  /** Absent when neither `experts` nor `segment` was written. */
  readonly counting?: Counting;
  readonly shared?: Shared;
  readonly router?: Router;
  readonly capacity?: Capacity;
}

export type Counting = ReleasedCounting | PaperCounting;

/** `experts 64 of swiglu 1408  active 6`: routed experts and how many of them run for a token; shared ones are not counted. */
export interface ReleasedCounting extends Node {
  readonly kind: 'released';
  readonly experts: Num;
  readonly network: Network;
  readonly active?: NumClause;
}

/**
 * `segment m 4 of N 16 of swiglu 3412  active K 2`: N standard experts cut into m each, mK active, shared ones counted:
 * routed = mN − Ks, active routed = mK − Ks.
 */
export interface PaperCounting extends Node {
  readonly kind: 'paper';
  readonly m: Num;
  readonly n: Num;
  /** `of`: `network.width` is that of a standard expert, to be divided by m. `into`: it is that of a fine expert. */
  readonly widthOf: Word<'of' | 'into'>;
  readonly network: Network;
  readonly k?: NumClause;
}

/** `shared 2`, `shared 1 of swiglu 5632 gated`, in the paper's counting `shared Ks 1`. */
export interface Shared extends Node {
  readonly count: Num;
  /** `of`: the width is that of each shared expert. `as`: that of the one network all of them are stored as. */
  readonly network?: { readonly each: Word<'of' | 'as'>; readonly network: Network };
  /** The output is multiplied by sigmoid(w_g · x). */
  readonly gated?: Flag;
}

/** `router softmax top-k …`, parts in any order. */
export interface Router extends Node {
  readonly score?: Word<'softmax' | 'sigmoid' | 'sqrt-softplus' | 'none'>;
  readonly logitBias?: Flag;
  readonly selectionBias?: Flag;
  /** `groups 8 keep 4 by top2-sum` */
  readonly groups?: Node & { readonly count: Num; readonly keep: Num; readonly by: Word<'max' | 'top2-sum'> };
  readonly select?: Select;
  /** `weights scores`, `weights softmax` (over the selected logits), `weights one` */
  readonly weights?: WordClause<'scores' | 'softmax' | 'one'>;
  /** `weights on input` */
  readonly applyTo?: WordClause<'output' | 'input'>;
  readonly renormalize?: Renormalize;
  readonly scale?: NumClause;
  readonly precision?: WordClause<'f32' | 'model'>;
}

export type Select =
  | (Node & { readonly kind: 'top-k' })
  /** `hash table "tid2eid"` */
  | (Node & { readonly kind: 'hash'; readonly table: Name })
  /** `expert-choice factor 2` */
  | (Node & { readonly kind: 'expert-choice'; readonly factor: Num })
  /** `sparse-mixer jitter 0.01` */
  | (Node & { readonly kind: 'sparse-mixer'; readonly jitter?: Num });

/** `renormalize`, `renormalize add 1e-20`, `renormalize clamp 1e-12`, `renormalize p 2` */
export interface Renormalize extends Node {
  readonly p?: NumClause;
  /** At most one: added to the denominator, or its lower bound. */
  readonly eps?: Node & { readonly mode: 'add' | 'clamp'; readonly value: Num };
}

/** `capacity 64`, `capacity factor 1.25 min 4`, either with `renormalize before | after | none` */
export interface Capacity extends Node {
  readonly limit: { readonly kind: 'tokens'; readonly tokens: Num } | { readonly kind: 'factor'; readonly factor: Num; readonly min?: Num };
  readonly renormalize?: WordClause<'before' | 'after' | 'none'>;
}
