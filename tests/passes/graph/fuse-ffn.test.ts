import { describe, expect, it } from 'vitest';
import { fuseActivation } from '../../../src/passes/graph/fuse-activation.ts';
import { fuseGateUp } from '../../../src/passes/graph/fuse-gate-up.ts';
import { WEBGPU_BASELINE } from '../../../src/target/types.ts';
import { layer, moe, shared, swiglu, twoMatrix } from '../../lower/specs.ts';
import { apply, graphOf, options, opsOf, refusals, text } from './support.ts';

const dense = (bias = false) => graphOf(layer('t', 4, { kind: 'dense', ffn: swiglu(3, { bias }) }));
const experts = graphOf(layer('t', 4, moe(4, 2, swiglu(3))));

describe('fuse-gate-up', () => {
  it('two products become one of both widths', () => {
    expect(text(dense())).toMatchInlineSnapshot(`
      "y=%linear: f32[T, 3] = linear(x=%x, weight=%ffn.gate.weight)
      y=%linear_1: f32[T, 3] = linear(x=%x, weight=%ffn.up.weight)
      y=%glu: f32[T, 3] = glu(gate=%linear, up=%linear_1) {"activation":"silu"}
      y=%linear_2: f32[T, 4] = linear(x=%glu, weight=%ffn.down.weight)"
    `);
    expect(text(apply(dense(), [fuseGateUp]).graph)).toMatchInlineSnapshot(`
      "y=%linear_3: f32[T, 6] = linear(x=%x, weight=%ffn.gate_up.weight)
      y=%linear: f32[T, 3] = slice_heads(x=%linear_3) {"heads":1,"stride":6,"start":0,"length":3}
      y=%linear_1: f32[T, 3] = slice_heads(x=%linear_3) {"heads":1,"stride":6,"start":3,"length":3}
      y=%glu: f32[T, 3] = glu(gate=%linear, up=%linear_1) {"activation":"silu"}
      y=%linear_2: f32[T, 4] = linear(x=%glu, weight=%ffn.down.weight)"
    `);
  });

  it('joins weights and biases, gate rows first, and keeps nothing of the two', () => {
    const { graph } = apply(dense(true), [fuseGateUp]);
    const weights = graph.params.flatMap(({ name, role, value }) =>
      role.kind === 'weight' && value.type.kind === 'tensor'
        ? [`${name} [${value.type.shape.join(', ')}] ${role.parts.map((p) => p.rows).join('+')}`]
        : [],
    );
    expect(weights).toMatchInlineSnapshot(`
      [
        "ffn.gate_up.weight [6, 4] 3+3",
        "ffn.gate_up.bias [6] 3+3",
        "ffn.down.weight [4, 3] 4",
        "ffn.down.bias [4] 4",
      ]
    `);
  });

  it('joins the banks of experts', () => {
    const { graph } = apply(experts, [fuseGateUp]);
    const bank = graph.params.find((p) => p.name.includes('gate_up'));
    expect(bank?.value.type).toMatchObject({ shape: [4, 6, 4] });
    expect(opsOf(graph)).toBe('linear route plan permute grouped_linear slice_heads slice_heads glu grouped_linear combine');
  });

  it('asks for fuse-activation', () => {
    const passed = apply(dense(), [fuseGateUp], options({ disabled: new Set(['fuse-activation']) }));
    expect(passed.graph).toEqual(dense());
    expect(refusals(passed)).toEqual(['without fuse-activation the halves would be cut apart again']);
  });

  it('refuses a product that something else reads', () => {
    const graph = dense();
    const gate = graph.nodes.find((n) => n.op === 'glu')?.ins.gate;
    if (gate === undefined) throw new Error('no gate');
    expect(refusals(apply({ ...graph, results: { ...graph.results, gate } }, [fuseGateUp]))).toEqual([
      'something else reads the gate or the up product',
    ]);
  });

  it('refuses weights that are read twice', () => {
    const graph = dense();
    const [gate, up] = graph.nodes.filter((n) => n.op === 'linear');
    if (gate?.op !== 'linear' || up?.op !== 'linear') throw new Error('no products');
    const nodes = graph.nodes.map((n) => (n === up ? { ...up, ins: { ...up.ins, weight: gate.ins.weight } } : n));
    expect(refusals(apply({ ...graph, nodes }, [fuseGateUp]))[0]).toMatch(/is read elsewhere too/);
  });

  it('refuses to make a weight that no binding holds, but splits banks by expert', () => {
    // A matrix [3, 4] is 48 bytes, both of an expert 96, a bank of four gate matrices 192.
    const limit = (maxBindingBytes: number) => options({ caps: { ...WEBGPU_BASELINE, maxBindingBytes } });
    expect(refusals(apply(dense(), [fuseGateUp], limit(95)))).toEqual(['together the weights are larger than one binding']);
    expect(refusals(apply(dense(), [fuseGateUp], limit(96)))).toEqual([]);
    expect(refusals(apply(experts, [fuseGateUp], limit(96)))).toEqual([]);
    expect(refusals(apply(experts, [fuseGateUp], limit(95)))).toEqual(['together the weights of one expert are larger than one binding']);
  });
});

