/** From text to syntax tree: every clause of the language, and where it was written. */
import { describe, expect, it } from 'vitest';
import { type ast, parse } from '../../src/parser/index.ts';

const ok = (text: string): ast.File => {
  const { ast: file, diagnostics } = parse(text, 'a.moe');
  expect(diagnostics).toEqual([]);
  if (file === undefined) throw new Error('no tree');
  return file;
};
const model = (body: string): ast.Model => {
  const unit = ok(`model m { ${body} }`).units[0];
  if (unit?.kind !== 'model') throw new Error('not a model');
  return unit;
};
const layer = (body: string): ast.LayerUnit => {
  const unit = ok(`layer l { ${body} }`).units[0];
  if (unit?.kind !== 'layer') throw new Error('not a layer');
  return unit;
};
const moe = (body: string): ast.Moe => {
  const ffn = layer(`moe { ${body} }`).ffn;
  if (ffn?.kind !== 'moe') throw new Error('not a mixture');
  return ffn;
};
const attention = (body: string): ast.Attention => {
  const found = model(`attention ${body}`).attention;
  if (found === undefined) throw new Error('no attention');
  return found;
};
/** Names of a record's keys without `span`. */
const said = (node: object): string[] => Object.keys(node).filter((k) => k !== 'span' && k !== 'kind');

it('reads the model of the first page', () => {
  const file = ok(`// DeepSeekMoE 16B, counted as its authors released it
model deepseek_moe_16b {
  vocab 102400   hidden 2048   context 4096
  attention mha { heads 16 x 128   rope 10000 }
  layer 0      { ffn swiglu 10944 }
  layers 1..27 {
    moe {
      experts 64 of swiglu 1408          // routed
      active 6   shared 2
      router softmax top-k               // softmax over the routed experts, no renormalisation
    }
  }
}
`);
  const unit = file.units[0];
  expect(unit).toMatchObject({
    kind: 'model',
    name: { value: 'deepseek_moe_16b' },
    vocab: { value: { value: 102400, integer: true } },
    hidden: { value: { value: 2048 } },
    context: { value: { value: 4096 } },
    attention: {
      variant: { value: 'mha' },
      heads: { count: { value: 16 }, headDim: { value: 128 } },
      rope: { kind: 'rope', theta: { value: 10000 } },
    },
    layers: [
      {
        selector: { kind: 'list', ranges: [{ first: { value: 0 } }] },
        ffn: { kind: 'dense', network: { gated: true, width: { value: 10944 } } },
      },
      {
        selector: { kind: 'list', ranges: [{ first: { value: 1 }, last: { value: 27 } }] },
        ffn: {
          kind: 'moe',
          counting: {
            kind: 'released',
            experts: { value: 64 },
            network: { activation: { value: 'silu' }, width: { value: 1408 } },
            active: { value: { value: 6 } },
          },
          shared: { count: { value: 2 } },
          router: { score: { value: 'softmax' }, select: { kind: 'top-k' } },
        },
      },
    ],
  });
  expect(JSON.stringify(unit)).not.toContain('null');
});

