/** The reference of routing: every rule of `RouteAttrs`, for one token at a time except for expert choice. */
import { numberDim } from '../op-spec.ts';
import { hasSharedRow, needsLogits } from '../ops-moe.ts';
import { DROPPED, type RouteAttrs } from '../types.ts';
import { at, type Evaluate, type OpContext } from './data.ts';
import { normRow, rowTimes } from './dense.ts';
import { sigmoid, softmax, softplus } from './math.ts';

const LARGEST_F32 = (2 - 2 ** -23) * 2 ** 127;

/** A token's choice: experts and their weights, slot by slot. */
interface Choice {
  readonly ids: readonly number[];
  readonly weights: readonly number[];
}

/** The logits of a token with the bad ones replaced, and how many were bad. */
interface Logits {
  readonly values: readonly number[];
  readonly bad: number;
}

/** +∞ becomes the largest finite f32; NaN and −∞ the lowest. What f32 cannot hold counts as infinite. */
function sanitize(values: readonly number[]): Logits {
  const isBad = (v: number): boolean => !Number.isFinite(Math.fround(v));
  const replaced = values.map((v) => (isBad(v) ? (v > 0 ? LARGEST_F32 : -LARGEST_F32) : v));
  return { values: replaced, bad: values.filter(isBad).length };
}

function scoresOf(score: RouteAttrs['score'], logits: readonly number[]): readonly number[] {
  switch (score) {
    case 'softmax':
      return softmax(logits);
    case 'sigmoid':
      return logits.map(sigmoid);
    case 'sqrt-softplus':
      return logits.map((l) => Math.sqrt(softplus(l)));
    case 'none':
      return logits;
  }
}

/** Indices of the `count` largest values, largest first; among equals the lowest index first. */
export function largest(values: readonly number[], count: number): number[] {
  const order = values.map((_, i) => i);
  return order.sort((a, b) => at(values, b) - at(values, a) || a - b).slice(0, count);
}

/** −∞ for every expert outside the kept groups. */
function maskGroups(groups: NonNullable<RouteAttrs['groups']>, q: readonly number[]): readonly number[] {
  const width = q.length / groups.count;
  const scores = Array.from({ length: groups.count }, (_, g) => {
    const members = q.slice(g * width, (g + 1) * width).toSorted((a, b) => b - a);
    return groups.score === 'max' ? at(members, 0) : at(members, 0) + (members[1] ?? 0);
  });
  const kept = new Set(largest(scores, groups.keep));
  return q.map((v, e) => (kept.has(Math.floor(e / width)) ? v : -Infinity));
}

/** Phi-3.5's SparseMixer-2, evaluation mode: k rounds of argmax, each weighed by a softmax over its near rivals. */
function sparseMixer(logits: readonly number[], slots: number, jitter: number): Choice {
  const ids: number[] = [];
  const weights: number[] = [];
  for (let s = 0; s < slots; s++) {
    const left = logits.map((l, e) => (ids.includes(e) ? -Infinity : l));
    const [best = 0] = largest(left, 1);
    const max = at(left, best);
    const rivals = left.map((l, e) => ((max - at(logits, e)) / Math.max(Math.abs(at(logits, e)), max) > 2 * jitter ? -Infinity : l));
    ids.push(best);
    weights.push(at(softmax(rivals), best));
  }
  return { ids, weights };
}

/** Divides by the p-norm; a denominator of 0 gives weights of 0. */
function renormalize(rule: RouteAttrs['renormalize'], weights: readonly number[]): readonly number[] {
  if (rule === undefined) return weights;
  const norm = weights.reduce((sum, w) => sum + Math.abs(w) ** rule.p, 0) ** (1 / rule.p);
  const denominator = rule.epsMode === 'add' ? norm + rule.eps : Math.max(norm, rule.eps);
  return weights.map((w) => (denominator === 0 ? 0 : w / denominator));
}

