/**
 * Every weight of a spec as a list of tensors with their sizes: the one source of all counts and bytes.
 * Counted as in the published numbers: norms, biases, routers, selection biases and sinks are parameters; hash tables are not.
 */
import { quantFormat, quantName, quantRowWords } from '../base/quant.ts';
import type {
  Attention,
  Ffn,
  HeadsAttention,
  LatentAttention,
  LayerFfn,
  LayerKind,
  ModelSpec,
  MoeLayerFfn,
  Norm,
  Spec,
  StorageDType,
} from './types.ts';

export type WeightPart = 'embedding' | 'head' | 'attention' | 'norm' | 'dense' | 'experts' | 'shared' | 'router';

export interface WeightTensor {
  readonly name: string;
  readonly part: WeightPart;
  /** First dim: rows, or experts of a bank. A weight too large for one binding is split along it. */
  readonly shape: readonly number[];
  /** Elements that one token touches on average: all of them, or those of the experts that run. */
  readonly activeElements: number;
}

export const elements = (t: WeightTensor): number => t.shape.reduce((a, b) => a * b, 1);

const STORAGE_BYTES: Readonly<Record<StorageDType, number>> = { f32: 4, f16: 2, bf16: 2 };

/** Whether a tensor is a matrix of an expert, routed or shared: what `dtype … experts int4` stores. */
const isExpertMatrix = (t: WeightTensor): boolean =>
  (t.part === 'experts' || t.part === 'shared') && /\.(?:gate_up|down|wi|wo)$/.test(t.name);

/** Bytes of a tensor in memory. */
export function tensorBytes(t: WeightTensor, { dtype, expertStorage: stored }: Spec): number {
  if (stored === undefined || !isExpertMatrix(t)) return elements(t) * STORAGE_BYTES[dtype];
  const depth = t.shape.at(-1) ?? 1;
  return (elements(t) / depth) * 4 * quantRowWords(quantFormat(quantName(stored.values, stored.scales)), depth);
}

/** Of these bytes those that one token touches. */
export const activeBytes = (t: WeightTensor, spec: Spec): number => (tensorBytes(t, spec) / Math.max(1, elements(t))) * t.activeElements;

type Add = (name: string, part: WeightPart, shape: readonly number[], share?: number) => void;

function collect(fill: (add: Add) => void): WeightTensor[] {
  const list: WeightTensor[] = [];
  fill((name, part, shape, share = 1) => {
    const count = shape.reduce((a, b) => a * b, 1);
    list.push({ name, part, shape, activeElements: share === 1 ? count : Math.round(count * share) });
  });
  return list;
}

function addNorm(add: Add, name: string, norm: Norm, width: number): void {
  add(`${name}.weight`, 'norm', [width]);
  if (norm.bias) add(`${name}.bias`, 'norm', [width]);
}

function addHeads(add: Add, a: HeadsAttention, hidden: number): void {
  const q = a.heads * a.headDim;
  const kv = a.kvHeads * a.headDim;
  const projection = (name: string, n: number, k: number, bias: boolean): void => {
    add(`attention.${name}.weight`, 'attention', [n, k]);
    if (bias) add(`attention.${name}.bias`, 'attention', [n]);
  };
  projection('q', q, hidden, a.bias.q);
  projection('k', kv, hidden, a.bias.k);
  projection('v', kv, hidden, a.bias.v);
  projection('o', hidden, q, a.bias.o);
  if (a.qkNorm !== 'none') {
    add('attention.q_norm', 'attention', [a.qkNorm === 'head' ? a.headDim : q]);
    add('attention.k_norm', 'attention', [a.qkNorm === 'head' ? a.headDim : kv]);
  }
  if (a.sinks) add('attention.sinks', 'attention', [a.heads]);
}

function addLatent(add: Add, a: LatentAttention, hidden: number): void {
  const q = a.heads * (a.nopeDim + a.ropeDim);
  const part = 'attention';
  if (a.qLora === undefined) {
    add('attention.q', part, [q, hidden]);
  } else {
    add('attention.q_a', part, [a.qLora, hidden]);
    add('attention.q_a_norm', part, [a.qLora]);
    add('attention.q_b', part, [q, a.qLora]);
  }
  add('attention.kv_a', part, [a.kvLora + a.ropeDim, hidden]);
  add('attention.kv_a_norm', part, [a.kvLora]);
  add('attention.kv_b', part, [a.heads * (a.nopeDim + a.vDim), a.kvLora]);
  add('attention.o', part, [hidden, a.heads * a.vDim]);
}

