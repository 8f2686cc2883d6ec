/** The verifier finds what is broken, says where, and accepts what lowering makes. */
import { describe, expect, it } from 'vitest';
import { makeNode, freshIds, graphBuilder } from '../../../src/ir/graph/build.ts';
import { bytesMoved, flopsOf, graphCost, OP_NAMES, OPS, routedRows } from '../../../src/ir/graph/ops.ts';
import { tensor } from '../../../src/ir/graph/op-spec.ts';
import { results, retype } from '../../../src/ir/graph/rewrite.ts';
import type { Graph, Node, Value } from '../../../src/ir/graph/types.ts';
import { assertValidGraph, verifyGraph } from '../../../src/ir/graph/verify.ts';
import { evalSize } from '../../../src/base/size.ts';
import { D, declare, E, fusedLayer, M, SHARED, SLOTS, unfusedLayer, weightRole } from './graphs.ts';

const problems = (graph: Graph): string[] => verifyGraph(graph).map((p) => `${p.where}: ${p.problem}`);
const mapNode = (graph: Graph, op: Node['op'], change: (node: Node) => unknown): Graph => ({
  ...graph,
  nodes: graph.nodes.map((node) => (node.op === op ? (change(node) as Node) : node)),
});
const half = (v: Value): Value => (v.type.kind === 'tensor' ? { ...v, type: { ...v.type, dtype: 'bf16' } } : v);
const value = (id: string, ...shape: readonly (number | 'T')[]): Value => ({ id, type: tensor('f32', ...shape) });

