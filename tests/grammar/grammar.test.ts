/** The page of EBNF, the parser and the highlighter speak of one language. */
import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { serializedGrammar } from '../../src/parser/grammar.ts';
import { keywords } from '../../src/parser/index.ts';
import { Identifier, NumberLiteral, StringLiteral, moeLexer } from '../../src/parser/tokens.ts';
import { readEbnf, readGast, refsOf, textsOf } from './ebnf.ts';

const read = (name: string): string => readFileSync(new URL(`../../grammar/${name}`, import.meta.url), 'utf8');
const page = readEbnf(read('moe.ebnf'));
const parser = readGast(serializedGrammar, new Set(['Word', 'Number', 'String']));

describe('moe.ebnf', () => {
  it('has the rules of the parser', () => {
    expect([...page.rules.keys()].sort()).toEqual([...parser.keys()].sort());
  });

  it.each([...parser.keys()])('%s', (rule) => {
    expect(page.rules.get(rule)).toEqual(parser.get(rule));
  });

  it('has the literals of the lexer', () => {
    const source = (pattern: unknown): string => (pattern instanceof RegExp ? pattern.source : '');
    expect(Object.fromEntries(page.patterns)).toEqual({
      Word: source(Identifier.PATTERN),
      Number: source(NumberLiteral.PATTERN),
      String: source(StringLiteral.PATTERN),
    });
  });

  it('uses every keyword, defines what it uses, and reaches all of it from File', () => {
    const words = new Set([...page.rules.values()].flatMap(textsOf).filter((t) => /^[a-z]/i.test(t)));
    expect([...words].sort()).toEqual([...keywords].sort());
    const reached = new Set<string>(['File']);
    for (const rule of reached) {
      const body = page.rules.get(rule);
      if (body === undefined) expect([...page.patterns.keys()]).toContain(rule);
      else for (const ref of refsOf(body)) reached.add(ref);
    }
    expect([...reached].sort()).toEqual([...page.rules.keys(), ...page.patterns.keys()].sort());
  });

  it('tells two grammars apart', () => {
    const one = readEbnf("A ::= 'x' B* | 'y'\nB ::= 'z'?\n").rules;
    expect(one.get('A')).toEqual(readEbnf("A ::= ( 'x' B* ) | ( 'y' )").rules.get('A'));
    for (const other of ["A ::= 'x' B+ | 'y'", "A ::= 'y' | 'x' B*", "A ::= 'x' ( B* | 'y' )", "A ::= 'x' B | 'y'"]) {
      expect(one.get('A')).not.toEqual(readEbnf(other).rules.get('A'));
    }
  });
});

describe('keywords', () => {
  it('are lexed as themselves, not as the start of one another', () => {
    for (const word of keywords) expect(moeLexer.tokenize(word).tokens.map((t) => t.tokenType.name)).toEqual([word]);
    expect(new Set(keywords).size).toBe(keywords.length);
  });
});

interface Pattern {
  readonly name?: string;
  readonly match?: string;
  readonly begin?: string;
  readonly end?: string;
  readonly patterns?: readonly Pattern[];
}

describe('moe.tmLanguage.json', () => {
  const grammar: {
    readonly scopeName: string;
    readonly fileTypes: readonly string[];
    readonly patterns: readonly Pattern[];
    readonly repository: Readonly<Record<string, Pattern>>;
  } = JSON.parse(read('moe.tmLanguage.json'));
  const all = (list: readonly Pattern[]): readonly Pattern[] => list.flatMap((p) => [p, ...all(p.patterns ?? [])]);
  const patterns = all([...grammar.patterns, ...Object.values(grammar.repository)]);
  const matching = (text: string): readonly string[] =>
    patterns.flatMap((p) => (p.name !== undefined && p.match !== undefined && new RegExp(`^(?:${p.match})$`).test(text) ? [p.name] : []));

  it('highlights every keyword once', () => {
    for (const word of keywords) expect(matching(word), word).toHaveLength(1);
    expect(matching('qwen3')).toEqual([]);
    expect(matching('top-kk')).toEqual([]);
  });

  it('highlights literals and comments', () => {
    expect(matching('102_400')).toEqual(['constant.numeric.moe']);
    expect(matching('-1.5e-6')).toEqual(['constant.numeric.moe']);
    expect(matching('// words')).toEqual(['comment.line.double-slash.moe']);
    expect(patterns.map((p) => p.name)).toEqual(expect.arrayContaining(['comment.block.moe', 'string.quoted.double.moe']));
    expect(grammar.scopeName).toBe('source.moe');
    expect(grammar.fileTypes).toEqual(['moe']);
  });

  it('does not find keywords inside other words', () => {
    const keyword = patterns.filter(
      (p) => p.name?.startsWith('keyword.') || p.name?.startsWith('support.') || p.name?.startsWith('storage.'),
    );
    for (const text of ['my-moe', 'moe2', 'top-k-1', 'a.layer', 'xmoe']) {
      for (const p of keyword) expect(text.match(new RegExp(p.match ?? '')), `${p.match} in ${text}`).toBeNull();
    }
  });
});
