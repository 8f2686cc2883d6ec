/** The table of codes: every page is complete, and its examples do what it says. */
import { describe, expect, it } from 'vitest';
import { codePage, codes } from '../../src/diagnostics/index.ts';
import { MAX_LENGTH, parse } from '../../src/parser/index.ts';

const entries = Object.entries(codes);
const example = (explain: string, kind: 'wrong' | 'right'): string | undefined =>
  new RegExp(`^\`\`\`moe ${kind}\\n([^]*?)^\`\`\`$`, 'm').exec(explain)?.[1];

describe('codes', () => {
  it('are well formed and have pages', () => {
    for (const [code, page] of entries) {
      expect(code).toMatch(/^MOE\d{4}$/);
      expect(page.title.length, code).toBeGreaterThan(3);
      expect(page.explain.length, code).toBeGreaterThan(40);
      for (const line of page.explain.split('\n')) expect(line.length, `${code}: ${line}`).toBeLessThanOrEqual(140);
    }
  });

  it('are found in any case, and nothing else is', () => {
    expect(codePage('moe1007')?.code).toBe('MOE1007');
    for (const text of ['MOE0000', '', '__proto__', 'constructor', 'MOE1007 ']) expect(codePage(text), text).toBeUndefined();
  });

  const syntax = entries.filter(([code]) => code.startsWith('MOE1'));
  it.each(syntax.filter(([, p]) => example(p.explain, 'wrong') !== undefined))(
    '%s: the wrong example raises it, the right one nothing',
    (code, page) => {
      const wrong = parse(example(page.explain, 'wrong') ?? '', 'wrong.moe').diagnostics.map((d) => d.code);
      expect(wrong).toContain(code);
      expect(new Set(wrong).size, `one kind of problem in ${wrong}`).toBe(1);
      expect(parse(example(page.explain, 'right') ?? '', 'right.moe').diagnostics).toEqual([]);
    },
  );

  it('without examples are raised too', () => {
    const without = syntax.filter(([, p]) => example(p.explain, 'wrong') === undefined).map(([code]) => code);
    expect(without).toEqual(['MOE1014', 'MOE1015']);
    expect(parse(' '.repeat(MAX_LENGTH + 1), 'a.moe').diagnostics.map((d) => d.code)).toEqual(['MOE1014']);
    expect(parse('zz vocab 3 layer a {} '.repeat(30), 'a.moe').diagnostics.at(-1)?.code).toBe('MOE1015');
  });
});
