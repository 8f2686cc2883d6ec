/** Units of specs: pieces of graphs that verify, distributions of tokens, and what their results must be. */
import { describe, expect, it } from 'vitest';
import { evaluate, type Data } from '../../../src/ir/graph/evaluate/evaluate.ts';
import { DROPPED } from '../../../src/ir/graph/types.ts';
import { assertValidGraph } from '../../../src/ir/graph/verify.ts';
import { lowerToGraphs } from '../../../src/lower/model-to-graph.ts';
import type { Spec } from '../../../src/model/types.ts';
import { optimize } from '../../../src/passes/graph/pipeline.ts';
import { proceduralWeights } from '../../../src/runtime/core/procedural.ts';
import type { WeightParam } from '../../../src/runtime/core/weights.ts';
import { WEBGPU_BASELINE } from '../../../src/target/types.ts';
import { cut, expertNodes, type Piece } from '../../../src/driver/tuning/cut.ts';
import { piecesOf, tokenPoints, workOf } from '../../../src/driver/tuning/pieces.ts';
import { expectedOf, type ReferenceInput, sampled } from '../../../src/driver/tuning/reference.ts';
import { DEFAULT_MIXES, type Mix, mixesText, parseMixes, routedIds } from '../../../src/driver/tuning/routing.ts';
import { deviceCaps, unitsOf } from '../../../src/driver/tuning/units.ts';
import { layer, LAYER_CASES, moe, MODEL_CASES, shared, swiglu } from '../../lower/specs.ts';

const TARGET = { caps: WEBGPU_BASELINE, device: { features: ['subgroups'], subgroupSize: 8 }, disabled: new Set<string>() };
const units = (spec: Spec, tokens: readonly number[] = [1, 8, 64]): ReturnType<typeof unitsOf> => unitsOf(spec, { ...TARGET, tokens, mixes: DEFAULT_MIXES });

describe('tuned numbers of tokens', () => {
  const of = (tokens: readonly number[], buckets: readonly (number | undefined)[]): readonly unknown[] => tokenPoints(tokens, buckets).map((p) => [p.from, p.tokens, p.maxTokens]);

  it('serve the calls above the one before, as far down as the same untuned bucket', () => {
    expect(of([1, 8, 64, 512], [8, undefined])).toEqual([[1, 1, 8], [2, 8, 8], [9, 64, undefined], [65, 512, undefined]]);
    expect(of([512, 4, 4], [8, undefined])).toEqual([[1, 4, 8], [9, 512, undefined]]);
    expect(of([100], [8, 32, 128, undefined])).toEqual([[33, 100, 128]]);
    expect(of([1, 7], [undefined])).toEqual([[1, 1, undefined], [2, 7, undefined]]);
  });
});

describe('distributions of tokens', () => {
  const SIZES = { tokens: 400, experts: 16, slots: 2 };
  const loads = (mix: Mix): number[] => {
    const n = new Array<number>(SIZES.experts).fill(0);
    for (const id of routedIds(mix, SIZES, 1)) n[id] = (n[id] ?? 0) + 1;
    return n.sort((a, b) => b - a);
  };

  it('give a token different experts', () => {
    for (const { mix } of DEFAULT_MIXES) {
      const ids = routedIds(mix, SIZES, 3);
      for (let t = 0; t < SIZES.tokens; t++) expect(ids[2 * t]).not.toBe(ids[2 * t + 1]);
      expect(Math.max(...ids)).toBeLessThan(16);
      expect(routedIds(mix, SIZES, 3)).toEqual(ids);
      expect(routedIds(mix, SIZES, 4)).not.toEqual(ids);
    }
  });

  it('are as even or uneven as they say', () => {
    expect(loads({ kind: 'uniform' })[0]).toBeLessThan(100);
    expect(loads({ kind: 'onehot' }).filter((n) => n > 0)).toEqual([400, 400]);
    const zipf = loads({ kind: 'zipf', exponent: 1.2 });
    expect(zipf[0]).toBeGreaterThan(200);
    expect(loads({ kind: 'zipf', exponent: 3 })[0]).toBeGreaterThan(zipf[0] ?? 0);
  });

  it('of experts that choose fill a slot an expert, or drop it', () => {
    const ids = routedIds({ kind: 'uniform' }, { tokens: 50, experts: 4, slots: 4 }, 1);
    ids.forEach((id, i) => expect([i % 4, DROPPED]).toContain(id));
    expect(ids.filter((id) => id !== DROPPED).length).toBeGreaterThan(50);
  });

  it('are written with weights', () => {
    expect(parseMixes('uniform:1,zipf1.2:1,onehot:0.2')).toEqual(DEFAULT_MIXES);
    expect(mixesText(parseMixes(' onehot:0.2, zipf1.2 ,uniform') ?? [])).toBe(mixesText(DEFAULT_MIXES));
    for (const bad of ['', 'uniform:x', 'zipf', 'uniform2', 'uniform:0', 'onehot:-1', 'uniform,uniform', 'uniform:1,', 'u\u0000', 'zipf1.2.3', 'uniform:1:2']) expect(parseMixes(bad), bad).toBeUndefined();
  });
});

