/** Nonsense is told with its place, other places and fixes; several problems are told in one run; nothing throws. */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { hasErrors } from '../../src/diagnostics/index.ts';
import type { Diagnostic } from '../../src/diagnostics/types.ts';
import { analyze, analyzeText, fit, fitText } from '../../src/model/index.ts';
import { resolve } from '../../src/model/resolve.ts';
import { parse } from '../../src/parser/index.ts';
import { model, moe, problems } from './helpers.ts';

const codes = (text: string): string[] => problems(text).map((d) => d.code);
const only = (text: string): Diagnostic => {
  const found = problems(text);
  expect(found.map((d) => d.code)).toHaveLength(1);
  return found[0]!;
};
const at = (text: string, d: Diagnostic): string => text.slice(d.primary?.span.start, d.primary?.span.end);
const sized = (n: string): string[] => [
  moe(`experts ${n} of swiglu 8 active 2`),
  moe(`experts 8 of swiglu ${n} active 2`),
  moe(`experts 8 of swiglu 8 active ${n}`),
  moe('experts 8 of swiglu 8 active 2', `hidden ${n}`),
  model(`depth ${n} attention mha { heads 4 } ffn swiglu 8`),
  model(`depth 1 attention mha { heads ${n} } ffn swiglu 8`),
  model(`depth 1 attention gqa { heads 4 kv ${n} } ffn swiglu 8`),
];

describe('numbers', () => {
  it.each(['0', '-1', '2147483648', '1e9', '1.5', '9007199254740991'])(
    '%s is refused in every place of a size, with its place',
    (n) => {
      for (const text of sized(n)) {
        const found = problems(text);
        expect(hasErrors(found), text).toBe(true);
        expect(
          found.some((d) => at(text, d).includes(n)),
          text,
        ).toBe(true);
      }
    },
  );
  it.each([
    ['1e-46', 'MOE2006'],
    ['1e-40', 'MOE2006'],
    ['1e39', 'MOE2005'],
    ['-1e-6', 'MOE2003'],
  ])('constant %s', (n, code) => {
    const texts = [
      moe(`experts 4 of swiglu 8 active 2 router softmax renormalize add ${n}`),
      moe(`experts 4 of swiglu 8 active 2 router scale ${n}`),
      moe(`experts 4 of swiglu 8 clamp ${n} active 2`),
      model(`norm rms ${n} depth 1 attention mha { heads 4 } ffn swiglu 8`),
      model(`residual multiplier ${n} depth 1 attention mha { heads 4 } ffn swiglu 8`),
      model(`depth 1 attention mha { heads 4 scale ${n} } ffn swiglu 8`),
      model(`depth 1 attention mha { heads 4 rope ${n} } ffn swiglu 8`),
    ];
    for (const text of texts) expect(codes(text), text).toEqual([code]);
  });
  it('constants that f32 holds are kept: 1e-20, 1e-38 is too close to zero', () => {
    expect(codes(moe('experts 4 of swiglu 8 active 2 router softmax renormalize add 1e-20'))).toEqual([]);
    expect(codes(moe('experts 4 of swiglu 8 active 2 router softmax renormalize add 1e-38'))).toEqual(['MOE2006']);
  });
});

