/** Rows in 16 bits: which values are narrowed and which are not, why, and that the value of a graph stays the same. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { createReference } from '../../../src/ir/graph/evaluate/reference.ts';
import { results } from '../../../src/ir/graph/rewrite.ts';
import type { Graph } from '../../../src/ir/graph/types.ts';
import { lowerToGraphs } from '../../../src/lower/model-to-graph.ts';
import type { LayerKind, LayerSpec, ModelSpec } from '../../../src/model/types.ts';
import { bindingsOf } from '../../../src/passes/graph/limits.ts';
import { narrowRows } from '../../../src/passes/graph/narrow-rows.ts';
import { GRAPH_PASSES, optimize, PASS_NAMES } from '../../../src/passes/graph/pipeline.ts';
import type { Pass, PassOptions } from '../../../src/passes/pass.ts';
import { CUDA_SM80, CUDA_SM90A } from '../../../src/target/cuda.ts';
import type { Capabilities } from '../../../src/target/types.ts';
import { moeLayer } from '../../lower/random-specs.ts';
import { layer, LAYER_CASES, moe, MODEL_CASES, shared, swiglu, twoMatrix } from '../../lower/specs.ts';
import { apply, graphOf, options, partWeights, refusals, text, valueOf } from './support.ts';

/** Devices that round rows of any width. */
const SM80: Capabilities = { ...CUDA_SM80, roundedWidth: 1 };
const SM90A: Capabilities = { ...CUDA_SM90A, roundedWidth: 1 };
const DECODE = options({ caps: SM80 });
const PREFILL = options({ caps: SM90A, maxTokens: undefined });
const BUCKETS: readonly PassOptions[] = [DECODE, PREFILL, options({ caps: SM90A, maxTokens: 128 })];

const rms = { kind: 'rms', eps: 1e-6, bias: false } as const;
const dense = layer('t', 4, { kind: 'dense', ffn: swiglu(3) }, { dtype: 'bf16', norm: rms, residual: true });
const mixture = (more: Partial<LayerSpec> = {}): LayerSpec => layer('t', 4, moe(4, 2, swiglu(3), {}, shared(1, 5)), { dtype: 'bf16', ...more });

/** Element types of everything that is made, in the order in which it is. */
const storage = (graph: Graph): string =>
  graph.nodes.flatMap((n) => results(n).flatMap(([, v]) => (v.type.kind === 'tensor' ? [`${v.id} ${v.type.dtype}`] : []))).join(', ');

const fired = (graph: Graph, opts: PassOptions): readonly string[] =>
  optimize(graph, opts).report.flatMap((e) => (e.pass === 'narrow-rows' ? [`${e.kind === 'fired' ? '+' : '-'} ${e.where}: ${e.what}`] : []));

