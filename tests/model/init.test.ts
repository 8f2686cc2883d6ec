/** Specs from config.json: fields, defaults, what cannot be said, and bad files. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { initFromConfig, initTemplate, templateNames } from '../../src/driver/init/index.ts';
import { numeral, quoteName, selector } from '../../src/driver/init/draft.ts';
import type { ModelSpec, MoeLayerFfn } from '../../src/model/types.ts';
import { format } from '../../src/parser/index.ts';
import { modelOf, problems, specOf } from './helpers.ts';
import { PUBLISHED } from './published-configs.ts';

type Config = Record<string, unknown>;
const golden = (name: string): Config =>
  JSON.parse(readFileSync(join(import.meta.dirname, `../golden/models/${name}/config.json`), 'utf8'));
const specFrom = (config: Config): ModelSpec => modelOf(initFromConfig(config).text);
const moeOf = (spec: ModelSpec): MoeLayerFfn => {
  const found = spec.kinds.find((k) => k.ffn.kind === 'moe')?.ffn;
  if (found?.kind !== 'moe') throw new Error('no experts');
  return found;
};
const codes = (config: unknown): string[] => initFromConfig(config).diagnostics.map((d) => d.code);
const pattern = (spec: ModelSpec): string => spec.layers.map((k) => (spec.kinds[k]?.ffn.kind === 'moe' ? 'M' : 'd')).join('');
const windowsOf = (spec: ModelSpec): (number | undefined)[] =>
  spec.layers.map((k) => {
    const a = spec.kinds[k]?.attention;
    return a?.kind === 'heads' ? a.window : undefined;
  });

describe('golden configs', () => {
  it("need no hand editing and no warning, and come out in the formatter's layout", () => {
    for (const name of [
      'deepseekmoe_v1',
      'deepseek_v2_lite',
      'deepseek_v3',
      'deepseek_v3_yarn',
      'mixtral',
      'qwen2_moe',
      'qwen3_moe',
      'olmoe',
      'granitemoe',
      'gpt_oss',
    ]) {
      const made = initFromConfig(golden(`tiny_${name}`));
      expect(made.diagnostics, name).toEqual([]);
      expect(problems(made.text), name).toEqual([]);
      expect(format(made.text, 'x.moe').text, name).toBe(made.text);
    }
  });
  it('deepseek: the same model as examples/tiny-deepseekmoe.moe', () => {
    const example = modelOf(readFileSync(join(import.meta.dirname, '../../examples/tiny-deepseekmoe.moe'), 'utf8'));
    const bare = (s: ModelSpec): unknown =>
      JSON.parse(JSON.stringify({ ...s, name: '' }, (k, v: unknown) => (k === 'span' ? undefined : v)));
    expect(bare(specFrom(golden('tiny_deepseekmoe_v1')))).toEqual(bare(example));
  });
  it('v3 with yarn', () => {
    const a = specFrom(golden('tiny_deepseek_v3_yarn')).kinds[0]?.attention;
    expect(a?.scale).toBeCloseTo(16 ** -0.5 * (0.1 * Math.log(4) + 1) ** 2, 15);
    expect(a?.rope).toMatchObject({ style: 'interleaved', scaling: { kind: 'yarn', factor: 4, originalContext: 16, truncate: true } });
  });
  it('granite: multipliers and tied embeddings', () => {
    const s = specFrom(golden('tiny_granitemoe'));
    expect(s).toMatchObject({ embedding: { tied: true, multiplier: 12 }, head: { divisor: 6 }, residualMultiplier: 0.22 });
    expect(s.kinds[0]?.attention.scale).toBe(0.015625);
    expect(moeOf(s).router.weights).toBe('softmax-selected');
  });
  it('gpt-oss: windows, sinks, biases, clamp', () => {
    const s = specFrom(golden('tiny_gpt_oss'));
    expect(windowsOf(s)).toEqual([4, undefined]);
    expect(moeOf(s).expert).toMatchObject({ bias: true, fused: 'interleaved', clamp: { limit: 7, alpha: 1.702, upOffset: 1 } });
    expect(s.kinds[0]?.attention).toMatchObject({ sinks: true, rope: { scaling: { truncate: false } }, bias: { q: true, o: true } });
  });
});

describe('fields', () => {
  const v3 = golden('tiny_deepseek_v3');
  const qwen = golden('tiny_qwen2_moe');
  it('which layers have experts', () => {
    expect(pattern(specFrom({ ...v3, num_hidden_layers: 5, first_k_dense_replace: 2, moe_layer_freq: 2 }))).toBe('ddMdM');
    expect(pattern(specFrom({ ...qwen, num_hidden_layers: 6, decoder_sparse_step: 2, mlp_only_layers: [3] }))).toBe('dMdddM');
    expect(pattern(specFrom({ ...qwen, decoder_sparse_step: null, num_hidden_layers: 3 }))).toBe('MMM');
    const ernie = {
      ...PUBLISHED['ERNIE-4.5-21B-A3B'],
      num_hidden_layers: 8,
      moe_layer_start_index: 2,
      moe_layer_end_index: 5,
      moe_layer_interval: 2,
    };
    expect(pattern(specFrom(ernie))).toBe('dddMdMdd');
  });
  it('routing: groups, scale, renormalisation', () => {
    expect(moeOf(specFrom({ ...v3, norm_topk_prob: false, n_group: 1, topk_group: 1 })).router).toMatchObject({
      scale: 2.5,
      selectionBias: true,
    });
    expect(moeOf(specFrom({ ...v3, norm_topk_prob: false })).router.renormalize).toBeUndefined();
    const v2 = {
      ...golden('tiny_deepseek_v2_lite'),
      topk_method: 'group_limited_greedy',
      n_group: 4,
      topk_group: 2,
      routed_scaling_factor: 16,
    };
    expect(moeOf(specFrom(v2)).router).toMatchObject({ groups: { count: 4, keep: 2, score: 'max' }, scale: 16 });
    expect(moeOf(specFrom({ ...golden('tiny_olmoe'), norm_topk_prob: true })).router.renormalize).toEqual({
      p: 1,
      eps: 0,
      epsMode: 'add',
    });
    expect(moeOf(specFrom({ ...PUBLISHED['ERNIE-4.5-21B-A3B'] })).router.renormalize).toEqual({ p: 1, eps: 1e-12, epsMode: 'clamp' });
  });
  it('DeepSeek and V2 renormalise two weights and more, V2 without its scale', () => {
    const v2 = { ...golden('tiny_deepseek_v2_lite'), norm_topk_prob: true, routed_scaling_factor: 16 };
    expect(moeOf(specFrom(v2)).router).toMatchObject({ scale: 1, renormalize: { eps: 1e-20 } });
    const one = moeOf(specFrom({ ...v2, num_experts_per_tok: 1 })).router;
    expect([one.scale, one.renormalize]).toEqual([16, undefined]);
    const v1 = golden('tiny_deepseekmoe_v1');
    expect(moeOf(specFrom({ ...v1, norm_topk_prob: true })).router.renormalize?.eps).toBe(1e-20);
    expect(pattern(specFrom({ ...v1, n_routed_experts: null }))).toBe('dd');
  });
  it('a field that is wrong is told about once', () => {
    expect(codes({ ...v3, num_experts_per_tok: 'x', max_position_embeddings: [] })).toEqual(['MOE2053', 'MOE2053']);
  });
  it('absence, null and zero are three things', () => {
    const { q_lora_rank: _q, n_shared_experts: _n, ...bare } = v3;
    const attention = specFrom(bare).kinds[0]?.attention;
    expect(attention?.kind === 'mla' && attention.qLora).toBe(1536);
    expect(moeOf(specFrom(bare)).shared?.count).toBe(1);
    const none = specFrom({ ...v3, q_lora_rank: null, n_shared_experts: null });
    expect(none.kinds[0]?.attention.kind === 'mla' && none.kinds[0].attention.qLora).toBeUndefined();
    expect(moeOf(none).shared).toBeUndefined();
    expect(moeOf(specFrom({ ...v3, n_shared_experts: 0 })).shared).toBeUndefined();
  });
  it('rotary embedding: where transformers 5 writes it, partial, linear, NTK', () => {
    const { rope_theta: _t, ...bare } = golden('tiny_qwen3_moe');
    const rope = (c: Config): unknown => specFrom(c).kinds[0]?.attention.rope;
    expect(rope({ ...bare, rope_parameters: { rope_type: 'default', rope_theta: 5e5 } })).toEqual({
      theta: 5e5,
      dim: 16,
      style: 'half',
    });
    expect(
      rope({ ...bare, rope_parameters: { rope_type: 'yarn', rope_theta: 5e5, factor: 4, original_max_position_embeddings: 32 } }),
    ).toMatchObject({
      theta: 5e5,
      scaling: { kind: 'yarn', factor: 4, originalContext: 32 },
    });
    expect(rope({ ...bare, rope_scaling: { type: 'linear', factor: 2 } })).toMatchObject({
      theta: 10_000,
      scaling: { kind: 'linear', factor: 2 },
    });
    expect(rope({ ...PUBLISHED['GLM-4.5-Air'] })).toMatchObject({ dim: 64 });
    expect(rope({ ...PUBLISHED['MiniMax-M2'] })).toMatchObject({ dim: 64, theta: 5e6 });
    expect((rope({ ...PUBLISHED['Hunyuan-A13B'] }) as { theta: number }).theta).toBeCloseTo(10_000 * 1000 ** (128 / 126), 3);
  });
  it('an attention factor of its own multiplies cos and sin only', async () => {
    const { ropeMultiplier } = await import('../../src/model/index.ts');
    const scaling = { rope_type: 'yarn', factor: 8, original_max_position_embeddings: 32, attention_factor: 1.0 };
    const a = specFrom({ ...golden('tiny_qwen3_moe'), rope_scaling: scaling }).kinds[0]?.attention;
    expect(a?.scale).toBe(0.25);
    expect(a?.rope === undefined ? 0 : ropeMultiplier(a.rope)).toBeCloseTo(1, 14);
  });
  it('windows', () => {
    const mixtral = golden('tiny_mixtral');
    expect(windowsOf(specFrom({ ...mixtral, sliding_window: 8 }))).toEqual([8, 8]);
    expect(windowsOf(specFrom({ ...golden('tiny_qwen3_moe'), sliding_window: 8 }))).toEqual([undefined, undefined]);
    expect(windowsOf(specFrom({ ...golden('tiny_gpt_oss'), num_hidden_layers: 4, layer_types: null }))).toEqual([
      4,
      undefined,
      4,
      undefined,
    ]);
    const types = ['full_attention', 'sliding_attention', 'sliding_attention'];
    expect(windowsOf(specFrom({ ...golden('tiny_gpt_oss'), num_hidden_layers: 3, layer_types: types }))).toEqual([undefined, 4, 4]);
  });
  it('storage', () => {
    expect(specFrom({ ...v3, torch_dtype: 'bfloat16' }).dtype).toBe('bf16');
    expect(specFrom({ ...v3, dtype: 'float16' }).dtype).toBe('f16');
  });
  it('names, also hostile ones', () => {
    expect(modelOf(initFromConfig(v3, { name: 'my-model_1.5' }).text).name).toBe('my-model_1.5');
    expect(specFrom({ ...v3, _name_or_path: 'org/Some Model' }).name).toBe('Some Model');
    for (const name of ['a"b\\c', '*/ } model x {', '${1}', '\u2028\n//', '__proto__', '', 'модель']) {
      const text = initFromConfig(v3, { name }).text;
      expect(problems(text), name).toEqual([]);
    }
  });
});

