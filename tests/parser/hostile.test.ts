/** Input that wishes us ill: it ends in a tree or in diagnostics, soon, and never in an exception. */
import { readFileSync, readdirSync } from 'node:fs';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { type Span, renderGithub, renderText, toJson } from '../../src/diagnostics/index.ts';
import { type Parsed, MAX_LENGTH, MAX_SHOWN, format, keywords, parse } from '../../src/parser/index.ts';
import { dress, random, tokens } from './generate.ts';

/** Parses, renders and formats, and checks what must hold whatever the text is. */
function survive(text: string): Parsed {
  const parsed = parse(text, 'a.moe');
  expect(parsed.diagnostics.length).toBeLessThanOrEqual(MAX_SHOWN + 1);
  const errors = parsed.diagnostics.filter((d) => d.severity === 'error');
  if (errors.length === 0) expect(parsed.ast?.units.length).toBeGreaterThan(0);
  const end = Math.max(text.length, 1);
  const sound = (span: Span | undefined): boolean =>
    span === undefined || (Number.isInteger(span.start) && Number.isInteger(span.end) && 0 <= span.start && span.start <= span.end && span.end <= end);
  for (const d of parsed.diagnostics) {
    const spans = [d.primary?.span, ...d.labels.map((l) => l.span), ...d.fixes.map((f) => f.edit?.span)];
    if (!/\S/.test(d.message) || !spans.every(sound)) expect.fail(`${JSON.stringify(d)} for ${JSON.stringify(text)}`);
  }
  // eslint-disable-next-line no-control-regex
  expect(renderText(parsed.diagnostics, () => text)).not.toMatch(/[\0-\x09\x0b-\x1f\x7f-\x9f]/);
  renderGithub(parsed.diagnostics, () => text);
  toJson(parsed.diagnostics, () => text);
  const once = format(text, 'a.moe').text;
  if (once !== text) expect(format(once, 'a.moe').text).toBe(once);
  return parsed;
}

const NAMES: readonly string[] = [
  ['', ' ', 'a', 'A', '_', '__proto__', 'constructor', 'prototype', 'toString', 'hasOwnProperty', '__defineGetter__'],
  ['../x', '../../etc/passwd', '/etc/passwd', 'C:\\con', 'con', 'nul', 'aux', '.hidden', '.', '..', 'a/b', 'a\\b', '~', '-', '--help'],
  ['node_modules', 'package.json', 'index.js', 'favicon.ico', '@scope/name', 'name@1.0.0', 'http://a.b/c', 'file:///a', 'data:,x'],
  [
    "'",
    '"',
    '`',
    '${x}',
    '${process.exit()}',
    '#{x}',
    '%s',
    '%n',
    '{{x}}',
    '<%= x %>',
    '$(id)',
    '`id`',
    '; rm -rf /',
    '| cat',
    '&& ls',
    '> x',
  ],
  ['*/', '/*', '//', '*/ alert(1) /*', '<!--', '-->', '</script>', '<img onerror=x>', '&amp;', ']]>', '??/', '\\', '\\\\', 'a\\'],
  [
    '\n',
    'a\nb',
    '\r\n',
    '\t',
    '\0',
    '\x07',
    '\x1b[31m',
    '\x7f',
    '\x85',
    '\x9b',
    '\u2028',
    '\u2029',
    'a\u2028b',
    '\ufeff',
    '\u00a0',
    '\u200b',
    '\u200d',
  ],
  [
    '\u202e',
    'a\u202eb',
    '\u2066',
    '\u061c',
    '\u00ad',
    '\u180e',
    '\ud800',
    '\udc00',
    'a\ud800b',
    '😀',
    '👩‍👩‍👧',
    '日本語',
    'ñ',
    'n\u0303',
    'ﬁ',
    'İ',
    'ı',
    'ß',
  ],
  ['а', 'ο', 'Ⅷ', '𝐚', '٣', '½', 'é'.normalize('NFD'), 'é'.normalize('NFC'), '\u{10ffff}', '\uffff', '\ufffd', '\u{e0001}', '\ue000'],
  [
    'true',
    'false',
    'null',
    'undefined',
    'NaN',
    'Infinity',
    '0',
    '1e3',
    '-1',
    '0x10',
    'this',
    'class',
    'function',
    'return',
    'new',
    'eval',
    'arguments',
    'await',
  ],
  [
    'fn',
    'var',
    'let',
    'struct',
    'vec4',
    'array',
    'f32',
    'main',
    'max',
    'exp',
    'loop',
    'enable',
    'workgroup',
    'bitcast',
    'int',
    '__global__',
    'threadIdx',
    '__x',
  ],
  [
    'a-b',
    'a.b',
    'a.b-c',
    'a--b',
    'a..b',
    '-a',
    'a-',
    '.a',
    'a.',
    '1a',
    'a1',
    'a b',
    ' a',
    'a ',
    'a,b',
    'a{b',
    '}',
    '{',
    'a"b',
    '\\u0000',
    '\\u000a',
    '\\ud800',
    '\\uZZZZ',
  ],
  ['x'.repeat(64 * 1024 - 64), '日'.repeat(10_000), '\\"'.repeat(1000), '%'.repeat(215)],
].flat();