describe('narrow-rows', () => {
  it('a mixture with its norm: normalised rows, hidden rows, routed rows and shared rows', () => {
    const graph = graphOf(mixture({ norm: rms, residual: true }));
    expect(text(optimize(graph, PREFILL).graph)).toMatchInlineSnapshot(`
      "weights=%route.weights: f32[T, 2], ids=%route.ids: u32[T, 2], xn=%norm: bf16[T, 4] = moe.route(x=%x, normWeight=%norm.weight, gate=%router.weight) {"experts":4,"slots":2,"score":"softmax","select":{"kind":"top-k"},"weights":"scores","norm":{"kind":"rms","eps":0.000001}}
      plan=%plan_1: plan(4, 2, sorted, 128) = moe.plan(ids=%route.ids) {"experts":4,"slots":2,"mode":"sorted","tileRows":128}
      y=%glu: bf16[P, 3], shared=%glu_1: bf16[T, 5] = moe.grouped_linear(x=%norm, plan=%plan_1, ids=%route.ids, weight=%experts.gate_up.weight, sharedWeight=%shared.gate_up.weight) {"gather":true,"epilogue":{"kind":"glu","activation":"silu"}}
      y=%grouped_linear_2: bf16[P, 4], shared=%linear_3: bf16[T, 4] = moe.grouped_linear(x=%glu, plan=%plan_1, ids=%route.ids, weight=%experts.down.weight, sharedX=%glu_1, sharedWeight=%shared.down.weight)
      y=%add_1: f32[T, 4] = moe.combine(x=%grouped_linear_2, plan=%plan_1, ids=%route.ids, weights=%route.weights, shared=%linear_3, residual=%x) {"slots":2}"
    `);
    expect(fired(graph, PREFILL)).toMatchInlineSnapshot(`
      [
        "+ moe.route %route.weights: %norm is stored in bf16",
        "+ moe.grouped_linear %glu: %glu is stored in bf16",
        "+ moe.grouped_linear %glu: %glu_1 is stored in bf16",
        "+ moe.grouped_linear %grouped_linear_2: %grouped_linear_2 is stored in bf16",
        "+ moe.grouped_linear %grouped_linear_2: %linear_3 is stored in bf16",
      ]
    `);
    expect(storage(optimize(graph, DECODE).graph)).toMatchInlineSnapshot(`"route.weights f32, route.ids u32, norm bf16, glu bf16, glu_1 bf16, add_1 f32"`);
  });

  it('a mixture without a norm: the router leaves a copy', () => {
    const graph = graphOf(mixture({ residual: true }));
    expect(text(optimize(graph, DECODE).graph)).toMatchInlineSnapshot(`
      "weights=%route.weights: f32[T, 2], ids=%route.ids: u32[T, 2], xn=%route.xn: bf16[T, 4] = moe.route(x=%x, gate=%router.weight) {"experts":4,"slots":2,"score":"softmax","select":{"kind":"top-k"},"weights":"scores"}
      plan=%plan: plan(4, 2, direct, 1) = moe.plan(ids=%route.ids) {"experts":4,"slots":2,"mode":"direct","tileRows":1}
      y=%glu: bf16[P, 3], shared=%glu_1: bf16[T, 5] = moe.grouped_linear(x=%route.xn, plan=%plan, ids=%route.ids, weight=%experts.gate_up.weight, sharedWeight=%shared.gate_up.weight) {"gather":true,"epilogue":{"kind":"glu","activation":"silu"}}
      y=%add_1: f32[T, 4] = moe.grouped_linear(x=%glu, plan=%plan, ids=%route.ids, weight=%experts.down.weight, routeWeights=%route.weights, sharedX=%glu_1, sharedWeight=%shared.down.weight, residual=%x) {"combine":true,"weighted":true}"
    `);
    expect(fired(graph, DECODE)).toMatchInlineSnapshot(`
      [
        "+ moe.route %route.weights: leaves a copy of %x in bf16 for moe.grouped_linear %glu",
        "+ moe.grouped_linear %glu: %glu is stored in bf16",
        "+ moe.grouped_linear %glu: %glu_1 is stored in bf16",
      ]
    `);
  });

  it('a dense layer', () => {
    expect(storage(optimize(graphOf(dense), PREFILL).graph)).toMatchInlineSnapshot(`"norm bf16, glu bf16, add f32"`);
    // Without a norm nothing makes a copy of the input.
    expect(fired(graphOf({ ...dense, norm: undefined } as unknown as LayerSpec), PREFILL)).toMatchInlineSnapshot(`
      [
        "- param x: %x stays f32: it is an input of the section",
        "+ linear %glu: %glu is stored in bf16",
      ]
    `);
  });

  it('steps between products that are not fused', () => {
    const off = new Set(['fuse-activation', 'fuse-gather', 'fuse-shared']);
    expect(storage(optimize(graphOf(mixture({ norm: rms })), { ...PREFILL, disabled: off }).graph)).toMatchInlineSnapshot(`"route.weights f32, route.ids u32, norm bf16, permute bf16, grouped_linear f32, grouped_linear_1 f32, glu bf16, grouped_linear_2 bf16, linear_1 f32, linear_2 f32, glu_1 bf16, linear_3 f32, add f32"`);
    const plain = layer('t', 4, moe(4, 2, twoMatrix(3, 'relu')), { dtype: 'f16', norm: rms });
    expect(storage(optimize(graphOf(plain), { ...PREFILL, disabled: off }).graph)).toMatchInlineSnapshot(`"route.weights f32, route.ids u32, norm f16, permute f16, grouped_linear f32, act f16, grouped_linear_1 f16, combine f32"`);
  });

  it('keeps what a router of its own multiplies', () => {
    const passed = optimize(graphOf(mixture({ norm: rms })), { ...PREFILL, disabled: new Set(['fuse-router']) });
    expect(passed.report.filter((e) => e.pass === 'narrow-rows' && e.kind === 'refused').map((e) => e.what)).toMatchInlineSnapshot(`
      [
        "%norm stays f32: linear %linear multiplies it by %router.weight f32[4, 4]",
      ]
    `);
  });

  it('keeps results of the section', () => {
    const graph = graphOf(dense);
    const hidden = graph.nodes.find((n) => n.op === 'glu')?.outs.y;
    if (hidden === undefined) throw new Error('no glu');
    expect(refusals(apply({ ...graph, results: { ...graph.results, hidden } }, [narrowRows], PREFILL))).toMatchInlineSnapshot(`
      [
        "%glu stays f32: it is a result of the section",
      ]
    `);
  });

  it('needs 16-bit weights of one type', () => {
    expect(apply(graphOf(mixture({ dtype: 'f32' })), [narrowRows], PREFILL).events.map((e) => `${e.where}: ${e.what}`)).toMatchInlineSnapshot(`
      [
        "layer: its weights are not all of one 16-bit type, to which rows could be narrowed",
      ]
    `);
    const graph = graphOf(dense);
    const first = graph.params.find((p) => p.value.type.kind === 'tensor' && p.value.type.dtype === 'bf16');
    if (first?.value.type.kind !== 'tensor') throw new Error('no weight');
    const f16 = { ...first.value, type: { ...first.value.type, dtype: 'f16' as const } };
    const mixed = JSON.parse(JSON.stringify(graph), (_key, v: unknown) =>
      typeof v === 'object' && v !== null && 'id' in v && v.id === f16.id ? f16 : v,
    ) as Graph;
    expect(apply(mixed, [narrowRows], PREFILL).graph).toEqual(mixed);
  });

  it('does nothing where kernels cannot store 16 bits', () => {
    const graph = graphOf(mixture({ norm: rms }));
    expect(apply(graph, [narrowRows])).toEqual({ graph, events: [] });
  });

  it('counts the binding of the copy', () => {
    const { graph } = optimize(graphOf(mixture()), { ...DECODE, disabled: new Set(['narrow-rows']) });
    const route = graph.nodes.find((n) => n.op === 'moe.route');
    if (route === undefined) throw new Error('no router');
    const tight = { ...DECODE, caps: { ...SM80, maxBindings: bindingsOf(route) } };
    expect(refusals(apply(graph, [narrowRows], tight)).join()).toMatch(/a copy of %x f32\[T, 4\] in bf16: it would bind 6 buffers/);
  });
});

