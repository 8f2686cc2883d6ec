/** Every code that the sources mention has a page, every page's code is used, and pages stay readable. */
import { readdirSync, readFileSync } from 'node:fs';
import { join, relative } from 'node:path';
import { describe, expect, it } from 'vitest';
import { codes } from '../../src/diagnostics/index.ts';

const SRC = join(import.meta.dirname, '../../src');
const TABLES = join('diagnostics', 'codes');

/** Codes by the files that mention them, the tables of pages themselves left out. */
function mentioned(): ReadonlyMap<string, readonly string[]> {
  const found = new Map<string, string[]>();
  for (const entry of readdirSync(SRC, { withFileTypes: true, recursive: true })) {
    if (!entry.isFile() || !entry.name.endsWith('.ts')) continue;
    const file = relative(SRC, join(entry.parentPath, entry.name));
    if (file.startsWith(TABLES)) continue;
    for (const [code] of readFileSync(join(SRC, file), 'utf8').matchAll(/\bMOE\d{4}\b/g)) found.set(code, [...(found.get(code) ?? []), file]);
  }
  return found;
}

describe('pages of diagnostics', () => {
  const used = mentioned();

  it('finds the codes of every thousand in use', () => {
    expect(new Set([...used.keys()].map((c) => c[3]))).toEqual(new Set(Object.keys(codes).map((c) => c[3])));
    expect(used.size).toBeGreaterThan(60);
  });

  it('exist for every code that the sources mention', () => {
    expect([...used].filter(([code]) => !Object.hasOwn(codes, code))).toEqual([]);
  });

  it('are of codes that the sources use', () => {
    expect(Object.keys(codes).filter((code) => !used.has(code))).toEqual([]);
  });

  it('have titles of their own that are no sentences', () => {
    const titles = Object.values(codes).map((p) => p.title);
    expect(new Set(titles).size).toBe(titles.length);
    expect(titles.filter((t) => t.endsWith('.') || t.length > 72)).toEqual([]);
  });

  it('close every fence they open, and end with one newline', () => {
    for (const [code, { explain }] of Object.entries(codes)) {
      expect((explain.match(/^```/gm) ?? []).length % 2, code).toBe(0);
      expect(explain.endsWith('\n\n'), code).toBe(false);
    }
  });
});
