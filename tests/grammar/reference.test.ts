/** Every example of the language reference is parsed, resolved and in canonical layout, and the page names what the language has. */
import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { renderText } from '../../src/diagnostics/index.ts';
import { resolve } from '../../src/model/index.ts';
import { MAX_LENGTH, MAX_SHOWN, format, keywords, parse } from '../../src/parser/index.ts';

const page = readFileSync(new URL('../../grammar/moe.md', import.meta.url), 'utf8');
const examples = [...page.matchAll(/^```moe\n([^]*?)^```$/gm)].map((m) => m[1] ?? '');
const nameOf = (text: string): string => /(?:model|layer) (\S+)/.exec(text)?.[1] ?? '';

/** Nothing to complain about, warnings included. */
function sound(text: string): void {
  const parsed = parse(text, 'example.moe');
  const resolved = parsed.ast === undefined ? undefined : resolve(parsed.ast);
  expect(renderText([...parsed.diagnostics, ...(resolved?.diagnostics ?? [])], () => text)).toBe('');
  expect(resolved?.specs.length).toBe(parsed.ast?.units.length);
}

describe('moe.md', () => {
  it('has examples, all of them tested', () => {
    expect(examples.length).toBeGreaterThanOrEqual(12);
    expect(page.match(/^```/gm)).toHaveLength(2 * examples.length);
  });

  it.each(examples.map((text) => [nameOf(text), text]))('%s', (_, text) => {
    sound(text);
    expect(format(text, 'example.moe').text).toBe(text);
  });

  const routers = [...page.matchAll(/^\| [^|]+ \| `(router [^`]*)`([^|]*)\|$/gm)].map((m) => ({ router: m[1] ?? '', more: m[2] ?? '' }));
  it.each(routers)('$router', ({ router, more }) => {
    const active = /sparse-mixer/.test(router) ? 2 : /`active (\d)|active (\d)/.exec(more)?.slice(1).find(Boolean);
    const count = /hash/.test(router) ? '' : `active ${active ?? 4}`;
    const capacity = /renormalize before/.test(more) ? 'capacity factor 2 renormalize before' : /capacity/.test(more) ? 'capacity 4' : '';
    sound(`layer l { hidden 32  vocab 64  moe { experts 64 of swiglu 8  ${count}  ${router}  ${capacity} } }`);
  });
  it('lists the routers of published models', () => expect(routers.length).toBeGreaterThan(12));

  it('mentions every word of the language', () => {
    const code = [...page.matchAll(/`([^`]+)`|^```moe\n([^]*?)^```$/gm)].map((m) => m[1] ?? m[2] ?? '').join(' ');
    const words = new Set(code.split(/[^\w.-]+/));
    expect(keywords.filter((k) => !words.has(k))).toEqual([]);
  });

  it('links to chapters that exist', () => {
    const anchors = [...page.matchAll(/^## (.+)$/gm)].map((m) => (m[1] ?? '').toLowerCase().replace(/[^\w -]/g, '').replaceAll(' ', '-'));
    for (const [, target = ''] of page.matchAll(/\]\(#([^)]*)\)/g)) expect(anchors).toContain(target);
  });

  it('states the limits that hold', () => {
    expect(page).toContain(`at most ${MAX_LENGTH} characters`);
    expect(page).toContain(`At most ${MAX_SHOWN} problems`);
  });
});
