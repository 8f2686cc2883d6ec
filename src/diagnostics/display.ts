/** Text for a terminal: nothing from a user's file may act as a command, and columns must line up. */

/** C0, DEL and C1 controls, zero-width and direction marks, line separators, lone surrogates, tags, private use. */
const UNPRINTABLE = /[\p{Cc}\p{Cf}\p{Cs}\p{Co}\u2028\u2029\u115f\u1160\u3164\uffa0]/u;
const ZERO_WIDTH = /[\p{Mn}\p{Me}]/u;
const WIDE = new RegExp(
  [
    '[\\u1100-\\u115f\\u2e80-\\u303e\\u3041-\\u33ff\\u3400-\\u4dbf\\u4e00-\\ua4cf\\ua960-\\ua97f\\uac00-\\ud7a3]',
    '[\\uf900-\\ufaff\\ufe30-\\ufe6f\\uff01-\\uff60\\uffe0-\\uffe6]',
    '[\\u{16fe0}-\\u{18cff}\\u{1b000}-\\u{1b2ff}\\u{20000}-\\u{3fffd}]',
    '\\p{Emoji_Presentation}',
  ].join('|'),
  'u',
);

const TAB = 4;

/** One code point as it is shown. */
function shown(char: string): string {
  const code = char.codePointAt(0) ?? 0;
  if (!UNPRINTABLE.test(char)) return char;
  if (code < 0x20) return String.fromCodePoint(0x2400 + code);
  return `<U+${code.toString(16).toUpperCase().padStart(4, '0')}>`;
}

const widthOf = (char: string): number => (ZERO_WIDTH.test(char) ? 0 : WIDE.test(char) ? 2 : 1);

/** How many terminal columns a printable text takes. */
export function displayWidth(text: string): number {
  let width = 0;
  for (const char of text) width += widthOf(char);
  return width;
}

/** Any text made harmless: control characters become pictures of themselves. Line feeds too, unless `keepLines`. */
export function visible(text: string, keepLines = false): string {
  let out = '';
  for (const char of text) out += keepLines && char === '\n' ? char : shown(char);
  return out;
}

export interface DisplayLine {
  readonly text: string;
  /** Terminal column (from 0) of every UTF-16 offset of the line, its end included. */
  readonly columns: readonly number[];
}

/** A source line with tabs spread out and the unprintable made visible. */
export function displayLine(line: string): DisplayLine {
  const columns: number[] = [];
  let text = '';
  let column = 0;
  for (const char of line) {
    for (let i = 0; i < char.length; i++) columns.push(column);
    const piece = char === '\t' ? ' '.repeat(TAB - (column % TAB)) : shown(char);
    text += piece;
    column += displayWidth(piece);
  }
  columns.push(column);
  return { text, columns };
}
