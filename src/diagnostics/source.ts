/** Lines and columns of a text. */
import type { Span } from './types.ts';

/** Gives the text of a file, as far as it is known. */
export type Sources = (file: string) => string | undefined;

export interface Position {
  /** From 1. */
  readonly line: number;
  /** From 1, in code points. */
  readonly column: number;
}

export interface Source {
  readonly text: string;
  readonly lineCount: number;
  /** From 0, of a UTF-16 offset; offsets outside the text count as its nearest end. */
  readonly lineOf: (offset: number) => number;
  /** Offset where a line (from 0) begins. */
  readonly lineStart: (line: number) => number;
  /** A line (from 0) without its end. */
  readonly lineText: (line: number) => string;
  readonly position: (offset: number) => Position;
}

/** Lines end at LF, CR LF or a lone CR. */
export function source(text: string): Source {
  const starts = [0];
  for (let i = 0; i < text.length; i++) {
    const c = text.charCodeAt(i);
    if (c === 10 || (c === 13 && text.charCodeAt(i + 1) !== 10)) starts.push(i + 1);
  }
  const lineStart = (line: number): number => starts[line] ?? text.length;
  const lineOf = (offset: number): number => {
    let low = 0;
    let high = starts.length - 1;
    while (low < high) {
      const mid = (low + high + 1) >> 1;
      if (lineStart(mid) <= offset) low = mid;
      else high = mid - 1;
    }
    return low;
  };
  const lineText = (line: number): string => text.slice(lineStart(line), lineStart(line + 1)).replace(/[\r\n]+$/, '');
  const position = (offset: number): Position => {
    const at = Math.max(0, Math.min(offset, text.length));
    const line = lineOf(at);
    let column = 1;
    for (const _ of text.slice(lineStart(line), at)) column++;
    return { line: line + 1, column };
  };
  return { text, lineCount: starts.length, lineOf, lineStart, lineText, position };
}

/** A span cut to its text, never inverted. */
export function clampSpan(span: Span, length: number): Span {
  const start = Math.max(0, Math.min(Math.floor(span.start) || 0, length));
  const end = Math.max(start, Math.min(Math.floor(span.end) || 0, length));
  return { file: span.file, start, end };
}