describe('widths', () => {
  const WIDE = options({ caps: CUDA_SM80, maxTokens: undefined });
  const of = (hidden: number, routed: number, beside: number, more: Partial<LayerSpec> = { norm: rms }): Graph =>
    graphOf(layer('t', hidden, moe(4, 2, swiglu(routed), {}, shared(1, beside)), { dtype: 'bf16', ...more }));

  it('rows and results of a product must be wide', () => {
    expect(storage(optimize(of(256, 256, 256), WIDE).graph)).toMatchInlineSnapshot(`"route.weights f32, route.ids u32, norm bf16, glu bf16, glu_1 bf16, grouped_linear_2 bf16, linear_3 bf16, add f32"`);
    expect(storage(optimize(of(256, 248, 256), WIDE).graph)).toMatchInlineSnapshot(`"route.weights f32, route.ids u32, norm f32, glu f32, glu_1 bf16, grouped_linear_2 bf16, linear_3 bf16, add f32"`);
    expect(storage(optimize(of(256, 256, 248), WIDE).graph)).toMatchInlineSnapshot(`"route.weights f32, route.ids u32, norm f32, glu bf16, glu_1 f32, grouped_linear_2 bf16, linear_3 bf16, add f32"`);
    expect(storage(optimize(of(248, 256, 256), WIDE).graph)).toMatchInlineSnapshot(`"route.weights f32, route.ids u32, norm f32, glu f32, glu_1 f32, grouped_linear_2 f32, linear_3 f32, add f32"`);
    expect(fired(of(256, 248, 256), WIDE)).toMatchInlineSnapshot(`
      [
        "- moe.route %route.weights: %norm stays f32: moe.grouped_linear %glu has only 248 columns, rounding takes 256",
        "- moe.grouped_linear %glu: %glu stays f32: moe.grouped_linear %grouped_linear_2 has only 248 columns, rounding takes 256",
        "+ moe.grouped_linear %glu: %glu_1 is stored in bf16",
        "+ moe.grouped_linear %grouped_linear_2: %grouped_linear_2 is stored in bf16",
        "+ moe.grouped_linear %grouped_linear_2: %linear_3 is stored in bf16",
      ]
    `);
  });

  it('also of products that are not fused', () => {
    const off = { ...WIDE, disabled: new Set(['fuse-activation', 'fuse-gate-up', 'fuse-gather', 'fuse-shared', 'fuse-combine']) };
    expect(storage(optimize(of(256, 248, 248), off).graph)).toMatchInlineSnapshot(`"route.weights f32, route.ids u32, norm f32, permute f32, grouped_linear f32, grouped_linear_1 f32, glu f32, grouped_linear_2 bf16, combine f32, linear_1 f32, linear_2 f32, glu_1 f32, linear_3 f32, add f32"`);
  });

  it('a router leaves no copy for narrow products', () => {
    expect(fired(of(256, 64, 64, {}), WIDE)).toMatchInlineSnapshot(`
      [
        "- param x: %x stays f32: it is an input of the section",
        "- moe.grouped_linear %glu: %glu stays f32: moe.grouped_linear %grouped_linear_2 has only 64 columns, rounding takes 256",
        "- moe.grouped_linear %glu: %glu_1 stays f32: moe.grouped_linear %grouped_linear_2 has only 64 columns, rounding takes 256",
        "+ moe.grouped_linear %grouped_linear_2: %grouped_linear_2 is stored in bf16",
        "+ moe.grouped_linear %grouped_linear_2: %linear_3 is stored in bf16",
      ]
    `);
    expect(fired(of(512, 256, 256, {}), WIDE)[0]).toMatchInlineSnapshot(`"+ moe.route %route.weights: leaves a copy of %x in bf16 for moe.grouped_linear %glu"`);
  });

  it('attention is as wide as its queries', () => {
    const { 'tiny_qwen3_moe': tiny } = MODEL_CASES;
    if (tiny === undefined) throw new Error('no model');
    const of = (heads: number): ModelSpec => {
      const kinds = tiny.kinds.map((k): LayerKind => {
        if (k.attention.kind !== 'heads') throw new Error('no heads');
        return { ...k, attention: { ...k.attention, heads, kvHeads: 1, headDim: 64 }, ffn: moe(4, 2, swiglu(256)) };
      });
      return { ...tiny, dtype: 'bf16', hidden: 256, kinds };
    };
    expect(storage(optimize(graphOf(of(4)), WIDE).graph)).toMatchInlineSnapshot(`"norm f32, linear f32, norm_1 f32, rope bf16, linear_1 f32, norm_2 f32, rope_1 bf16, cache_append bf16, linear_2 bf16, cache_append_1 bf16, attention bf16, add f32, route.weights f32, route.ids u32, norm_3 bf16, glu bf16, grouped_linear_2 bf16, add_1 f32"`);
    expect(storage(optimize(graphOf(of(2)), WIDE).graph)).toMatchInlineSnapshot(`"norm f32, linear f32, norm_1 f32, rope f32, linear_1 f32, norm_2 f32, rope_1 f32, cache_append f32, linear_2 f32, cache_append_1 f32, attention f32, add f32, route.weights f32, route.ids u32, norm_3 bf16, glu bf16, grouped_linear_2 bf16, add_1 f32"`);
  });
});

