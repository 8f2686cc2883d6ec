/** Graphs lowered to programs: who binds what, where values live, how weights are kept and split. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { stableJson } from '../../src/base/hash.ts';
import { operands, results } from '../../src/ir/graph/rewrite.ts';
import type { Graph, Node, Value } from '../../src/ir/graph/types.ts';
import { lowerGraph } from '../../src/lower/graph-to-kernels.ts';
import { type LoweredProgram, lowerProgram } from '../../src/driver/lower-program.ts';
import { lowerToGraphs } from '../../src/lower/model-to-graph.ts';
import type { Bucket, BufferRef, Section, Step } from '../../src/lower/program.ts';
import type { Spec } from '../../src/model/types.ts';
import { bindingsOf } from '../../src/passes/graph/limits.ts';
import { FUSION_PASSES, PASS_NAMES } from '../../src/passes/graph/pipeline.ts';
import { WEBGPU_BASELINE } from '../../src/target/types.ts';
import { moeLayer } from './random-specs.ts';
import { layer, LAYER_CASES, moe, MODEL_CASES, shared, swiglu, twoMatrix } from './specs.ts';

const CASES = Object.entries<Spec>({ ...LAYER_CASES, ...MODEL_CASES });
const lower = (spec: Spec, disabled: readonly string[] = [], maxBindingBytes = WEBGPU_BASELINE.maxBindingBytes): LoweredProgram =>
  lowerProgram(lowerToGraphs(spec), {
    caps: { ...WEBGPU_BASELINE, maxBindingBytes },
    plans: [],
    disabled: new Set(disabled),
    deterministicBatch: false,
  });

interface BucketCase {
  readonly section: Section;
  readonly bucket: Bucket;
  readonly graph: Graph;
}

const bucketsOf = ({ program, reports }: LoweredProgram): readonly BucketCase[] =>
  program.sections.flatMap((section, i) =>
    section.buckets.map((bucket, j) => {
      const graph = reports[i * section.buckets.length + j]?.graph;
      if (graph === undefined) throw new Error('no graph');
      return { section, bucket, graph };
    }),
  );

/** The nodes that run, beside the steps that run them; where the two agree in number. */
function paired(graph: Graph, steps: readonly Step[]): readonly (readonly [Node, Step])[] | undefined {
  const nodes = graph.nodes.filter((node) => node.op !== 'moe.plan' || node.attrs.mode === 'sorted');
  return nodes.length === steps.length ? nodes.map((node, i) => [node, steps[i] as Step] as const) : undefined;
}

/** The value a kernel's parameter is bound to, by the parameter's name. */
function valueNamed(node: Node, name: string): Value | undefined {
  const [ins, outs] = [new Map(operands(node)), new Map(results(node))];
  if (name === 'gate_logit') return outs.get('gate');
  if (node.op === 'attention' && node.attrs.vFromK && name === 'v') return node.ins.k;
  return ins.get(name) ?? outs.get(name) ?? outs.get(name.replace(/Out$/, ''));
}

const VARIANTS: readonly (readonly [string, readonly string[]])[] = [
  ['fused', []],
  ['unfused', FUSION_PASSES],
  ['no plan', ['plan']],
];

describe.each(VARIANTS)('%s programs', (_name, disabled) => {
  it.each(CASES)('%s', (_case, spec) => {
    for (const { section, bucket, graph } of bucketsOf(lower(spec, disabled))) {
      const known = {
        param: new Set(section.params.map((p) => p.name)),
        io: new Set([...section.inputs, ...section.outputs].map((d) => d.name)),
      };
      for (const step of bucket.steps) {
        expect(step.args).toHaveLength(step.kernel.params.length);
        expect(step.args.length).toBeLessThanOrEqual(WEBGPU_BASELINE.maxBindings);
        const refs = step.args.map(stableJson);
        // Latent attention reads keys and values from one cache; nobody else may bind a buffer twice.
        if (step.op !== 'attention') expect(new Set(refs).size, `${step.op} binds a buffer twice`).toBe(refs.length);
        for (const ref of step.args) {
          if (ref.kind === 'param' || ref.kind === 'io') expect(known[ref.kind]).toContain(ref.name);
          if (ref.kind === 'scratch') expect(bucket.scratch[ref.slot]).toBeDefined();
        }
      }
      const pairs = paired(graph, bucket.steps);
      if (pairs === undefined) {
        expect(
          graph.nodes.some((n) => n.op === 'moe.route'),
          'only routers take several kernels',
        ).toBe(true);
        continue;
      }
      checkLifetimes(pairs);
      for (const [node, step] of pairs) expect(step.args.length).toBeLessThanOrEqual(bindingsOf(node));
    }
  });
});

