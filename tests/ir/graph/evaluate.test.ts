/** The reference on its own: fused forms equal unfused ones bit for bit, scalar functions, states, plans, refusals. */
import { describe, expect, it } from 'vitest';
import { graphBuilder } from '../../../src/ir/graph/build.ts';
import { tensor } from '../../../src/ir/graph/op-spec.ts';
import { evaluate, type Data } from '../../../src/ir/graph/evaluate/evaluate.ts';
import { activate, erfc, gatedUnit, sigmoid, softplus } from '../../../src/ir/graph/evaluate/math.ts';
import { DROPPED, type Graph } from '../../../src/ir/graph/types.ts';
import { D, declare, E, fusedLayer, unfusedLayer } from './graphs.ts';
import { numbers, run } from './run.ts';

describe('fused forms', () => {
  const modes = ['direct', 'sorted'] as const;

  it.each([0, 1, 2, 7, 33].flatMap((T) => modes.map((mode) => [T, mode] as const)))('T = %i, %s plan', (T, mode) => {
    const x = numbers('x', T * D, 9);
    const plain = run(unfusedLayer('direct'), x, D);
    for (const graph of [unfusedLayer('sorted'), fusedLayer(mode)]) expect(run(graph, x, D)).toEqual(plain);
    expect(plain.results['y']).toHaveLength(T * D);
    expect(Array.from(plain.results['y'] ?? []).every(Number.isFinite)).toBe(true);
  });

  it('weights on the input: on permuted and on gathered rows', () => {
    const make = (gather: boolean): Graph => {
      const g = graphBuilder('g');
      const p = declare((name, type, role) => g.param(name, type, role));
      const x = p.input('x', 'T', D);
      const logits = g.add('linear', { x, weight: p.weight('router', E, D) }, { epilogue: { kind: 'none' }, scale: 1 }).y;
      const attrs = { experts: E, slots: 2, score: 'softmax', select: { kind: 'top-k' }, weights: 'scores', scale: 1 } as const;
      const { weights, ids } = g.add('moe.route', { logits }, attrs);
      const { plan } = g.add('moe.plan', { ids }, { experts: E, slots: 2, mode: 'sorted', tileRows: 8 });
      const rows = gather ? x : g.add('moe.permute', { x, plan }, {}).y;
      const act = { kind: 'act', activation: 'gelu' } as const;
      const grouped = { combine: false, weighted: false, scale: 1 } as const;
      const h = g.add(
        'moe.grouped_linear',
        { x: rows, plan, ids, weight: p.weight('wi', E, 5, D), routeWeights: weights },
        { ...grouped, gather, epilogue: act },
      ).y;
      const last = { x: h, plan, ids, weight: p.weight('wo', E, D, 5) };
      if (!gather) {
        const out = g.add('moe.grouped_linear', last, { ...grouped, gather: false, epilogue: { kind: 'none' } }).y;
        return g.finish({ y: g.add('moe.combine', { x: out, plan, ids }, { slots: 2, scale: 3 }).y });
      }
      return g.finish({
        y: g.add('moe.grouped_linear', last, { gather: false, epilogue: { kind: 'none' }, combine: true, weighted: false, scale: 3 }).y,
      });
    };
    const x = numbers('x', 11 * D);
    expect(run(make(true), x, D)).toEqual(run(make(false), x, D));
  });

  it('linear with epilogue, scale and residual is the chain of single ops', () => {
    const make = (fused: boolean): Graph => {
      const g = graphBuilder('g');
      const p = declare((name, type, role) => g.param(name, type, role));
      const x = p.input('x', 'T', D);
      const both = { kind: 'glu', activation: 'silu' } as const;
      if (fused) {
        const h = g.add(
          'linear',
          { x, weight: p.weight('gate_up', 8, D), bias: p.vector('gate_up.bias', 8) },
          { epilogue: both, scale: 1 },
        ).y;
        return g.finish({
          y: g.add('linear', { x: h, weight: p.weight('down', D, 4), residual: x }, { epilogue: { kind: 'none' }, scale: 0.25 }).y,
        });
      }
      const plain = { epilogue: { kind: 'none' }, scale: 1 } as const;
      const gate = g.add('linear', { x, weight: p.weight('gate', 4, D), bias: p.vector('gate.bias', 4) }, plain).y;
      const up = g.add('linear', { x, weight: p.weight('up', 4, D), bias: p.vector('up.bias', 4) }, plain).y;
      const h = g.add('glu', { gate, up }, { activation: 'silu' }).y;
      const y = g.add('linear', { x: h, weight: p.weight('down', D, 4) }, plain).y;
      return g.finish({ y: g.add('add', { a: x, b: y }, { scale: 0.25 }).y });
    };
    const x = numbers('x', 3 * D);
    expect(run(make(true), x, D)).toEqual(run(make(false), x, D));
  });
});

