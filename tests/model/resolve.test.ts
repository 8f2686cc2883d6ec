/** What a spec means once resolved. */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import type { HeadsAttention, LatentAttention, MoeLayerFfn } from '../../src/model/types.ts';
import { layerOf, model, modelOf, moe, specOf } from './helpers.ts';

const experts = (body: string, head?: string): MoeLayerFfn => {
  const { ffn } = layerOf(moe(body, head));
  if (ffn.kind !== 'moe') throw new Error('dense');
  return ffn;
};
const heads = (clauses: string): HeadsAttention => {
  const a = modelOf(model(`depth 1 ffn swiglu 8 attention ${clauses}`)).kinds[0]?.attention;
  if (a?.kind !== 'heads') throw new Error('not heads');
  return a;
};
const latent = (clauses: string): LatentAttention => {
  const a = modelOf(model(`depth 1 ffn swiglu 8 attention mla { heads 4 kv-lora 16 nope 8 value 12 ${clauses} }`)).kinds[0]?.attention;
  if (a?.kind !== 'mla') throw new Error('not mla');
  return a;
};

describe('counting experts', () => {
  it('as released: routed and active leave shared ones out', () => {
    const m = experts('experts 64 of swiglu 1408 active 6 shared 2');
    expect([m.experts, m.active, m.shared?.count, m.shared?.ffn.width, m.segmentation]).toEqual([64, 6, 2, 2816, undefined]);
  });
  it('as in the paper: mN and mK count them', () => {
    const m = experts('segment m 4 of N 16 of swiglu 3412 active K 2 shared Ks 1');
    expect([m.experts, m.active, m.shared?.count, m.expert.width, m.shared?.ffn.width]).toEqual([63, 7, 1, 853, 853]);
    expect(m.segmentation).toEqual({ m: 4, n: 16, k: 2, shared: 1 });
  });
  it('`into` gives the width of the fine experts', () => {
    expect(experts('segment m 4 of N 16 into swiglu 8 active K 2').expert.width).toBe(8);
    expect(experts('segment m 4 of N 16 into swiglu 8 active K 2').active).toBe(8);
  });
  it('shared networks: of each, as one, gated, none', () => {
    expect(experts('experts 4 of swiglu 8 active 1 shared 2 of swiglu 20').shared?.ffn.width).toBe(40);
    expect(experts('experts 4 of swiglu 8 active 1 shared 2 as swiglu 20').shared?.ffn.width).toBe(20);
    expect(experts('experts 4 of swiglu 8 active 1 shared 1 gated').shared?.gate).toBe('sigmoid');
    expect(experts('experts 4 of swiglu 8 active 1 shared 0').shared).toBeUndefined();
  });
  it('a clamp of the experts is that of the shared ones too', () => {
    const m = experts('experts 4 of swiglu 8 clamp 7 active 1 shared 1');
    expect(m.expert.clamp).toEqual({ limit: 7, alpha: 1, upOffset: 0 });
    expect(m.shared?.ffn.clamp).toEqual(m.expert.clamp);
  });
  it.each([
    ['K = E', 'experts 6 of swiglu 8 active 6', 6, 6],
    ['one expert', 'experts 1 of swiglu 8 active 1', 1, 1],
    ['a prime number', 'experts 61 of swiglu 3 active 7', 61, 7],
    ['512 experts', 'experts 512 of swiglu 31 active 10', 512, 10],
  ])('%s', (_, body, e, k) => expect([experts(body).experts, experts(body).active]).toEqual([e, k]));
});

describe('routers', () => {
  it('default to softmax, top-k, plain weights', () => {
    expect(experts('experts 8 of swiglu 8 active 2').router).toEqual({
      score: 'softmax',
      logitBias: false,
      selectionBias: false,
      select: { kind: 'top-k' },
      weights: 'scores',
      scale: 1,
      applyTo: 'output',
      precision: 'f32',
    });
  });
  it('DeepSeek-V3', () => {
    const { router } = experts(
      'experts 16 of swiglu 8 active 4 router sigmoid selection-bias groups 4 keep 2 by top2-sum top-k renormalize add 1e-20 scale 2.5',
    );
    expect(router.groups).toEqual({ count: 4, keep: 2, score: 'top2-sum' });
    expect(router.renormalize).toEqual({ p: 1, eps: 1e-20, epsMode: 'add' });
    expect([router.score, router.selectionBias, router.scale]).toEqual(['sigmoid', true, 2.5]);
  });
  it('keeping every group is no grouping', () => {
    expect(experts('experts 8 of swiglu 8 active 2 router sigmoid groups 1 keep 1 by max').router.groups).toBeUndefined();
  });
  it('a plain hash table has no scores and weight 1; with a score it has both', () => {
    const plain = experts('experts 8 of mlp relu 8 router hash table "t"', 'hidden 8 vocab 10').router;
    expect([plain.score, plain.weights, plain.select]).toEqual(['none', 'one', { kind: 'hash', table: 't' }]);
    const scored = experts(
      'experts 8 of mlp relu 8 active 2 router sqrt-softplus hash table "t" renormalize',
      'hidden 8 vocab 10',
    ).router;
    expect([scored.score, scored.weights, scored.renormalize?.p]).toEqual(['sqrt-softplus', 'scores', 1]);
  });
  it('expert choice counts on average', () => {
    const m = experts('experts 8 of mlp gelu-tanh 8 router softmax expert-choice factor 2');
    expect([m.active, m.router.select]).toEqual([2, { kind: 'expert-choice', capacityFactor: 2 }]);
  });
  it('capacities', () => {
    const capacity = (text: string): unknown => experts(`experts 4 of mlp relu 8 active 2 capacity ${text}`).router.capacity;
    expect(capacity('3')).toEqual({ limit: { kind: 'tokens', tokens: 3 }, renormalize: 'none' });
    expect(capacity('factor 1.25 min 4 renormalize after')).toEqual({
      limit: { kind: 'factor', factor: 1.25, min: 4 },
      renormalize: 'after',
    });
    expect(capacity('factor 2 renormalize before')).toEqual({ limit: { kind: 'factor', factor: 2, min: 1 }, renormalize: 'before' });
  });
});

