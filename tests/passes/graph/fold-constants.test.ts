import { describe, expect, it } from 'vitest';
import { graphBuilder } from '../../../src/ir/graph/build.ts';
import { tensor } from '../../../src/ir/graph/op-spec.ts';
import { deadCode } from '../../../src/passes/graph/dead-code.ts';
import { foldConstants } from '../../../src/passes/graph/fold-constants.ts';
import { layer, moe, swiglu } from '../../lower/specs.ts';
import { apply, graphOf, text } from './support.ts';

const weight = (n: number) =>
  ({
    kind: 'weight',
    parts: [{ rows: n, sources: [{ name: 'w', shape: [n, n], n: { axis: 0, start: 0, step: 1 }, k: { start: 0, step: 1 } }] }],
  }) as const;

describe('fold-constants', () => {
  it('moves the factor of a sum into the product', () => {
    const b = graphBuilder('layer');
    const x = b.param('x', tensor('f32', 'T', 4), { kind: 'input' });
    const w = b.param('w', tensor('f32', 4, 4), weight(4));
    const y = b.add('linear', { x, weight: w }, { epilogue: { kind: 'none' }, scale: 0.5 }).y;
    const graph = b.finish({ y: b.add('add', { a: x, b: y }, { scale: 0.25 }).y });
    expect(text(apply(graph, [foldConstants]).graph)).toMatchInlineSnapshot(`
      "y=%linear: f32[T, 4] = linear(x=%x, weight=%w) {"scale":0.125}
      y=%add: f32[T, 4] = add(a=%x, b=%linear)"
    `);
  });

  it('leaves the factor where somebody else reads the product', () => {
    const b = graphBuilder('layer');
    const x = b.param('x', tensor('f32', 'T', 4), { kind: 'input' });
    const w = b.param('w', tensor('f32', 4, 4), weight(4));
    const y = b.add('linear', { x, weight: w }, { epilogue: { kind: 'none' }, scale: 1 }).y;
    const graph = b.finish({ y: b.add('add', { a: x, b: y }, { scale: 0.25 }).y, product: y });
    expect(apply(graph, [foldConstants]).graph).toEqual(graph);
  });

  it('slices of slices, and slices of everything', () => {
    const b = graphBuilder('layer');
    const x = b.param('x', tensor('f32', 'T', 12), { kind: 'input' });
    const all = b.add('slice_heads', { x }, { heads: 2, stride: 6, start: 0, length: 6 }).y;
    const some = b.add('slice_heads', { x: all }, { heads: 2, stride: 6, start: 1, length: 4 }).y;
    const fewer = b.add('slice_heads', { x: some }, { heads: 2, stride: 4, start: 2, length: 2 }).y;
    expect(text(apply(b.finish({ y: fewer }), [foldConstants]).graph)).toMatchInlineSnapshot(
      `"y=%slice_heads_2: f32[T, 4] = slice_heads(x=%x) {"heads":2,"stride":6,"start":3,"length":2}"`,
    );
  });

  it('keeps slices of other heads apart', () => {
    const b = graphBuilder('layer');
    const x = b.param('x', tensor('f32', 'T', 12), { kind: 'input' });
    const some = b.add('slice_heads', { x }, { heads: 2, stride: 6, start: 1, length: 4 }).y;
    const graph = b.finish({ y: b.add('slice_heads', { x: some }, { heads: 1, stride: 8, start: 2, length: 2 }).y });
    expect(apply(graph, [foldConstants]).graph).toEqual(graph);
  });

  it('drops a group limit that keeps every group', () => {
    const grouped = (keep: number) => graphOf(layer('t', 4, moe(4, 2, swiglu(4), { groups: { count: 2, keep, score: 'max' } })));
    const groups = (keep: number) =>
      apply(grouped(keep), [foldConstants]).graph.nodes.map((n) => (n.op === 'moe.route' ? n.attrs.groups : undefined));
    expect(groups(2).every((g) => g === undefined)).toBe(true);
    expect(groups(1).some((g) => g?.keep === 1)).toBe(true);
  });
});

describe('dead-code', () => {
  it('drops what nobody reads, and keeps inputs and caches', () => {
    const b = graphBuilder('layer');
    const x = b.param('x', tensor('f32', 'T', 4), { kind: 'input' });
    const cache = b.param('cache', tensor('f32', 'cap', 4), { kind: 'state' });
    const w = b.param('w', tensor('f32', 4, 4), weight(4));
    b.add('cache_append', { x, cache }, {});
    b.add('act', { x: b.add('linear', { x, weight: w }, { epilogue: { kind: 'none' }, scale: 1 }).y }, { activation: 'relu' });
    const { graph, events } = apply(b.finish({ y: b.add('act', { x }, { activation: 'silu' }).y }), [deadCode]);
    expect(text(graph)).toMatchInlineSnapshot(`
      "cache=%cache_append: f32[cap, 4] = cache_append(x=%x, cache=%cache)
      y=%act_1: f32[T, 4] = act(x=%x) {"activation":"silu"}"
    `);
    expect(graph.params.map((p) => p.name)).toEqual(['x', 'cache']);
    expect(events.map((e) => e.where)).toEqual(['linear %linear', 'act %act', 'param w']);
  });
});
