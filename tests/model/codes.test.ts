/** The pages of codes 2xxx and 3xxx: wrong examples raise their code alone, right ones nothing, and every code in use has a page. */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { codes } from '../../src/diagnostics/index.ts';
import { problems } from './helpers.ts';

const example = (explain: string, kind: 'wrong' | 'right'): string | undefined =>
  new RegExp(`^\`\`\`moe ${kind}\\n([^]*?)^\`\`\`$`, 'm').exec(explain)?.[1];
const pages = Object.entries(codes).filter(([code]) => /^MOE[23]/.test(code));
const SRC = join(import.meta.dirname, '../../src');

const sources = (dir: string): string[] =>
  readdirSync(dir, { withFileTypes: true, recursive: true })
    .filter((e) => e.isFile() && e.name.endsWith('.ts'))
    .map((e) => readFileSync(join(e.parentPath, e.name), 'utf8'));

describe('pages of codes 2xxx and 3xxx', () => {
  it.each(pages.filter(([, p]) => example(p.explain, 'wrong') !== undefined))('%s: examples keep their word', (code, page) => {
    const found = problems(example(page.explain, 'wrong') ?? '');
    expect(found.map((d) => d.code)).toEqual([code]);
    expect(problems(example(page.explain, 'right') ?? '')).toEqual([]);
  });

  it('there is a page for every code that is used, and every page is used', () => {
    const used = new Set(sources(SRC).flatMap((text) => [...text.matchAll(/'(MOE[23]\d{3})'/g)].map((m) => m[1] ?? '')));
    expect([...used].filter((c) => !Object.hasOwn(codes, c))).toEqual([]);
    expect(pages.map(([c]) => c).filter((c) => !used.has(c))).toEqual([]);
  });
});