describe('attention', () => {
  it('derives the head size and rotates all of it', () => {
    expect(heads('mha { heads 4 }')).toMatchObject({
      heads: 4,
      kvHeads: 4,
      headDim: 8,
      rope: { theta: 10_000, dim: 8, style: 'half' },
      scale: 8 ** -0.5,
    });
  });
  it('gqa, biases, norms, window, sinks, scale', () => {
    const a = heads('gqa { heads 4 x 16 kv 2 bias q k v qk-norm full window 9 sinks scale 0.25 rope 5e5 dim 8 interleaved }');
    expect(a).toMatchObject({
      kvHeads: 2,
      headDim: 16,
      bias: { q: true, k: true, v: true, o: false },
      qkNorm: 'full',
      window: 9,
      sinks: true,
      scale: 0.25,
    });
    expect(a.rope).toEqual({ theta: 5e5, dim: 8, style: 'interleaved' });
  });
  it('may go without rotation', () => expect(heads('mha { heads 4 rope none }').rope).toBeUndefined());
  it('mla, with the scale of YaRN', () => {
    const plain = latent('rope 10000 dim 8');
    expect(plain).toMatchObject({
      ropeDim: 8,
      nopeDim: 8,
      vDim: 12,
      kvLora: 16,
      rope: { style: 'interleaved', dim: 8 },
      scale: 16 ** -0.5,
    });
    expect(plain.qLora).toBeUndefined();
    const stretched = latent('q-lora 20 rope 10000 dim 8 yarn { factor 4 original 16 mscale 1 mscale-all-dim 1 }');
    expect(stretched.scale).toBeCloseTo(16 ** -0.5 * (0.1 * Math.log(4) + 1) ** 2, 15);
    expect(stretched.qLora).toBe(20);
  });
  it('yarn in other models leaves the softmax scale alone', () => {
    expect(heads('mha { heads 4 rope 150000 yarn { factor 32 original 4096 no-truncate } }')).toMatchObject({
      scale: 8 ** -0.5,
      rope: { scaling: { truncate: false, betaFast: 32, betaSlow: 1 } },
    });
  });
});

describe('layers', () => {
  const shape = (body: string): string => {
    const m = modelOf(model(`attention mha { heads 4 } ${body}`));
    return m.layers.map((k) => (m.kinds[k]?.ffn.kind === 'moe' ? 'M' : 'd')).join('');
  };
  const M = 'moe { experts 4 of swiglu 8 active 1 }';
  it.each([
    ['all', `depth 4 ${M}`, 'MMMM'],
    ['first k dense', `depth 5 layers first 2 { ffn swiglu 8 } ${M}`, 'ddMMM'],
    ['every n-th', `depth 6 layers every 3 from 1 { ${M} } ffn swiglu 8`, 'dMddMd'],
    ['every n-th up to one', `depth 6 layers every 2 to 3 { ${M} } ffn swiglu 8`, 'MdMddd'],
    ['ranges and lists', `layers 0, 2..3 { ${M} } layer 1 { ffn swiglu 8 } layers 4..5 { ffn swiglu 9 }`, 'MdMMdd'],
    ['rest', `depth 4 layer 2 { ${M} } layers rest { ffn swiglu 8 }`, 'ddMd'],
    ['all by a block', `depth 2 layers all { ${M} }`, 'MM'],
  ])('%s', (_, body, want) => expect(shape(body)).toBe(want));

  it('equal layers are one kind, however they are written', () => {
    const m = modelOf(
      model(
        `attention mha { heads 4 } layers 0..1 { ${M} } layers 2..3 { ${M.replace(' }', ' router softmax top-k }')} } layer 4 { ffn swiglu 8 }`,
      ),
    );
    expect(m.layers).toEqual([0, 0, 0, 0, 1]);
    expect(m.kinds).toHaveLength(2);
  });
  it('blocks may change the attention of some layers and leave the rest of it', () => {
    const m = modelOf(model(`attention gqa { heads 4 x 16 kv 2 sinks } depth 4 layers every 2 { attention { window 4 } } ${M}`));
    const windows = m.layers.map((k) => {
      const a = m.kinds[k]?.attention;
      return a?.kind === 'heads' ? [a.window, a.kvHeads, a.sinks] : undefined;
    });
    expect(windows).toEqual([
      [4, 2, true],
      [undefined, 2, true],
      [4, 2, true],
      [undefined, 2, true],
    ]);
  });
  it('each may have its own numbers of experts', () => {
    const m = modelOf(model(`attention mha { heads 4 } layer 0 { ${M} } layer 1 { moe { experts 8 of swiglu 8 active 3 shared 1 } }`));
    expect(m.kinds.map((k) => (k.ffn.kind === 'moe' ? [k.ffn.experts, k.ffn.active] : []))).toEqual([
      [4, 1],
      [8, 3],
    ]);
  });
  it('4096 layers resolve in a moment', () => {
    const start = performance.now();
    expect(
      modelOf(model(`attention mha { heads 4 } depth 4096 layers every 2 { ${M} } layers rest { ffn swiglu 8 }`)).kinds,
    ).toHaveLength(2);
    expect(performance.now() - start).toBeLessThan(1000);
  });
});

