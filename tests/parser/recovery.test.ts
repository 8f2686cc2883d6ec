/** Several problems in one run, each named once, at its place, with what was meant. */
import { describe, expect, it } from 'vitest';
import { MAX_SHOWN, parse } from '../../src/parser/index.ts';

/** `CODE 'text under the span'` of every problem. */
const problems = (text: string): readonly string[] =>
  parse(text, 'a.moe').diagnostics.map((d) => `${d.code} '${text.slice(d.primary?.span.start, d.primary?.span.end)}'`);

describe('unknown words', () => {
  it.each([
    ['hiden 32', 'hiden', 'hidden'],
    ['Hidden 32', 'Hidden', 'hidden'],
    ['ffn swigluu 8', 'swigluu', 'swiglu'],
    ['moe { exprts 8 of swiglu 4 }', 'exprts', 'experts'],
    ['moe { experts 8 fo swiglu 4 }', 'fo', 'of'],
    ['moe { router softmax topk }', 'topk', 'top-k'],
    ['moe { router top_k }', 'top_k', 'top-k'],
    ['moe { router softmax renormalise }', 'renormalise', 'renormalize'],
    ['dtype fp16', 'fp16', 'f16'],
    ['deterministic bach', 'bach', 'batch'],
    ['norm rmsnorm', 'rmsnorm', 'rms'],
  ])('%s', (body, wrong, right) => {
    const text = `layer l { ${body} }`;
    const [d, ...rest] = parse(text, 'a').diagnostics;
    expect(rest).toEqual([]);
    if (wrong === 'rmsnorm') {
      // Too far from any known word to be guessed; the choices are listed instead.
      expect(d?.message).toContain('`rms` or `layer`');
      return;
    }
    expect(d?.code).toBe('MOE1007');
    expect(text.slice(d?.primary?.span.start, d?.primary?.span.end)).toBe(wrong);
    const edit = d?.fixes[0]?.edit;
    expect(edit?.replacement).toBe(right);
    const fixed = text.slice(0, edit?.span.start) + (edit?.replacement ?? '') + text.slice(edit?.span.end);
    expect(parse(fixed, 'a').diagnostics).toEqual([]);
  });
  it('before a block do not drag the block along', () => {
    expect(problems('model m { atention mha { heads 3 } layer 0 { ffn swiglu 3 } }')).toEqual(["MOE1007 'atention'"]);
    expect(problems('model m { layers 1..3 { mo { experts 3 of swiglu 4 } ffn swiglu 3 } hidden 3 }')).toEqual(["MOE1007 'mo'"]);
    expect(problems('modle m { hidden 3 } layer l { hiden 3 }')).toEqual(["MOE1007 'modle'", "MOE1007 'hiden'"]);
  });
});

describe('one run', () => {
  it('reports what is wrong in several places and keeps the sound units', () => {
    const text = `model m {
  vocab   hidden 2048
  contxt 4096
  attention mha { heads 16 by 128  rope theta 10000 }
  layers 1..27 {
    moe { experts 64 of swiglu 1408  activ 6  router softmx }
  }
}
layer sound { hidden 3  ffn swiglu 4 }
layer broken { hidden 3 ffn swigl 4 }`;
    expect(problems(text)).toEqual([
      "MOE1009 'hidden'",
      "MOE1007 'contxt'",
      "MOE1008 'by'",
      "MOE1009 'theta'",
      "MOE1007 'activ'",
      "MOE1007 'softmx'",
      "MOE1007 'swigl'",
    ]);
    expect(parse(text, 'a').ast?.units.map((u) => u.name.value)).toEqual(['sound']);
  });

  it(`shows ${MAX_SHOWN} problems and counts the rest`, () => {
    const text = `layer l {\n${'zz hidden 1\n'.repeat(40)}}`;
    const { diagnostics } = parse(text, 'a');
    expect(diagnostics).toHaveLength(MAX_SHOWN + 1);
    expect(diagnostics.at(-1)).toMatchObject({
      code: 'MOE1015',
      severity: 'note',
      message: expect.stringMatching(/^and \d+ more problems$/),
    });
    const starts = diagnostics.slice(0, -1).map((d) => d.primary?.span.start ?? -1);
    expect(starts).toEqual([...starts].sort((a, b) => a - b));
  });

  it('says the same again for the same text', () => {
    const text = 'model m { vocab zz 3 layer { } moe';
    expect(parse(text, 'a')).toEqual(parse(text, 'a'));
  });
});

describe('braces', () => {
  it('missing at the end', () => {
    expect(problems('model m { vocab 3')).toEqual(["MOE1010 '{'"]);
    expect(problems('model m { layer 0 { moe { router softmax')).toEqual(["MOE1010 '{'"]);
    const d = parse('layer l { moe { router softmax', 'a').diagnostics[0];
    expect(d?.message).toBe('this `moe` block is never closed');
    expect(d?.primary?.span.start).toBe(14);
    expect(d?.labels[0]?.span.start).toBe(30);
  });
  it('missing before a clause of an outer block', () => {
    const text = 'model m { layers 1..3 { moe { active 3 }\n layers 4 { ffn swiglu 3 } vocab 3 }\nlayer l { hidden 4 }';
    expect(problems(text)).toEqual(["MOE1008 'layers'"]);
    const edit = parse(text, 'a').diagnostics[0]?.fixes[0]?.edit;
    if (edit === undefined) throw new Error('no edit');
    expect(parse(text.slice(0, edit.span.start) + edit.replacement + text.slice(edit.span.end), 'a').diagnostics).toEqual([]);
  });
  it('too many', () => {
    expect(problems('layer l { hidden 3 } }')).toEqual(["MOE1011 '}'"]);
    expect(problems('layer l { moe { router softmax } } }\nlayer k { hidden 3 }')).toEqual(["MOE1011 '}'"]);
  });
  it('missing at the start', () => {
    expect(problems('layer l hidden 3 }')[0]).toBe("MOE1009 'hidden'");
  });
});