const withDtype = (spec: ModelSpec, dtype: 'f16' | 'bf16'): ModelSpec => ({ ...spec, dtype });

describe('attention', () => {
  const [heads, latent] = [MODEL_CASES['tiny_qwen3_moe'], MODEL_CASES['tiny_deepseek_v2_lite']];
  if (heads === undefined || latent === undefined) throw new Error('no models');

  it('heads: queries, caches and results are narrowed, what is rotated or normalised is not', () => {
    const graph = graphOf(withDtype(heads, 'bf16'));
    expect(storage(optimize(graph, PREFILL).graph)).toMatchInlineSnapshot(`"norm bf16, linear f32, norm_1 f32, rope bf16, linear_1 f32, norm_2 f32, rope_1 bf16, cache_append bf16, linear_2 bf16, cache_append_1 bf16, attention bf16, add f32, route.weights f32, route.ids u32, norm_3 bf16, glu bf16, grouped_linear_2 bf16, add_1 f32"`);
    expect(fired(graph, PREFILL)).toMatchInlineSnapshot(`
      [
        "+ norm %norm: %norm is stored in bf16",
        "+ rope %rope: %rope is stored in bf16",
        "+ rope %rope_1: %rope_1 is stored in bf16",
        "+ cache_append %cache_append: %cache_append is stored in bf16",
        "+ linear %linear_2: %linear_2 is stored in bf16",
        "+ cache_append %cache_append_1: %cache_append_1 is stored in bf16",
        "+ attention %attention: %attention is stored in bf16",
        "+ moe.route %route.weights: %norm_3 is stored in bf16",
        "+ moe.grouped_linear %glu: %glu is stored in bf16",
        "+ moe.grouped_linear %grouped_linear_2: %grouped_linear_2 is stored in bf16",
      ]
    `);
  });

  it('latent: also what is copied on the way', () => {
    expect(storage(optimize(graphOf(withDtype(latent, 'f16')), PREFILL).graph)).toMatchInlineSnapshot(`"norm f16, linear f32, slice_heads f16, head_linear f16, slice_heads_1 f32, rope f16, concat_heads f16, linear_1 f32, slice_heads_2 f32, norm_1 f16, slice_heads_3 f32, rope_1 f16, concat_heads_1 f16, cache_append f16, attention f16, head_linear_1 f16, add f32, route.weights f32, route.ids u32, norm_2 f16, glu f16, glu_1 f16, grouped_linear_2 f16, linear_6 f16, add_2 f32"`);
  });

  it('caches have one type in all buckets', () => {
    for (const spec of Object.values(MODEL_CASES)) {
      for (const section of lowerToGraphs(withDtype(spec, 'bf16')).sections) {
        const states = BUCKETS.map((opts) => optimize(section, opts).graph.params.filter((p) => p.role.kind === 'state'));
        for (const other of states) expect(other).toEqual(states[0]);
        for (const p of states[0] ?? []) expect(p.value.type).toMatchObject({ dtype: 'bf16' });
      }
    }
  });

  it('caches that something else reads stay f32, keys and values alike', () => {
    const graph = graphOf(withDtype(heads, 'bf16'));
    const append = graph.nodes.find((n) => n.op === 'cache_append');
    if (append === undefined) throw new Error('no cache');
    const passed = apply({ ...graph, results: { ...graph.results, cache: append.outs.cache } }, [narrowRows], PREFILL);
    expect(passed.graph.params.filter((p) => p.role.kind === 'state').map((p) => (p.value.type.kind === 'tensor' ? p.value.type.dtype : ''))).toEqual(['f32', 'f32']);
  });
});