describe('spans', () => {
  it('cover what was written', () => {
    const text = '\ufeff  layer "a b" {\r\n  hidden 1_0\n moe { experts 4 of swiglu 8 bias shared Ks 1 } }';
    const { ast: file, diagnostics } = parse(text.replace('shared Ks 1', 'active 2'), 'x.moe');
    expect(diagnostics).toEqual([]);
    const at = (span: { file: string; start: number; end: number } | undefined): string =>
      text.replace('shared Ks 1', 'active 2').slice(span?.start, span?.end);
    const unit = file?.units[0];
    if (unit?.kind !== 'layer' || unit.ffn?.kind !== 'moe' || unit.ffn.counting?.kind !== 'released') throw new Error('not read');
    expect(unit.span.file).toBe('x.moe');
    expect(at(unit.name.span)).toBe('"a b"');
    expect(at(unit.hidden?.span)).toBe('hidden 1_0');
    expect(at(unit.hidden?.value.span)).toBe('1_0');
    expect(at(unit.ffn.span)).toBe('moe { experts 4 of swiglu 8 bias active 2 }');
    expect(at(unit.ffn.counting.span)).toBe('experts 4 of swiglu 8 bias');
    expect(at(unit.ffn.counting.network.span)).toBe('swiglu 8 bias');
    expect(at(unit.ffn.counting.network.activation.span)).toBe('swiglu');
    expect(at(unit.ffn.counting.network.bias?.span)).toBe('bias');
    expect(at(unit.ffn.counting.active?.span)).toBe('active 2');
    expect(at(unit.span)).toMatch(/^layer.*}$/s);
  });

  it('lie inside their parents everywhere', () => {
    const visit = (value: unknown, parent: { start: number; end: number }): void => {
      if (value === null || typeof value !== 'object') return;
      const own = 'span' in value ? (value.span as { start: number; end: number }) : parent;
      expect(own.start).toBeGreaterThanOrEqual(parent.start);
      expect(own.end).toBeLessThanOrEqual(parent.end);
      expect(own.end).toBeGreaterThan(own.start);
      for (const [key, inner] of Object.entries(value)) if (key !== 'span' && key !== 'counting') visit(inner, own);
    };
    const file = ok(
      'model m { vocab 3 attention gqa { rope 1 dim 2 half yarn { factor 3 no-truncate } window none } layers every 2 from 1 to 3 { moe { router softmax groups 2 keep 1 by max capacity factor 1 min 2 renormalize none } } }',
    );
    visit(file, { start: 0, end: 1e9 });
  });
});

describe('numbers', () => {
  it.each([
    ['102_400', 102400, true],
    ['0', 0, true],
    ['-3', -3, true],
    ['1e3', 1000, true],
    ['2.50', 2.5, false],
    ['1e-6', 1e-6, false],
    ['1.5E+2', 150, true],
    ['9007199254740992', 2 ** 53, true],
    ['1e300', 1e300, false],
  ])('%s', (text, value, integer) => {
    expect(model(`vocab ${text}`).vocab?.value).toMatchObject({ value, integer, text });
  });
  it.each(['1e309', '9007199254740993', '-1e999', `1${'0'.repeat(400)}`, `0.${'1'.repeat(100)}`])('refuses %s', (text) => {
    expect(parse(`model m { vocab ${text} }`, 'a').diagnostics.map((d) => d.code)).toEqual(['MOE1006']);
  });
  it.each(['1_', '1__0', '1.', '.5', '1e', '0x10', '4k', '16x128', '1.2.3', '+3', '1,000'])('refuses %s', (text) => {
    expect(parse(`model m { vocab ${text} }`, 'a').diagnostics.length).toBeGreaterThan(0);
  });
});