describe('words in the wrong place', () => {
  it.each([
    ['layer l { moe { hidden 3 active 3 } }', 'hidden', '`model` block'],
    ['layer l { context 3 }', 'context', '`model` block'],
    ['model m { experts 3 of swiglu 4 }', 'experts', '`moe` block'],
    ['model m { top-k }', 'top-k', undefined],
    ['layer l { attention mha { heads 3 } }', 'attention', '`model` block'],
    ['model m { model n { } }', 'model', undefined],
  ])('%s', (text, word, home) => {
    const [d, ...rest] = parse(text, 'a').diagnostics;
    expect(rest).toEqual([]);
    expect(d?.code).toBe('MOE1008');
    expect(text.slice(d?.primary?.span.start, d?.primary?.span.end)).toBe(word);
    if (home !== undefined) expect(d?.primary?.text).toContain(home);
  });
});

describe('missing parts', () => {
  it.each([
    ['model { }', '{', 'a name'],
    ['layer l { hidden }', '}', 'a number'],
    ['layer l { ffn 3 }', '3', '`swiglu`'],
    ['layer l { ffn swiglu }', '}', 'a number'],
    ['layer l { moe { experts 8 swiglu 4 } }', 'swiglu', '`of`'],
    ['layer l { moe { router } }', '}', 'another word'],
    ['layer l { moe { segment m 4 of N 16 swiglu 4 } }', 'swiglu', '`of` or `into`'],
    ['model m { layers 1.. { } }', '{', 'a number'],
    ['model m { embedding }', '}', '`tied` or `multiplier`'],
  ])('%s', (text, at, wanted) => {
    const [d, ...rest] = parse(text, 'a').diagnostics;
    expect(rest).toEqual([]);
    expect(d?.code).toBe('MOE1009');
    expect(text.slice(d?.primary?.span.start, d?.primary?.span.end)).toBe(at);
    expect(d?.message).toContain(wanted);
  });
  it('at the end of the file', () => {
    const d = parse('layer', 'a').diagnostics[0];
    expect(d?.message).toBe('expected a name behind `layer`, but the file ends');
    expect(d?.primary?.span).toEqual({ file: 'a', start: 5, end: 5 });
  });
});

describe('characters', () => {
  it.each([
    ['layer l { hidden = 3 }', "MOE1001 '='", ''],
    ['layer l { hidden 3; }', "MOE1001 ';'", ''],
    ['layer l { hidden\u00a03 }', "MOE1001 '\u00a0'", ' '],
    ['model l { attention mha { heads 3 \u00d7 4 } }', "MOE1001 '\u00d7'", 'x'],
    ['layer l { hidden 3 }\0', "MOE1001 '\0'", ''],
    ['layer l { hidden 3 } \ufeff', "MOE1001 '\ufeff'", ''],
    ['layer l { hidden \ufffd\ufffd3 }', "MOE1001 '\ufffd\ufffd'", ''],
    ['layer l { hidden 3 \u2028 }', "MOE1001 '\u2028'", ' '],
    ['# layer', "MOE1001 '#'", '//'],
  ])('%j', (text, expected, replacement) => {
    expect(problems(text)[0]).toBe(expected);
    expect(parse(text, 'a').diagnostics[0]?.fixes[0]?.edit?.replacement).toBe(replacement);
  });
  it('run together are reported together', () => {
    expect(problems('layer l { ((((( hidden 3 }')).toEqual(["MOE1001 '((((('"]);
  });
  it('touching numbers', () => {
    expect(problems('layer l { hidden 4k }')).toEqual(["MOE1005 '4k'"]);
    expect(parse('layer l { hidden 4k }', 'a').diagnostics[0]?.fixes.map((f) => f.edit?.replacement)).toEqual(['4096', '4000']);
    expect(problems('model m { attention mha { heads 16x128 } }')).toEqual(["MOE1005 '16x128'"]);
    expect(parse('model m { attention mha { heads 16x128 } }', 'a').diagnostics[0]?.fixes[0]?.edit?.replacement).toBe('16 x 128');
  });
  it('byte order marks and carriage returns are no problem', () => {
    expect(problems('\ufefflayer l {\r\n  hidden 3 // x\r\n}\r\n')).toEqual([]);
    expect(problems('layer l {\r  hidden 3 // x\r}')).toEqual([]);
  });
  it('left open', () => {
    expect(problems('layer "l { hidden 3 }\n')[0]).toBe("MOE1002 '\"l { hidden 3 }'");
    expect(problems('layer l { hidden 3 } /* x')).toEqual(["MOE1003 '/*'"]);
    expect(problems('layer l { hidden 3 } // x')).toEqual([]);
  });
  it('nothing at all', () => {
    for (const text of ['', ' \n', '// x', '\ufeff']) expect(problems(text)).toEqual(["MOE1017 ''"]);
  });
});