/** Weights of chosen experts from their scores and logits. */
function weigh(attrs: RouteAttrs, ids: readonly number[], scores: readonly number[], logits: readonly number[]): readonly number[] {
  switch (attrs.weights) {
    case 'scores':
      return ids.map((e) => at(scores, e));
    case 'softmax-selected':
      return softmax(ids.map((e) => at(logits, e)));
    case 'one':
      return ids.map(() => 1);
  }
}

function chooseTopK(attrs: RouteAttrs, logits: readonly number[], bias: readonly number[] | undefined): Choice {
  const scores = scoresOf(attrs.score, logits);
  const biased = bias === undefined ? scores : scores.map((s, e) => s + at(bias, e));
  const ids = largest(attrs.groups === undefined ? biased : maskGroups(attrs.groups, biased), attrs.slots);
  return { ids, weights: weigh(attrs, ids, scores, logits) };
}

/** Experts of a token by its id: row of the table. */
function chooseByTable({ node, data }: OpContext<'moe.route'>, t: number, logits: readonly number[] | undefined): Choice {
  const { table, tokenIds } = node.ins;
  const { slots, experts, score } = node.attrs;
  if (table === undefined || tokenIds === undefined) throw new Error('hash routing without table or token ids');
  const token = at(data(tokenIds), t);
  if (token < 0 || token >= numberDim(table, 0)) throw new RangeError(`token id ${token} of a table of ${numberDim(table, 0)} rows`);
  const ids = Array.from({ length: slots }, (_, s) => at(data(table), token * slots + s));
  const wrong = ids.find((e) => e < 0 || e >= experts);
  if (wrong !== undefined) throw new RangeError(`the table names expert ${wrong} of ${experts}`);
  const known = logits ?? ids.map(() => 0);
  return { ids, weights: logits === undefined ? ids.map(() => 1) : weigh(node.attrs, ids, scoresOf(score, known), known) };
}

/** ⌊x⌋ of a share; what the factor's rounding to binary took below a whole number counts as it (0.29 · 100 is 29). */
const wholeShare = (x: number): number => Math.floor(x * (1 + 1e-12));

/** Every expert takes its best tokens, as many as its share of the call allows (arXiv 2202.09368). */
function expertChoice(attrs: RouteAttrs, factor: number, rows: readonly Logits[]): readonly Choice[] {
  const tokens = rows.length;
  const share = Math.min(tokens, wholeShare((tokens * factor) / attrs.experts));
  // A row without one finite logit takes part with the lowest score and weighs nothing.
  const scores = rows.map(({ values, bad }) => (bad === values.length ? values.map(() => 0) : scoresOf(attrs.score, values)));
  const column = (e: number): readonly number[] => scores.map((row) => at(row, e));
  const taken = Array.from({ length: attrs.experts }, (_, e) => new Set(largest(column(e), share)));
  return scores.map((row, t) => ({
    ids: row.map((_, e) => (taken[e]?.has(t) === true ? e : DROPPED)),
    weights: row.map((s, e) => (taken[e]?.has(t) === true ? (attrs.weights === 'one' ? 1 : s) : 0)),
  }));
}

/** The logits of all tokens, and in the fused form the normalised rows and the shared experts' gate. */
function readLogits({ node, size, data }: OpContext<'moe.route'>): {
  readonly rows: readonly (readonly number[])[] | undefined;
  readonly xn: Float64Array | undefined;
  readonly gate: Float64Array | undefined;
} {
  const { logits, x, normWeight, normBias, gate, gateBias, sharedGate } = node.ins;
  const { experts, norm } = node.attrs;
  if (logits !== undefined) {
    const all = data(logits);
    return {
      rows: Array.from({ length: size.T }, (_, t) => Array.from(all.subarray(t * experts, (t + 1) * experts))),
      xn: undefined,
      gate: undefined,
    };
  }
  if (x === undefined || gate === undefined) return { rows: undefined, xn: undefined, gate: undefined };
  const d = numberDim(x, 1);
  const xn = Float64Array.from(data(x));
  if (norm !== undefined && normWeight !== undefined)
    for (let t = 0; t < size.T; t++) normRow(norm, data(x), xn, t * d, d, data(normWeight), normBias && data(normBias));
  const times = (t: number, weight: typeof gate, m: number, bias: typeof gateBias, from = 0): number[] =>
    rowTimes(xn, t * d, data(weight), from * d, m, d, bias && data(bias), 0);
  const [shared, sharedRow] = hasSharedRow(gate, experts) ? [gate, experts] : [sharedGate, 0];
  return {
    rows: Array.from({ length: size.T }, (_, t) => times(t, gate, experts, gateBias)),
    xn,
    gate: shared && Float64Array.from({ length: size.T }, (_, t) => at(times(t, shared, 1, undefined, sharedRow), 0)),
  };
}

