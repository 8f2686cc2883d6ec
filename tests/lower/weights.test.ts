/** Every layout of released checkpoints gives the same canonical weights; written out here by hand, index by index. */
import { describe, expect, it } from 'vitest';
import { assembleWeight, type Checkpoint, type CheckpointTensor } from './assemble.ts';
import type { Graph, GraphParam } from '../../src/ir/graph/types.ts';
import { lowerToGraphs } from '../../src/lower/model-to-graph.ts';
import type { Ffn, LayerFfn, LayerSpec, MoeLayerFfn, ModelSpec } from '../../src/model/types.ts';
import { numbers } from '../ir/graph/run.ts';
import { layer, MODEL_CASES, moe, shared, swiglu, twoMatrix } from './specs.ts';

const E = 3;
const D = 4;
const M = 5;

type Tensors = Record<string, CheckpointTensor>;
type At = (...index: number[]) => number;

/** A tensor whose elements are `value` of their index. */
function filled(shape: readonly number[], value: At): CheckpointTensor {
  const data = new Float64Array(shape.reduce((n, dim) => n * dim, 1));
  const index = shape.map(() => 0);
  for (let i = 0; i < data.length; i++) {
    data[i] = value(...index);
    for (let axis = shape.length - 1; axis >= 0; axis--) {
      index[axis] = (index[axis] ?? 0) + 1;
      if ((index[axis] ?? 0) < (shape[axis] ?? 0)) break;
      index[axis] = 0;
    }
  }
  return { shape, data };
}

/** Canonical element of a bank or matrix by the leaf of its name. */
const element = (leaf: string, width: number, depth: number): At => {
  const all = numbers(leaf, E * width * depth);
  return (e = 0, n = 0, k = 0) => all[(e * width + n) * depth + k] ?? NaN;
};
const gate = element('gate', M, D);
const up = element('up', M, D);
const down = element('down', D, M);
const gateBias = element('gateBias', M, 1);
const upBias = element('upBias', M, 1);
const downBias = element('downBias', D, 1);
const routerAt = element('router', E, D);

const perExpert = (write: (e: number) => Tensors): Tensors => Object.assign({}, ...Array.from({ length: E }, (_, e) => write(e)));

/** Gate and up of an expert's inner row j in a fused tensor of 2 · M rows. */
const fusedAt =
  (fused: Ffn['fused'], g: At, u: At): At =>
  (e = 0, j = 0, k = 0) =>
    fused === 'interleaved' ? (j % 2 === 0 ? g : u)(e, Math.floor(j / 2), k) : j < M ? g(e, j, k) : u(e, j - M, k);

const layouts: Readonly<Record<string, (at: string, fused: Ffn['fused']) => Tensors>> = {
  'A per expert gate/up/down': (at) =>
    perExpert((e) => ({
      [`${at}experts.${e}.gate_proj.weight`]: filled([M, D], (n = 0, k = 0) => gate(e, n, k)),
      [`${at}experts.${e}.up_proj.weight`]: filled([M, D], (n = 0, k = 0) => up(e, n, k)),
      [`${at}experts.${e}.down_proj.weight`]: filled([D, M], (n = 0, k = 0) => down(e, n, k)),
    })),
  'B per expert w1/w3/w2': (at) =>
    perExpert((e) => ({
      [`${at}experts.${e}.w1.weight`]: filled([M, D], (n = 0, k = 0) => gate(e, n, k)),
      [`${at}experts.${e}.w3.weight`]: filled([M, D], (n = 0, k = 0) => up(e, n, k)),
      [`${at}experts.${e}.w2.weight`]: filled([D, M], (n = 0, k = 0) => down(e, n, k)),
    })),
  'C fused [E, out, in]': (at) => ({
    [`${at}input_linear.weight`]: filled([E, 2 * M, D], fusedAt('halves', gate, up)),
    [`${at}output_linear.weight`]: filled([E, D, M], down),
  }),
  'D fused [E, in, out]': (at, fused) => ({
    [`${at}experts.gate_up_proj`]: filled([E, D, 2 * M], (e = 0, k = 0, j = 0) => fusedAt(fused, gate, up)(e, j, k)),
    [`${at}experts.down_proj`]: filled([E, M, D], (e = 0, k = 0, n = 0) => down(e, n, k)),
  }),
  'E stacked': (at) => ({
    [`${at}experts.mlp.w1`]: filled([E * M, D], (r = 0, k = 0) => gate(Math.floor(r / M), r % M, k)),
    [`${at}experts.mlp.v1`]: filled([E * M, D], (r = 0, k = 0) => up(Math.floor(r / M), r % M, k)),
    [`${at}experts.mlp.w2`]: filled([E * M, D], (r = 0, n = 0) => down(Math.floor(r / M), n, r % M)),
  }),
  stacked: (at) => ({
    [`${at}experts.gate_proj`]: filled([E, M, D], gate),
    [`${at}experts.up_proj`]: filled([E, M, D], up),
    [`${at}experts.down_proj`]: filled([E, D, M], down),
  }),
};

