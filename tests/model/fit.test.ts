/** Memory verdicts and the list of defaults. */
import { describe, expect, it } from 'vitest';
import { analyze, explainDefaults, fit, type FitLimits, fitText } from '../../src/model/index.ts';
import { resolve } from '../../src/model/resolve.ts';
import { parse } from '../../src/parser/index.ts';
import { model, moe, specOf } from './helpers.ts';

const limits = (binding: number, more: Partial<FitLimits> = {}): FitLimits => ({
  name: 'test',
  maxBindingBytes: binding,
  maxBufferBytes: 2 * binding,
  ...more,
});
const layer = specOf(moe('experts 8 of swiglu 16 active 2 shared 1', 'hidden 32'));

describe('fit', () => {
  it('counts weights, activations, plan and cache', () => {
    const r = fit(layer, limits(1 << 20), 64);
    expect(r.weights).toBe(4 * analyze(layer).params.total);
    expect(r.total).toBe(r.weights + r.activations + r.kvCache + r.scratch);
    expect([r.kvCache, r.verdict, r.largest.name]).toEqual([0, 'fits', 'experts.gate_up']);
    expect(r.largest.bytes).toBe(4 * 8 * 32 * 32);
  });
  it('says how many segments a bank needs: whole experts only', () => {
    // One expert's gate and up matrices are 4096 bytes; 3 of them fit 13 000 bytes, so 8 need 3 segments.
    const r = fit(layer, limits(13_000), 8);
    expect(r.verdict).toBe('split');
    expect(r.split.map((t) => [t.name, t.segments])).toEqual([
      ['experts.gate_up', 3],
      ['experts.down', 2],
    ]);
    expect(fit(layer, limits(17_000), 8).advice.join()).toContain('dtype f16');
  });
  it('a single expert that is too large cannot be helped', () => {
    const r = fit(layer, limits(2000), 8);
    expect(r.verdict).toBe('too-large');
    expect(r.reasons[0]).toContain('experts.gate');
  });
  it('gate and up of an expert are kept apart where only together they are too large', () => {
    const r = fit(layer, limits(4000), 8);
    expect(r.verdict).toBe('split');
    expect(r.split.map((t) => t.name)).toContain('experts.up');
  });
  it('half the storage needs half the bytes', () => {
    const half = fit(specOf(moe('experts 8 of swiglu 16 active 2 shared 1', 'hidden 32 dtype bf16')), limits(1 << 20), 64);
    expect(half.weights * 2).toBe(fit(layer, limits(1 << 20), 64).weights);
  });
  it('a model that exceeds the memory is told what would fit', () => {
    const spec = specOf(model('depth 2 attention mha { heads 4 } ffn swiglu 64'));
    const need = fit(spec, limits(1 << 24)).total;
    const r = fit(spec, limits(1 << 24, { memoryBytes: need - 1 }));
    expect(r.verdict).toBe('too-large');
    expect(r.advice.some((a) => /`dtype f16` needs .* and fits/.test(a))).toBe(true);
    expect(fit(spec, limits(1 << 24, { memoryBytes: need })).verdict).toBe('fits');
    expect(fitText(r)).toContain('does not fit');
  });
  it('the cache follows heads, latents and context', () => {
    const cache = (attention: string): number =>
      fit(specOf(model(`depth 3 attention ${attention} ffn swiglu 8`)), limits(1 << 24)).kvCache;
    expect(cache('gqa { heads 4 x 16 kv 2 }')).toBe(4 * 3 * 128 * 2 * 2 * 16);
    expect(cache('mla { heads 4 kv-lora 20 nope 8 value 8 rope 10000 dim 6 }')).toBe(4 * 3 * 128 * 26);
  });
});

describe('defaults', () => {
  const defaults = (text: string): Record<string, string> => {
    const { ast } = parse(text, 'test.moe');
    const spec = ast && resolve(ast).specs[0];
    if (ast === undefined || spec === undefined) throw new Error('not sound');
    return Object.fromEntries(explainDefaults(ast, spec).map((d) => [d.what, d.value]));
  };
  it('lists what was not written', () => {
    const found = defaults(model('depth 1 attention mha { heads 4 } moe { experts 4 of swiglu 8 active 2 router sigmoid }'));
    expect(found).toMatchObject({
      dtype: 'f32',
      norm: 'rms 0.000001',
      'head size': '8',
      selection: 'top-k',
      renormalize: 'no',
      shared: '0',
      capacity: 'unlimited',
    });
    expect(found['rope']).toContain('10000');
  });
  it('and nothing that was', () => {
    const full = 'hidden 8 dtype f16 deterministic run norm rms 1e-6 residual';
    const body =
      'experts 4 of swiglu 8 active 2 shared 0 capacity 4 renormalize none router softmax top-k weights scores scale 2 weights on output';
    const text = moe(body, full);
    expect(defaults(text)).toEqual({});
  });
});
