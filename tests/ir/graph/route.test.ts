/** The numerics contract of routing: ties, groups, non-finite logits, weights, capacity, expert choice. */
import { describe, expect, it } from 'vitest';
import { graphBuilder } from '../../../src/ir/graph/build.ts';
import { evaluate, type Data } from '../../../src/ir/graph/evaluate/evaluate.ts';
import { tensor } from '../../../src/ir/graph/op-spec.ts';
import { type CapacityAttrs, DROPPED, type RouteAttrs } from '../../../src/ir/graph/types.ts';
import { weightRole } from './graphs.ts';

interface Routed {
  readonly ids: readonly number[];
  readonly weights: readonly number[];
  readonly faults: number;
}

interface Extra {
  readonly bias?: readonly number[];
  readonly table?: readonly number[];
  readonly tokenIds?: readonly number[];
}

const attrs = (more: Partial<RouteAttrs> = {}): RouteAttrs => ({
  experts: 4,
  slots: 2,
  score: 'softmax',
  select: { kind: 'top-k' },
  weights: 'scores',
  scale: 1,
  ...more,
});

/** Routes rows of logits. */
function route(rule: RouteAttrs, logits: readonly (readonly number[])[], { bias, table, tokenIds }: Extra = {}): Routed {
  const g = graphBuilder('g');
  const T = logits.length;
  const params = new Map<string, Data>([['logits', Float64Array.from(logits.flat())]]);
  const l = g.param('logits', tensor('f32', 'T', rule.experts), { kind: 'input' });
  const vector = (name: string, values: readonly number[] | undefined, dtype: 'f32' | 'i32') => {
    if (values === undefined) return undefined;
    const columns = dtype === 'i32' && rule.slots > 1 ? [values.length / rule.slots, rule.slots] : [values.length];
    params.set(name, dtype === 'i32' ? Int32Array.from(values) : Float64Array.from(values));
    return g.param(name, tensor(dtype, ...columns), weightRole(name, columns, columns.length === 2 ? 2 : 1));
  };
  const b = vector('bias', bias, 'f32');
  const t = vector('table', table, 'i32');
  if (tokenIds !== undefined) params.set('ids', Uint32Array.from(tokenIds));
  const out = g.add(
    'moe.route',
    {
      logits: l,
      ...(b !== undefined && { selectionBias: b }),
      ...(t !== undefined && { table: t, tokenIds: g.param('ids', tensor('u32', 'T'), { kind: 'input' }) }),
    },
    rule,
  );
  const done = evaluate(g.finish({ ids: out.ids, weights: out.weights }), { params, size: { T, past: 0, seq: T, cap: 0 } });
  return { ids: Array.from(done.results['ids'] ?? []), weights: Array.from(done.results['weights'] ?? []), faults: done.faults };
}

const close = (got: readonly number[], wanted: readonly number[]): void => {
  expect(got).toHaveLength(wanted.length);
  wanted.forEach((w, i) => expect(got[i]).toBeCloseTo(w, 13));
};
const softmax = (...l: readonly number[]): number[] => {
  const powers = l.map(Math.exp);
  return powers.map((p) => p / powers.reduce((a, b) => a + b, 0));
};

