import { describe, expect, it } from 'vitest';
import { fuseGather } from '../../../src/passes/graph/fuse-gather.ts';
import { plan, tileRows } from '../../../src/passes/graph/plan.ts';
import { layer, moe, swiglu, twoMatrix } from '../../lower/specs.ts';
import { apply, DECODE, graphOf, opsOf, PREFILL, refusals, text } from './support.ts';

const graph = graphOf(layer('t', 4, moe(4, 2, twoMatrix(3, 'relu'))));

describe('plan', () => {
  it('sorts rows by expert in the prefill bucket', () => {
    expect(text(apply(graph, [plan], PREFILL).graph)).toMatchInlineSnapshot(`
      "y=%linear: f32[T, 4] = linear(x=%x, weight=%router.weight)
      weights=%route.weights: f32[T, 2], ids=%route.ids: u32[T, 2] = moe.route(logits=%linear) {"experts":4,"slots":2,"score":"softmax","select":{"kind":"top-k"},"weights":"scores"}
      plan=%plan_1: plan(4, 2, sorted, 32) = moe.plan(ids=%route.ids) {"experts":4,"slots":2,"mode":"sorted","tileRows":32}
      y=%permute: f32[P, 4] = moe.permute(x=%x, plan=%plan_1)
      y=%grouped_linear: f32[P, 3] = moe.grouped_linear(x=%permute, plan=%plan_1, ids=%route.ids, weight=%experts.in.weight)
      y=%act: f32[P, 3] = act(x=%grouped_linear) {"activation":"relu"}
      y=%grouped_linear_1: f32[P, 4] = moe.grouped_linear(x=%act, plan=%plan_1, ids=%route.ids, weight=%experts.out.weight)
      y=%combine: f32[T, 4] = moe.combine(x=%grouped_linear_1, plan=%plan_1, ids=%route.ids, weights=%route.weights) {"slots":2}"
    `);
  });

  it('is refused in the decode bucket', () => {
    const passed = apply(graph, [plan], DECODE);
    expect(passed.graph).toEqual(graph);
    expect(refusals(passed)).toMatchInlineSnapshot(`
      [
        "at most 8 tokens: row = token × slots + slot needs no kernel",
      ]
    `);
  });

  it('fires once', () => {
    const once = apply(graph, [plan], PREFILL);
    expect(apply(once.graph, [plan], PREFILL)).toEqual({ graph: once.graph, events: [] });
    expect(once.events).toHaveLength(1);
  });

  it('has tiles that a typical call fills', () => {
    expect(tileRows(8, 2)).toBe(32);
    expect(tileRows(64, 6)).toBe(32);
    expect(tileRows(256, 8)).toBe(16);
    expect(tileRows(512, 1)).toBe(8);
    expect(tileRows(1, 1)).toBe(32);
  });
});

describe('fuse-gather', () => {
  it('reads rows through the plan', () => {
    expect(text(apply(graph, [fuseGather]).graph)).toMatchInlineSnapshot(`
      "y=%linear: f32[T, 4] = linear(x=%x, weight=%router.weight)
      weights=%route.weights: f32[T, 2], ids=%route.ids: u32[T, 2] = moe.route(logits=%linear) {"experts":4,"slots":2,"score":"softmax","select":{"kind":"top-k"},"weights":"scores"}
      plan=%plan: plan(4, 2, direct, 1) = moe.plan(ids=%route.ids) {"experts":4,"slots":2,"mode":"direct","tileRows":1}
      y=%grouped_linear: f32[P, 3] = moe.grouped_linear(x=%x, plan=%plan, ids=%route.ids, weight=%experts.in.weight) {"gather":true}
      y=%act: f32[P, 3] = act(x=%grouped_linear) {"activation":"relu"}
      y=%grouped_linear_1: f32[P, 4] = moe.grouped_linear(x=%act, plan=%plan, ids=%route.ids, weight=%experts.out.weight)
      y=%combine: f32[T, 4] = moe.combine(x=%grouped_linear_1, plan=%plan, ids=%route.ids, weights=%route.weights) {"slots":2}"
    `);
  });

  it('serves gate and up product alike', () => {
    const passed = apply(graphOf(layer('t', 4, moe(4, 2, swiglu(3)))), [fuseGather], PREFILL);
    expect(opsOf(passed.graph)).not.toContain('permute');
    expect(passed.graph.nodes.filter((n) => n.op === 'moe.grouped_linear' && n.attrs.gather)).toHaveLength(2);
  });

  it('refuses rows that something else reads', () => {
    const rows = graph.nodes.find((n) => n.op === 'moe.permute')?.outs.y;
    if (rows === undefined) throw new Error('no rows');
    const passed = apply({ ...graph, results: { ...graph.results, rows } }, [fuseGather]);
    expect(opsOf(passed.graph)).toBe(opsOf(graph));
    expect(refusals(passed)).toEqual(['something else than an expert product reads the permuted rows']);
  });
});