describe.each([...Object.entries(LAYER_CASES), ...Object.entries(MODEL_CASES)] as readonly (readonly [string, Spec])[])('%s', (_name, spec) => {
  it('has pieces that verify, each with something to choose', () => {
    const { sections } = lowerToGraphs(spec);
    for (const maxTokens of [8, undefined]) {
      for (const section of sections) {
        const graph = (tileRows: number | undefined): ReturnType<typeof optimize>['graph'] =>
          optimize(section, { caps: deviceCaps(TARGET).standard, disabled: new Set(), deterministicBatch: false, maxTokens, ...(tileRows === undefined ? {} : { tileRows: () => tileRows }) }).graph;
        for (const part of piecesOf(graph)) {
          for (const rows of [undefined, 4, 32]) {
            const piece = part.piece(rows);
            expect(() => assertValidGraph(piece.graph, part.name)).not.toThrow();
            expect(Object.keys(piece.graph.results).length).toBe(1);
            expect(workOf(piece.graph.nodes, { T: 3, past: 0, seq: 3, cap: 3 })).toBeGreaterThan(0);
          }
        }
      }
    }
  });

  it('has units with names of their own, jobs and data', async () => {
    const all = units(spec, [2, 24]);
    expect(all.length).toBeGreaterThan(0);
    expect(new Set(all.map(({ unit }) => `${unit.name} ${unit.tokens}`)).size).toBe(all.length);
    for (const { unit } of all.slice(0, 6)) {
      expect(unit.asked(unit.plan?.standard).length).toBeGreaterThan(0);
      const job = unit.standardJob(unit.tokens);
      const data = await unit.data(unit.tokens, 1);
      const names = new Set([...data.inputs, ...(data.scenarios[0]?.inputs ?? []), ...data.outputs, ...data.params].map((x) => x.name));
      for (const step of job.steps) for (const ref of step.args) if (ref.kind === 'io' || ref.kind === 'param') expect(names).toContain(ref.name);
      for (const s of data.scenarios) for (const e of s.expected) expect(e.values.every(Number.isFinite)).toBe(true);
      expect(structuredClone({ job, data })).toEqual({ job, data });
    }
  }, 120_000);
});

describe('what is one unit', () => {
  const spec = layer('t', 64, moe(8, 2, swiglu(32)));

  it('does not depend on names', () => {
    const other = layer('another', 64, moe(8, 2, swiglu(32)));
    expect(units(other).map((p) => p.unit.id)).toEqual(units(spec).map((p) => p.unit.id));
  });

  it('does on sizes, fusion and the device', () => {
    const [own] = units(spec).map((p) => p.unit.id);
    const others = [
      units(layer('t', 128, moe(8, 2, swiglu(32)))), units(layer('t', 64, moe(8, 3, swiglu(32)))), units(layer('t', 64, moe(8, 2, swiglu(32), {}, shared(1, 32)))),
      unitsOf(spec, { ...TARGET, device: { features: [] }, tokens: [1], mixes: DEFAULT_MIXES }),
      unitsOf(spec, { ...TARGET, disabled: new Set(['fuse-gate-up']), tokens: [1], mixes: DEFAULT_MIXES }),
    ];
    for (const [first] of others) expect(first?.unit.id).not.toBe(own);
  });

  it('keeps the order of sums where the spec promises bits', () => {
    const exact = units({ ...spec, deterministic: 'batch' });
    expect(exact.map((p) => [p.unit.exact, p.point.maxTokens])).toEqual(exact.map(() => [true, undefined]));
  });
});

