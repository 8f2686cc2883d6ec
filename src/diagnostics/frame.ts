/** The picture of a piece of source with labels under it, as a list of rows. */
import { type DisplayLine, displayLine, displayWidth, visible } from './display.ts';
import { type Source, clampSpan } from './source.ts';
import type { Label } from './types.ts';

export type Style = 'primary' | 'secondary' | 'gutter' | 'plain';
export interface Piece {
  readonly text: string;
  readonly style: Style;
}
export type Row = readonly Piece[];

/** Longer lines are cut to a window around their first label. */
const MAX_LINE = 160;
const LEAD = 40;
/** Labels over several lines each need a column at the left; more than this are shown by their first line alone. */
const MAX_BRACKETS = 4;

interface Mark {
  readonly start: number;
  readonly end: number;
  readonly firstLine: number;
  readonly lastLine: number;
  readonly text: string;
  readonly style: 'primary' | 'secondary';
}

/** A row under construction: one cell a column. */
class Canvas {
  readonly cells: Piece[] = [];
  put(column: number, text: string, style: Style): void {
    while (this.cells.length < column) this.cells.push({ text: ' ', style: 'plain' });
    let at = column;
    for (const char of text) {
      // What takes no column of its own joins its neighbour; what takes two leaves the next one empty.
      const width = displayWidth(char);
      if (width === 0) {
        const last = this.cells[at - 1];
        if (last !== undefined) this.cells[at - 1] = { text: last.text + char, style: last.style };
        continue;
      }
      this.cells[at++] = { text: char, style };
      if (width === 2) this.cells[at++] = { text: '', style };
    }
  }
  row(): Row {
    const row: Piece[] = [];
    for (const cell of this.cells) {
      const last = row.at(-1);
      if (last?.style === cell.style) row[row.length - 1] = { text: last.text + cell.text, style: cell.style };
      else row.push(cell);
    }
    const last = row.at(-1);
    if (last?.style === 'plain') row[row.length - 1] = { text: last.text.trimEnd(), style: 'plain' };
    return row;
  }
}

function toMark(src: Source, label: Label, style: 'primary' | 'secondary'): Mark {
  const { start, end } = clampSpan(label.span, src.text.length);
  const firstLine = src.lineOf(start);
  const lastLine = end > start ? src.lineOf(end - 1) : firstLine;
  return { start, end, firstLine, lastLine, text: visible(label.text), style };
}

/** The part of a long line that is shown, and where an offset of the file falls in it. */
function window(src: Source, line: number, marks: readonly Mark[]): { shown: DisplayLine; column: (offset: number) => number } {
  const text = src.lineText(line);
  const lineStart = src.lineStart(line);
  let from = 0;
  let to = text.length;
  if (text.length > MAX_LINE) {
    const first = Math.min(...marks.map((m) => (m.firstLine === line ? m.start : m.end - 1) - lineStart), text.length);
    from = Math.max(0, Math.min(first - LEAD, text.length - MAX_LINE));
    to = Math.min(text.length, from + MAX_LINE);
    if (/[\udc00-\udfff]/.test(text.charAt(from))) from++;
    if (/[\udc00-\udfff]/.test(text.charAt(to))) to++;
  }
  const before = from > 0 ? '… ' : '';
  const cut = displayLine(text.slice(from, to));
  const shown = { text: before + cut.text + (to < text.length ? ' …' : ''), columns: cut.columns };
  const last = cut.columns.at(-1) ?? 0;
  return { shown, column: (offset) => before.length + (cut.columns[Math.max(0, offset - lineStart - from)] ?? last) };
}

