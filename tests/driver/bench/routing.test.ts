/** Steered routing: choices that come out as wished, and inputs for which a layer's own router makes them. */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { chooseExperts, chooseIds, histogramOf, parseRouting, type Routing, routingName, shares, strayed } from '../../../src/driver/bench/choices.ts';
import { SteerError, steeredInput } from '../../../src/driver/bench/steer.ts';
import { readSpecs } from '../../../src/driver/frontend.ts';
import { createReference } from '../../../src/ir/graph/evaluate/reference.ts';
import { lowerToGraphs } from '../../../src/lower/model-to-graph.ts';
import type { LayerSpec } from '../../../src/model/types.ts';
import { proceduralLayerWeights } from '../../conformance/procedural.ts';

const SEED = 1;
const ROUTINGS: readonly Routing[] = [{ kind: 'uniform' }, { kind: 'zipf', exponent: 1.2 }, { kind: 'onehot' }];

function layerOf(text: string, name: string): LayerSpec {
  const { specs, diagnostics } = readSpecs(text, name);
  const [spec] = specs;
  if (spec?.kind !== 'layer') throw new Error(`${name}: ${diagnostics.map((d) => d.message).join('; ')}`);
  return spec;
}

const layer = (hidden: number, body: string, more = ''): LayerSpec => layerOf(`layer t {\n  hidden ${hidden}\n${more}\n  moe {\n${body}\n  }\n}\n`, 't.moe');

/** Experts that the reference's router chooses for a steered input. */
function reached(spec: LayerSpec, routing: Routing, tokens: number): ReturnType<typeof histogramOf> {
  const graphs = lowerToGraphs(spec);
  const [graph] = graphs.sections;
  if (graph === undefined || spec.ffn.kind !== 'moe') throw new Error('no mixture');
  const { x, ids } = steeredInput(graph, spec.hidden, spec.vocab ?? 1, routing, tokens, SEED);
  const weights = proceduralLayerWeights(spec, SEED);
  const reference = createReference(graphs, (name) => weights.get(name) ?? new Float64Array(0), tokens);
  const { results } = reference.run({ x: Float64Array.from(x), ...(ids === undefined ? {} : { ids }) });
  return histogramOf(Uint32Array.from(results['topk_indices'] ?? []), spec.ffn.experts);
}

describe('words', () => {
  it.each([['random', 'random'], ['uniform', 'uniform'], ['onehot', 'onehot'], ['zipf1.2', 'zipf1.2'], ['zipf2', 'zipf2'], ['zipf01.50', 'zipf1.5']])('%s', (word, name) => {
    const routing = parseRouting(word);
    expect(routing === undefined ? undefined : routingName(routing)).toBe(name);
  });

  it.each(['', 'zipf', 'zipf-1', 'zipf1.', 'zipfinfinity', 'Uniform', 'one-hot'])('not %j', (word) => expect(parseRouting(word)).toBeUndefined());
});

const router = fc.integer({ min: 1, max: 8 }).chain((count) =>
  fc.record({ size: fc.integer({ min: 1, max: 8 }), keep: fc.integer({ min: 1, max: count }) }).chain(({ size, keep }) =>
    fc.record({
      experts: fc.constant(count * size),
      slots: fc.integer({ min: 1, max: Math.min(8, keep * size) }),
      groups: fc.constantFrom(undefined, { count, keep, score: 'max' as const }),
      tokens: fc.integer({ min: 1, max: 70 }),
      routing: fc.constantFrom(...ROUTINGS),
      seed: fc.nat(),
    }),
  ),
);

