import { describe, expect, it } from 'vitest';
import { fuseRouter } from '../../../src/passes/graph/fuse-router.ts';
import { WEBGPU_BASELINE } from '../../../src/target/types.ts';
import { layer, moe, shared, swiglu, twoMatrix } from '../../lower/specs.ts';
import { apply, graphOf, options, opsOf, refusals, text } from './support.ts';

const RMS = { kind: 'rms', eps: 1e-6, bias: false } as const;
const plain = moe(4, 2, twoMatrix(3, 'relu'));

describe('fuse-router', () => {
  it('norm, product and choice become one node; experts read the normalised rows it gives', () => {
    const graph = graphOf(layer('t', 4, plain, { norm: RMS }));
    expect(text(graph)).toMatchInlineSnapshot(`
      "y=%norm: f32[T, 4] = norm(x=%x, weight=%norm.weight) {"kind":"rms","eps":0.000001,"groups":1}
      y=%linear: f32[T, 4] = linear(x=%norm, weight=%router.weight)
      weights=%route.weights: f32[T, 2], ids=%route.ids: u32[T, 2] = moe.route(logits=%linear) {"experts":4,"slots":2,"score":"softmax","select":{"kind":"top-k"},"weights":"scores"}
      plan=%plan: plan(4, 2, direct, 1) = moe.plan(ids=%route.ids) {"experts":4,"slots":2,"mode":"direct","tileRows":1}
      y=%permute: f32[P, 4] = moe.permute(x=%norm, plan=%plan)
      y=%grouped_linear: f32[P, 3] = moe.grouped_linear(x=%permute, plan=%plan, ids=%route.ids, weight=%experts.in.weight)
      y=%act: f32[P, 3] = act(x=%grouped_linear) {"activation":"relu"}
      y=%grouped_linear_1: f32[P, 4] = moe.grouped_linear(x=%act, plan=%plan, ids=%route.ids, weight=%experts.out.weight)
      y=%combine: f32[T, 4] = moe.combine(x=%grouped_linear_1, plan=%plan, ids=%route.ids, weights=%route.weights) {"slots":2}"
    `);
    expect(text(apply(graph, [fuseRouter]).graph)).toMatchInlineSnapshot(`
      "weights=%route.weights: f32[T, 2], ids=%route.ids: u32[T, 2], xn=%norm: f32[T, 4] = moe.route(x=%x, normWeight=%norm.weight, gate=%router.weight) {"experts":4,"slots":2,"score":"softmax","select":{"kind":"top-k"},"weights":"scores","norm":{"kind":"rms","eps":0.000001}}
      plan=%plan: plan(4, 2, direct, 1) = moe.plan(ids=%route.ids) {"experts":4,"slots":2,"mode":"direct","tileRows":1}
      y=%permute: f32[P, 4] = moe.permute(x=%norm, plan=%plan)
      y=%grouped_linear: f32[P, 3] = moe.grouped_linear(x=%permute, plan=%plan, ids=%route.ids, weight=%experts.in.weight)
      y=%act: f32[P, 3] = act(x=%grouped_linear) {"activation":"relu"}
      y=%grouped_linear_1: f32[P, 4] = moe.grouped_linear(x=%act, plan=%plan, ids=%route.ids, weight=%experts.out.weight)
      y=%combine: f32[T, 4] = moe.combine(x=%grouped_linear_1, plan=%plan, ids=%route.ids, weights=%route.weights) {"slots":2}"
    `);
  });

  it('without a norm the hidden state itself is routed', () => {
    const { graph } = apply(graphOf(layer('t', 4, plain)), [fuseRouter]);
    expect(graph.nodes[0]?.op).toBe('moe.route');
    expect(graph.nodes[0]?.outs).not.toHaveProperty('xn');
  });

  it('takes the gate of the shared experts along', () => {
    const spec = layer('t', 4, moe(4, 2, twoMatrix(3, 'relu'), { logitBias: true }, shared(1, 5, 'sigmoid')));
    const { graph } = apply(graphOf(spec), [fuseRouter]);
    const route = graph.nodes.find((n) => n.op === 'moe.route');
    expect(Object.keys(route?.ins ?? {})).toEqual(['x', 'gate', 'gateBias', 'sharedGate']);
    expect(graph.nodes.find((n) => n.op === 'gate_mul')?.ins).toMatchObject({ gate: route?.outs.gate });
  });

  it('leaves out what would bind too many buffers, and says so', () => {
    const spec = layer('t', 4, moe(4, 2, swiglu(3), { select: { kind: 'hash', table: 'table' } }), { norm: RMS, vocab: 9 });
    const passed = apply(graphOf(spec), [fuseRouter]);
    expect(opsOf(passed.graph)).toMatch(/^norm route /);
    expect(refusals(passed)).toMatchInlineSnapshot(`
      [
        "norm %norm runs before the logits: it would bind 9 buffers, the target binds at most 8",
      ]
    `);
    const more = { ...WEBGPU_BASELINE, maxBindings: 10 };
    expect(opsOf(apply(graphOf(spec), [fuseRouter], options({ caps: more })).graph)).toMatch(/^route /);
  });

  it('refuses logits that somebody else reads', () => {
    const graph = graphOf(layer('t', 4, plain));
    const logits = graph.nodes.find((n) => n.op === 'moe.route')?.ins.logits;
    if (logits === undefined) throw new Error('no logits');
    const passed = apply({ ...graph, results: { ...graph.results, logits } }, [fuseRouter]);
    expect(opsOf(passed.graph)).toBe(opsOf(graph));
    expect(refusals(passed)).toEqual([`something else reads the logits %${logits.id}`]);
  });

  it('leaves a matrix alone that one binding cannot hold', () => {
    const graph = graphOf(layer('t', 4, plain));
    const caps = { ...WEBGPU_BASELINE, maxBindingBytes: 63 };
    const passed = apply(graph, [fuseRouter], options({ caps }));
    expect(opsOf(passed.graph)).toBe(opsOf(graph));
    expect(refusals(passed)).toEqual(['the weight of linear %linear is split over several bindings']);
    expect(opsOf(apply(graph, [fuseRouter], options({ caps: { ...caps, maxBindingBytes: 64 } })).graph)).toMatch(/^route /);
  });

  it('refuses a scaled product', () => {
    const graph = graphOf(layer('t', 4, plain));
    const nodes = graph.nodes.map((n) => (n.op === 'linear' ? { ...n, attrs: { ...n.attrs, scale: 2 } } : n));
    expect(refusals(apply({ ...graph, nodes }, [fuseRouter]))).toEqual(['its logits are not a plain product']);
  });

  it('a table that needs no logits has nothing to fuse', () => {
    const spec = layer('t', 4, moe(4, 1, swiglu(3), { score: 'none', weights: 'one', select: { kind: 'hash', table: 'table' } }), {
      vocab: 9,
      norm: RMS,
    });
    expect(apply(graphOf(spec), [fuseRouter]).events).toEqual([]);
  });
});