const withFfn = (ffn: LayerFfn): ModelSpec => {
  const spec = MODEL_CASES['tiny_mixtral'];
  const kind = spec?.kinds[0];
  if (spec === undefined || kind === undefined) throw new Error('no spec');
  return { ...spec, hidden: D, kinds: [{ ...kind, ffn }] };
};

const sectionWith = (graphs: readonly Graph[], name: string): Graph =>
  graphs.find((g) => g.params.some((p) => p.name.endsWith(name))) ?? fail(name);
function fail(name: string): never {
  throw new Error(`no ${name}`);
}

/** Assembles the parameters whose names end so, for layer 7 of a model or for a layer alone. */
function assemble(
  graphs: readonly Graph[],
  tensors: Tensors,
  ends: string,
): { readonly param: GraphParam; readonly data: ArrayLike<number> } {
  const param = sectionWith(graphs, ends).params.find((p) => p.name.endsWith(ends)) ?? fail(ends);
  const checkpoint: Checkpoint = (name) => tensors[name];
  return { param, data: assembleWeight(param, 7, checkpoint) };
}

function expectExperts(graphs: readonly Graph[], tensors: Tensors): void {
  expect(assemble(graphs, tensors, 'experts.gate.weight').data).toEqual(filled([E, M, D], gate).data);
  expect(assemble(graphs, tensors, 'experts.up.weight').data).toEqual(filled([E, M, D], up).data);
  expect(assemble(graphs, tensors, 'experts.down.weight').data).toEqual(filled([E, D, M], down).data);
}

const bankOf = (fused: Ffn['fused']): MoeLayerFfn => moe(E, 1, swiglu(M, { fused }));
const graphsOf = (spec: LayerSpec | ModelSpec): readonly Graph[] => lowerToGraphs(spec).sections;