/** Underlines of one line: the rightmost label stands beside its underline, the others hang below. */
function underline(marks: readonly Mark[], column: (offset: number) => number, margin: number, brackets: Piece[]): Row[] {
  const placed = marks
    .map((m) => ({ ...m, from: margin + column(m.start), to: margin + Math.max(column(m.end), column(m.start) + 1) }))
    .sort((a, b) => a.from - b.from || (a.style === 'primary' ? 1 : -1));
  const start = (): Canvas => {
    const canvas = new Canvas();
    brackets.forEach((b, i) => b.text !== ' ' && canvas.put(i, b.text, b.style));
    return canvas;
  };
  const lines = start();
  for (const style of ['secondary', 'primary'] as const)
    for (const m of placed) if (m.style === style) lines.put(m.from, (style === 'primary' ? '^' : '-').repeat(m.to - m.from), style);
  const texts = placed.filter((m) => m.text !== '');
  const beside = texts.at(-1);
  const end = Math.max(...placed.map((m) => m.to));
  if (beside !== undefined) lines.put(end + 1, beside.text, beside.style);
  const rows = [lines.row()];
  const hanging = texts.slice(0, -1);
  const bars = (canvas: Canvas, of: typeof hanging): Canvas => {
    for (const m of of) canvas.put(m.from, '|', m.style);
    return canvas;
  };
  if (hanging.length > 0) rows.push(bars(start(), hanging).row());
  for (let i = hanging.length - 1; i >= 0; i--) {
    const m = hanging[i];
    if (m === undefined) continue;
    const canvas = bars(start(), hanging.slice(0, i));
    canvas.put(m.from, m.text, m.style);
    rows.push(canvas.row());
  }
  return rows;
}

/** The rows of a frame, gutter included. `digits` is the width of the line numbers. */
export function frame(src: Source, primary: Label | undefined, secondary: readonly Label[], digits: number): Row[] {
  const all = [...(primary === undefined ? [] : [toMark(src, primary, 'primary')]), ...secondary.map((l) => toMark(src, l, 'secondary'))];
  const long = all.filter((m) => m.lastLine > m.firstLine).slice(0, MAX_BRACKETS);
  const brackets = long.sort((a, b) => a.firstLine - b.firstLine || b.lastLine - a.lastLine);
  const flat = all.filter((m) => !brackets.includes(m)).map((m) => (m.lastLine === m.firstLine ? m : firstLineOf(src, m)));
  const lines = new Set(all.flatMap((m) => (brackets.includes(m) ? [m.firstLine, m.lastLine] : [m.firstLine])));
  const sorted = [...lines].sort((a, b) => a - b);
  const margin = brackets.length === 0 ? 0 : brackets.length + 1;
  const gutter = (text: string): Piece => ({ text: ` ${text.padStart(digits)} | `, style: 'gutter' });
  const rows: Row[] = [];
  let previous: number | undefined;
  const show = (line: number): void => {
    const here = flat.filter((m) => m.firstLine === line);
    const starts = brackets.filter((m) => m.firstLine === line);
    const ends = brackets.filter((m) => m.lastLine === line);
    const { shown, column } = window(src, line, [...here, ...starts, ...ends]);
    const open = (after: boolean): Piece[] =>
      brackets.map((m) => {
        const inside = line > m.firstLine && (after ? line < m.lastLine : line <= m.lastLine);
        return { text: inside ? '|' : ' ', style: m.style };
      });
    const canvas = new Canvas();
    open(false).forEach((b, i) => b.text !== ' ' && canvas.put(i, b.text, b.style));
    canvas.put(margin, shown.text, 'plain');
    rows.push([gutter(String(line + 1)), ...canvas.row()]);
    const state = open(false);
    if (here.length > 0) for (const row of underline(here, column, margin, state)) rows.push([gutter(''), ...row]);
    for (const m of [...ends, ...starts]) {
      const depth = brackets.indexOf(m);
      const isEnd = m.lastLine === line;
      const at = margin + (isEnd ? column(m.end - 1) : column(m.start));
      const c = new Canvas();
      state.forEach((b, i) => b.text !== ' ' && i !== depth && c.put(i, b.text, b.style));
      c.put(depth, isEnd ? '|' : ' ', m.style);
      c.put(depth + 1, '_'.repeat(Math.max(0, at - depth - 1)), m.style);
      c.put(at, m.style === 'primary' ? '^' : '-', m.style);
      if (isEnd && m.text !== '') c.put(at + 2, m.text, m.style);
      rows.push([gutter(''), ...c.row()]);
      state[depth] = { text: isEnd ? ' ' : '|', style: m.style };
    }
    previous = line;
  };
  for (const line of sorted) {
    if (previous !== undefined && line - previous === 2) show(previous + 1);
    else if (previous !== undefined && line - previous > 2) rows.push([{ text: '...', style: 'gutter' }]);
    show(line);
  }
  return rows;
}

/** A long label that got no bracket: what of it stands on its first line. */
function firstLineOf(src: Source, m: Mark): Mark {
  return { ...m, lastLine: m.firstLine, end: src.lineStart(m.firstLine) + src.lineText(m.firstLine).length };
}
