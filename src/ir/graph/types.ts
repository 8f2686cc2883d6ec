/**
 * Graph IR: whole tensors, single assignment, one block a graph. Plain readonly data.
 *
 * A graph is one *section* of a program (embedding, one distinct layer kind, head, or a layer
 * alone); the program repeats sections, so compile time follows the distinct layers, not the layers.
 * Ops are one closed, typed table: operands, attributes and results by name. Fusion sets
 * attributes on an op and rewires operands; it does not breed op names.
 */
import type { QuantName } from '../../base/quant.ts';
import type { Span } from '../../diagnostics/types.ts';

/** Only matrices of weights are quantised. They stand for the numbers that their values and scales make. */
export type DType = 'f32' | 'f16' | 'bf16' | 'i32' | 'u32' | QuantName;

/** `T` tokens of the call, `P` routed rows (T × slots, dropped slots leave rows unused), `cap` KV-cache capacity. */
export type Dim = number | 'T' | 'P' | 'cap';

export interface TensorType {
  readonly kind: 'tensor';
  readonly dtype: DType;
  readonly shape: readonly Dim[];
}

/**
 * Which row of the routed rows belongs to which (token, slot), and which expert each row needs.
 * `direct`: row = token × slots + slot, nothing computed. `sorted`: rows of one expert are adjacent,
 * in (slot-major where `slotMajor`) token order, and cut into tiles of `tileRows`.
 */
export interface PlanType {
  readonly kind: 'plan';
  readonly experts: number;
  readonly slots: number;
  readonly mode: 'direct' | 'sorted';
  readonly tileRows: number;
}

export type Type = TensorType | PlanType;

export interface Value {
  /** Unique in its graph; made by the compiler, never a user's text. */
  readonly id: string;
  readonly type: Type;
}

/** The expert id that stands for "this slot was dropped or not used". */
export const DROPPED = 0xffff_ffff;

// ---------------------------------------------------------------- parameters of a graph

/**
 * Where the elements of one part of a weight lie in a checkpoint. With canonical index [bank][n][k]
 * (bank and k may be absent), the source matrix of a bank is: the tensor named with `{e}` = bank; or
 * index `bank` of the leading dim; or, with `bankRows`, rows [bank · bankRows, (bank + 1) · bankRows).
 * Then canonical[n][k] = source[axis n: n.start + n · n.step][other axis: k.start + k · k.step].
 * Weights without a k index (biases [n] and banks of them [bank, n]) have `k.step` 0.
 */
export interface TensorSource {
  /** Tensor name; `{l}` stands for the layer, `{e}` for the expert (one tensor each). */
  readonly name: string;
  /** Shape of the named tensor in the file. */
  readonly shape: readonly number[];
  readonly bankRows?: number;
  readonly n: { readonly axis: 0 | 1; readonly start: number; readonly step: number };
  readonly k: { readonly start: number; readonly step: number };
  /** Only where the checkpoint also holds this tensor: tells layouts apart that a square shape leaves open. */
  readonly requires?: string;
}

/** A run of rows (index n) of a weight, with the places it may come from in order of preference. */
export interface WeightPart {
  readonly rows: number;
  readonly sources: readonly TensorSource[];
}

export type ParamRole =
  | { readonly kind: 'input' }
  /** Parts are concatenated along n (the last dim but one of a matrix, the last of a vector). */
  | { readonly kind: 'weight'; readonly parts: readonly WeightPart[] }
  /** cos/sin table [cap, dim]: row p holds cos(p·f_i)·scale for dim/2 frequencies, then the sines. */
  | { readonly kind: 'rope'; readonly inverseFrequencies: readonly number[]; readonly scale: number }
  /** Kept between calls, one row a token of context. */
  | { readonly kind: 'state' };

export interface GraphParam {
  /** Canonical name, `{l}` where it belongs to a layer. Equal names in two sections are the same buffer. */
  readonly name: string;
  readonly value: Value;
  readonly role: ParamRole;
}

// ---------------------------------------------------------------- attributes

export type ActivationName = 'silu' | 'gelu' | 'gelu-tanh' | 'relu';

/** What happens to the accumulators before they are stored. `glu` reads two halves of the weight rows: gate first, then up. */
export type Epilogue =
  | { readonly kind: 'none' }
  | { readonly kind: 'act'; readonly activation: ActivationName }
  | { readonly kind: 'glu'; readonly activation: ActivationName; readonly clamp?: GluClamp };

export interface GluClamp {
  readonly limit: number;
  readonly alpha: number;
  readonly upOffset: number;
}

export interface NormAttrs {
  readonly kind: 'rms' | 'layer';
  readonly eps: number;
}