describe('units', () => {
  it('say everything a model has', () => {
    const m = model(`vocab 1 hidden 2 context 3 depth 4 dtype bf16 deterministic batch norm layer 1e-5 bias embedding tied multiplier 12
      head bias divisor 6 residual multiplier 0.22 attention gqa {} ffn swiglu 3 layer 0 {}`);
    expect(said(m).sort()).toEqual(
      [
        'name',
        'vocab',
        'hidden',
        'context',
        'depth',
        'dtype',
        'deterministic',
        'norm',
        'embedding',
        'head',
        'residualMultiplier',
        'attention',
        'ffn',
        'layers',
      ].sort(),
    );
    expect(m).toMatchObject({
      depth: { value: { value: 4 } },
      dtype: { value: { value: 'bf16' } },
      deterministic: { value: { value: 'batch' } },
      norm: { kind: { value: 'layer' }, eps: { value: 1e-5 } },
      embedding: { multiplier: { value: { value: 12 } } },
      head: { divisor: { value: { value: 6 } } },
      residualMultiplier: { value: { value: 0.22 } },
    });
    expect(said(m.norm ?? {})).toEqual(['eps', 'bias']);
    expect(said(m.embedding ?? {})).toEqual(['tied', 'multiplier']);
    expect(said(m.head ?? {})).toEqual(['bias', 'divisor']);
  });

  it('say everything a layer has', () => {
    const l = layer('hidden 1 vocab 2 dtype f16 deterministic run norm rms residual ffn mlp gelu 3');
    expect(said(l).sort()).toEqual(['deterministic', 'dtype', 'ffn', 'hidden', 'name', 'norm', 'residual', 'vocab']);
    expect(said(l.norm ?? {})).toEqual([]);
  });

  it('leave out what was not said', () => {
    expect(said(layer(''))).toEqual(['name']);
    expect(said(model(''))).toEqual(['name', 'layers']);
    expect(ok('model a {} layer b {} model c {}').units.map((u) => u.name.value)).toEqual(['a', 'b', 'c']);
  });

  it.each([
    ['0', { kind: 'list', ranges: [{ first: { value: 0 } }] }],
    [
      '0,2, 5..9',
      { kind: 'list', ranges: [{ first: { value: 0 } }, { first: { value: 2 } }, { first: { value: 5 }, last: { value: 9 } }] },
    ],
    ['all', { kind: 'all' }],
    ['rest', { kind: 'rest' }],
    ['first 3', { kind: 'first', count: { value: 3 } }],
    ['every 2', { kind: 'every', step: { value: 2 } }],
    ['every 2 from 1 to 9', { kind: 'every', step: { value: 2 }, from: { value: 1 }, to: { value: 9 } }],
    ['every 2 to 9', { kind: 'every', step: { value: 2 }, to: { value: 9 } }],
  ])('layers %s', (text, expected) => {
    for (const word of ['layer', 'layers']) expect(model(`${word} ${text} {}`).layers[0]?.selector).toMatchObject(expected);
  });
});

describe('attention', () => {
  it('of heads', () => {
    const a = attention('gqa { heads 32 x 128 kv 8 bias q k v o qk-norm head rope 150000 window 128 sinks scale 0.5 }');
    expect(a).toMatchObject({
      variant: { value: 'gqa' },
      heads: { count: { value: 32 }, headDim: { value: 128 } },
      kv: { value: { value: 8 } },
      bias: { parts: [{ value: 'q' }, { value: 'k' }, { value: 'v' }, { value: 'o' }] },
      qkNorm: { value: { value: 'head' } },
      window: { value: { value: 128 } },
      sinks: { enabled: true },
      scale: { value: { value: 0.5 } },
    });
  });
  it('of latents', () => {
    const a = attention('mla { heads 128 q-lora 1536 kv-lora 512 nope 128 rope 10000 dim 64 interleaved value 128 }');
    expect(a).toMatchObject({
      qLora: { value: { value: 1536 } },
      kvLora: { value: { value: 512 } },
      nope: { value: { value: 128 } },
      value: { value: { value: 128 } },
    });
    expect(a.heads?.headDim).toBeUndefined();
    expect(a.rope).toMatchObject({ dim: { value: { value: 64 } }, style: { value: 'interleaved' } });
  });
  it('changed for some layers', () => {
    const a = model('layers 1 { attention { window none sinks none rope none bias none qk-norm none } }').layers[0]?.attention;
    expect(a?.variant).toBeUndefined();
    expect(a).toMatchObject({
      sinks: { enabled: false },
      rope: { kind: 'none' },
      bias: { parts: [] },
      qkNorm: { value: { value: 'none' } },
    });
    expect(a?.window).toHaveProperty('value', undefined);
  });
  it('with scaled positions', () => {
    const yarn = attention(
      'mha { rope 10000 yarn { factor 40 original 4096 beta-fast 32 beta-slow 1 mscale 1 mscale-all-dim 0.7 no-truncate } }',
    ).rope;
    expect(yarn).toMatchObject({
      scaling: {
        kind: 'yarn',
        factor: { value: { value: 40 } },
        original: { value: { value: 4096 } },
        betaFast: { value: { value: 32 } },
        betaSlow: { value: { value: 1 } },
        mscale: { value: { value: 1 } },
        mscaleAllDim: { value: { value: 0.7 } },
        noTruncate: {},
      },
    });
    expect(attention('mha { rope 1 linear 4 half }').rope).toMatchObject({
      scaling: { kind: 'linear', factor: { value: 4 } },
      style: { value: 'half' },
    });
  });
});

