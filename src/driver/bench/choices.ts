/** Which experts each token shall choose, so that a call's histogram over the experts comes out as wished. */
import type { RouteAttrs } from '../../ir/graph/types.ts';
import { hashAt, hashText, signedUnit } from '../../runtime/core/random.ts';

/** How tokens spread over the experts. `random`: as procedural weights and inputs make them fall. */
export type Routing = { readonly kind: 'random' } | { readonly kind: 'uniform' } | { readonly kind: 'zipf'; readonly exponent: number } | { readonly kind: 'onehot' };

export const ROUTING_WORDS = 'random, uniform, zipfS (such as zipf1.2), or onehot';

/** Undefined for a word that is none of `ROUTING_WORDS`. */
export function parseRouting(word: string): Routing | undefined {
  if (word === 'random' || word === 'uniform' || word === 'onehot') return { kind: word };
  const exponent = /^zipf(\d+(?:\.\d+)?)$/.exec(word)?.[1];
  return exponent === undefined ? undefined : { kind: 'zipf', exponent: Number(exponent) };
}

export const routingName = (r: Routing): string => (r.kind === 'zipf' ? `zipf${r.exponent}` : r.kind);

/** How many of `slots` choices a token makes of each expert on average: at most one, since its experts are distinct. */
export function shares(routing: Routing, experts: number, slots: number, seed: number): Float64Array {
  const key = hashText('routing', seed);
  const order = Array.from({ length: experts }, (_, e) => e).sort((a, b) => hashAt(key, a) - hashAt(key, b));
  const out = new Float64Array(experts);
  if (routing.kind === 'onehot') {
    for (const e of order.slice(0, slots)) out[e] = 1;
    return out;
  }
  const exponent = routing.kind === 'zipf' ? routing.exponent : 0;
  // Experts that a token would choose more than once are chosen once; the others share the rest.
  let open = order.map((e, rank) => ({ e, weight: (rank + 1) ** -exponent }));
  let left = slots;
  for (;;) {
    const sum = open.reduce((n, { weight }) => n + weight, 0);
    const full = open.filter(({ weight }) => weight * left >= sum);
    if (full.length === 0 || full.length === open.length) {
      for (const { e, weight } of open) out[e] = full.length === 0 ? (weight * left) / sum : 1;
      return out;
    }
    for (const { e } of full) out[e] = 1;
    open = open.filter(({ e }) => out[e] !== 1);
    left -= full.length;
  }
}

const largest = (scores: ArrayLike<number>, among: readonly number[], n: number): readonly number[] =>
  [...among].sort((a, b) => (scores[b] ?? 0) - (scores[a] ?? 0) || a - b).slice(0, n);

/** The experts of the groups that serve the `slots` best experts best. */
function inGroups(scores: ArrayLike<number>, { experts, slots, groups }: Pick<RouteAttrs, 'experts' | 'slots' | 'groups'>): readonly number[] {
  const all = Array.from({ length: experts }, (_, e) => e);
  if (groups === undefined) return all;
  const size = experts / groups.count;
  const members = Array.from({ length: groups.count }, (_, g) => all.slice(g * size, (g + 1) * size));
  const each = Math.ceil(slots / groups.keep);
  const worth = members.map((m) => largest(scores, m, each).reduce((n, e) => n + (scores[e] ?? 0), 0));
  return largest(worth, members.map((_, g) => g), groups.keep).flatMap((g) => members[g] ?? []);
}

/**
 * Experts of each token, [tokens, slots]: those that are furthest behind their share come first, with some chance among them,
 * so that the counts of a call differ from its shares by about one token.
 */
export function chooseExperts(routing: Routing, router: Pick<RouteAttrs, 'experts' | 'slots' | 'groups'>, tokens: number, seed: number): Uint32Array {
  const { experts, slots } = router;
  const share = shares(routing, experts, slots, seed);
  const key = hashText('choices', seed);
  const counts = new Float64Array(experts);
  const out = new Uint32Array(tokens * slots);
  for (let t = 0; t < tokens; t++) {
    const behind = share.map((s, e) => s * (t + 1) - (counts[e] ?? 0) + (s > 0 ? 0.5 * signedUnit(key, t * experts + e) : -tokens));
    const chosen = routing.kind === 'onehot' && t > 0 ? [...out.subarray(0, slots)] : largest(behind, inGroups(behind, router), slots);
    chosen.forEach((e, s) => {
      out[t * slots + s] = e;
      counts[e] = (counts[e] ?? 0) + 1;
    });
  }
  return out;
}

/**
 * Token ids for a router that looks its experts up: of each token those whose experts are furthest behind their share.
 * @param table [vocab, slots], the experts of each id
 */
export function chooseIds(routing: Routing, { experts, slots }: Pick<RouteAttrs, 'experts' | 'slots'>, table: ArrayLike<number>, tokens: number, seed: number): Int32Array {
  const vocab = table.length / slots;
  const candidates = Math.min(vocab, 2048);
  const share = shares(routing, experts, slots, seed);
  const key = hashText('ids', seed);
  const counts = new Float64Array(experts);
  return Int32Array.from({ length: tokens }, (_, t) => {
    let best = 0;
    let most = -Infinity;
    for (let i = 0; i < candidates; i++) {
      const id = candidates === vocab ? i : hashAt(key, t * candidates + i) % vocab;
      let behind = signedUnit(key, t * candidates + i) / 4;
      for (let s = 0; s < slots; s++) {
        const e = table[id * slots + s] ?? 0;
        behind += (share[e] ?? 0) > 0 ? (share[e] ?? 0) * (t + 1) - (counts[e] ?? 0) : -tokens;
      }
      if (behind > most) [best, most] = [id, behind];
    }
    for (let s = 0; s < slots; s++) counts[table[best * slots + s] ?? 0] = (counts[table[best * slots + s] ?? 0] ?? 0) + 1;
    return best;
  });
}

/** What a call's routing came to. */
export interface Histogram {
  /** (token, slot) pairs of each expert. */
  readonly counts: readonly number[];
  /** Pairs that were not dropped. */
  readonly rows: number;
  /** Experts that at least one token chose. */
  readonly touched: number;
  /** The busiest expert's share of the rows, times the number of experts: 1 where all have the same. */
  readonly imbalance: number;
}

/** @param ids [tokens, slots]; a number that is no expert is a slot that was dropped */
export function histogramOf(ids: ArrayLike<number>, experts: number): Histogram {
  const counts = Array.from({ length: experts }, () => 0);
  let rows = 0;
  for (let i = 0; i < ids.length; i++) {
    const e = ids[i] ?? experts;
    if (e >= experts) continue;
    counts[e] = (counts[e] ?? 0) + 1;
    rows++;
  }
  return { counts, rows, touched: counts.filter((n) => n > 0).length, imbalance: rows === 0 ? 0 : (Math.max(...counts) * experts) / rows };
}

/** Part of the rows that went where they were not wished, a token more than its share for each expert not counted. What a capacity dropped went nowhere. */
export function strayed(histogram: Histogram, share: ArrayLike<number>, tokens: number): number {
  const away = histogram.counts.reduce((n, count, e) => n + Math.max(0, count - (share[e] ?? 0) * tokens - 1), 0);
  return histogram.rows === 0 ? 0 : away / histogram.rows;
}