/** Everything a router decides after its logits; field meanings as in `model/types.ts` (Router). */
export interface RouteAttrs {
  readonly experts: number;
  /** Slots per token: k, or the number of experts for expert choice. */
  readonly slots: number;
  readonly score: 'softmax' | 'sigmoid' | 'sqrt-softplus' | 'none';
  readonly groups?: { readonly count: number; readonly keep: number; readonly score: 'max' | 'top2-sum' };
  readonly select:
    | { readonly kind: 'top-k' }
    | { readonly kind: 'hash' }
    | { readonly kind: 'expert-choice'; readonly capacityFactor: number }
    | { readonly kind: 'sparse-mixer'; readonly jitter: number };
  readonly weights: 'scores' | 'softmax-selected' | 'one';
  readonly renormalize?: { readonly p: number; readonly eps: number; readonly epsMode: 'add' | 'clamp' };
  readonly scale: number;
}

export interface CapacityAttrs {
  readonly experts: number;
  readonly slots: number;
  readonly limit:
    | { readonly kind: 'tokens'; readonly tokens: number }
    | { readonly kind: 'factor'; readonly factor: number; readonly min: number };
  readonly renormalize: 'before' | 'after' | 'none';
}

export interface AttentionAttrs {
  readonly heads: number;
  readonly kvHeads: number;
  /** Width of a query/key head; keys are rows [kvHeads × qkDim] of the cache. */
  readonly qkDim: number;
  readonly vDim: number;
  readonly scale: number;
  readonly window?: number;
  /** Values are the first `vDim` columns of the key rows (MLA's latent); then operand `v` is absent. */
  readonly vFromK: boolean;
}

// ---------------------------------------------------------------- the op table

/**
 * One row per op. `?` marks operands that fusion or the spec may leave out. Results are f32; those that the op's row names
 * may be stored in f16 or bf16 instead, rounded once from the f32 that was computed (the type of the value says which).
 * Matrices of weights are [n, k] (PyTorch's [out, in]); banks are [experts, n, k].
 */