describe('what cannot be said', () => {
  it('is a warning for each field, and a comment in the spec', () => {
    const made = initFromConfig({
      ...golden('tiny_olmoe'),
      clip_qkv: 8,
      rope_scaling: { rope_type: 'llama3', factor: 8 },
      frobnicate: 3,
    });
    expect(made.diagnostics.map((d) => [d.code, d.severity])).toEqual([
      ['MOE2054', 'warning'],
      ['MOE2054', 'warning'],
    ]);
    expect(made.diagnostics[0]?.message).toContain('clip_qkv');
    expect(made.text).toContain('NOT EXPRESSED');
    expect(made.notes).toEqual(['not read: frobnicate']);
    expect(problems(made.text)).toEqual([]);
  });
  it('Llama 4 and Hunyuan are written in part', () => {
    expect(codes(PUBLISHED['Llama-4-Scout (text)']).filter((c) => c === 'MOE2054').length).toBeGreaterThan(1);
    expect(codes(PUBLISHED['Hunyuan-A13B'])).toContain('MOE2054');
  });
  it('dense models are written with a note', () => {
    const llama = {
      model_type: 'llama',
      vocab_size: 64,
      hidden_size: 32,
      num_hidden_layers: 2,
      num_attention_heads: 4,
      intermediate_size: 88,
    };
    const made = initFromConfig(llama);
    expect(made.diagnostics.map((d) => [d.code, d.severity])).toEqual([['MOE2056', 'note']]);
    expect(specOf(made.text).kind).toBe('model');
  });
});

