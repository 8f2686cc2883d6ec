/** The whole pipeline: it keeps the value of every graph, whatever is switched off, and reaches the counts it is for. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { createReference } from '../../../src/ir/graph/evaluate/reference.ts';
import type { Graph } from '../../../src/ir/graph/types.ts';
import { lowerToGraphs } from '../../../src/lower/model-to-graph.ts';
import type { LayerSpec, Spec } from '../../../src/model/types.ts';
import { bindingsOf } from '../../../src/passes/graph/limits.ts';
import { GRAPH_PASSES, optimize, PASS_NAMES, runPasses } from '../../../src/passes/graph/pipeline.ts';
import type { Pass, PassOptions } from '../../../src/passes/pass.ts';
import { WEBGPU_BASELINE } from '../../../src/target/types.ts';
import { moeLayer } from '../../lower/random-specs.ts';
import { maxDifference } from '../../lower/safetensors.ts';
import { layer, LAYER_CASES, moe, MODEL_CASES, shared, swiglu } from '../../lower/specs.ts';
import { apply, DECODE, graphOf, opsOf, options, partWeights, PREFILL, valueOf } from './support.ts';

const BUCKETS: readonly (readonly [string, PassOptions])[] = [
  ['decode', DECODE],
  ['prefill', PREFILL],
];

const moeOf = (spec: LayerSpec) => {
  if (spec.ffn.kind !== 'moe') throw new Error('not a mixture');
  return spec.ffn;
};

/** Largest difference of any result, relative to its largest element; ids and faults must be equal. */
function distance(spec: LayerSpec, a: Graph, b: Graph, seed: number): number {
  const { experts } = moeOf(spec);
  const [left, right] = [a, b].map((g) => valueOf(g, spec.hidden, experts, 5, seed));
  if (left === undefined || right === undefined) throw new Error('unreachable');
  expect(Array.from(right.results['topk_indices'] ?? [])).toEqual(Array.from(left.results['topk_indices'] ?? []));
  expect(right.faults).toBe(left.faults);
  return Math.max(
    ...['y', 'topk_weights'].map((name) => {
      const [x, y] = [left.results[name] ?? [], right.results[name] ?? []];
      return maxDifference(x, y) / Math.max(1e-30, ...Array.from(x, Math.abs));
    }),
  );
}

const RUNS = { numRuns: 40, seed: 77 };
const specs = moeLayer({ perToken: false });

describe('every pass keeps the value of a graph', () => {
  it.each(GRAPH_PASSES.map((pass) => [pass.name, pass] as const))('%s alone, to the bit', (_name, pass) => {
    fc.assert(
      fc.property(specs, fc.constantFrom(...BUCKETS), fc.nat(99), (spec, [, opts], seed) => {
        const graph = graphOf(spec);
        expect(distance(spec, graph, apply(graph, [pass], opts).graph, seed)).toBe(0);
      }),
      RUNS,
    );
  });

  it('in the order of the pipeline, any of them switched off', () => {
    fc.assert(
      fc.property(specs, fc.constantFrom(...BUCKETS), fc.subarray([...PASS_NAMES]), fc.nat(99), (spec, [, opts], off, seed) => {
        const graph = graphOf(spec);
        const { graph: fused } = optimize(graph, { ...opts, disabled: new Set(off) });
        expect(distance(spec, graph, fused, seed)).toBeLessThanOrEqual(1e-12);
      }),
      RUNS,
    );
  });

  it('in any order, some of them twice', () => {
    const some = fc.array(fc.constantFrom(...GRAPH_PASSES), { maxLength: 14 });
    fc.assert(
      fc.property(specs, fc.constantFrom(...BUCKETS), some, fc.nat(99), (spec, [, opts], passes: readonly Pass<Graph>[], seed) => {
        const graph = graphOf(spec);
        expect(distance(spec, graph, apply(graph, passes, opts).graph, seed)).toBeLessThanOrEqual(1e-12);
      }),
      RUNS,
    );
  });

  it('where bindings are few and small', () => {
    const caps = fc.record({ maxBindings: fc.integer({ min: 4, max: 12 }), maxBindingBytes: fc.constantFrom(64, 256, 1024) });
    fc.assert(
      fc.property(specs, fc.constantFrom(...BUCKETS), caps, fc.nat(99), (spec, [, opts], limits, seed) => {
        const graph = graphOf(spec);
        const { graph: fused } = optimize(graph, { ...opts, caps: { ...WEBGPU_BASELINE, ...limits } });
        expect(distance(spec, graph, fused, seed)).toBeLessThanOrEqual(1e-12);
        const most = Math.max(...graph.nodes.map(bindingsOf));
        for (const node of fused.nodes) expect(bindingsOf(node)).toBeLessThanOrEqual(Math.max(most, limits.maxBindings));
      }),
      RUNS,
    );
  });
});