export interface Ops {
  /** y[t] = table[ids[t]] · scale */
  embed: { ins: { ids: Value; table: Value }; attrs: { readonly scale: number }; outs: { y: Value } };
  /** RMS or layer norm over each of `groups` equal runs of the last dim; weight is [dim / groups] */
  norm: {
    ins: { x: Value; weight: Value; bias?: Value };
    attrs: NormAttrs & { readonly groups: number };
    outs: { y: Value };
  };
  /** y = epilogue(x · weightᵀ + bias) · scale [+ residual]; with `glu` the weight has 2n rows and y has n */
  linear: {
    ins: { x: Value; weight: Value; bias?: Value; residual?: Value };
    attrs: { readonly epilogue: Epilogue; readonly scale: number };
    outs: { y: Value };
  };
  /** y[t, h] = x[t, h] · weight[h]ᵀ for every head h; x [T, heads·k], weight [heads, n, k] */
  head_linear: { ins: { x: Value; weight: Value }; attrs: { readonly heads: number }; outs: { y: Value } };
  /** y = act(gate) · up, clamped as attrs say */
  glu: {
    ins: { gate: Value; up: Value };
    attrs: { readonly activation: ActivationName; readonly clamp?: GluClamp };
    outs: { y: Value };
  };
  act: { ins: { x: Value }; attrs: { readonly activation: ActivationName }; outs: { y: Value } };
  /** y = a + b · scale */
  add: { ins: { a: Value; b: Value }; attrs: { readonly scale: number }; outs: { y: Value } };
  /** y[t, j] = x[t, j] · sigmoid(gate[t, 0]) */
  gate_mul: { ins: { x: Value; gate: Value }; attrs: Record<never, never>; outs: { y: Value } };
  /** Per head, columns [start, start + length) of `stride` */
  slice_heads: {
    ins: { x: Value };
    attrs: { readonly heads: number; readonly stride: number; readonly start: number; readonly length: number };
    outs: { y: Value };
  };
  /** Per head, a then b */
  concat_heads: { ins: { a: Value; b: Value }; attrs: { readonly heads: number }; outs: { y: Value } };
  /** Rotates the first `dim` columns of each head by the position past + t */
  rope: {
    ins: { x: Value; table: Value };
    attrs: {
      readonly heads: number;
      readonly headDim: number;
      readonly dim: number;
      readonly style: 'half' | 'interleaved';
    };
    outs: { y: Value };
  };
  /** Writes rows past … past + T − 1 of the cache; the result is the cache afterwards */
  cache_append: { ins: { x: Value; cache: Value }; attrs: Record<never, never>; outs: { cache: Value } };
  /** Causal softmax attention of q [T, heads·qkDim] over cache rows 0 … past + t */
  attention: {
    ins: { q: Value; k: Value; v?: Value; sinks?: Value };
    attrs: AttentionAttrs;
    outs: { y: Value };
  };
  /**
   * Chooses experts. From `logits` [T, experts]; or, fused, from the hidden state `x`: optional norm
   * (`norm` attr, `normWeight`), then logits = x · gateᵀ + gateBias. Results: `weights` f32 [T, slots],
   * `ids` u32 [T, slots] in descending selection score; from the hidden state also `xn`, x after the norm if there is one;
   * with `sharedGate`, or where `gate` has one row more than there are experts, also `gate` [T, 1], the shared experts' gate logit.
   */
  'moe.route': {
    ins: {
      logits?: Value;
      x?: Value;
      normWeight?: Value;
      normBias?: Value;
      gate?: Value;
      gateBias?: Value;
      selectionBias?: Value;
      table?: Value;
      tokenIds?: Value;
      sharedGate?: Value;
    };
    attrs: RouteAttrs & { readonly norm?: NormAttrs };
    outs: { weights: Value; ids: Value; xn?: Value; gate?: Value };
  };
  /** Drops slots beyond an expert's capacity within a sequence: all first choices before any second, in token order */
  'moe.capacity': {
    ins: { weights: Value; ids: Value };
    attrs: CapacityAttrs;
    outs: { weights: Value; ids: Value };
  };
  'moe.plan': {
    ins: { ids: Value };
    attrs: { readonly experts: number; readonly slots: number; readonly mode: 'direct' | 'sorted'; readonly tileRows: number };
    outs: { plan: Value };
  };
  /** y[row] = x[token of row] */
  'moe.permute': { ins: { x: Value; plan: Value }; attrs: Record<never, never>; outs: { y: Value } };
  /**
   * Per routed row: y[row] = epilogue(x[row] · weight[expert of row]ᵀ + bias[expert]).
   * `gather`: x is [T, k], read through the plan. `routeWeights`: rows of x are multiplied by their slot's
   * weight (applied to the input). `sharedWeight`: the shared FFN runs in the same dispatch on `sharedX`
   * (or on x when gathering) and gives the second result. `combine`: the result is [T, n], the sum over
   * the token's slots in slot order of weight · row [+ shared · sigmoid(sharedGate)] · scale [+ residual].
   */
  'moe.grouped_linear': {
    ins: {
      x: Value;
      plan: Value;
      /** Expert of each slot; always there, the plan's source. */
      ids: Value;
      weight: Value;
      bias?: Value;
      routeWeights?: Value;
      sharedX?: Value;
      sharedWeight?: Value;
      sharedBias?: Value;
      sharedGate?: Value;
      residual?: Value;
    };
    attrs: {
      readonly gather: boolean;
      readonly epilogue: Epilogue;
      readonly combine: boolean;
      /** Combine with weight 1 (weights went to the input). */
      readonly weighted: boolean;
      readonly scale: number;
    };
    outs: { y: Value; shared?: Value };
  };
  /** y[t] = (Σ_slots in slot order weights · x[row of (t, slot)] [+ shared · sigmoid(sharedGate)]) · scale [+ residual]; dropped slots add nothing */
  'moe.combine': {
    ins: { x: Value; plan: Value; ids: Value; weights?: Value; shared?: Value; sharedGate?: Value; residual?: Value };
    attrs: { readonly slots: number; readonly scale: number };
    outs: { y: Value };
  };
}

export type OpName = keyof Ops;

/** A node of op K: distributes over unions, so `Node` narrows by `op`. */
export type Node<K extends OpName = OpName> = {
  [N in K]: {
    readonly op: N;
    readonly ins: Readonly<Ops[N]['ins']>;
    readonly attrs: Ops[N]['attrs'];
    readonly outs: Readonly<Ops[N]['outs']>;
    readonly span?: Span;
  };
}[K];

export type NodeOf<K extends OpName> = Extract<Node, { readonly op: K }>;

export const isOp = <K extends OpName>(node: Node, op: K): node is NodeOf<K> => node.op === op;

export interface Graph {
  /** `embed`, `layer.<kind>`, `head` or `layer` */
  readonly name: string;
  readonly params: readonly GraphParam[];
  readonly nodes: readonly Node[];
  /** Results by name: `y` the hidden state or logits; `topk_weights`, `topk_indices` where there is a router. */
  readonly results: Readonly<Record<string, Value>>;
}