describe('scalar functions', () => {
  // Values from Abramowitz & Stegun 7.1 and the DLMF.
  it.each([
    [0, 1],
    [0.5, 0.4795001221869535],
    [1, 0.15729920705028513],
    [2, 0.004677734981047266],
    [3, 2.209049699858544e-5],
    [5, 1.5374597944280349e-12],
    [10, 2.0884875837625446e-45],
    [-1, 1.8427007929497148],
    [-3, 1.9999779095030015],
  ])('erfc(%f)', (x, wanted) => {
    expect(Math.abs(erfc(x) / wanted - 1)).toBeLessThan(5e-15);
  });

  it('has no step where the series hands over to the fraction', () => {
    for (const x of [2, -2]) expect(Math.abs(erfc(x - 1e-12) / erfc(x + 1e-12) - 1)).toBeLessThan(3e-11);
  });

  it('activations', () => {
    expect(activate('gelu', 1)).toBeCloseTo(0.8413447460685429, 15);
    expect(activate('gelu', -4) / -1.2668496733247986e-4).toBeCloseTo(1, 12);
    expect(activate('gelu-tanh', 1)).toBeCloseTo(0.8411919906082768, 15);
    expect(activate('silu', -2)).toBeCloseTo(-0.2384058440442351, 15);
    expect([activate('relu', -1), activate('relu', 2)]).toEqual([0, 2]);
    for (const name of ['silu', 'gelu', 'gelu-tanh', 'relu'] as const) {
      expect(activate(name, 1e4)).toBe(1e4);
      expect(Math.abs(activate(name, -1e4))).toBe(0);
    }
    expect([sigmoid(-800), sigmoid(800), softplus(-800), softplus(800)]).toEqual([0, 1, 0, 800]);
    const clamp = { limit: 7, alpha: 1.702, upOffset: 1 };
    expect(gatedUnit('silu', clamp, 100, -100)).toBeCloseTo((-7 + 1) * 7 * sigmoid(1.702 * 7), 12);
  });
});