describe('verifyGraph', () => {
  it('accepts whole graphs', () => {
    expect(problems(unfusedLayer())).toEqual([]);
    expect(problems(fusedLayer())).toEqual([]);
  });

  it('finds values that are not defined, defined twice, or read with another type', () => {
    const graph = unfusedLayer();
    const [first, ...rest] = graph.nodes;
    if (first === undefined) throw new Error('no nodes');
    expect(problems({ ...graph, nodes: rest })).toContain('linear %linear: operand x %norm_1 is not defined before');
    expect(problems({ ...graph, nodes: [first, ...graph.nodes] })).toContain('norm %norm_1: %norm_1 is defined twice');
    expect(problems({ ...graph, results: { y: value('nothing', 'T', D) } })).toEqual(['result y: value %nothing is not defined before']);
    expect(problems({ ...graph, results: { y: value('x', 'T', D + 1) } })).toEqual(['result y: value %x is f32[T, 8], read as f32[T, 9]']);
    expect(problems({ ...graph, results: {} })).toEqual(['graph layer: a graph has at least one result']);
  });

  it('finds wrong operands, results and attributes', () => {
    const graph = unfusedLayer();
    const without = (name: string) => (node: Node) => ({
      ...node,
      ins: Object.fromEntries(Object.entries(node.ins).filter(([n]) => n !== name)),
    });
    expect(problems(mapNode(graph, 'glu', without('up')))).toContain('glu %glu: operand up is missing');
    expect(problems(mapNode(graph, 'glu', (node) => ({ ...node, ins: { ...node.ins, side: value('x', 'T', D) } })))).toContain(
      'glu %glu: has no operand side',
    );
    expect(problems(mapNode(graph, 'norm', (node) => ({ ...node, attrs: { ...node.attrs, groups: 3 } })))[0]).toMatch(
      /3 groups do not divide 8/,
    );
    expect(problems(mapNode(graph, 'norm', (node) => ({ ...node, attrs: { ...node.attrs, kind: 'rms' } })))[0]).toMatch(
      /an RMS norm has no bias/,
    );
    expect(problems(mapNode(graph, 'moe.combine', (node) => ({ ...node, outs: { y: value('combine', 'T', D + 1) } })))[0]).toBe(
      'moe.combine %combine: result y is f32[T, 8], not f32[T, 9]',
    );
    expect(problems(mapNode(graph, 'moe.plan', (node) => ({ ...node, op: 'moe.fly' })))[0]).toMatch(/no such op/);
    expect(problems(mapNode(graph, 'moe.permute', (node) => ({ ...node, outs: {} })))[0]).toMatch(/result y is missing/);
  });

  it('lets rows be stored in 16 bits, and nothing that is computed with', () => {
    const stored = (op: Node['op'], result: string, dtype: 'f16' | 'bf16'): string[] => {
      const graph = fusedLayer();
      const made = graph.nodes.flatMap((n) => (n.op === op ? results(n) : [])).find(([name]) => name === result)?.[1];
      if (made?.type.kind !== 'tensor') throw new Error(`no ${result}`);
      return problems(retype(graph, new Map([[made.id, { ...made.type, dtype }]])));
    };
    expect(stored('moe.route', 'xn', 'bf16')).toEqual([]);
    expect(stored('moe.grouped_linear', 'shared', 'f16')).toEqual([]);
    expect(stored('moe.route', 'weights', 'bf16').join()).toMatch(/result weights is f32\[T, 2\], not bf16\[T, 2\]/);
    // The second product sums over the slots: the residual stream.
    const last = mapNode(fusedLayer(), 'moe.grouped_linear', (n) => (n.op === 'moe.grouped_linear' && n.attrs.combine ? { ...n, outs: { y: half(n.outs.y) } } : n));
    expect(problems(last).join()).toMatch(/result y is f32\[T, 8\], not bf16/);
    // A norm computes with its rows.
    const graph = unfusedLayer();
    const normed = mapNode(graph, 'norm', (n) => (n.op === 'norm' ? { ...n, ins: { ...n.ins, x: half(n.ins.x) } } : n));
    expect(problems(normed).join()).toMatch(/x is bf16, not f32/);
  });

  it('finds routing rules that make no sense', () => {
    const route = (change: object): string | undefined =>
      problems(mapNode(unfusedLayer(), 'moe.route', (node) => ({ ...node, attrs: { ...node.attrs, ...change } })))[0];
    expect(route({ groups: { count: 4, keep: 1, score: 'max' } })).toMatch(/4 groups do not divide 6 experts/);
    expect(route({ groups: { count: 6, keep: 1, score: 'max' } })).toMatch(/1 groups hold fewer than 2 experts/);
    expect(route({ slots: 7 })).toMatch(/7 slots, but only 6 experts/);
    expect(route({ select: { kind: 'hash' } })).toMatch(/table and tokenIds go with hash routing/);
    expect(route({ norm: { kind: 'rms', eps: 0 } })).toMatch(/attribute norm and operand normWeight go together/);
    expect(route({ scale: NaN })).toMatch(/scale is NaN/);
  });

  it('finds grouped matmuls whose parts do not belong together', () => {
    const grouped = (change: object): string | undefined =>
      problems(mapNode(unfusedLayer(), 'moe.grouped_linear', (node) => ({ ...node, attrs: { ...node.attrs, ...change } })))[0];
    expect(grouped({ gather: true })).toMatch(/x is \[P, 8\], not \[T, k\]/);
    expect(grouped({ combine: true, weighted: true })).toMatch(/combine reads routeWeights exactly where it is weighted/);
    expect(grouped({ scale: 2 })).toMatch(/weighted and scale go with combine/);
    expect(grouped({ epilogue: { kind: 'glu', activation: 'silu' } })).toMatch(/even number of rows, not 5/);
  });

  it('finds biases and glu weights of another size', () => {
    const bias = (op: 'linear' | 'moe.grouped_linear', ...shape: readonly number[]): string[] => {
      const graph = unfusedLayer();
      const param = { name: 'other', value: { id: 'other', type: tensor('f32', ...shape) }, role: weightRole('other', shape, 1) };
      const broken = mapNode(graph, op, (node) => ({ ...node, ins: { ...node.ins, bias: param.value } }));
      return problems({ ...broken, params: [...graph.params, param] });
    };
    expect(bias('moe.grouped_linear', E, M + 2).filter((p) => p.includes('bias is [6, 7]')).length).toBe(3);
    expect(bias('linear', 11).filter((p) => p.includes('bias is [11]')).length).toBe(5);
    const odd = mapNode(unfusedLayer(), 'linear', (node) => ({
      ...node,
      attrs: { epilogue: { kind: 'glu', activation: 'silu' }, scale: 1 },
    }));
    expect(problems(odd).filter((p) => p.includes('an even number of rows, not 7')).length).toBe(2);
  });

  it('finds weights whose sources reach outside their tensor', () => {
    const withRole = (role: ReturnType<typeof weightRole>, shape: readonly number[]): string[] => {
      const g = graphBuilder('g');
      const x = declare((name, type, r) => g.param(name, type, r)).input('x', 'T', 4);
      const weight = g.param('w', tensor('f32', ...shape), role);
      return problems(g.finish({ y: g.add('linear', { x, weight }, { epilogue: { kind: 'none' }, scale: 1 }).y }));
    };
    expect(withRole(weightRole('w', [3, 4], 2), [3, 4])).toEqual([]);
    expect(withRole(weightRole('w', [2, 4], 2), [3, 4])).toEqual(['param w: parts have 2 rows, the weight 3']);
    const source = { name: 'w', shape: [3, 4], n: { axis: 0, start: 1, step: 1 }, k: { start: 0, step: 1 } } as const;
    expect(withRole({ kind: 'weight', parts: [{ rows: 3, sources: [source] }] }, [3, 4])).toEqual([
      'param w: w: index [3, 3] leaves the 3 × 4 matrix',
    ]);
    expect(withRole({ kind: 'weight', parts: [{ rows: 3, sources: [] }] }, [3, 4])[0]).toMatch(/a part has no source/);
  });

  it('throws with the pass that broke the graph', () => {
    const graph = { ...unfusedLayer(), results: {} };
    expect(() => assertValidGraph(graph, 'after fuse-gather')).toThrow(/graph layer is broken after fuse-gather:\n {2}graph layer: /);
  });
});

