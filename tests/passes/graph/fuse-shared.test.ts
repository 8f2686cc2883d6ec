import { describe, expect, it } from 'vitest';
import { fuseActivation } from '../../../src/passes/graph/fuse-activation.ts';
import { fuseGather } from '../../../src/passes/graph/fuse-gather.ts';
import { fuseGateUp } from '../../../src/passes/graph/fuse-gate-up.ts';
import { fuseShared } from '../../../src/passes/graph/fuse-shared.ts';
import { plan } from '../../../src/passes/graph/plan.ts';
import { WEBGPU_BASELINE } from '../../../src/target/types.ts';
import { layer, moe, shared, swiglu, twoMatrix } from '../../lower/specs.ts';
import { apply, graphOf, options, opsOf, PREFILL, refusals, text } from './support.ts';

const before = [plan, fuseGather, fuseGateUp, fuseActivation];
const all = [...before, fuseShared];
const spec = (gate: 'none' | 'sigmoid' = 'none') => layer('t', 4, moe(4, 2, swiglu(3), {}, shared(1, 5, gate)));

describe('fuse-shared', () => {
  it('runs both products beside the routed ones and adds in the combine', () => {
    const { graph } = apply(graphOf(spec()), before);
    expect(text(graph)).toMatchInlineSnapshot(`
      "y=%linear: f32[T, 4] = linear(x=%x, weight=%router.weight)
      weights=%route.weights: f32[T, 2], ids=%route.ids: u32[T, 2] = moe.route(logits=%linear) {"experts":4,"slots":2,"score":"softmax","select":{"kind":"top-k"},"weights":"scores"}
      plan=%plan: plan(4, 2, direct, 1) = moe.plan(ids=%route.ids) {"experts":4,"slots":2,"mode":"direct","tileRows":1}
      y=%glu: f32[P, 3] = moe.grouped_linear(x=%x, plan=%plan, ids=%route.ids, weight=%experts.gate_up.weight) {"gather":true,"epilogue":{"kind":"glu","activation":"silu"}}
      y=%grouped_linear_2: f32[P, 4] = moe.grouped_linear(x=%glu, plan=%plan, ids=%route.ids, weight=%experts.down.weight)
      y=%combine: f32[T, 4] = moe.combine(x=%grouped_linear_2, plan=%plan, ids=%route.ids, weights=%route.weights) {"slots":2}
      y=%glu_1: f32[T, 5] = linear(x=%x, weight=%shared.gate_up.weight) {"epilogue":{"kind":"glu","activation":"silu"}}
      y=%linear_3: f32[T, 4] = linear(x=%glu_1, weight=%shared.down.weight)
      y=%add: f32[T, 4] = add(a=%combine, b=%linear_3)"
    `);
    expect(text(apply(graph, [fuseShared]).graph)).toMatchInlineSnapshot(`
      "y=%linear: f32[T, 4] = linear(x=%x, weight=%router.weight)
      weights=%route.weights: f32[T, 2], ids=%route.ids: u32[T, 2] = moe.route(logits=%linear) {"experts":4,"slots":2,"score":"softmax","select":{"kind":"top-k"},"weights":"scores"}
      plan=%plan: plan(4, 2, direct, 1) = moe.plan(ids=%route.ids) {"experts":4,"slots":2,"mode":"direct","tileRows":1}
      y=%glu: f32[P, 3], shared=%glu_1: f32[T, 5] = moe.grouped_linear(x=%x, plan=%plan, ids=%route.ids, weight=%experts.gate_up.weight, sharedWeight=%shared.gate_up.weight) {"gather":true,"epilogue":{"kind":"glu","activation":"silu"}}
      y=%grouped_linear_2: f32[P, 4], shared=%linear_3: f32[T, 4] = moe.grouped_linear(x=%glu, plan=%plan, ids=%route.ids, weight=%experts.down.weight, sharedX=%glu_1, sharedWeight=%shared.down.weight)
      y=%add: f32[T, 4] = moe.combine(x=%grouped_linear_2, plan=%plan, ids=%route.ids, weights=%route.weights, shared=%linear_3) {"slots":2}"
    `);
  });

  it('takes the gate into the combine', () => {
    const { graph } = apply(graphOf(spec('sigmoid')), all);
    expect(opsOf(graph)).toBe('linear route plan grouped_linear grouped_linear linear combine');
    expect(Object.keys(graph.nodes.at(-1)?.ins ?? {})).toEqual(['x', 'plan', 'ids', 'weights', 'shared', 'sharedGate']);
  });

  it('copies no weight', () => {
    const count = (g: ReturnType<typeof graphOf>): number => g.params.flatMap((p) => (p.role.kind === 'weight' ? p.role.parts : [])).length;
    const graph = graphOf(spec());
    expect(count(apply(graph, all).graph)).toBe(count(graph));
  });

  it('refuses another activation, once per product', () => {
    const other = layer('t', 4, moe(4, 2, swiglu(3), {}, { count: 1, gate: 'none', ffn: twoMatrix(5, 'relu') }));
    const passed = apply(graphOf(other), all, PREFILL);
    expect(refusals(passed)).toMatchInlineSnapshot(`
      [
        "linear %act: its epilogue is not that of the routed product",
      ]
    `);
    expect(passed.graph.nodes.filter((n) => n.op === 'moe.grouped_linear' && n.ins.sharedWeight !== undefined)).toHaveLength(1);
  });

  it('runs beside a split bank, but not with a split weight of its own', () => {
    // The shared gate and up rows are 10 x 4 in f32, the down rows 4 x 5; one expert has 96 and 48 bytes.
    const limit = (maxBindingBytes: number) => options({ maxTokens: undefined, caps: { ...WEBGPU_BASELINE, maxBindingBytes } });
    expect(opsOf(apply(graphOf(spec()), all, limit(160)).graph)).toBe('linear route plan grouped_linear grouped_linear combine');
    expect(refusals(apply(graphOf(spec()), all, limit(159))).length).toBeGreaterThan(0);
  });

  it('counts bindings: biases on both sides do not fit beside a sorted plan', () => {
    const biased = swiglu(3, { bias: true });
    const both = layer('t', 4, moe(4, 2, biased, {}, { count: 1, gate: 'none', ffn: biased }));
    const passed = apply(graphOf(both), all, PREFILL);
    expect(refusals(passed)).toMatchInlineSnapshot(`
      [
        "linear %linear_3 beside moe.grouped_linear %grouped_linear_2: it would bind 9 buffers, the target binds at most 8",
      ]
    `);
  });

  it('does not take a residual for shared experts', () => {
    const passed = apply(graphOf(layer('t', 4, moe(4, 2, swiglu(3)), { residual: true })), all);
    expect(opsOf(passed.graph)).toBe('linear route plan grouped_linear grouped_linear combine add');
  });
});