describe('expert banks', () => {
  it.each([
    ['A per expert gate/up/down', 'model.layers.7.mlp.'],
    ['B per expert w1/w3/w2', 'model.layers.7.block_sparse_moe.'],
    ['B per expert w1/w3/w2', 'model.layers.7.feed_forward.'],
    ['C fused [E, out, in]', 'model.layers.7.block_sparse_moe.'],
    ['D fused [E, in, out]', 'model.layers.7.mlp.'],
    ['D fused [E, in, out]', 'model.layers.7.feed_forward.'],
    ['E stacked', 'transformer.blocks.7.ffn.'],
  ])('of a model: %s at %s', (name, at) => {
    for (const fused of ['halves', 'interleaved'] as const)
      expectExperts(graphsOf(withFfn(bankOf(fused))), layouts[name]?.(at, fused) ?? {});
  });

  it.each(['A per expert gate/up/down', 'B per expert w1/w3/w2', 'C fused [E, out, in]', 'D fused [E, in, out]', 'stacked'])(
    'of a layer alone: %s',
    (name) => {
      for (const fused of ['halves', 'interleaved'] as const)
        expectExperts(graphsOf(layer('l', D, bankOf(fused))), layouts[name]?.('', fused) ?? {});
    },
  );

  it('told apart where width = hidden by the tensor beside them', () => {
    const S = 4;
    const at = element('square', S, S);
    const inner = element('inner', 2 * S, S);
    const graphs = graphsOf(layer('l', S, moe(E, 1, swiglu(S))));
    const outMajor = { 'experts.down_proj': filled([E, S, S], at), 'experts.up_proj': filled([E, S, S], inner) };
    expect(assemble(graphs, outMajor, 'experts.down.weight').data).toEqual(filled([E, S, S], at).data);
    const inMajor = {
      'experts.down_proj': filled([E, S, S], (e = 0, k = 0, n = 0) => at(e, n, k)),
      'experts.gate_up_proj': filled([E, S, 2 * S], inner),
    };
    expect(assemble(graphs, inMajor, 'experts.down.weight').data).toEqual(filled([E, S, S], at).data);
  });

  it('with biases, split or fused', () => {
    for (const fused of ['halves', 'interleaved'] as const) {
      const ffn = moe(E, 1, swiglu(M, { bias: true, fused }));
      const fusedBias = (prefix: string): Tensors => ({
        [`${prefix}experts.gate_up_proj_bias`]: filled([E, 2 * M], fusedAt(fused, gateBias, upBias)),
        [`${prefix}experts.down_proj_bias`]: filled([E, D], downBias),
      });
      const split = {
        'experts.gate_proj_bias': filled([E, M], gateBias),
        'experts.up_proj_bias': filled([E, M], upBias),
        'experts.down_proj_bias': filled([E, D], downBias),
      };
      const perTensor = perExpert((e) => ({
        [`experts.${e}.gate_proj.bias`]: filled([M], (n = 0) => gateBias(e, n)),
        [`experts.${e}.up_proj.bias`]: filled([M], (n = 0) => upBias(e, n)),
        [`experts.${e}.down_proj.bias`]: filled([D], (n = 0) => downBias(e, n)),
      }));
      const alone = graphsOf(layer('l', D, ffn));
      for (const [graphs, tensors] of [
        [graphsOf(withFfn(ffn)), fusedBias('model.layers.7.mlp.')],
        [alone, fusedBias('')],
        [alone, split],
        [alone, perTensor],
      ] as const) {
        expect(assemble(graphs, tensors, 'experts.gate.bias').data).toEqual(filled([E, M], gateBias).data);
        expect(assemble(graphs, tensors, 'experts.up.bias').data).toEqual(filled([E, M], upBias).data);
        expect(assemble(graphs, tensors, 'experts.down.bias').data).toEqual(filled([E, D], downBias).data);
      }
    }
  });

  it('of two matrices: stacked and in the names of Switch', () => {
    const graphs = graphsOf(layer('l', D, moe(E, 1, twoMatrix(M, 'relu', true))));
    const bank = {
      'experts.wi': filled([E, M, D], gate),
      'experts.wo': filled([E, D, M], down),
      'experts.bi': filled([E, M], gateBias),
      'experts.bo': filled([E, D], downBias),
    };
    const named = perExpert((e) => ({
      [`experts.expert_${e}.wi.weight`]: filled([M, D], (n = 0, k = 0) => gate(e, n, k)),
      [`experts.expert_${e}.wo.weight`]: filled([D, M], (n = 0, k = 0) => down(e, n, k)),
      [`experts.expert_${e}.wi.bias`]: filled([M], (n = 0) => gateBias(e, n)),
      [`experts.expert_${e}.wo.bias`]: filled([D], (n = 0) => downBias(e, n)),
    }));
    for (const tensors of [bank, named]) {
      expect(assemble(graphs, tensors, 'experts.in.weight').data).toEqual(filled([E, M, D], gate).data);
      expect(assemble(graphs, tensors, 'experts.out.weight').data).toEqual(filled([E, D, M], down).data);
      expect(assemble(graphs, tensors, 'experts.in.bias').data).toEqual(filled([E, M], gateBias).data);
      expect(assemble(graphs, tensors, 'experts.out.bias').data).toEqual(filled([E, D], downBias).data);
    }
  });
});

