/** `dtype f16 experts int4 …`: what it means, what it is refused for, and the bytes it takes. */
import { describe, expect, it } from 'vitest';
import { QUANT_NAMES, quantFormat, quantRowWords } from '../../src/base/quant.ts';
import { analyze, explainDefaults, fit } from '../../src/model/index.ts';
import { format, parse } from '../../src/parser/index.ts';
import { layerOf, modelOf, problems } from './helpers.ts';

const moe = 'moe { experts 8 of swiglu 64  active 2  shared 1 }';
const layer = (dtype: string, body = moe, hidden = 32): string => `layer l { hidden ${hidden}  ${dtype}  ${body} }`;
const codes = (text: string): readonly string[] => problems(text).map((d) => d.code);

describe('experts in int8 and int4', () => {
  it('says values and scales; f16 scales unless said', () => {
    expect(layerOf(layer('dtype bf16 experts int4'))).toMatchObject({ dtype: 'bf16', expertStorage: { values: 'int4', group: 32, scales: 'f16' } });
    expect(layerOf(layer('dtype f32 experts int8 group 32 scales f32'))).toMatchObject({ dtype: 'f32', expertStorage: { values: 'int8', scales: 'f32' } });
    expect(layerOf(layer('dtype f16'))).not.toHaveProperty('expertStorage');
    const model = `model m { vocab 64 hidden 64 context 64 depth 2 dtype f16 experts int8 attention mha { heads 4 } layer 0 { ffn swiglu 65 } layers rest { ${moe} } }`;
    expect(modelOf(model).expertStorage?.values).toBe('int8');
  });

  it.each([
    ['a group of another size', layer('dtype f16 experts int4 group 64'), ['MOE3050']],
    ['half a group', layer('dtype f16 experts int4 group 1.5'), ['MOE2002']],
    ['no group', layer('dtype f16 experts int4 group 0'), ['MOE2003']],
    ['a hidden state that groups do not divide', layer('dtype f16 experts int4', moe, 48), ['MOE3051']],
    ['experts that groups do not divide', layer('dtype f16 experts int8', 'moe { experts 8 of swiglu 40  active 2 }'), ['MOE3051']],
    ['shared experts that groups do not divide', layer('dtype f16 experts int8', 'moe { experts 8 of swiglu 64  active 2  shared 1 of swiglu 40 }'), ['MOE3051']],
    ['fine experts of the paper', layer('dtype f16 experts int4', 'moe { segment m 4 of N 16 of swiglu 160  active K 2  shared Ks 1 }'), ['MOE3051']],
    ['both depths', layer('dtype f16 experts int8', 'moe { experts 8 of swiglu 40  active 2 }', 33), ['MOE3051', 'MOE3051']],
    ['no experts', layer('dtype f16 experts int4', 'ffn swiglu 64'), ['MOE2007']],
    ['values of another width', layer('dtype f16 experts int2'), ['MOE1001']],
    ['no storage for the rest', layer('dtype experts int4'), ['MOE1001']],
    ['scales of another type', layer('dtype f16 experts int4 scales bf16'), ['MOE1001']],
  ])('refuses %s', (_what, text, wanted) => {
    const found = problems(text);
    expect(found.map((d) => d.code).slice(0, wanted.length).map((c) => (c.startsWith('MOE1') ? 'MOE1001' : c))).toEqual(wanted);
    for (const d of found) expect(d.primary?.span.file).toBe('test.moe');
    if (wanted.includes('MOE3051')) for (const d of found) expect(d.fixes.length).toBeGreaterThan(0);
  });

  it('points at the width and at the storage', () => {
    const text = layer('dtype f16 experts int8', 'moe { experts 8 of swiglu 40  active 2 }');
    const [d] = problems(text);
    expect(text.slice(d?.primary?.span.start, d?.primary?.span.end)).toBe('40');
    expect(d?.labels.map((l) => text.slice(l.span.start, l.span.end))).toContain('experts int8');
  });

  it('accepts any number of experts, and shared ones as wide as several', () => {
    expect(codes(layer('dtype f16 experts int4', 'moe { experts 7 of mlp relu 96 bias  active 3  shared 2 }'))).toEqual([]);
    expect(codes(layer('dtype f16 experts int4', 'moe { experts 7 of swiglu 32  active 3  shared 1 as swiglu 160 gated }'))).toEqual([]);
  });

  it('is one clause when formatted, and explains its defaults', () => {
    const text = layer('dtype   f16\nexperts\n int4  scales   f32');
    expect(format(text, 'test.moe').text).toContain('dtype f16\n    experts int4 scales f32');
    const { ast } = parse(layer('dtype f16 experts int4'), 'test.moe');
    const said = ast === undefined ? [] : explainDefaults(ast, layerOf(layer('dtype f16 experts int4'))).map((d) => `${d.what} ${d.value}`);
    expect(said).toEqual(expect.arrayContaining(['group 32', 'scales f16']));
  });
});

describe('bytes of quantised experts', () => {
  it('are values and scales, whole words a row', () => {
    expect(QUANT_NAMES.map((name) => [32, 64, 96].map((k) => 4 * quantRowWords(quantFormat(name), k)))).toEqual([
      [36, 68, 104],
      [36, 72, 108],
      [20, 36, 56],
      [20, 40, 60],
    ]);
  });

  it('are what analyze and fit count', () => {
    const spec = layerOf(layer('dtype f32 experts int4', 'moe { experts 8 of swiglu 64 bias  active 2  shared 1 gated }'));
    // Rows of depth 32 take 20 bytes, of depth 64 36 bytes; 4 bytes an element of everything else.
    const experts = 8 * (128 * 20 + 32 * 36) + 4 * 8 * (128 + 32);
    const shared = 128 * 20 + 32 * 36 + 4 * (128 + 32) + 4 * 32;
    const router = 4 * 8 * 32;
    expect(analyze(spec).bytes.weights).toBe(experts + shared + router);
    expect(analyze(spec).bytes.activeWeights).toBe(experts / 4 + shared + router);
    expect(fit(spec, { name: 'x', maxBindingBytes: 1e9, maxBufferBytes: 1e9 }, 8).weights).toBe(experts + shared + router);
  });

  it('are proposed where they would fit', () => {
    const spec = layerOf('layer l { hidden 256  moe { experts 16 of swiglu 256  active 2 } }');
    const limits = { name: 'x', maxBindingBytes: 1e9, maxBufferBytes: 1e9, memoryBytes: 3_000_000 };
    expect(fit(spec, limits, 8).advice.some((a) => /`dtype f16 experts int4` needs .* and fits/.test(a))).toBe(true);
    const odd = layerOf('layer l { hidden 250  moe { experts 16 of swiglu 256  active 2 } }');
    expect(fit(odd, limits, 8).advice.join()).not.toContain('int4');
    const split = layerOf('layer l { hidden 256  dtype f32 experts int4  moe { experts 16 of swiglu 256  active 2 } }');
    expect(fit(split, { ...limits, memoryBytes: 1e9, maxBindingBytes: 900_000 }, 8)).toMatchObject({ verdict: 'split' });
    expect(fit(split, { ...limits, memoryBytes: 1e9, maxBindingBytes: 900_000 }, 8).advice.join()).not.toContain('dtype f16');
  });
});