describe('fuse-activation', () => {
  it('runs a gated unit on the accumulators', () => {
    expect(text(apply(dense(), [fuseGateUp, fuseActivation]).graph)).toMatchInlineSnapshot(`
      "y=%glu: f32[T, 3] = linear(x=%x, weight=%ffn.gate_up.weight) {"epilogue":{"kind":"glu","activation":"silu"}}
      y=%linear_2: f32[T, 4] = linear(x=%glu, weight=%ffn.down.weight)"
    `);
  });

  it('runs an activation on the accumulators', () => {
    const graph = graphOf(layer('t', 4, { kind: 'dense', ffn: twoMatrix(3, 'gelu-tanh', true) }));
    expect(text(graph)).toMatchInlineSnapshot(`
      "y=%linear: f32[T, 3] = linear(x=%x, weight=%ffn.in.weight, bias=%ffn.in.bias)
      y=%act: f32[T, 3] = act(x=%linear) {"activation":"gelu-tanh"}
      y=%linear_1: f32[T, 4] = linear(x=%act, weight=%ffn.out.weight, bias=%ffn.out.bias)"
    `);
    expect(text(apply(graph, [fuseActivation]).graph)).toMatchInlineSnapshot(`
      "y=%act: f32[T, 3] = linear(x=%x, weight=%ffn.in.weight, bias=%ffn.in.bias) {"epilogue":{"kind":"act","activation":"gelu-tanh"}}
      y=%linear_1: f32[T, 4] = linear(x=%act, weight=%ffn.out.weight, bias=%ffn.out.bias)"
    `);
  });

  it('keeps the clamp', () => {
    const clamp = { limit: 7, alpha: 1.702, upOffset: 1 };
    const graph = graphOf(layer('t', 4, moe(4, 2, swiglu(3, { clamp }), {}, shared(1, 3))));
    const fused = apply(graph, [fuseGateUp, fuseActivation]).graph.nodes.flatMap((n) =>
      n.op === 'moe.grouped_linear' ? [n.attrs.epilogue] : [],
    );
    expect(fused).toEqual([{ kind: 'glu', activation: 'silu', clamp }, { kind: 'none' }]);
  });

  it('refuses two products', () => {
    expect(refusals(apply(dense(), [fuseActivation]))).toEqual(['gate and up are not the halves of one product']);
  });

  it('refuses a product that something else reads, or that does more', () => {
    const graph = graphOf(layer('t', 4, { kind: 'dense', ffn: twoMatrix(3, 'relu') }));
    const x = graph.nodes.find((n) => n.op === 'act')?.ins.x;
    if (x === undefined) throw new Error('no activation');
    expect(refusals(apply({ ...graph, results: { ...graph.results, x } }, [fuseActivation]))[0]).toMatch(/^something else reads/);
    const nodes = graph.nodes.map((n) => (n.op === 'linear' ? { ...n, attrs: { ...n.attrs, scale: 2 } } : n));
    expect(refusals(apply({ ...graph, nodes }, [fuseActivation]))[0]).toMatch(/does more than multiply$/);
  });
});