/** Brute force: every value has one buffer, and no two values share one while both are wanted. */
function checkLifetimes(pairs: readonly (readonly [Node, Step])[]): void {
  const live = new Map<string, { ref: string; first: number; last: number }>();
  pairs.forEach(([node, { kernel, args, op }], at) => {
    expect(op).toBe(node.op);
    kernel.params.forEach((param, i) => {
      const ref = args[i] as BufferRef;
      if (ref.kind === 'faults') return expect(param.name).toBe('faults');
      const value = valueNamed(node, param.name);
      if (value === undefined) throw new Error(`${node.op}: what is ${param.name}?`);
      const range = live.get(value.id) ?? { ref: stableJson(ref), first: at, last: at };
      expect(stableJson(ref), `%${value.id} has two buffers`).toBe(range.ref);
      live.set(value.id, { ...range, last: at });
    });
  });
  const ranges = [...live].filter(([, r]) => r.ref.includes('"scratch"'));
  for (const [a, x] of ranges) {
    for (const [b, y] of ranges) {
      if (a < b && x.ref === y.ref) expect(x.last < y.first || y.last < x.first, `%${a} and %${b} share ${x.ref}`).toBe(true);
    }
  }
}

describe('weights', () => {
  const rowsOf = (section: Section): readonly string[] =>
    section.params.flatMap((p) => (p.role.kind === 'weight' ? p.role.parts.map((part) => stableJson(part)) : []));

  it.each(CASES)('%s: fusing stores the same rows, once', (_name, spec) => {
    const [fused, plain] = [lower(spec), lower(spec, FUSION_PASSES)].map((p) => p.program.sections);
    fused?.forEach((section, i) => {
      const rows = rowsOf(section);
      expect(new Set(rows).size).toBe(rows.length);
      expect([...rows].sort()).toEqual([...rowsOf(plain?.[i] as Section)].sort());
    });
  });

  it('refuses to store rows twice', () => {
    const [graph] = lowerToGraphs(layer('t', 4, { kind: 'dense', ffn: twoMatrix(3, 'relu') })).sections;
    const [weight] = graph?.params.filter((p) => p.role.kind === 'weight') ?? [];
    if (graph === undefined || weight === undefined) throw new Error('no weight');
    const copy = { ...weight, name: 'copy', value: { ...weight.value, id: 'copy' } };
    const twice = { ...graph, params: [...graph.params, copy] };
    expect(() => lowerGraph([{ maxTokens: undefined, graph: twice }], WEBGPU_BASELINE)).toThrow(/would store the same rows/);
  });

  it('have elements and segments as their shapes say', () => {
    const { program } = lower(layer('t', 8, moe(6, 2, swiglu(4), {}, shared(1, 4))), [], 600);
    const bank = program.sections[0]?.params.find((p) => p.name === 'experts.gate_up.weight');
    expect(bank).toMatchObject({ elem: 'f32', size: 6 * 8 * 8, segmentRows: 2 });
  });
});