export const route: Evaluate<'moe.route'> = (ctx) => {
  const { node, size, data } = ctx;
  const { attrs } = node;
  const { rows, xn, gate } = readLogits(ctx);
  const clean = needsLogits(attrs) && rows !== undefined ? rows.map(sanitize) : undefined;
  for (const row of clean ?? []) if (row.bad > 0) ctx.fault();
  const bias = node.ins.selectionBias && Array.from(data(node.ins.selectionBias));
  const { select } = attrs;

  const choose = (t: number): Choice => {
    const logits = clean?.[t];
    const allBad = logits !== undefined && logits.bad === logits.values.length;
    if (select.kind === 'hash') {
      const choice = chooseByTable(ctx, t, logits?.values);
      return allBad ? { ids: choice.ids, weights: choice.ids.map(() => 0) } : choice;
    }
    if (logits === undefined) throw new Error('routing without logits');
    if (allBad) return { ids: Array.from({ length: attrs.slots }, (_, s) => s), weights: Array.from({ length: attrs.slots }, () => 0) };
    if (select.kind === 'sparse-mixer') {
      const choice = sparseMixer(logits.values, attrs.slots, select.jitter);
      return attrs.weights === 'scores' ? choice : { ids: choice.ids, weights: weigh(attrs, choice.ids, [], logits.values) };
    }
    return chooseTopK(attrs, logits.values, bias);
  };
  const choices =
    select.kind === 'expert-choice' && clean !== undefined
      ? expertChoice(attrs, select.capacityFactor, clean)
      : Array.from({ length: size.T }, (_, t) => choose(t));

  const weights = choices.flatMap((c) => renormalize(attrs.renormalize, c.weights).map((w) => w * attrs.scale));
  return {
    weights: Float64Array.from(weights),
    ids: Uint32Array.from(choices.flatMap((c) => c.ids)),
    ...(xn !== undefined && { xn }),
    ...(gate !== undefined && { gate }),
  };
};

export const capacity: Evaluate<'moe.capacity'> = ({ node, size, data }) => {
  const { experts, slots, limit, renormalize: when } = node.attrs;
  const ids = Uint32Array.from(data(node.ins.ids));
  const weights = Float64Array.from(data(node.ins.weights));
  const allowed = limit.kind === 'tokens' ? limit.tokens : Math.max(limit.min, wholeShare((limit.factor * slots * size.seq) / experts));
  const normalise = (t: number): void => {
    const sum = weights.subarray(t * slots, (t + 1) * slots).reduce((a, b) => a + b, 0);
    for (let s = 0; s < slots; s++) weights[t * slots + s] = sum === 0 ? 0 : at(weights, t * slots + s) / sum;
  };
  if (when === 'before') for (let t = 0; t < size.T; t++) normalise(t);
  for (let start = 0; start < size.T; start += size.seq) {
    const counts = Array.from({ length: experts }, () => 0);
    for (let s = 0; s < slots; s++) {
      for (let t = start; t < Math.min(size.T, start + size.seq); t++) {
        const expert = at(ids, t * slots + s);
        if (expert === DROPPED) continue;
        const position = at(counts, expert);
        counts[expert] = position + 1; // a dropped token counts too
        if (position < allowed) continue;
        ids[t * slots + s] = DROPPED;
        weights[t * slots + s] = 0;
      }
    }
  }
  if (when === 'after') for (let t = 0; t < size.T; t++) normalise(t);
  return { weights, ids };
};