describe('bad configs', () => {
  const mixtral = golden('tiny_mixtral');
  it.each([
    ['text that is not JSON', '{ "model_type": ', 'MOE2050'],
    ['nothing', '', 'MOE2050'],
    ['a list', [], 'MOE2050'],
    ['null', null, 'MOE2050'],
    ['undefined', undefined, 'MOE2050'],
    ['no model_type', { vocab_size: 3 }, 'MOE2050'],
    ['another family', { model_type: 'bert' }, 'MOE2051'],
    ['a type that is no text', { model_type: 7 }, 'MOE2051'],
    ['__proto__', { model_type: '__proto__' }, 'MOE2051'],
    ['a known family out of reach', { model_type: 'lfm2_moe' }, 'MOE2051'],
    ['a size missing', { ...mixtral, hidden_size: undefined }, 'MOE2052'],
    ['a size null', { ...mixtral, vocab_size: null }, 'MOE2052'],
    ['a text for a number', { ...mixtral, num_local_experts: '8' }, 'MOE2053'],
    ['a fraction', { ...mixtral, num_experts_per_tok: 2.5 }, 'MOE2053'],
    ['zero experts', { ...mixtral, num_local_experts: 0 }, 'MOE2053'],
    ['a number for a flag', { ...mixtral, tie_word_embeddings: 1 }, 'MOE2053'],
    ['a list for an object', { ...mixtral, rope_scaling: [1] }, 'MOE2053'],
    ['a text in an object', { ...mixtral, rope_scaling: { type: 'yarn', factor: 'x' } }, 'MOE2053'],
    ['a list of wrong length', { ...golden('tiny_gpt_oss'), layer_types: ['full_attention'] }, 'MOE2053'],
    ['an unknown dtype', { ...mixtral, torch_dtype: 'int3' }, 'MOE2053'],
    ['more active than experts', { ...mixtral, num_experts_per_tok: 9 }, 'MOE3001'],
    ['groups that do not divide', { ...golden('tiny_deepseek_v3'), n_group: 3 }, 'MOE3002'],
    ['a width of 2^40', { ...mixtral, intermediate_size: 2 ** 40 }, 'MOE2004'],
  ])('%s', (_, config, code) => {
    const made = initFromConfig(config);
    expect(made.text).toBe('');
    expect(made.diagnostics.map((d) => d.code)).toContain(code);
    for (const d of made.diagnostics) expect(d.message).not.toMatch(/undefined|\[object/);
  });
  it('a typing error is noticed', () => {
    const { hidden_size, ...rest } = mixtral;
    expect(initFromConfig({ ...rest, hiden_size: hidden_size }).diagnostics[0]?.notes.join()).toContain('hiden_size');
  });
  it('any JSON in any field is refused or gives a sound spec, never a throw', () => {
    const families = Object.values(PUBLISHED).map((c) => ({ ...c, num_hidden_layers: 3 }));
    fc.assert(
      fc.property(fc.constantFrom(...families), fc.nat(), fc.jsonValue(), (config, pick, value) => {
        const keys = Object.keys(config).filter((k) => k !== 'model_type');
        const made = initFromConfig({ ...config, [keys[pick % keys.length] ?? '']: value });
        if (made.text === '') expect(made.diagnostics.some((d) => d.severity === 'error')).toBe(true);
        else expect(problems(made.text).filter((d) => d.severity === 'error')).toEqual([]);
      }),
      { numRuns: 300, seed: 3 },
    );
  });
});

describe('templates', () => {
  it.each(templateNames.map((n) => [n]))('%s is sound and laid out', (name) => {
    const { text } = initTemplate(name);
    expect(problems(text)).toEqual([]);
    expect(format(text, 'x.moe').text).toBe(text);
  });
  it('unknown names are told', () => {
    expect(initTemplate('mixtrl').diagnostics[0]).toMatchObject({
      code: 'MOE2055',
      notes: ['did you mean `mixtral`?', expect.stringContaining('templates:')],
    });
    expect(initTemplate('__proto__').diagnostics).toHaveLength(1);
  });
});

describe('words', () => {
  it('numbers are short and exact', () => {
    expect([1e-6, 0.22, 1e6, 163_840, 1.702, 1e-20, 0, 1e21].map(numeral)).toEqual([
      '1e-6',
      '0.22',
      '1000000',
      '163840',
      '1.702',
      '1e-20',
      '0',
      '1e21',
    ]);
    fc.assert(fc.property(fc.double({ noNaN: true, noDefaultInfinity: true }), (x) => Number(numeral(x)) === x));
  });
  it('selectors', () => {
    expect(selector([0, 1, 2], 3)).toBe('layers all');
    expect(selector([2], 3)).toBe('layer 2');
    expect(selector([0, 2, 4], 6)).toBe('layers every 2');
    expect(selector([1, 3, 5], 9)).toBe('layers every 2 from 1 to 5');
    expect(selector([1, 2, 3, 5], 9)).toBe('layers 1..3, 5');
  });
  it('names', () => {
    expect(quoteName('ok-1.5')).toBe('ok-1.5');
    expect(quoteName('a "b" \\ c\n')).toBe('"a \\"b\\" \\\\ c"');
    expect(quoteName('')).toBe('"model"');
  });
});
