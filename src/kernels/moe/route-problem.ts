/** What a router does, as data; field meanings as in `RouteAttrs` of the graph IR. */
import type { StorageElem } from './common.ts';

export interface RouteProblem {
  readonly experts: number;
  /** Slots per token; the number of experts for expert choice. */
  readonly slots: number;
  readonly score: 'softmax' | 'sigmoid' | 'sqrt-softplus' | 'none';
  readonly groups?: { readonly count: number; readonly keep: number; readonly score: 'max' | 'top2-sum' };
  readonly select:
    | { readonly kind: 'top-k' }
    /** Table i32 [vocab, slots], token ids i32 [T]. */
    | { readonly kind: 'hash'; readonly vocab: number }
    | { readonly kind: 'expert-choice'; readonly capacityFactor: number }
    | { readonly kind: 'sparse-mixer'; readonly jitter: number };
  readonly weights: 'scores' | 'softmax-selected' | 'one';
  readonly renormalize?: { readonly p: number; readonly eps: number; readonly epsMode: 'add' | 'clamp' };
  readonly scale: number;
  /** Storage of the selection bias; absent: there is none. */
  readonly selectionBiasElem?: StorageElem;
  readonly source: RouteSource;
  /** The most tokens a call has, where that is known. */
  readonly maxTokens?: number;
}

export type RouteSource =
  /** Operand `logits` f32 [T, experts]. */
  | { readonly kind: 'logits' }
  /** Operand `x` f32 [T, dim]. */
  | HiddenSource
  /** A hash table with weight 1 needs no logits. */
  | { readonly kind: 'none' };

/** Logits are made here: norm(x) · gateᵀ + gateBias. */
export interface HiddenSource {
  readonly kind: 'hidden';
  readonly dim: number;
  readonly gateElem: StorageElem;
  readonly gateBiasElem?: StorageElem;
  /** Storage of the result `xn`, x after the norm. Not said: f32 with a norm, no such result without one. */
  readonly xnElem?: StorageElem;
  readonly norm?: {
    readonly kind: 'rms' | 'layer';
    readonly eps: number;
    readonly weightElem: StorageElem;
    readonly biasElem?: StorageElem;
  };
  /** Storage of `sharedGate` [1, dim]; with it the result `gate` [T, 1] is written. */
  readonly sharedGateElem?: StorageElem;
  /** The gate has one row more than there are experts, and that row is the shared gate: it saves a binding. */
  readonly sharedGateRow?: boolean;
}

export interface RouteSchedule {
  /** Threads of a block; one block a token. */
  readonly block: number;
  /** Threads that split the depth of one expert's logit; a power of two that divides the block. */
  readonly team: number;
  /** Experts a team works on at once, reading x once for all of them. */
  readonly per: number;
}

/** How a router runs where subgroups have a known size, of which each chooses for a token. */
export interface RouteCrews {
  /** Threads of a block; a multiple of the subgroup. */
  readonly block: number;
  /** Tokens of a block, which share each access of the gate. */
  readonly tokens: number;
  /** Accesses of each token's row that are staged at a time. */
  readonly chunk: number;
  /** Accesses of a gate row that a thread has under way. */
  readonly unroll: number;
  /** 1: blocks are often short of tokens and skip those that are missing; 0: they multiply zeros. */
  readonly guarded: 0 | 1;
  /** 1: the logits are made in a kernel of their own, by blocks that take one expert for every eight threads. */
  readonly split: 0 | 1;
}
