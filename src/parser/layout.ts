/** The text of a file as nested elements: clauses with their blocks, and comments, each knowing the line breaks before it. */
import type { CstElement, CstNode, IToken } from 'chevrotain';
import { BlockComment, CloseBrace, LineComment, OpenBrace } from './tokens.ts';

/** Rules of which each instance may begin a line. */
const CLAUSES: ReadonlySet<string> = new Set(['Unit', 'ModelItem', 'LayerItem', 'BodyItem', 'AttentionItem', 'MoeItem', 'YarnItem']);
/** Rules of which each instance may begin a continuation line. */
const PARTS: ReadonlySet<string> = new Set(['RouterPart', 'RopePart', 'NetworkPart', 'ExpertDType']);

export interface Lexeme {
  readonly kind: 'token' | 'line-comment' | 'block-comment';
  readonly text: string;
  /** Line breaks between the lexeme before and this one. */
  readonly newlines: number;
  readonly begins: 'clause' | 'part' | undefined;
  readonly type: IToken['tokenType'];
}

export interface Block {
  readonly kind: 'block';
  /** Line breaks before the opening brace. */
  readonly newlines: number;
  readonly begins: undefined;
  readonly elements: readonly Element[];
  /** Whether any line break stands between the braces. */
  readonly broken: boolean;
}

export type Piece = Lexeme | Block;

/** A clause, or a comment between clauses (its only piece). */
export interface Element {
  readonly pieces: readonly Piece[];
  readonly newlines: number;
  readonly comment: boolean;
}

const isNode = (e: CstElement): e is CstNode => 'children' in e;

function beginnings(cst: CstNode): ReadonlyMap<number, 'clause' | 'part'> {
  const found = new Map<number, 'clause' | 'part'>();
  const visit = (node: CstNode): void => {
    const start = node.location?.startOffset;
    const begins = CLAUSES.has(node.name) ? 'clause' : PARTS.has(node.name) ? 'part' : undefined;
    if (start !== undefined && begins !== undefined && !found.has(start)) found.set(start, begins);
    for (const list of Object.values(node.children)) for (const e of list) if (isNode(e)) visit(e);
  };
  visit(cst);
  return found;
}

/** Tokens and comments in one row. */
function lexemes(text: string, cst: CstNode, tokens: readonly IToken[], comments: readonly IToken[]): readonly Lexeme[] {
  const begins = beginnings(cst);
  const all = [...tokens, ...comments].sort((a, b) => a.startOffset - b.startOffset);
  let end = 0;
  return all.map((token) => {
    const gap = text.slice(end, token.startOffset);
    end = token.startOffset + token.image.length;
    const kind = token.tokenType === LineComment ? 'line-comment' : token.tokenType === BlockComment ? 'block-comment' : 'token';
    return {
      kind,
      text: kind === 'token' ? token.image : token.image.replace(/\r\n?/g, '\n').trimEnd(),
      newlines: (gap.match(/\r\n|\r|\n/g) ?? []).length,
      begins: begins.get(token.startOffset),
      type: token.tokenType,
    };
  });
}

/** The elements of a file without syntax errors. */
export function layout(text: string, cst: CstNode, tokens: readonly IToken[], comments: readonly IToken[]): readonly Element[] {
  const row = lexemes(text, cst, tokens, comments);
  let at = 0;
  /** Whether the comment at `i` stands between clauses: the next token begins one, closes the block, or is missing. */
  const isBetween = (i: number): boolean => {
    const next = row.slice(i).find((l) => l.kind === 'token');
    return next === undefined || next.begins === 'clause' || next.type === CloseBrace;
  };
  const elements = (): Element[] => {
    const out: Element[] = [];
    let pieces: Piece[] = [];
    const flush = (): void => {
      const first = pieces[0];
      if (first !== undefined) out.push({ pieces, newlines: first.newlines, comment: false });
      pieces = [];
    };
    for (;;) {
      const lexeme = row[at];
      if (lexeme === undefined || lexeme.type === CloseBrace) break;
      if (lexeme.kind !== 'token' && isBetween(at)) {
        flush();
        out.push({ pieces: [lexeme], newlines: lexeme.newlines, comment: true });
        at++;
        continue;
      }
      if (lexeme.begins === 'clause') flush();
      at++;
      if (lexeme.type !== OpenBrace) {
        pieces.push(lexeme);
        continue;
      }
      const start = at;
      const inner = elements();
      const broken = row.slice(start, at + 1).some((l) => l.newlines > 0);
      at++;
      pieces.push({ kind: 'block', newlines: lexeme.newlines, begins: undefined, elements: inner, broken });
    }
    flush();
    return out;
  };
  return elements();
}