describe('whole models, two calls one after the other', () => {
  it.each(Object.entries(MODEL_CASES))('%s', (_name, spec) => {
    const program = lowerToGraphs(spec);
    const experts = Math.max(1, ...spec.kinds.map((k) => (k.ffn.kind === 'moe' ? k.ffn.experts : 0)));
    for (const [, opts] of BUCKETS) {
      for (const off of [[], ['fold-constants']]) {
        const sections = program.sections.map((g) => optimize(g, { ...opts, disabled: new Set(off) }).graph);
        const [plain, fused] = [program, { ...program, sections }].map((p) => createReference(p, partWeights(experts), 9));
        for (const ids of [Uint32Array.of(3, 1, 4, 1, 5), Uint32Array.of(9, 2)]) {
          const [a, b] = [plain?.run({ ids }).results['y'] ?? [], fused?.run({ ids }).results['y'] ?? []];
          expect(a.length).toBeGreaterThan(0);
          expect(maxDifference(a, b) / Math.max(...Array.from(a, Math.abs))).toBeLessThanOrEqual(1e-12);
        }
      }
    }
  });
});

describe('the pipeline', () => {
  it('fires nothing more when run again', () => {
    fc.assert(
      fc.property(specs, fc.constantFrom(...BUCKETS), (spec, [, opts]) => {
        const once = optimize(graphOf(spec), opts);
        const twice = optimize(once.graph, opts);
        expect(twice.graph).toEqual(once.graph);
        expect(twice.report.filter((e) => e.kind === 'fired')).toEqual([]);
      }),
      RUNS,
    );
  });

  it('makes the same weights in both buckets', () => {
    fc.assert(
      fc.property(specs, fc.subarray([...PASS_NAMES]), (spec, off) => {
        const params = BUCKETS.map(([, opts]) => optimize(graphOf(spec), { ...opts, disabled: new Set(off) }).graph.params);
        expect(params[0]).toEqual(params[1]);
      }),
      RUNS,
    );
  });

  it('says which passes are off', () => {
    const { report, graph } = optimize(graphOf(layer('t', 4, moe(4, 2, swiglu(3)))), options({ disabled: new Set(PASS_NAMES) }));
    expect(report.map((e) => `${e.pass}: ${e.what}`)).toEqual(PASS_NAMES.map((name) => `${name}: switched off`));
    expect(graph).toEqual(graphOf(layer('t', 4, moe(4, 2, swiglu(3)))));
  });

  it('keeps the graph after every pass', () => {
    const { stages, graph } = optimize(graphOf(layer('t', 4, moe(4, 2, swiglu(3)))), DECODE);
    expect(stages.map((s) => s.pass)).toEqual(PASS_NAMES);
    expect(stages.at(-1)?.graph).toBe(graph);
  });

  it('stops at a pass that breaks the graph', () => {
    const broken: Pass<Graph> = { name: 'broken', doc: 'loses a node', run: (g) => ({ ...g, nodes: g.nodes.slice(1) }) };
    expect(() => runPasses(graphOf(layer('t', 4, moe(4, 2, swiglu(3)))), [broken], DECODE)).toThrow(/broken after broken/);
  });

  it('fuses a whole layer', () => {
    const rms = { kind: 'rms', eps: 1e-6, bias: false } as const;
    const graph = graphOf(layer('t', 4, moe(4, 2, swiglu(3), {}, shared(1, 5)), { norm: rms, residual: true }));
    expect(opsOf(optimize(graph, DECODE).graph)).toBe('route plan grouped_linear grouped_linear');
    expect(opsOf(optimize(graph, PREFILL).graph)).toBe('route plan grouped_linear grouped_linear combine');
  });

  it('leaves no op of the feed-forward part unfused in any golden model', () => {
    for (const spec of Object.values<Spec>({ ...LAYER_CASES, ...MODEL_CASES })) {
      for (const section of lowerToGraphs(spec).sections) {
        for (const [, opts] of BUCKETS) {
          const ops = optimize(section, opts).graph.nodes.map((n) => n.op);
          for (const gone of ['glu', 'act', 'moe.permute', 'gate_mul'] as const) expect(ops).not.toContain(gone);
        }
      }
    }
  });
});
