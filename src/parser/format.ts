/**
 * The canonical layout: two spaces of indentation, one space inside a clause, two between clauses that share a line.
 * Line breaks between clauses are the author's; a block is spread over lines where its author did so, or where it must be.
 */
import type { Diagnostic } from '../diagnostics/types.ts';
import { type Block, type Element, type Piece, layout } from './layout.ts';
import { parseTrees } from './parse.ts';

export interface Formatted {
  /** The text unchanged where it has syntax errors. */
  readonly text: string;
  readonly diagnostics: Diagnostic[];
}

const MAX_WIDTH = 100;
const pad = (indent: number): string => '  '.repeat(indent);

const isLineComment = (piece: Piece | undefined): boolean => piece?.kind === 'line-comment';
const isBlockComment = (piece: Piece | undefined): boolean => piece?.kind === 'block-comment';

/** What stands between two pieces on one line. */
function glue(before: Piece | undefined, piece: Piece): string {
  if (before === undefined) return '';
  if (piece.kind === 'line-comment') return '  ';
  const tight = (p: Piece): boolean => p.kind === 'token' && p.text === '..';
  if (tight(before) || tight(piece) || (piece.kind === 'token' && piece.text === ',')) return '';
  return ' ';
}

/** Between two elements on one line. */
const between = (before: Element): string => (isBlockComment(before.pieces[0]) && before.comment ? ' ' : '  ');

/** On one line, or undefined where that is not possible. */
function flat(piece: Piece): string | undefined {
  if (piece.kind !== 'block') return piece.kind === 'line-comment' || piece.text.includes('\n') ? undefined : piece.text;
  if (piece.broken) return undefined;
  let out = '';
  let before: Element | undefined;
  for (const element of piece.elements) {
    if (before !== undefined) out += between(before);
    let last: Piece | undefined;
    for (const p of element.pieces) {
      const text = flat(p);
      if (text === undefined) return undefined;
      out += glue(last, p) + text;
      last = p;
    }
    before = element;
  }
  return out === '' ? '{}' : `{ ${out} }`;
}

/** Columns from this piece to the next place where a line may break. */
function chunkWidth(pieces: readonly Piece[], from: number): number {
  let width = 0;
  for (let i = from; i < pieces.length; i++) {
    const piece = pieces[i];
    if (piece === undefined || (i > from && (piece.begins === 'part' || isLineComment(piece)))) break;
    width += i === from ? 0 : glue(pieces[i - 1], piece).length;
    const text = flat(piece);
    if (text === undefined) return width + 1;
    width += text.length;
  }
  return width;
}

const columnOf = (text: string, indent: number): number => {
  const line = text.lastIndexOf('\n');
  return line < 0 ? indent * 2 + text.length : text.length - line - 1;
};

function block(piece: Block, indent: number): string {
  const [first, ...rest] = piece.elements;
  // A comment behind the opening brace speaks of the whole block and stays there.
  const beside = first !== undefined && first.comment && first.newlines === 0 && isLineComment(first.pieces[0]);
  const head = beside ? `{  ${element(first, indent)}` : '{';
  const body = sequence(beside ? rest : piece.elements, indent + 1, false);
  return `${head}\n${body}${pad(indent)}}`;
}

/** An element that begins its line, without its indentation. */
function element(el: Element, indent: number): string {
  let out = '';
  let here = indent;
  let before: Piece | undefined;
  el.pieces.forEach((piece, i) => {
    const joint = glue(before, piece);
    const breakable = piece.begins === 'part' || piece.kind === 'line-comment' || piece.kind === 'block-comment';
    const full = piece.begins === 'part' && columnOf(out, indent) + joint.length + chunkWidth(el.pieces, i) > MAX_WIDTH;
    if (i > 0 && (isLineComment(before) || (breakable && piece.newlines > 0) || full)) {
      here = indent + 1;
      out += `\n${pad(here)}`;
    } else out += joint;
    const text = flat(piece);
    if (piece.kind !== 'block') out += piece.text;
    else if (text !== undefined && columnOf(out, indent) + text.length <= MAX_WIDTH) out += text;
    else out += block(piece, here);
    before = piece;
  });
  return out;
}

/** Whole lines, each with its end. At the top level every unit stands alone. */
function sequence(elements: readonly Element[], indent: number, top: boolean): string {
  let out = '';
  let before: Element | undefined;
  let column = 0;
  let closed = false;
  /** A unit has ended on this line. */
  let unitEnded = false;
  for (const el of elements) {
    const text = element(el, indent);
    const multi = text.includes('\n');
    const trails = el.comment && el.newlines === 0 && !multi;
    const joint = before === undefined ? '' : isBlockComment(el.pieces[0]) && el.comment ? ' ' : between(before);
    const fits = column + joint.length + text.length <= MAX_WIDTH;
    const joins =
      before !== undefined && el.newlines === 0 && !multi && !isLineComment(before.pieces.at(-1)) && (trails || (!closed && fits && !top));
    if (joins) {
      out += joint + text;
      column += joint.length + text.length;
    } else {
      const blank = before !== undefined && (el.newlines > 1 || unitEnded);
      out += `${before === undefined ? '' : '\n'}${blank ? '\n' : ''}${pad(indent)}${text}`;
      column = columnOf(text, indent);
      closed = multi;
    }
    unitEnded = top && (!el.comment || (joins && unitEnded));
    before = el;
  }
  return out === '' ? '' : `${out}\n`;
}

/** Lays a `.moe` file out. Idempotent; comments stay, the syntax tree is the same. */
export function format(text: string, file: string): Formatted {
  const { diagnostics, cst, tokens, comments, whole } = parseTrees(text, file);
  if (cst === undefined || !whole) return { text, diagnostics };
  return { text: sequence(layout(text, cst, tokens, comments), 0, true), diagnostics };
}
