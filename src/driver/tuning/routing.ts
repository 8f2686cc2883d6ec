/** Distributions of tokens over experts: what a router may do to a layer, made without a router. */
import { DROPPED } from '../../ir/graph/types.ts';
import { hashAt, hashText } from '../../runtime/core/random.ts';
import { type Routing, routingName } from '../bench/choices.ts';

/** `zipf`: the expert of rank r is chosen in proportion to 1 / r^exponent; `onehot`: all tokens go to the same experts. */
export type Mix = Exclude<Routing, { readonly kind: 'random' }>;

export interface WeightedMix {
  readonly mix: Mix;
  readonly weight: number;
}

export const DEFAULT_MIXES: readonly WeightedMix[] = [
  { mix: { kind: 'uniform' }, weight: 1 },
  { mix: { kind: 'zipf', exponent: 1.2 }, weight: 1 },
  { mix: { kind: 'onehot' }, weight: 0.2 },
];

/** In one form, whatever order and spaces it was written with. */
export const mixesText = (mixes: readonly WeightedMix[]): string => mixes.map(({ mix, weight }) => `${routingName(mix)}:${weight}`).sort().join(',');

/** `uniform:1,zipf1.2:1,onehot:0.2`; undefined for anything else. */
export function parseMixes(text: string): readonly WeightedMix[] | undefined {
  const mixes: WeightedMix[] = [];
  for (const word of text.split(',').map((w) => w.trim())) {
    const [, name = '', s = '', weightText] = /^(uniform|zipf|onehot)([0-9.]*)(?::([0-9.]+))?$/.exec(word) ?? [];
    const weight = weightText === undefined ? 1 : Number(weightText);
    if (!Number.isFinite(weight) || weight < 0 || (name === 'zipf') !== (s !== '') || !Number.isFinite(Number(s))) return undefined;
    if (name === 'uniform' || name === 'onehot') mixes.push({ mix: { kind: name }, weight });
    else if (name === 'zipf') mixes.push({ mix: { kind: name, exponent: Number(s) }, weight });
    else return undefined;
  }
  const names = new Set(mixes.map(({ mix }) => routingName(mix)));
  return names.size === mixes.length && mixes.some((m) => m.weight > 0) ? mixes.filter((m) => m.weight > 0) : undefined;
}

/** Experts of every (token, slot): those of one token differ, in the order in which they were drawn. */
export function routedIds(mix: Mix, sizes: { readonly tokens: number; readonly experts: number; readonly slots: number }, seed: number): Uint32Array {
  const { tokens, experts, slots } = sizes;
  const ids = new Uint32Array(tokens * slots).fill(DROPPED);
  const key = hashText(`routing ${routingName(mix)}`, seed);
  // Which expert has which rank is of the seed: kernels must not gain by the first experts being the busy ones.
  const order = Array.from({ length: experts }, (_, e) => e).sort((a, b) => hashAt(key, a) - hashAt(key, b) || a - b);
  if (slots >= experts) return everyExpert(ids, sizes, key);
  const weights = order.map((_, rank) => (mix.kind === 'zipf' ? 1 / (rank + 1) ** mix.exponent : 1));
  for (let t = 0; t < tokens; t++) {
    if (mix.kind === 'onehot') {
      for (let s = 0; s < slots; s++) ids[t * slots + s] = order[s] ?? 0;
      continue;
    }
    // The largest of u^(1/w): a draw without putting back, in proportion to w (Efraimidis and Spirakis 2006).
    const drawn = weights
      .map((w, rank) => ({ rank, value: Math.log((hashAt(key, experts + t * experts + rank) + 1) / 2 ** 32) / w }))
      .sort((a, b) => b.value - a.value || a.rank - b.rank);
    for (let s = 0; s < slots; s++) ids[t * slots + s] = order[drawn[s]?.rank ?? 0] ?? 0;
  }
  return ids;
}

/** Routers whose experts choose tokens have a slot an expert: each expert takes every other token, about. */
function everyExpert(ids: Uint32Array, { tokens, experts, slots }: { readonly tokens: number; readonly experts: number; readonly slots: number }, key: number): Uint32Array {
  for (let t = 0; t < tokens; t++) {
    for (let e = 0; e < Math.min(experts, slots); e++) if (hashAt(key, experts + t * experts + e) % Math.max(1, experts) < 2) ids[t * slots + e] = e;
  }
  return ids;
}