describe('makeNode', () => {
  it('refuses operands that do not fit and keeps results of the same type', () => {
    const fresh = freshIds(['x']);
    expect(() => makeNode(fresh, 'act', { x: value('x', 'T') }, { activation: 'relu' })).toThrow('act: x is [T], not [rows, n]');
    const kept = value('old', 'T', 4);
    expect(makeNode(fresh, 'act', { x: value('x', 'T', 4) }, { activation: 'relu' }, undefined, { y: kept }).outs.y).toBe(kept);
    expect(() => makeNode(fresh, 'act', { x: value('x', 'T', 5) }, { activation: 'relu' }, undefined, { y: kept })).toThrow(
      /its type changes/,
    );
  });

  it('never gives an id twice', () => {
    const fresh = freshIds(['a', 'a_1']);
    expect([fresh('a'), fresh('a'), fresh('9!'), fresh('b')]).toEqual(['a_2', 'a_3', '_9_', 'b']);
  });
});

describe('costs', () => {
  const size = { T: 10, past: 0, seq: 10, cap: 0 };

  it('counts the multiply-adds of a layer as the formula does', () => {
    const T = 10;
    const matmuls = 2 * T * (E * D + SLOTS * 3 * D * M + 3 * D * SHARED + D);
    for (const graph of [unfusedLayer(), fusedLayer()]) {
      const env = { P: routedRows(graph) };
      const ops = new Set(['linear', 'moe.grouped_linear']);
      const counted = graph.nodes.filter((n) => ops.has(n.op)).reduce((sum, n) => sum + evalSize(flopsOf(n, env), size), 0);
      const router = graph.nodes.find((n) => n.op === 'moe.route');
      const fused = router !== undefined && 'x' in router.ins ? 2 * T * (E * D + D) : 0;
      expect(counted + fused).toBe(matmuls);
      expect(evalSize(graphCost(graph).flops, size)).toBeGreaterThan(matmuls);
    }
  });

  it('moves fewer bytes when fused', () => {
    const bytes = (graph: Graph): number => evalSize(graphCost(graph).bytes, size);
    expect(bytes(fusedLayer())).toBeLessThan(bytes(unfusedLayer()));
  });

  it('counts what an embedding and an attention touch', () => {
    const g = graphBuilder('g');
    const p = declare((name, type, role) => g.param(name, type, role));
    const ids = g.param('ids', tensor('u32', 'T'), { kind: 'input' });
    g.add('embed', { ids, table: p.weight('table', 100, D) }, { scale: 1 });
    const k = g.param('k', tensor('f32', 'cap', D), { kind: 'state' });
    const attrs = { heads: 2, kvHeads: 1, qkDim: D, vDim: 4, scale: 1, vFromK: true } as const;
    g.add('attention', { q: p.input('q', 'T', 2 * D), k }, attrs);
    const [embed, attention] = g.nodes;
    if (embed === undefined || attention === undefined) throw new Error('no nodes');
    const at = { T: 3, past: 5, seq: 3, cap: 64 };
    expect(evalSize(bytesMoved(embed, { P: 0 }), at)).toBe(3 * (4 + 2 * 4 * D));
    expect(evalSize(flopsOf(attention, { P: 0 }), at)).toBe(3 * 8 * 2 * 2 * (D + 4));
    expect(evalSize(bytesMoved(attention, { P: 0 }), at)).toBe(3 * 4 * 2 * D + 8 * 4 * D + 3 * 4 * 2 * 4);
  });
});

it('documents every op', () => {
  expect(OP_NAMES).toHaveLength(19);
  for (const name of OP_NAMES) expect(OPS[name].doc).toMatch(/^[^\n]{10,140}$/);
});
