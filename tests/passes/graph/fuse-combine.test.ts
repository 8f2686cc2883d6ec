import { describe, expect, it } from 'vitest';
import { fuseCombine } from '../../../src/passes/graph/fuse-combine.ts';
import { optimize } from '../../../src/passes/graph/pipeline.ts';
import { WEBGPU_BASELINE } from '../../../src/target/types.ts';
import { layer, moe, shared, swiglu, twoMatrix } from '../../lower/specs.ts';
import { apply, DECODE, graphOf, options, opsOf, PREFILL, refusals, text } from './support.ts';

const residual = graphOf(layer('t', 4, moe(4, 2, twoMatrix(3, 'relu')), { residual: true }));

describe('fuse-combine', () => {
  it('prefill: the combine adds the residual', () => {
    const passed = apply(residual, [fuseCombine], PREFILL);
    expect(text(residual)).toMatchInlineSnapshot(`
      "y=%linear: f32[T, 4] = linear(x=%x, weight=%router.weight)
      weights=%route.weights: f32[T, 2], ids=%route.ids: u32[T, 2] = moe.route(logits=%linear) {"experts":4,"slots":2,"score":"softmax","select":{"kind":"top-k"},"weights":"scores"}
      plan=%plan: plan(4, 2, direct, 1) = moe.plan(ids=%route.ids) {"experts":4,"slots":2,"mode":"direct","tileRows":1}
      y=%permute: f32[P, 4] = moe.permute(x=%x, plan=%plan)
      y=%grouped_linear: f32[P, 3] = moe.grouped_linear(x=%permute, plan=%plan, ids=%route.ids, weight=%experts.in.weight)
      y=%act: f32[P, 3] = act(x=%grouped_linear) {"activation":"relu"}
      y=%grouped_linear_1: f32[P, 4] = moe.grouped_linear(x=%act, plan=%plan, ids=%route.ids, weight=%experts.out.weight)
      y=%combine: f32[T, 4] = moe.combine(x=%grouped_linear_1, plan=%plan, ids=%route.ids, weights=%route.weights) {"slots":2}
      y=%add: f32[T, 4] = add(a=%x, b=%combine)"
    `);
    expect(text(passed.graph)).toMatchInlineSnapshot(`
      "y=%linear: f32[T, 4] = linear(x=%x, weight=%router.weight)
      weights=%route.weights: f32[T, 2], ids=%route.ids: u32[T, 2] = moe.route(logits=%linear) {"experts":4,"slots":2,"score":"softmax","select":{"kind":"top-k"},"weights":"scores"}
      plan=%plan: plan(4, 2, direct, 1) = moe.plan(ids=%route.ids) {"experts":4,"slots":2,"mode":"direct","tileRows":1}
      y=%permute: f32[P, 4] = moe.permute(x=%x, plan=%plan)
      y=%grouped_linear: f32[P, 3] = moe.grouped_linear(x=%permute, plan=%plan, ids=%route.ids, weight=%experts.in.weight)
      y=%act: f32[P, 3] = act(x=%grouped_linear) {"activation":"relu"}
      y=%grouped_linear_1: f32[P, 4] = moe.grouped_linear(x=%act, plan=%plan, ids=%route.ids, weight=%experts.out.weight)
      y=%add: f32[T, 4] = moe.combine(x=%grouped_linear_1, plan=%plan, ids=%route.ids, weights=%route.weights, residual=%x) {"slots":2}"
    `);
    expect(refusals(passed)).toMatchInlineSnapshot(`
      [
        "stays after the last product: rows lie sorted by expert here, those of one token in several tiles",
      ]
    `);
  });

  it('decode: the last product combines and adds the residual', () => {
    expect(text(apply(residual, [fuseCombine], DECODE).graph)).toMatchInlineSnapshot(`
      "y=%linear: f32[T, 4] = linear(x=%x, weight=%router.weight)
      weights=%route.weights: f32[T, 2], ids=%route.ids: u32[T, 2] = moe.route(logits=%linear) {"experts":4,"slots":2,"score":"softmax","select":{"kind":"top-k"},"weights":"scores"}
      plan=%plan: plan(4, 2, direct, 1) = moe.plan(ids=%route.ids) {"experts":4,"slots":2,"mode":"direct","tileRows":1}
      y=%permute: f32[P, 4] = moe.permute(x=%x, plan=%plan)
      y=%grouped_linear: f32[P, 3] = moe.grouped_linear(x=%permute, plan=%plan, ids=%route.ids, weight=%experts.in.weight)
      y=%act: f32[P, 3] = act(x=%grouped_linear) {"activation":"relu"}
      y=%add: f32[T, 4] = moe.grouped_linear(x=%act, plan=%plan, ids=%route.ids, weight=%experts.out.weight, routeWeights=%route.weights, residual=%x) {"combine":true,"weighted":true}"
    `);
  });

  it('a dense product adds the residual', () => {
    const graph = graphOf(layer('t', 4, { kind: 'dense', ffn: twoMatrix(3, 'relu') }, { residual: true }));
    expect(opsOf(apply(graph, [fuseCombine]).graph)).toBe('linear act linear');
  });

  it('refuses a scaled sum on the wrong side', () => {
    const nodes = residual.nodes.map((n) => (n.op === 'add' ? { ...n, ins: { a: n.ins.b, b: n.ins.a }, attrs: { scale: 2 } } : n));
    const passed = apply({ ...residual, nodes }, [fuseCombine], PREFILL);
    expect(opsOf(passed.graph)).toBe(opsOf(residual));
    expect(refusals(passed).join()).toMatch(/the sum scales %x/);
  });

  it('refuses a routed output that something else reads', () => {
    const combined = residual.nodes.find((n) => n.op === 'moe.combine')?.outs.y;
    if (combined === undefined) throw new Error('no combine');
    const passed = apply({ ...residual, results: { ...residual.results, combined } }, [fuseCombine], PREFILL);
    expect(refusals(passed).join()).toMatch(/something else reads moe.combine/);
  });

  it('decode: refuses a split bank and says why', () => {
    const caps = { ...WEBGPU_BASELINE, maxBindingBytes: 96 };
    const passed = apply(residual, [fuseCombine], options({ caps }));
    expect(opsOf(passed.graph)).toBe('linear route plan permute grouped_linear act grouped_linear combine');
    expect(refusals(passed)).toMatchInlineSnapshot(`
      [
        "the bank of moe.grouped_linear %grouped_linear_1 is split over several bindings, so no dispatch sees all slots of a token",
      ]
    `);
  });

  it('decode: input weights stay with the first product', () => {
    const spec = layer('t', 4, moe(4, 1, swiglu(3), { score: 'sigmoid', applyTo: 'input' }));
    const { graph } = optimize(graphOf(spec), DECODE);
    const [first, last] = graph.nodes.filter((n) => n.op === 'moe.grouped_linear');
    expect(first?.ins).toHaveProperty('routeWeights');
    expect(last?.ins).not.toHaveProperty('routeWeights');
    expect(last?.attrs).toMatchObject({ combine: true, weighted: false });
  });

  it('decode: the residual stays out where it would bind one buffer too many', () => {
    const spec = layer('t', 4, moe(4, 2, swiglu(3), {}, shared(1, 5, 'sigmoid')), { residual: true });
    const { graph, report } = optimize(graphOf(spec), DECODE);
    expect(opsOf(graph)).toBe('route plan grouped_linear grouped_linear add');
    expect(report.flatMap((e) => (e.pass === 'fuse-combine' && e.kind === 'refused' ? [e.what] : []))).toMatchInlineSnapshot(`
      [
        "into moe.grouped_linear %add: it would bind 9 buffers, the target binds at most 8",
      ]
    `);
  });

  it('decode: shared rows that cannot be made beside the routed ones are added as the residual', () => {
    const biased = swiglu(3, { bias: true });
    const spec = layer('t', 4, moe(4, 2, biased, {}, { count: 1, gate: 'none', ffn: biased }));
    const { graph } = optimize(graphOf(spec), DECODE);
    expect(opsOf(graph)).toBe('route plan grouped_linear linear grouped_linear');
  });
});