describe('models and layers', () => {
  it('defaults', () => {
    expect(modelOf(model('attention mha { heads 4 } depth 1 ffn swiglu 8'))).toMatchObject({
      dtype: 'f32',
      deterministic: 'run',
      norm: { kind: 'rms', eps: 1e-6, bias: false },
      embedding: { tied: false, multiplier: 1 },
      head: { bias: false, divisor: 1 },
      residualMultiplier: 1,
    });
    expect(layerOf('layer l { hidden 8 ffn mlp gelu 16 }')).toEqual({
      kind: 'layer',
      name: 'l',
      hidden: 8,
      dtype: 'f32',
      deterministic: 'run',
      residual: false,
      span: { file: 'test.moe', start: 0, end: 36 },
      ffn: { kind: 'dense', ffn: { gated: false, activation: 'gelu', width: 16, bias: false, fused: 'halves' } },
    });
  });
  it('everything else', () => {
    const text = `norm layer 1e-5 bias embedding tied multiplier 12 head bias divisor 6 residual multiplier 0.22
      dtype bf16 deterministic batch attention mha { heads 4 } depth 1 ffn swiglu 8`;
    expect(modelOf(model(text))).toMatchObject({
      dtype: 'bf16',
      deterministic: 'batch',
      norm: { kind: 'layer', eps: 1e-5, bias: true },
      embedding: { tied: true, multiplier: 12 },
      head: { bias: true, divisor: 6 },
      residualMultiplier: 0.22,
    });
    expect(layerOf('layer l { hidden 8 vocab 9 norm rms residual dtype f16 ffn swiglu 8 }')).toMatchObject({
      vocab: 9,
      residual: true,
      dtype: 'f16',
      norm: { eps: 1e-6 },
    });
  });
  it('the golden layer cases resolve to the shapes of their tensors', () => {
    const dir = join(import.meta.dirname, '../golden-specs');
    for (const file of readdirSync(dir)) {
      const name = file.replace('.moe', '');
      const spec = specOf(readFileSync(join(dir, file), 'utf8'));
      const golden: { readonly shapes: Readonly<Record<string, { readonly shape: readonly number[] }>> } = JSON.parse(
        readFileSync(join(dir, `../golden/${name}.json`), 'utf8'),
      );
      const shape = (tensor: string): readonly number[] | undefined => golden.shapes[tensor]?.shape;
      if (spec.kind !== 'layer' || spec.ffn.kind !== 'moe') throw new Error(`${name} is no layer of experts`);
      const { experts: e, expert, shared, router } = spec.ffn;
      expect(spec.name).toBe(name);
      expect(shape('x')?.at(-1), name).toBe(spec.hidden);
      const first = shape('experts.gate_proj') ?? shape('experts.wi');
      const fused = shape('experts.gate_up_proj');
      expect(first ?? [fused?.[0], (fused?.[2] ?? 0) / 2, fused?.[1]], name).toEqual([e, expert.width, spec.hidden]);
      expect(expert.gated, name).toBe(shape('experts.wi') === undefined);
      expect(expert.bias, name).toBe((shape('experts.bi') ?? shape('experts.gate_up_proj_bias')) !== undefined);
      expect(shared?.ffn.width, name).toBe(shape('shared.gate_proj')?.[0]);
      expect(router.selectionBias, name).toBe(Object.keys(golden.shapes).some((t) => t.includes('e_score_correction_bias')));
      expect(router.score === 'none', name).toBe(!Object.keys(golden.shapes).some((t) => /^(gate|router)\./.test(t)));
      const chosen = shape('topk_indices') ?? shape('top2_indices');
      if (chosen !== undefined) expect(spec.ffn.active, name).toBe(chosen[1]);
    }
  });
});