describe('selection', () => {
  it('gives ties to the lowest index, descending by score, +0 and −0 alike', () => {
    expect(route(attrs(), [[1, 1, 1, 1]]).ids).toEqual([0, 1]);
    expect(route(attrs({ slots: 3 }), [[0, 2, -0, 2]]).ids).toEqual([1, 3, 0]);
    expect(route(attrs({ slots: 4 }), [[-1, 5, 5, 7]]).ids).toEqual([3, 1, 2, 0]);
  });

  it('adds the bias for selection only', () => {
    const { ids, weights } = route(attrs({ score: 'sigmoid' }), [[0, 0, 0, 0]], { bias: [0, 1, 0, 2] });
    expect(ids).toEqual([3, 1]);
    expect(weights).toEqual([0.5, 0.5]);
  });

  it('keeps groups by their best or two best, ties to the lowest, the others −∞', () => {
    const groups = { count: 2, keep: 1, score: 'max' } as const;
    expect(route(attrs({ groups }), [[3, -9, 2.9, 2.9]]).ids).toEqual([0, 1]);
    expect(route(attrs({ groups: { ...groups, score: 'top2-sum' } }), [[3, -9, 2.9, 2.9]]).ids).toEqual([2, 3]);
    expect(route(attrs({ groups }), [[1, 0, 0, 1]]).ids).toEqual([0, 1]);
    // Negative biased scores: a group filled with 0 would win here.
    const negative = { bias: [-5, -6, -7, -8] };
    expect(route(attrs({ score: 'sigmoid', groups: { ...groups, score: 'top2-sum' } }), [[0, 0, 0, 0]], negative).ids).toEqual([0, 1]);
    const single = { count: 4, keep: 2, score: 'top2-sum' } as const;
    expect(route(attrs({ groups: single }), [[1, 4, 2, 3]]).ids).toEqual([1, 3]);
  });

  it('reads a table', () => {
    const hash = attrs({ select: { kind: 'hash' }, score: 'softmax' });
    const table = [3, 1, 0, 2];
    const { ids, weights } = route(
      hash,
      [
        [1, 2, 3, 4],
        [0, 0, 0, 0],
      ],
      { table, tokenIds: [0, 1] },
    );
    expect(ids).toEqual([3, 1, 0, 2]);
    const s = softmax(1, 2, 3, 4);
    close(weights, [s[3] ?? 0, s[1] ?? 0, 0.25, 0.25]);
    expect(() => route(hash, [[0, 0, 0, 0]], { table, tokenIds: [2] })).toThrow(/token id 2 of a table of 2 rows/);
    expect(() => route(hash, [[0, 0, 0, 0]], { table: [4, 0], tokenIds: [0] })).toThrow(/names expert 4 of 4/);
  });

  it('lets experts choose, ties to the lowest token', () => {
    const choice = attrs({ slots: 4, select: { kind: 'expert-choice', capacityFactor: 1 } });
    const { ids, weights } = route(choice, [
      [9, 0, 0, 0],
      [0, 0, 0, 0],
      [0, 0, 0, 0],
      [8, 0, 0, 1],
    ]);
    const [D] = [DROPPED];
    expect(ids).toEqual([0, D, D, D, D, 1, 2, 3, D, D, D, D, D, D, D, D]);
    close([weights[0] ?? 0, weights[5] ?? 0, weights[1] ?? 1], [softmax(9, 0, 0, 0)[0] ?? 0, 0.25, 0]);
    // Five tokens share out as four: floor(5 · 1 / 4) each.
    expect(
      route(choice, [
        [1, 0, 0, 0],
        [2, 0, 0, 0],
        [3, 0, 0, 0],
        [4, 0, 0, 0],
        [5, 0, 0, 0],
      ]).ids.filter((e) => e === 0),
    ).toHaveLength(1);
  });
});

describe('weights', () => {
  it('are scores, a softmax over the selected, or one', () => {
    const logits = [[2, 1, 0, -1]];
    close(route(attrs(), logits).weights, softmax(2, 1, 0, -1).slice(0, 2));
    close(route(attrs({ weights: 'softmax-selected' }), logits).weights, softmax(2, 1));
    expect(route(attrs({ weights: 'one', scale: 3 }), logits).weights).toEqual([3, 3]);
    close(route(attrs({ score: 'sqrt-softplus' }), logits).weights, [
      Math.sqrt(Math.log(1 + Math.exp(2))),
      Math.sqrt(Math.log(1 + Math.E)),
    ]);
  });

  it('are renormalised by a p-norm, with eps added or as a floor', () => {
    const logits = [[2, 1, 0, -1]];
    const [a = 0, b = 0] = softmax(2, 1, 0, -1);
    const by = (p: number, eps: number, epsMode: 'add' | 'clamp'): readonly number[] =>
      route(attrs({ renormalize: { p, eps, epsMode } }), logits).weights;
    close(by(1, 0, 'add'), [a / (a + b), b / (a + b)]);
    close(by(2, 0, 'add'), [a / Math.hypot(a, b), b / Math.hypot(a, b)]);
    close(by(1, 1, 'add'), [a / (a + b + 1), b / (a + b + 1)]);
    close(by(1, 2, 'clamp'), [a / 2, b / 2]);
  });

  it('of SparseMixer count rivals within twice the jitter', () => {
    const rule = attrs({ select: { kind: 'sparse-mixer', jitter: 0.1 } });
    const { ids, weights } = route(rule, [[1, 0.95, 0.5, -3]]);
    expect(ids).toEqual([0, 1]);
    // First round: 0.95 is a rival of 1; second round: 0.5 is none of 0.95.
    close(weights, [1 / (1 + Math.exp(-0.05)), 1]);
    expect(route(rule, [[0, 0, 0, 0]]).ids).toEqual([0, 1]);
    close(route(rule, [[0, 0, 0, 0]]).weights, [1 / 4, 1 / 3]);
  });
});