describe('names', () => {
  it('are many', () => expect(NAMES.length).toBeGreaterThan(150));

  const raw = (text: string): string => `"${text}"`;
  const escaped = (text: string): string => `"${text.replace(/[\\"]/g, '\\$&')}"`;
  const unit = (code: number): string => `\\u${code.toString(16).padStart(4, '0')}`;
  const unicode = (text: string): string =>
    `"${Array.from({ length: Math.min(text.length, 5000) }, (_, i) => unit(text.charCodeAt(i))).join('')}"`;

  it.each(NAMES.map((n) => [n.length > 40 ? `${n.slice(0, 40)}…` : n, n]))('%j are kept or refused', (_, name) => {
    for (const quote of [raw, escaped, unicode]) {
      for (const [text, read] of [
        [`layer ${quote(name)} { hidden 3 }`, (p: Parsed) => p.ast?.units[0]?.name.value],
        [
          `layer l { moe { router hash table ${quote(name)} } }`,
          (p: Parsed) => {
            const unit = p.ast?.units[0];
            const select = unit?.ffn?.kind === 'moe' ? unit.ffn.router?.select : undefined;
            return select?.kind === 'hash' ? select.table.value : undefined;
          },
        ],
      ] as const) {
        const parsed = survive(text);
        if (parsed.diagnostics.length > 0) {
          expect(read(parsed)).toBeUndefined();
          continue;
        }
        if (quote !== raw) expect(read(parsed)).toBe(quote === unicode ? name.slice(0, 5000) : name);
        expect(read(parsed)).toMatch(/\S/);
        expect(read(parsed)).not.toMatch(/[\p{Cc}\p{Cs}]/u);
      }
    }
  });

  it('that are harmless are all kept', () => {
    const refused = NAMES.filter((n) => parse(`layer ${escaped(n)} {}`, 'a').diagnostics.length > 0);
    for (const name of refused)
      expect(name.trim() === '' || /[\p{Cc}\p{Cs}]/u.test(name) || name.length > 60_000, JSON.stringify(name.slice(0, 20))).toBe(true);
    expect(parse(`layer ${escaped('x'.repeat(MAX_LENGTH - 20))} {}`, 'a').diagnostics).toEqual([]);
  });

  it('may be any word of the language', () => {
    for (const word of keywords) {
      expect(survive(`model ${word} {} layer ${word} { moe { router hash table ${word} } }`).diagnostics).toEqual([]);
    }
  });

  it('without quotes are words or refused', () => {
    for (const name of NAMES) survive(`layer ${name} { hidden 3 }`);
  });
});

