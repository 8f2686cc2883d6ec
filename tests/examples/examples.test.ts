/** Every example is sound, laid out by the formatter and short to read; the promised ones are there. */
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { analyze, analyzeText, explainDefaults, resolve } from '../../src/model/index.ts';
import { format, parse } from '../../src/parser/index.ts';

const DIR = join(import.meta.dirname, '../../examples');
const files = readdirSync(DIR, { recursive: true, encoding: 'utf8' })
  .filter((f) => f.endsWith('.moe'))
  .sort();
const PROMISED = [
  ...['dense', 'hash', 'switch', 'gshard', 'deepseekmoe'].map((n) => `table1/${n}`),
  ...'deepseek-7b deepseek-moe-16b deepseek-moe-145b deepseek-v2-lite deepseek-v2 deepseek-v3 mixtral-8x7b'.split(' '),
  ...'qwen1.5-moe-a2.7b qwen3-30b-a3b olmoe-1b-7b gpt-oss-20b granite-3.1-3b-a800m tiny-deepseekmoe'.split(' '),
];

describe('examples', () => {
  it('hold everything that is promised', () => {
    expect(PROMISED.filter((n) => !existsSync(join(DIR, `${n}.moe`)))).toEqual([]);
    expect(files.filter((f) => f.startsWith('layers')).length).toBeGreaterThanOrEqual(10);
  });

  it.each(files)('%s', (file) => {
    const text = readFileSync(join(DIR, file), 'utf8');
    expect(text.startsWith('// '), 'begins by saying what it is').toBe(true);
    for (const line of text.split('\n')) expect(line.length, line).toBeLessThanOrEqual(140);
    const start = performance.now();
    const { ast, diagnostics } = parse(text, file);
    expect(diagnostics).toEqual([]);
    const resolved = ast === undefined ? undefined : resolve(ast);
    expect(performance.now() - start).toBeLessThan(500);
    expect(resolved?.diagnostics).toEqual([]);
    expect(resolved?.specs).toHaveLength(1);
    expect(format(text, file).text).toBe(text);
    const [spec] = resolved?.specs ?? [];
    if (ast === undefined || spec === undefined) throw new Error('not sound');
    const analysis = analyze(spec);
    expect(analysis.params.active).toBeLessThanOrEqual(analysis.params.total);
    expect(analyzeText(analysis)).toContain(spec.name);
    expect(explainDefaults(ast, spec).every((d) => d.why !== '')).toBe(true);
  });

  it('have names of their own', () => {
    const names = files.map((f) => /^(?:model|layer) (\S+)/m.exec(readFileSync(join(DIR, f), 'utf8'))?.[1]);
    expect(new Set(names).size).toBe(files.length);
  });
});