describe('non-finite logits', () => {
  const INF = Infinity;
  const valid = ({ ids, weights }: Routed): void => {
    expect(new Set(ids).size).toBe(ids.length);
    expect(ids.every((e) => e >= 0 && e < 4)).toBe(true);
    expect(weights.every(Number.isFinite)).toBe(true);
  };

  it('are replaced before the score and counted by rows', () => {
    const one = route(attrs(), [[0, INF, 0, 0]]);
    valid(one);
    expect([one.ids[0], one.weights[0], one.faults]).toEqual([1, 1, 1]);
    const two = route(attrs(), [[0, INF, 0, INF]]);
    expect([two.ids, two.weights]).toEqual([
      [1, 3],
      [0.5, 0.5],
    ]);
    const nan = route(attrs(), [
      [NaN, 0, 1, -INF],
      [0, 0, 0, 0],
      [NaN, 0, 0, 0],
    ]);
    expect([nan.ids.slice(0, 2), nan.faults]).toEqual([[2, 1], 2]);
    close(nan.weights.slice(0, 2), softmax(1, 0));
    // 1e39 is infinite in f32.
    expect(route(attrs(), [[0, 0, 0, 1e39]]).faults).toBe(1);
  });

  it.each(['softmax', 'sigmoid', 'sqrt-softplus'] as const)('a row of nothing else takes the first experts with weight 0 (%s)', (score) => {
    for (const row of [
      [NaN, NaN, NaN, NaN],
      [-INF, -INF, -INF, -INF],
      [INF, NaN, -INF, INF],
    ]) {
      const rule = attrs({ score, renormalize: { p: 1, eps: 0, epsMode: 'add' } });
      expect(route(rule, [row], { bias: [0, 0, 9, 9] })).toEqual({ ids: [0, 1], weights: [0, 0], faults: 1 });
    }
  });

  it('never give duplicate ids or NaN weights, whatever the rule', () => {
    const values = [NaN, INF, -INF, 3e38, -3e38, 0, 1];
    const rules: readonly RouteAttrs[] = [
      attrs(),
      attrs({ weights: 'softmax-selected' }),
      attrs({ score: 'sigmoid', renormalize: { p: 1, eps: 0, epsMode: 'add' } }),
      attrs({ score: 'sqrt-softplus', groups: { count: 2, keep: 1, score: 'top2-sum' } }),
      attrs({ select: { kind: 'sparse-mixer', jitter: 0.01 } }),
    ];
    for (const rule of rules)
      for (let i = 0; i < 7 ** 4; i++) valid(route(rule, [[0, 1, 2, 3].map((e) => values[Math.floor(i / 7 ** e) % 7] ?? NaN)]));
  });
});

describe('capacity', () => {
  const drop = (limit: CapacityAttrs['limit'], renormalize: CapacityAttrs['renormalize'], ids: readonly number[], seq: number): Routed => {
    const g = graphBuilder('g');
    const T = ids.length / 2;
    const weights = g.param('w', tensor('f32', 'T', 2), { kind: 'input' });
    const chosen = g.param('i', tensor('u32', 'T', 2), { kind: 'input' });
    const out = g.add('moe.capacity', { weights, ids: chosen }, { experts: 3, slots: 2, limit, renormalize });
    const params = new Map<string, Data>([
      ['w', Float64Array.from(ids, (_, i) => (i % 2 === 0 ? 0.6 : 0.2))],
      ['i', Uint32Array.from(ids)],
    ]);
    const { results } = evaluate(g.finish({ ids: out.ids, weights: out.weights }), { params, size: { T, past: 0, seq, cap: 0 } });
    return { ids: Array.from(results['ids'] ?? []), weights: Array.from(results['weights'] ?? []), faults: 0 };
  };
  const X = DROPPED;
  // First choices 0 0 1, second choices 1 1 0.
  const ids = [0, 1, 0, 1, 1, 0];

  it('places first choices before second ones and counts dropped ones', () => {
    expect(drop({ kind: 'tokens', tokens: 2 }, 'none', ids, 3).ids).toEqual([0, 1, 0, X, 1, X]);
    expect(drop({ kind: 'tokens', tokens: 1 }, 'none', ids, 3).ids).toEqual([0, X, X, X, 1, X]);
  });

  it('starts anew in every sequence', () => {
    expect(drop({ kind: 'tokens', tokens: 1 }, 'none', [...ids, ...ids], 3).ids).toEqual([0, X, X, X, 1, X, 0, X, X, X, 1, X]);
  });

  it('follows a factor, with a floor', () => {
    // floor(1 · 2 · 3 / 3) = 2; floor(0.4 · 2 · 3 / 3) = 0, lifted to 1.
    expect(drop({ kind: 'factor', factor: 1, min: 0 }, 'none', ids, 3).ids).toEqual([0, 1, 0, X, 1, X]);
    expect(drop({ kind: 'factor', factor: 0.4, min: 1 }, 'none', ids, 3).ids).toEqual([0, X, X, X, 1, X]);
    // 0.7 · 2 · 45 / 3 is 21 on paper and a little less in binary.
    const many = Array.from({ length: 90 }, (_, i) => (i % 2 === 0 ? 0 : 1));
    expect(drop({ kind: 'factor', factor: 0.7, min: 0 }, 'none', many, 45).ids.filter((e) => e === 0)).toHaveLength(21);
    expect(drop({ kind: 'factor', factor: 0.4, min: 0 }, 'none', ids, 3).ids).toEqual([X, X, X, X, X, X]);
  });

  it('renormalises before or after dropping, or not', () => {
    const limit = { kind: 'tokens', tokens: 1 } as const;
    close(drop(limit, 'none', ids, 3).weights, [0.6, 0, 0, 0, 0.6, 0]);
    close(drop(limit, 'before', ids, 3).weights, [0.75, 0, 0, 0, 0.75, 0]);
    close(drop(limit, 'after', ids, 3).weights, [1, 0, 0, 0, 1, 0]);
  });
});