describe('garbage', () => {
  const PIECES = [
    '(',
    '( ',
    '{',
    '}',
    '{ ',
    'model a { ',
    'a ',
    'a',
    'a-',
    '1 ',
    '1',
    '"',
    '" ',
    '"a\n',
    '/*',
    '/',
    '\0',
    '\ufffd',
    '😀 ',
    'moe { ',
    '1..',
    '-',
    '_',
    '\ud800',
    '\r',
    '.',
    '\\',
    'layer a { moe { zz } } ',
    'router softmax ',
    'vocab 3 ',
  ];
  it.each(PIECES)('%j over and over', (piece) => {
    const start = performance.now();
    survive(piece.repeat(Math.floor(MAX_LENGTH / piece.length)));
    // Generous: the machine may be busy. What it must not be is quadratic.
    expect(performance.now() - start).toBeLessThan(10_000);
  });
  it.each(['zz hidden 1 ', 'ffn swiglu 3 bias bias ', 'moe { experts 3 of swiglu 4 zz } ', 'moe { router softmax softmax } '])(
    '%j inside a unit',
    (piece) => {
      survive(`layer l { ${piece.repeat(Math.floor((MAX_LENGTH - 20) / piece.length))} }`);
    },
  );
  it('larger than any spec is refused at once', () => {
    const start = performance.now();
    for (const text of ['('.repeat(10_000_000), 'layer l {'.repeat(1_000_000), '\0'.repeat(10_000_000)]) {
      expect(survive(text).diagnostics.map((d) => d.code)).toEqual(['MOE1014']);
      expect(parse(text, 'a').ast).toBeUndefined();
    }
    expect(performance.now() - start).toBeLessThan(3000);
  });
  it('of any characters', () => {
    fc.assert(
      fc.property(fc.string({ unit: 'binary', maxLength: 200 }), (text) => {
        survive(text);
      }),
      { numRuns: 500, seed: 3 },
    );
  });
  it('of words and marks', () => {
    const piece = fc.oneof(fc.constantFrom(...keywords), fc.constantFrom('{', '}', ',', '..', '3', '1e-6', '"a"', 'zz', '//x\n', '/*x*/'));
    fc.assert(
      fc.property(fc.array(piece, { maxLength: 60 }), (pieces) => {
        survive(pieces.join(' '));
      }),
      { numRuns: 800, seed: 4 },
    );
  });
});

describe('mutated specs', () => {
  const folder = new URL('../golden-specs/', import.meta.url);
  const specs = readdirSync(folder)
    .filter((f) => f.endsWith('.moe'))
    .map((f) => readFileSync(new URL(f, folder), 'utf8'));
  for (let i = 0; i < 40; i++) specs.push(dress(tokens(i, i % 2 === 0), i));
  const JUNK = [
    '{',
    '}',
    '"',
    '/*',
    '*/',
    '//',
    ' ',
    '\n',
    '\0',
    '\u2028',
    '9',
    '-',
    '.',
    '..',
    ',',
    'x',
    '1e999',
    'layer',
    'model',
    'moe',
    '€',
    '(',
    '\\',
  ];

  it('2000 of them', () => {
    const pick = random(2024);
    let broken = 0;
    for (let i = 0; i < 2000; i++) {
      let text = specs[pick(specs.length)] ?? '';
      for (let n = 1 + pick(4); n > 0; n--) {
        const a = pick(text.length + 1);
        const b = Math.min(text.length, a + pick(pick(4) === 0 ? 40 : 4));
        const kind = pick(4);
        const piece =
          kind === 0 ? '' : kind === 1 ? (JUNK[pick(JUNK.length)] ?? '') : kind === 2 ? text.slice(a, b).repeat(2) : text.slice(b, b + 20);
        text = text.slice(0, a) + piece + text.slice(b);
      }
      if (survive(text).diagnostics.length > 0) broken++;
    }
    expect(broken).toBeGreaterThan(700);
    expect(broken).toBeLessThan(2000);
  });
});