describe('states', () => {
  const graph = (): Graph => {
    const g = graphBuilder('g');
    const p = declare((name, type, role) => g.param(name, type, role));
    const x = p.input('x', 'T', 4);
    const cache = (name: string) => g.param(name, tensor('f32', 'cap', 4), { kind: 'state' });
    const k = g.add('cache_append', { x, cache: cache('k') }, {}).cache;
    const v = g.add('cache_append', { x, cache: cache('v') }, {}).cache;
    const attrs = { heads: 1, kvHeads: 1, qkDim: 4, vDim: 4, scale: 0.5, window: 3, vFromK: false } as const;
    return g.finish({ y: g.add('attention', { q: x, k, v }, attrs).y });
  };

  it('writes behind the past, leaves the rest alone, sees only the window', () => {
    const caches = new Map<string, Data>([
      ['k', new Float64Array(40).fill(NaN)],
      ['v', new Float64Array(40).fill(NaN)],
    ]);
    const x = numbers('x', 44);
    const call = (past: number, T: number): Data | undefined =>
      evaluate(graph(), {
        params: new Map<string, Data>([...caches, ['x', x.subarray(past * 4, (past + T) * 4)]]),
        size: { T, past, seq: T, cap: 10 },
      }).results['y'];
    const first = call(0, 4) ?? [];
    expect(
      Array.from(caches.get('k') ?? [])
        .map(Number.isNaN)
        .indexOf(true),
    ).toBe(16);
    const rest = [...(call(4, 1) ?? []), ...(call(5, 1) ?? [])];
    for (const [, cache] of caches) cache.fill(NaN);
    expect([...first, ...rest]).toEqual(Array.from(call(0, 6) ?? []));
    // Token 5 sees tokens 3, 4, 5 by hand.
    const row = (t: number): number[] => Array.from(x.subarray(t * 4, t * 4 + 4));
    const powers = [3, 4, 5].map((t) => Math.exp(0.5 * row(5).reduce((sum, q, i) => sum + q * (row(t)[i] ?? NaN), 0)));
    const sum = powers.reduce((a, b) => a + b, 0);
    const wanted = [0, 1, 2, 3].map((j) => powers.reduce((s, p, i) => s + (p / sum) * (row(3 + i)[j] ?? NaN), 0));
    wanted.forEach((w, j) => expect(rest[4 + j]).toBeCloseTo(w, 12));
    expect(() => call(4, 7)).toThrow(/4 \+ 7 tokens in a cache of 10/);
  });
});

describe('plans', () => {
  const permuted = (ids: readonly number[], mode: 'direct' | 'sorted'): Data => {
    const g = graphBuilder('g');
    const [T, slots] = [ids.length / 2, 2];
    const given = g.param('ids', tensor('u32', 'T', slots), { kind: 'input' });
    const x = g.param('x', tensor('f32', 'T', 1), { kind: 'input' });
    const { plan } = g.add('moe.plan', { ids: given }, { experts: 3, slots, mode, tileRows: 1 });
    const graph = g.finish({
      rows: g.add('moe.permute', { x, plan }, {}).y,
      back: g.add('moe.combine', { x: g.add('moe.permute', { x, plan }, {}).y, plan, ids: given }, { slots, scale: 1 }).y,
    });
    const params = new Map<string, Data>([
      ['ids', Uint32Array.from(ids)],
      ['x', Float64Array.from({ length: T }, (_, t) => t)],
    ]);
    const { results } = evaluate(graph, { params, size: { T, past: 0, seq: T, cap: 0 } });
    // Every token gets itself once per kept slot, whatever the plan.
    expect(Array.from(results['back'] ?? [])).toEqual(
      Array.from({ length: T }, (_, t) => t * ids.slice(2 * t, 2 * t + 2).filter((e) => e !== DROPPED).length),
    );
    return results['rows'] ?? new Float64Array();
  };

  it('sorts by expert, then token, and leaves dropped rows unused', () => {
    const ids = [2, 0, 0, 1, 2, DROPPED, DROPPED, DROPPED, 0, 2];
    expect(Array.from(permuted(ids, 'sorted'))).toEqual([0, 1, 4, 1, 0, 2, 4, NaN, NaN, NaN]);
    expect(Array.from(permuted(ids, 'direct'))).toEqual([0, 0, 1, 1, 2, NaN, NaN, NaN, 4, 4]);
  });

  it('refuses an expert that does not exist', () => {
    expect(() => permuted([0, 3], 'sorted')).toThrow(/expert 3 of 3/);
  });
});

describe('refusals', () => {
  it('names parameters that are missing or have another size', () => {
    const graph = unfusedLayer();
    const size = { T: 1, past: 0, seq: 1, cap: 0 };
    expect(() => evaluate(graph, { params: new Map(), size })).toThrow('parameter x is missing');
    expect(() => evaluate(graph, { params: new Map([['x', new Float64Array(3)]]), size })).toThrow('parameter x has 3 elements, not 8');
  });
});