describe('choices', () => {
  it('are distinct experts of the groups that a token keeps, as often as their shares say', () => {
    fc.assert(
      fc.property(router, ({ groups, ...r }) => {
        const own = { experts: r.experts, slots: r.slots, ...(groups === undefined ? {} : { groups }) };
        const ids = chooseExperts(r.routing, own, r.tokens, r.seed);
        for (let t = 0; t < r.tokens; t++) {
          const chosen = [...ids.subarray(t * r.slots, (t + 1) * r.slots)];
          expect(new Set(chosen).size).toBe(r.slots);
          expect(Math.max(...chosen)).toBeLessThan(r.experts);
          if (groups !== undefined) expect(new Set(chosen.map((e) => Math.floor(e / (r.experts / groups.count)))).size).toBeLessThanOrEqual(groups.keep);
        }
        const share = shares(r.routing, r.experts, r.slots, r.seed);
        expect(share.reduce((a, b) => a + b, 0)).toBeCloseTo(r.slots, 9);
        expect(Math.max(...share)).toBeLessThanOrEqual(1 + 1e-12);
        const histogram = histogramOf(ids, r.experts);
        expect(histogram.rows).toBe(r.tokens * r.slots);
        if (groups === undefined) histogram.counts.forEach((n, e) => expect(Math.abs(n - (share[e] ?? 0) * r.tokens)).toBeLessThanOrEqual(2));
        if (r.routing.kind === 'onehot') expect(histogram.touched).toBe(r.slots);
      }),
    );
  });

  it('of token ids follow the table', () => {
    const table = Int32Array.from({ length: 500 }, (_, i) => (i * 7) % 10);
    const ids = chooseIds({ kind: 'uniform' }, { experts: 10, slots: 1 }, table, 40, SEED);
    expect(histogramOf(Uint32Array.from(ids, (id) => table[id] ?? 0), 10).counts).toEqual(Array.from({ length: 10 }, () => 4));
  });

  it('that were dropped are no rows', () => {
    expect(histogramOf(Uint32Array.of(0, 2, 0xffff_ffff, 2), 3)).toEqual({ counts: [1, 0, 2], rows: 3, touched: 2, imbalance: 2 });
    expect(histogramOf(new Uint32Array(0), 3)).toEqual({ counts: [0, 0, 0], rows: 0, touched: 0, imbalance: 0 });
  });

  it('that went elsewhere are told, roundings are not', () => {
    const share = shares({ kind: 'uniform' }, 4, 1, SEED);
    expect(strayed(histogramOf(Uint32Array.of(0, 1, 2, 3, 0, 1, 2, 2), 4), share, 8)).toBe(0);
    expect(strayed(histogramOf(new Uint32Array(8), 4), share, 8)).toBeCloseTo(5 / 8, 9);
    // Six of eight were dropped: they went nowhere.
    expect(strayed(histogramOf(Uint32Array.of(0, 1), 4), share, 8)).toBe(0);
  });
});

const GOLDEN_SPECS = join(import.meta.dirname, '../../golden-specs');
const goldens = readdirSync(GOLDEN_SPECS).filter((f) => f.endsWith('.moe')).map((file) => [file, layerOf(readFileSync(join(GOLDEN_SPECS, file), 'utf8'), file)] as const);

describe('a layer’s own router', () => {
  const TOKENS = 48;
  const cases: readonly (readonly [string, LayerSpec])[] = [
    ['softmax', layer(64, 'experts 16 of swiglu 8  active 4\nrouter softmax top-k renormalize')],
    ['behind a norm', layer(64, 'experts 16 of swiglu 8  active 4\nrouter softmax top-k', 'norm rms 1e-6')],
    ['behind a layer norm with bias', layer(64, 'experts 16 of swiglu 8  active 2\nrouter softmax top-k', 'norm layer 1e-5 bias')],
    ['with a bias of its logits', layer(48, 'experts 12 of swiglu 8  active 3\nrouter softmax logit-bias top-k weights softmax')],
    ['with groups and a bias of the selection', layer(96, 'experts 32 of swiglu 8  active 4\nrouter sigmoid selection-bias groups 8 keep 4 by top2-sum top-k renormalize')],
    ['SparseMixer', layer(64, 'experts 16 of swiglu 8  active 2\nrouter sparse-mixer jitter 0.01')],
    ['as many experts as dims', layer(16, 'experts 16 of swiglu 8  active 2\nrouter softmax top-k')],
    ['stored in 16 bits', layer(64, 'experts 16 of swiglu 8  active 4\nrouter softmax top-k', 'dtype bf16')],
  ];
  it.each(cases)('%s reaches what is wished', (_name, spec) => {
    for (const routing of ROUTINGS) {
      const histogram = reached(spec, routing, TOKENS);
      const { experts, active } = spec.ffn.kind === 'moe' ? spec.ffn : { experts: 0, active: 0 };
      expect(strayed(histogram, shares(routing, experts, active, SEED), TOKENS), routingName(routing)).toBeLessThan(0.08);
      if (routing.kind === 'onehot') expect(histogram.touched).toBe(active);
    }
  });

  it.each(goldens)('%s takes every routing it can take', (_name, spec) => {
    for (const routing of [{ kind: 'random' } as const, ...ROUTINGS]) {
      const chooses = spec.ffn.kind === 'moe' && spec.ffn.router.select.kind === 'expert-choice';
      if (chooses && routing.kind !== 'random') expect(() => reached(spec, routing, 16)).toThrow(SteerError);
      else expect(reached(spec, routing, 16).rows).toBeGreaterThan(0);
    }
  });

  it('that is not there cannot be steered', () => {
    const dense = layerOf('layer d {\n  hidden 16\n  ffn swiglu 32\n}\n', 'd.moe');
    expect(() => reached(dense, { kind: 'uniform' }, 4)).toThrow();
    const [graph] = lowerToGraphs(dense).sections;
    if (graph === undefined) throw new Error('no graph');
    expect(() => steeredInput(graph, 16, 1, { kind: 'uniform' }, 4, SEED)).toThrow(SteerError);
  });
});