describe('networks', () => {
  it.each([
    ['swiglu', true, 'silu'],
    ['geglu', true, 'gelu'],
    ['geglu-tanh', true, 'gelu-tanh'],
    ['reglu', true, 'relu'],
    ['mlp silu', false, 'silu'],
    ['mlp gelu', false, 'gelu'],
    ['mlp gelu-tanh', false, 'gelu-tanh'],
    ['mlp relu', false, 'relu'],
  ])('%s', (text, gated, activation) => {
    expect(layer(`ffn ${text} 8`).ffn).toMatchObject({
      kind: 'dense',
      network: { gated, activation: { value: activation }, width: { value: 8 } },
    });
  });
  it('with options in any order', () => {
    const expected = {
      bias: {},
      interleaved: {},
      clamp: { limit: { value: 7 }, alpha: { value: { value: 1.702 } }, offset: { value: { value: 1 } } },
    };
    expect(layer('ffn swiglu 8 bias interleaved clamp 7 alpha 1.702 offset 1').ffn).toMatchObject({ network: expected });
    expect(layer('ffn swiglu 8 clamp 7 alpha 1.702 offset 1 interleaved bias').ffn).toMatchObject({ network: expected });
    const plain = layer('ffn swiglu 8 clamp 10').ffn;
    expect(plain?.kind === 'dense' ? said(plain.network.clamp ?? {}) : []).toEqual(['limit']);
  });
});

describe('mixtures', () => {
  it('count as the paper does', () => {
    expect(moe('segment m 4 of N 16 of swiglu 3412 active K 2 shared Ks 1').counting).toMatchObject({
      kind: 'paper',
      m: { value: 4 },
      n: { value: 16 },
      widthOf: { value: 'of' },
      network: { width: { value: 3412 } },
      k: { value: { value: 2 } },
    });
    expect(moe('segment m 4 of N 16 into swiglu 853').counting).toMatchObject({ widthOf: { value: 'into' } });
  });
  it('share experts', () => {
    expect(moe('shared 1 of swiglu 5632 gated').shared).toMatchObject({
      count: { value: 1 },
      network: { each: { value: 'of' }, network: { width: { value: 5632 } } },
      gated: {},
    });
    expect(moe('shared 2 as swiglu 5633').shared).toMatchObject({ network: { each: { value: 'as' } } });
    expect(said(moe('shared 2').shared ?? {})).toEqual(['count']);
  });
  it('have a capacity', () => {
    expect(moe('capacity 4').capacity).toMatchObject({ limit: { kind: 'tokens', tokens: { value: 4 } } });
    expect(moe('capacity factor 1.25 min 4 renormalize after').capacity).toMatchObject({
      limit: { kind: 'factor', factor: { value: 1.25 }, min: { value: 4 } },
      renormalize: { value: { value: 'after' } },
    });
    expect(moe('capacity 4 renormalize none').capacity?.renormalize?.value.value).toBe('none');
  });
  it('have routers', () => {
    expect(
      moe(
        'router sqrt-softplus logit-bias selection-bias groups 8 keep 4 by top2-sum top-k weights softmax weights on input renormalize p 2 add 1e-20 scale 2.5 precision model',
      ).router,
    ).toMatchObject({
      score: { value: 'sqrt-softplus' },
      logitBias: {},
      selectionBias: {},
      groups: { count: { value: 8 }, keep: { value: 4 }, by: { value: 'top2-sum' } },
      select: { kind: 'top-k' },
      weights: { value: { value: 'softmax' } },
      applyTo: { value: { value: 'input' } },
      renormalize: { p: { value: { value: 2 } }, eps: { mode: 'add', value: { value: 1e-20 } } },
      scale: { value: { value: 2.5 } },
      precision: { value: { value: 'model' } },
    });
    expect(moe('router none hash table "tid2eid" weights one').router).toMatchObject({
      score: { value: 'none' },
      select: { kind: 'hash', table: { value: 'tid2eid' } },
      weights: { value: { value: 'one' } },
    });
    expect(moe('router softmax expert-choice factor 2').router?.select).toMatchObject({ kind: 'expert-choice', factor: { value: 2 } });
    expect(moe('router sparse-mixer jitter 0.01').router?.select).toMatchObject({ kind: 'sparse-mixer', jitter: { value: 0.01 } });
    expect(moe('router sparse-mixer renormalize clamp 1e-12').router?.renormalize).toMatchObject({ eps: { mode: 'clamp' } });
  });
});