describe('routers and shared experts', () => {
  const v3 = { score: 'sigmoid', selectionBias: true, logitBias: true } as const;
  const bias = filled([E], (n = 0) => gateBias(0, n));
  const layerAt = 'model.layers.7.';

  it.each([
    'mlp.gate.weight',
    'mlp.gate.wg.weight',
    'mlp.router.weight',
    'block_sparse_moe.gate.weight',
    'block_sparse_moe.router.layer.weight',
    'feed_forward.router.weight',
  ])('router at %s', (name) => {
    const tensors = { [layerAt + name]: filled([E, D], (n = 0, k = 0) => routerAt(0, n, k)) };
    expect(assemble(graphsOf(withFfn(moe(E, 1, swiglu(M)))), tensors, 'router.weight').data).toEqual(tensors[layerAt + name]?.data);
  });

  it.each([
    ['mlp.gate.e_score_correction_bias', [E]],
    ['mlp.moe_statics.e_score_correction_bias', [1, E]],
    ['block_sparse_moe.e_score_correction_bias', [E]],
    ['feed_forward.expert_bias', [E]],
  ])('selection bias at %s %j', (name, shape) => {
    const tensors = { [layerAt + name]: { shape, data: bias.data } };
    expect(assemble(graphsOf(withFfn(moe(E, 1, swiglu(M), v3))), tensors, 'router.selection_bias').data).toEqual(bias.data);
  });

  it.each(['mlp.shared_experts.', 'mlp.shared_expert.', 'mlp.shared_mlp.', 'feed_forward.shared_expert.'])('shared experts at %s', (at) => {
    const tensors: Tensors = {
      [`${layerAt}${at}gate_proj.weight`]: filled([M, D], (n = 0, k = 0) => gate(0, n, k)),
      [`${layerAt}${at}down_proj.weight`]: filled([D, M], (n = 0, k = 0) => down(0, n, k)),
    };
    const graphs = graphsOf(withFfn(moe(E, 1, swiglu(M), {}, shared(1, M))));
    expect(assemble(graphs, tensors, 'shared.gate.weight').data).toEqual(tensors[`${layerAt}${at}gate_proj.weight`]?.data);
    expect(assemble(graphs, tensors, 'shared.down.weight').data).toEqual(tensors[`${layerAt}${at}down_proj.weight`]?.data);
  });

  it('hash tables of one column or several', () => {
    const hash = (k: number): LayerSpec =>
      layer('l', D, moe(E, k, swiglu(M), { select: { kind: 'hash', table: 'my table' }, score: 'none', weights: 'one' }), { vocab: 6 });
    const ids = Int32Array.from([0, 1, 2, 2, 1, 0]);
    for (const shape of [[6], [6, 1]])
      expect(assemble(graphsOf(hash(1)), { 'my table': { shape, data: ids } }, 'router.table').data).toEqual(ids);
    const two = Int32Array.from([...ids, ...ids]);
    expect(assemble(graphsOf(hash(2)), { 'my table': { shape: [6, 2], data: two } }, 'router.table').data).toEqual(two);
  });
});

describe('latent attention', () => {
  it('cuts kv_b_proj into key rows, transposed, and value rows of each head', () => {
    const spec = MODEL_CASES['tiny_deepseek_v2_lite'] ?? fail('spec');
    const [heads, nope, v, lora] = [4, 8, 12, 16];
    const source = numbers('kv_b', heads * (nope + v) * lora);
    const tensors = { 'model.layers.7.self_attn.kv_b_proj.weight': { shape: [heads * (nope + v), lora], data: source } };
    const at = (row: number, col: number): number => source[row * lora + col] ?? NaN;
    const graphs = graphsOf(spec);
    expect(assemble(graphs, tensors, 'attn.k_up.weight').data).toEqual(
      filled([heads, lora, nope], (h = 0, n = 0, k = 0) => at(h * (nope + v) + k, n)).data,
    );
    expect(assemble(graphs, tensors, 'attn.v_up.weight').data).toEqual(
      filled([heads, v, lora], (h = 0, n = 0, k = 0) => at(h * (nope + v) + nope + n, k)).data,
    );
  });
});

describe('what is missing', () => {
  it('is named with every place that was looked at', () => {
    const graphs = graphsOf(layer('l', D, moe(E, 1, swiglu(M))));
    expect(() => assemble(graphs, {}, 'router.weight')).toThrow(
      /router.weight: none of these tensors is in the checkpoint: gate.weight \[3, 4\], router.weight/,
    );
    const wrongShape = { 'gate.weight': filled([D, E], () => 0) };
    expect(() => assemble(graphs, wrongShape, 'router.weight')).toThrow(/none of these tensors/);
  });
});