const specs = fc.tuple(moeLayer({ perToken: false }), fc.constantFrom('f16', 'bf16')).map(([spec, dtype]): LayerSpec => ({ ...spec, dtype }));
const RUNS = { numRuns: 40, seed: 78 };

/** Results of two graphs on the same random weights. */
function expectSameValue(spec: LayerSpec, a: Graph, b: Graph, seed: number, relative: number): void {
  const experts = spec.ffn.kind === 'moe' ? spec.ffn.experts : 1;
  const [left, right] = [a, b].map((g) => valueOf(g, spec.hidden, experts, 5, seed));
  expect(right?.faults).toBe(left?.faults);
  expect(Array.from(right?.results['topk_indices'] ?? [])).toEqual(Array.from(left?.results['topk_indices'] ?? []));
  const [x, y] = [left?.results['y'] ?? [], right?.results['y'] ?? []];
  const scale = Math.max(1e-30, ...Array.from(x, Math.abs));
  expect(Math.max(0, ...Array.from(x, (v, i) => Math.abs(v - (y[i] ?? NaN)) / scale))).toBeLessThanOrEqual(relative);
}

describe('the value of a graph does not change', () => {
  it('before and after the pass, to the bit', () => {
    fc.assert(
      fc.property(specs, fc.constantFrom(...BUCKETS), fc.nat(99), (spec, opts, seed) => {
        const { graph } = optimize(graphOf(spec), { ...opts, disabled: new Set(['narrow-rows']) });
        const narrowed = apply(graph, [narrowRows], opts);
        expectSameValue(spec, graph, narrowed.graph, seed, 0);
        expect(apply(graph, [narrowRows], opts)).toEqual(narrowed);
        expect(apply(narrowed.graph, [narrowRows], opts).graph).toEqual(narrowed.graph);
      }),
      RUNS,
    );
  });

  it('with any passes switched off', () => {
    fc.assert(
      fc.property(specs, fc.constantFrom(...BUCKETS), fc.subarray([...PASS_NAMES]), fc.nat(99), (spec, opts, off, seed) => {
        const graph = graphOf(spec);
        expectSameValue(spec, graph, optimize(graph, { ...opts, disabled: new Set(off) }).graph, seed, 1e-12);
      }),
      RUNS,
    );
  });

  it('in any order, some of them twice', () => {
    const some = fc.array(fc.constantFrom(narrowRows, ...GRAPH_PASSES), { maxLength: 14 });
    fc.assert(
      fc.property(specs, fc.constantFrom(...BUCKETS), some, fc.nat(99), (spec, opts, passes: readonly Pass<Graph>[], seed) => {
        const graph = graphOf(spec);
        expectSameValue(spec, graph, apply(graph, passes, opts).graph, seed, 1e-12);
      }),
      RUNS,
    );
  });

  it('when the pipeline runs again', () => {
    fc.assert(
      fc.property(specs, fc.constantFrom(...BUCKETS), (spec, opts) => {
        const once = optimize(graphOf(spec), opts);
        const twice = optimize(once.graph, opts);
        expect(twice.graph).toEqual(once.graph);
        expect(twice.report.filter((e) => e.kind === 'fired')).toEqual([]);
      }),
      RUNS,
    );
  });

  it.each(Object.entries(MODEL_CASES))('%s, two calls one after the other', (_name, spec) => {
    const program = lowerToGraphs(withDtype(spec, 'bf16'));
    const experts = Math.max(1, ...spec.kinds.map((k) => (k.ffn.kind === 'moe' ? k.ffn.experts : 0)));
    for (const opts of BUCKETS) {
      const wide = program.sections.map((g) => optimize(g, { ...opts, disabled: new Set(['narrow-rows']) }).graph);
      const narrow = program.sections.map((g) => optimize(g, opts).graph);
      const [a, b] = [wide, narrow].map((sections) => createReference({ ...program, sections }, partWeights(experts), 9));
      for (const ids of [Uint32Array.of(3, 1, 4, 1, 5), Uint32Array.of(9, 2)]) expect(b?.run({ ids }).results['y']).toEqual(a?.run({ ids }).results['y']);
    }
  });

  it('of every golden layer', () => {
    for (const spec of Object.values(LAYER_CASES)) {
      const graph = graphOf({ ...spec, dtype: 'bf16' });
      for (const opts of BUCKETS) expectSameValue(spec, graph, optimize(graph, opts).graph, 1, 1e-12);
    }
  });
});