describe('split weights', () => {
  // Gate and up of an expert: 8 x 8 x 4 bytes = 256; down 128; the shared ones are as large as an expert's.
  const spec = layer('t', 8, moe(7, 2, swiglu(4), {}, shared(1, 4)));
  const stepsOf = (bytes: number): readonly (readonly Step[])[] =>
    lower(spec, [], bytes).program.sections.flatMap((s) => s.buckets.map((b) => b.steps));

  it('run one step a segment, which cover the experts once and share a kernel', () => {
    for (const steps of stepsOf(600)) {
      const first = steps.filter((s) => s.segment?.param === 'experts.gate_up.weight');
      expect(first.map((s) => [s.segment?.index, s.constants['segment.first'], s.constants['segment.count']])).toEqual([
        [0, 0, 2],
        [1, 2, 2],
        [2, 4, 2],
        [3, 6, 1],
      ]);
      expect(new Set(first.map((s) => s.kernel)).size).toBe(1);
      expect(first[0]?.kernel.scalars).toContain('segment.first');
      expect(first.every((s) => s.args.some((ref) => ref.kind === 'param' && ref.name === 'shared.gate_up.weight'))).toBe(true);
    }
  });

  it('leave the combine apart when decoding', () => {
    expect(stepsOf(600)[0]?.map((s) => s.op)).toEqual([
      'moe.route',
      ...Array.from({ length: 4 }, () => 'moe.grouped_linear'),
      ...Array.from({ length: 2 }, () => 'moe.grouped_linear'),
      'moe.combine',
    ]);
    expect(stepsOf(1_000_000)[0]?.map((s) => s.op)).toEqual(['moe.route', 'moe.grouped_linear', 'moe.grouped_linear']);
  });

  it('are refused where one expert alone is too large', () => {
    expect(() => lower(spec, [], 100)).toThrow(/one of its 7 rows takes/);
  });

  it('are the same parameter in embedding and head of a tied model', () => {
    const tied = MODEL_CASES['tiny_granitemoe'];
    if (tied === undefined) throw new Error('no model');
    const [embed, , head] = lower(tied, [], 4096).program.sections;
    const table = (s: Section | undefined) => s?.params.find((p) => p.name === 'embed.weight');
    expect(table(embed)?.segmentRows).toBe(24);
    expect(table(head)).toEqual(table(embed));
  });
});

describe('kernels', () => {
  it('have names of their own, are shared where they are equal, and have legal names', () => {
    for (const [, spec] of CASES) {
      const kernels = new Set(lower(spec).program.sections.flatMap((s) => s.buckets.flatMap((b) => b.steps.map((step) => step.kernel))));
      expect(new Set([...kernels].map((k) => k.name)).size).toBe(kernels.size);
      expect(new Set([...kernels].map((k) => stableJson({ ...k, name: '' }))).size).toBeGreaterThan(kernels.size / 2);
      for (const { name } of kernels) expect(name).toMatch(/^[a-z][a-z0-9_]*$/);
    }
  });

  it('are shared by sections', () => {
    const spec = MODEL_CASES['tiny_gpt_oss'];
    if (spec === undefined) throw new Error('no model');
    const { sections } = lower(spec).program;
    const kernels = (i: number): readonly unknown[] => sections[i]?.buckets[0]?.steps.map((s) => s.kernel) ?? [];
    // The layers differ in their attention window only.
    expect(kernels(1).filter((k) => !kernels(2).includes(k))).toHaveLength(1);
  });
});

describe('any mixture', () => {
  it('lowers, whatever passes are off, within the bindings of the target', () => {
    fc.assert(
      fc.property(moeLayer({ perToken: false }), fc.subarray([...PASS_NAMES]), (spec, disabled) => {
        for (const { bucket } of bucketsOf(lower(spec, disabled))) {
          for (const step of bucket.steps) expect(step.args.length).toBeLessThanOrEqual(WEBGPU_BASELINE.maxBindings);
        }
      }),
      { numRuns: 60, seed: 11 },
    );
  });
});

describe('buckets', () => {
  it('are one for a deterministic batch', () => {
    const graphs = lowerToGraphs(layer('t', 8, moe(4, 2, swiglu(4))));
    const options = { caps: WEBGPU_BASELINE, plans: [], disabled: new Set<string>() };
    const tokens = (deterministicBatch: boolean) =>
      lowerProgram(graphs, { ...options, deterministicBatch }).program.sections.map((s) => s.buckets.map((b) => b.maxTokens));
    expect(tokens(true)).toEqual([[undefined]]);
    expect(tokens(false)).toEqual([[8, undefined]]);
  });

  it('are the same however often a program is lowered', () => {
    const spec = MODEL_CASES['tiny_deepseek_v3'];
    if (spec === undefined) throw new Error('no model');
    expect(stableJson(lower(spec).program)).toBe(stableJson(lower(spec).program));
  });

  it('tell inputs and outputs with elements a token', () => {
    const { sections } = lower(layer('t', 8, moe(4, 2, swiglu(4)))).program;
    expect(sections[0]?.inputs).toEqual([{ name: 'x', elem: 'f32', size: { op: '*', a: 'T', b: 8 }, perToken: 8 }]);
    expect(sections[0]?.outputs.map((o) => [o.name, o.elem, o.perToken])).toEqual([
      ['y', 'f32', 8],
      ['topk_weights', 'f32', 2],
      ['topk_indices', 'u32', 2],
    ]);
  });
});
