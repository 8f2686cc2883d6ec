/** A reader of W3C EBNF, and both grammars in one normal form. */
import type { ISerializedGast } from 'chevrotain';

export type Expr =
  | { readonly kind: 'ref'; readonly name: string }
  | { readonly kind: 'text'; readonly text: string }
  | { readonly kind: 'seq'; readonly items: readonly Expr[] }
  | { readonly kind: 'alt'; readonly items: readonly Expr[] }
  | { readonly kind: 'repeat'; readonly mark: '?' | '*' | '+'; readonly item: Expr };

export interface Ebnf {
  readonly rules: ReadonlyMap<string, Expr>;
  readonly patterns: ReadonlyMap<string, string>;
}

/** Sequences and alternatives of one are that one. */
const group = (kind: 'seq' | 'alt', items: readonly Expr[]): Expr => {
  const flat = items.flatMap((i) => (i.kind === kind ? i.items : [i]));
  return flat.length === 1 && flat[0] !== undefined ? flat[0] : { kind, items: flat };
};

/** Reads rules `Name ::= …` and patterns `Name ::= /…/`. */
export function readEbnf(text: string): Ebnf {
  const rules = new Map<string, Expr>();
  const patterns = new Map<string, string>();
  const clean = text.replace(/^\/\*[^]*?\*\//gm, '');
  for (const [, name = '', body = ''] of clean.matchAll(/^(\w+)\s*::=\s*([^]*?)(?=^\w+\s*::=|$(?![^]))/gm)) {
    if (rules.has(name) || patterns.has(name)) throw new Error(`${name} is defined twice`);
    const pattern = /^\/(.*)\/\s*$/.exec(body.trim())?.[1];
    if (pattern !== undefined) {
      patterns.set(name, pattern);
      continue;
    }
    const tokens = body.match(/'[^']*'|\w+|[()|?*+]|\S/g) ?? [];
    let at = 0;
    const alternatives = (): Expr => {
      const items = [sequence()];
      while (tokens[at] === '|') {
        at++;
        items.push(sequence());
      }
      return group('alt', items);
    };
    const sequence = (): Expr => {
      const items: Expr[] = [];
      for (let t = tokens[at]; t !== undefined && t !== '|' && t !== ')'; t = tokens[at]) items.push(repeated());
      if (items.length === 0) throw new Error(`empty sequence in ${name}`);
      return group('seq', items);
    };
    const repeated = (): Expr => {
      const token = tokens[at++] ?? '';
      let item: Expr;
      if (token === '(') {
        item = alternatives();
        if (tokens[at++] !== ')') throw new Error(`missing ) in ${name}`);
      } else if (token.startsWith("'")) item = { kind: 'text', text: token.slice(1, -1) };
      else if (/^\w+$/.test(token)) item = { kind: 'ref', name: token };
      else throw new Error(`unexpected ${token} in ${name}`);
      const mark = tokens[at];
      if (mark !== '?' && mark !== '*' && mark !== '+') return item;
      at++;
      return { kind: 'repeat', mark, item };
    };
    rules.set(name, alternatives());
    if (at !== tokens.length) throw new Error(`${name} goes on behind its end`);
  }
  return { rules, patterns };
}

interface Gast {
  readonly type: string;
  readonly name?: string;
  readonly label?: string;
  readonly definition?: readonly Gast[];
}

/** The parser's own rules in the same form. `literals` are the tokens that stand for a pattern rather than a text. */
export function readGast(grammar: readonly ISerializedGast[], literals: ReadonlySet<string>): ReadonlyMap<string, Expr> {
  const toExpr = (node: Gast): Expr => {
    const inner = (): Expr => group('seq', (node.definition ?? []).map(toExpr));
    switch (node.type) {
      case 'Terminal': {
        const name = node.name ?? '';
        return literals.has(name) ? { kind: 'ref', name } : { kind: 'text', text: node.label ?? name };
      }
      case 'NonTerminal':
        return { kind: 'ref', name: node.name ?? '' };
      case 'Alternation':
        return group('alt', (node.definition ?? []).map(toExpr));
      case 'Alternative':
        return inner();
      case 'Option':
        return { kind: 'repeat', mark: '?', item: inner() };
      case 'Repetition':
        return { kind: 'repeat', mark: '*', item: inner() };
      case 'RepetitionMandatory':
        return { kind: 'repeat', mark: '+', item: inner() };
      default:
        throw new Error(`unknown production ${node.type}`);
    }
  };
  return new Map((grammar as readonly Gast[]).map((rule) => [rule.name ?? '', group('seq', (rule.definition ?? []).map(toExpr))]));
}

export const textsOf = (expr: Expr): readonly string[] => {
  if (expr.kind === 'text') return [expr.text];
  if (expr.kind === 'ref') return [];
  return expr.kind === 'repeat' ? textsOf(expr.item) : expr.items.flatMap(textsOf);
};

export const refsOf = (expr: Expr): readonly string[] => {
  if (expr.kind === 'ref') return [expr.name];
  if (expr.kind === 'text') return [];
  return expr.kind === 'repeat' ? refsOf(expr.item) : expr.items.flatMap(refsOf);
};