describe('places and fixes', () => {
  it('K > E points at both numbers and offers both repairs', () => {
    const text = moe('experts 6 of swiglu 8 active 8');
    const d = only(text);
    expect([d.code, at(text, d), d.primary?.text]).toEqual(['MOE3001', '8', 'must be between 1 and 6']);
    expect(d.labels.map((l) => text.slice(l.span.start, l.span.end))).toEqual(['6']);
    const repaired = d.fixes.map((f) => {
      if (f.edit === undefined) throw new Error('a fix without an edit');
      return text.slice(0, f.edit.span.start) + f.edit.replacement + text.slice(f.edit.span.end);
    });
    expect(repaired.map(codes)).toEqual([[], []]);
  });
  it('overlaps point at both blocks, gaps at the model', () => {
    const overlap = model('attention mha { heads 4 } layers 0..2 { ffn swiglu 8 } layers 2..3 { ffn swiglu 9 }');
    const d = only(overlap);
    expect([d.code, at(overlap, d), d.labels.map((l) => overlap.slice(l.span.start, l.span.end))]).toEqual([
      'MOE3021',
      '2..3',
      ['0..2'],
    ]);
    expect(d.message).toContain('layer 2 has');
    const gap = model('attention mha { heads 4 } layer 0 { ffn swiglu 8 } layers 3..4 { ffn swiglu 9 }');
    expect(only(gap).message).toBe('layers 1..2 have no feed-forward part');
  });
  it('an attention block and a feed-forward block may name the same layers', () => {
    expect(codes(model('attention mha { heads 4 } layers 0..2 { ffn swiglu 8 } layers 1..2 { attention { window 4 } }'))).toEqual([]);
  });
  it('many problems are told in one run, each once', () => {
    const text = `model m { vocab 0 hidden 32 context 128 norm rms 1e-50 attention gqa { heads 4 kv 3 }
      layers 0..3 { moe { experts 6 of swiglu 8.5 active 8 } } layers 3..5 { ffn mlp gelu 0 interleaved } }
      layer m { hidden 8 }`;
    expect(codes(text).sort()).toEqual([
      'MOE2001',
      'MOE2002',
      'MOE2003',
      'MOE2003',
      'MOE2006',
      'MOE2007',
      'MOE2008',
      'MOE3010',
      'MOE3021',
    ]);
  });
  it('a block that serves many layers is told about once', () => {
    expect(codes(model('attention mha { heads 4 } depth 40 moe { experts 4 of swiglu 8 active 9 }'))).toEqual(['MOE3001']);
  });
  it('shared experts that eat up the active ones', () => {
    expect(codes(moe('segment m 4 of N 16 into swiglu 8 active K 1 shared Ks 4'))).toEqual(['MOE3006']);
    expect(codes(moe('segment m 4 of N 16 into swiglu 8 active K 1 shared Ks 3'))).toEqual([]);
    expect(codes(moe('segment m 4 of N 16 into swiglu 8 active K 17'))).toEqual(['MOE3001']);
  });
  it('every diagnostic says why or how to go on', () => {
    const texts = [moe('experts 6 of swiglu 8 active 8'), moe('experts 6 of swiglu 8'), model(''), 'layer l { }', moe('')];
    for (const d of texts.flatMap((t) => problems(t))) expect(d.why ?? d.fixes[0]?.text, d.message).toBeTruthy();
  });
  it('parts that do not go together are refused, with the nearest that does', () => {
    const refused: readonly (readonly [string, string])[] = [
      [moe('experts 4 of swiglu 8 active 2 router sparse-mixer groups 2 keep 1 by max'), 'MOE2007'],
      [moe('experts 4 of swiglu 8 active 2 router softmax expert-choice factor 2'), 'MOE2007'],
      [moe('experts 4 of swiglu 8 router softmax expert-choice factor 2 renormalize'), 'MOE2007'],
      [moe('experts 4 of swiglu 8 router softmax expert-choice factor 2 capacity 4'), 'MOE2007'],
      [moe('experts 4 of swiglu 8 router sigmoid sparse-mixer active 2'), 'MOE2007'],
      [moe('experts 4 of swiglu 8 active 2 router weights one renormalize'), 'MOE2007'],
      [moe('experts 4 of mlp relu 8 clamp 3 active 2'), 'MOE2007'],
      [moe('experts 4 of swiglu 8 active 2 shared 0 gated'), 'MOE2007'],
      [moe('experts 4 of swiglu 8 router hash table "t" selection-bias', 'hidden 8 vocab 9'), 'MOE2007'],
      [model('norm rms 1e-6 bias depth 1 attention mha { heads 4 } ffn swiglu 8'), 'MOE2007'],
      [model('depth 1 attention mha { heads 4 kv-lora 8 } ffn swiglu 8'), 'MOE2007'],
      [model('depth 1 attention mla { heads 4 kv-lora 8 nope 8 value 8 rope 10000 dim 8 window 4 } ffn swiglu 8'), 'MOE2007'],
    ];
    for (const [text, code] of refused) expect(codes(text), text).toEqual([code]);
  });
});

describe('robustness', () => {
  const dir = join(import.meta.dirname, '../..');
  const seeds = [
    ...readdirSync(join(dir, 'examples')),
    ...readdirSync(join(dir, 'tests/golden-specs')).map((f) => `../tests/golden-specs/${f}`),
  ]
    .filter((f) => f.endsWith('.moe'))
    .map((f) => readFileSync(join(dir, 'examples', f), 'utf8').replace(/\/\/.*/g, ''));
  const numbers = ['0', '-3', '1', '2', '7', '2.5', '1e-46', '1e39', '4294967296', '1e300'];

  it('mutated specs resolve or are refused with codes of their own, and what resolves can be analysed', () => {
    fc.assert(
      fc.property(fc.constantFrom(...seeds), fc.array(fc.tuple(fc.nat(), fc.nat()), { minLength: 1, maxLength: 4 }), (seed, edits) => {
        const words = seed.split(/\s+/).filter((w) => w !== '');
        for (const [where, how] of edits) {
          const i = where % words.length;
          const isNumber = /^[\d.]+$/.test(words[i] ?? '');
          if (isNumber) words[i] = numbers[how % numbers.length] ?? '1';
          else if (how % 3 === 0) words.splice(i, 1);
          else if (how % 3 === 1) words.splice(i, 0, words[how % words.length] ?? '');
        }
        const { ast } = parse(words.join(' '), 'fuzz.moe');
        if (ast === undefined) return;
        const { specs, diagnostics } = resolve(ast);
        for (const d of diagnostics) expect(d.code).toMatch(/^MOE[23]\d{3}$/);
        if (specs.length < ast.units.length) expect(hasErrors(diagnostics)).toBe(true);
        for (const spec of specs) {
          const a = analyze(spec);
          expect(Number.isFinite(a.params.total) && a.params.active <= a.params.total).toBe(true);
          expect(analyzeText(a)).not.toMatch(/NaN|undefined|Infinity/);
          expect(fitText(fit(spec, { name: 'x', maxBindingBytes: 2 ** 27, maxBufferBytes: 2 ** 28 }))).not.toMatch(
            /NaN|undefined|Infinity/,
          );
        }
      }),
      { numRuns: 400, seed: 7 },
    );
  });
});