function addAttention(add: Add, a: Attention, hidden: number): void {
  if (a.kind === 'heads') addHeads(add, a, hidden);
  else addLatent(add, a, hidden);
}

function addFfn(add: Add, name: string, part: WeightPart, ffn: Ffn, hidden: number, bank: readonly number[], share: number): void {
  const inner = ffn.gated ? 2 * ffn.width : ffn.width;
  add(`${name}.${ffn.gated ? 'gate_up' : 'wi'}`, part, [...bank, inner, hidden], share);
  add(`${name}.${ffn.gated ? 'down' : 'wo'}`, part, [...bank, hidden, ffn.width], share);
  if (!ffn.bias) return;
  add(`${name}.in_bias`, part, [...bank, inner], share);
  add(`${name}.out_bias`, part, [...bank, hidden], share);
}

/** Routed experts that run for a token on average; a whole number except for expert choice. */
export const activeExperts = (moe: MoeLayerFfn): number =>
  moe.router.select.kind === 'expert-choice' ? Math.min(moe.experts, moe.router.select.capacityFactor) : moe.active;

/** Whether the router has a weight matrix: a hash table that gives weight 1 needs none. */
export const hasRouterMatrix = (moe: MoeLayerFfn): boolean => moe.router.score !== 'none';

function addLayerFfn(add: Add, ffn: LayerFfn, hidden: number): void {
  if (ffn.kind === 'dense') {
    addFfn(add, 'ffn', 'dense', ffn.ffn, hidden, [], 1);
    return;
  }
  if (hasRouterMatrix(ffn)) add('router.weight', 'router', [ffn.experts, hidden]);
  if (ffn.router.logitBias) add('router.bias', 'router', [ffn.experts]);
  if (ffn.router.selectionBias) add('router.selection_bias', 'router', [ffn.experts]);
  addFfn(add, 'experts', 'experts', ffn.expert, hidden, [ffn.experts], activeExperts(ffn) / ffn.experts);
  if (ffn.shared === undefined) return;
  addFfn(add, 'shared', 'shared', ffn.shared.ffn, hidden, [], 1);
  if (ffn.shared.gate === 'sigmoid') add('shared.gate', 'shared', [1, hidden]);
}

/** Tensors of one layer of a model, its two norms included. */
export const layerWeights = (kind: LayerKind, norm: Norm, hidden: number): WeightTensor[] =>
  collect((add) => {
    addNorm(add, 'attention_norm', norm, hidden);
    addAttention(add, kind.attention, hidden);
    addNorm(add, 'ffn_norm', norm, hidden);
    addLayerFfn(add, kind.ffn, hidden);
  });

/** Tensors of a model that belong to no layer. */
export const outerWeights = (spec: ModelSpec): WeightTensor[] =>
  collect((add) => {
    add('embedding', 'embedding', [spec.vocab, spec.hidden]);
    addNorm(add, 'final_norm', spec.norm, spec.hidden);
    if (!spec.embedding.tied) add('head.weight', 'head', [spec.vocab, spec.hidden]);
    if (spec.head.bias) add('head.bias', 'head', [spec.vocab]);
  });

export interface WeightGroup {
  /** Layers that hold these tensors; empty for what belongs to no layer (then counted once). */
  readonly layers: readonly number[];
  readonly kind: number | undefined;
  readonly tensors: readonly WeightTensor[];
}

/** All weights of a spec, one group for each distinct layer kind and one for the rest. */
export function weightGroups(spec: Spec): readonly WeightGroup[] {
  if (spec.kind === 'layer') {
    const tensors = collect((add) => {
      if (spec.norm !== undefined) addNorm(add, 'norm', spec.norm, spec.hidden);
      addLayerFfn(add, spec.ffn, spec.hidden);
    });
    return [{ layers: [0], kind: 0, tensors }];
  }
  const layersOf = spec.kinds.map((): number[] => []);
  spec.layers.forEach((kind, layer) => layersOf[kind]?.push(layer));
  return [
    { layers: [], kind: undefined, tensors: outerWeights(spec) },
    ...spec.kinds.map((kind, i) => ({ layers: layersOf[i] ?? [], kind: i, tensors: layerWeights(kind, spec.norm, spec.hidden) })),
  ];
}

/** How often the tensors of a group exist. */
export const copies = (group: WeightGroup): number => (group.kind === undefined ? 1 : group.layers.length);