describe('contradictions', () => {
  const code = (text: string): readonly string[] => parse(text, 'a').diagnostics.map((d) => d.code);
  it.each([
    'vocab 3 vocab 3',
    'norm rms norm layer',
    'attention mha { heads 3 heads 3 }',
    'attention mha { bias q q }',
    'attention mha { rope 3 dim 2 dim 2 }',
    'attention mha { rope 3 yarn { factor 2 factor 3 } }',
    'embedding tied tied',
    'head divisor 2 divisor 3',
    'ffn swiglu 3 bias bias',
    'moe { active 3 experts 4 of swiglu 3 active 3 }',
    'moe { router softmax renormalize renormalize }',
    'moe { router softmax top-k top-k }',
    'residual multiplier 1 residual multiplier 2',
  ])('%s is said twice', (body) => {
    expect(code(`model m { ${body} }`)).toEqual(['MOE1012']);
  });
  it.each([
    'ffn swiglu 3 moe {}',
    'moe { router softmax sigmoid }',
    'moe { router top-k hash table t }',
    'moe { router weights one weights scores }',
    'moe { router weights on input weights on output }',
    'moe { router renormalize add 1 clamp 2 }',
    'attention mha { rope 3 half interleaved }',
    'attention mha { rope 3 linear 4 yarn {} }',
  ])('%s gives two answers', (body) => {
    expect(code(`model m { ${body} }`)).toEqual(['MOE1018']);
  });
  it.each([
    'experts 4 of swiglu 3 segment m 4 of N 4 of swiglu 4',
    'experts 4 of swiglu 3 active K 2',
    'experts 4 of swiglu 3 active 2 shared Ks 1',
    'segment m 4 of N 4 of swiglu 4 active 2',
    'segment m 4 of N 4 of swiglu 4 active K 2 shared 1',
  ])('%s counts in two ways', (body) => {
    const { ast: file, diagnostics } = parse(`layer l { moe { ${body} } } layer good {}`, 'a');
    expect(diagnostics.map((d) => d.code)).toEqual(['MOE1013']);
    expect(diagnostics[0]?.fixes.length).toBeGreaterThan(0);
    expect(file?.units.map((u) => u.name.value)).toEqual(['good']);
  });
  it('a fix for the counting can be applied', () => {
    const text = 'layer l { moe { segment m 4 of N 4 of swiglu 4 active 2 } }';
    const edit = parse(text, 'a').diagnostics[0]?.fixes[0]?.edit;
    if (edit === undefined) throw new Error('no edit');
    const fixed = text.slice(0, edit.span.start) + edit.replacement + text.slice(edit.span.end);
    expect(fixed).toContain('active K 2');
    expect(parse(fixed, 'a').diagnostics).toEqual([]);
  });
});