describe('the reference', () => {
  const TOKENS = 20;
  const spec = layer('t', 32, moe(8, 2, swiglu(16), {}, shared(1, 16)));
  const [section] = lowerToGraphs(spec).sections;
  if (section === undefined) throw new Error('no section');
  const { graph } = optimize(section, { caps: WEBGPU_BASELINE, disabled: new Set(), deterministicBatch: false, maxTokens: undefined });
  const weightParam: ReferenceInput['weightParam'] = ({ name, value, role }): WeightParam => {
    if (role.kind !== 'weight' || value.type.kind !== 'tensor') throw new Error('no weight');
    return { name, role, elem: value.type.dtype, shape: value.type.shape.map(Number) };
  };
  const floats = (n: number): Float64Array => Float64Array.from({ length: n }, (_, i) => Math.sin(i * 1.7));

  function input(piece: Piece, more: Partial<ReferenceInput> = {}): ReferenceInput {
    const inputs = new Map<string, Data>(piece.inputs.map(({ name, kind, value }) => {
      const width = value.type.kind === 'tensor' ? value.type.shape.slice(1).reduce<number>((n, d) => n * Number(d), 1) : 0;
      return [name, kind === 'ids' ? routedIds({ kind: 'uniform' }, { tokens: TOKENS, experts: 8, slots: 2 }, 1) : floats(TOKENS * width)];
    }));
    return { piece, tokens: TOKENS, past: 0, cap: TOKENS, experts: 8, layer: null, seed: 5, tokenWork: workOf(piece.graph.nodes, { T: 1, past: 0, seq: 1, cap: 1 }), inputs, weightParam, ...more };
  }

  /** The evaluator over the whole piece, all experts and all columns. */
  function whole({ piece, inputs, seed }: ReferenceInput): Data {
    const params = new Map<string, Data>(inputs);
    for (const p of piece.graph.params) if (p.role.kind === 'weight') params.set(p.name, proceduralWeights(weightParam(p), null, seed, 8));
    return Object.values(evaluate(piece.graph, { params, size: { T: TOKENS, past: 0, seq: TOKENS, cap: 0 } }).results)[0] ?? new Float64Array(0);
  }

  it.each([{ work: 1e9, elements: 1e9 }, { work: 1e4, elements: 1e9 }, { work: 1, elements: 3000 }])('is that of the whole unit on the tokens it takes: %o', (limits) => {
    const own = input(cut(graph, expertNodes(graph)), { limits });
    const all = whole(own);
    const [e] = expectedOf(own);
    if (e === undefined) throw new Error('nothing expected');
    expect(e.rows.length).toBeGreaterThan(0);
    if (limits.work === 1e9) expect(e.rows.length).toBe(TOKENS);
    else expect(e.rows.length).toBeLessThan(TOKENS);
    e.rows.forEach((row, i) => {
      for (let c = 0; c < 32; c++) expect(e.values[i * 32 + c]).toBeCloseTo(all[row * 32 + c] ?? NaN, 12);
    });
  });

  it.each(['glu', 'none'] as const)('of a large dense product is that of its last columns (%s)', (kind) => {
    const [dense] = lowerToGraphs(layer('d', 32, { kind: 'dense', ffn: swiglu(48) })).sections;
    if (dense === undefined) throw new Error('no section');
    const fused = optimize(dense, { caps: WEBGPU_BASELINE, disabled: new Set(), deterministicBatch: false, maxTokens: undefined }).graph;
    const node = fused.nodes.find((n) => n.op === 'linear' && n.attrs.epilogue.kind === kind);
    if (node === undefined) throw new Error('no product');
    const own = input(cut(fused, [node]), { limits: { work: 1e9, elements: 400 } });
    const all = whole(own);
    const [e] = expectedOf(own);
    if (e === undefined) throw new Error('nothing expected');
    const [from, to] = e.columns;
    const n = all.length / TOKENS;
    expect([to, to - from < n]).toEqual([n, true]);
    e.rows.forEach((row, i) => {
      for (let c = from; c < to; c++) expect(e.values[i * (to - from) + c - from]).toBeCloseTo(all[row * n + c] ?? NaN, 12);
    });
  });

  it('takes the first and the last token', () => {
    expect(sampled(100, 5)).toEqual([0, 25, 50, 74, 99]);
    expect(sampled(3, 10)).toEqual([0, 1, 2]);
    expect(sampled(7, 0.1)).toEqual([6]);
  });
});
