/** Text to tokens, with everything that is wrong with single characters and literals. */
import type { IToken } from 'chevrotain';
import { advise, error, replace } from '../diagnostics/make.ts';
import type { Diagnostic, Span } from '../diagnostics/types.ts';
import { NumberLiteral, OpenComment, OpenString, Word, moeLexer } from './tokens.ts';

/** In UTF-16 units. The longest published model would fit some forty times. */
export const MAX_LENGTH = 65_536;

export interface Lexed {
  readonly tokens: readonly IToken[];
  readonly comments: readonly IToken[];
  readonly diagnostics: readonly Diagnostic[];
}

const NAMES: ReadonlyMap<string, string> = new Map([
  ['\u00a0', 'a no-break space'],
  ['\ufeff', 'a byte order mark'],
  ['\ufffd', 'a replacement character: the file is not valid UTF-8'],
  ['\u2028', 'a line separator (U+2028)'],
  ['\u2029', 'a paragraph separator (U+2029)'],
  ['\u0000', 'a NUL character'],
]);

/** What to write for characters that are often meant as others. */
const MEANT: ReadonlyMap<string, string> = new Map([
  ['\u00a0', ' '],
  ['\u2028', ' '],
  ['\u2029', ' '],
  ['\u00d7', 'x'],
  ['*', 'x'],
  ['\u2026', '..'],
  ['\u2212', '-'],
  ['\u2013', '-'],
  ['\u201c', '"'],
  ['\u201d', '"'],
  ["'", '"'],
  ['#', '//'],
  [';', ''],
  ['=', ''],
  [':', ''],
  ['(', ''],
  [')', ''],
  ['[', ''],
  [']', ''],
]);

const shorten = (text: string): string => (text.length > 24 ? `${text.slice(0, 24)}…` : text);

function strayCharacters(text: string, at: Span): Diagnostic {
  const found = text.slice(at.start, at.end);
  const first = String.fromCodePoint(found.codePointAt(0) ?? 0);
  const single = [...found].length === 1;
  const meant = MEANT.get(first);
  const known = NAMES.get(first);
  return error('MOE1001', single ? `${known ?? `\`${found}\``} cannot stand here` : `\`${shorten(found)}\` cannot stand here`, {
    at,
    label: single ? 'unexpected character' : 'unexpected characters',
    why: 'a spec is made of words, numbers, names in double quotes, braces, `,` and `..`; comments begin with `//`.',
    fixes:
      single && meant !== undefined
        ? [replace(at, meant, meant.trim() === '' ? (meant === '' ? 'leave it out' : 'write a space') : `write \`${meant}\``)]
        : [replace(at, '', `leave ${single ? 'it' : 'them'} out`)],
  });
}

/** `16x128`, `4k`: a word right behind a number. */
function runIn(file: string, number: IToken, word: IToken): Diagnostic {
  const at = { file, start: number.startOffset, end: word.startOffset + word.image.length };
  const product = /^x(\d+)$/.exec(word.image)?.[1];
  const thousand = /^[kK]$/.test(word.image) && /^\d{1,9}$/.test(number.image);
  const spaced = product === undefined ? `${number.image} ${word.image}` : `${number.image} x ${product}`;
  return error('MOE1005', `\`${shorten(number.image + word.image)}\` is neither a number nor a word`, {
    at,
    label: 'the number and the word touch',
    why: thousand ? 'numbers have no units: `k` could mean 1000 or 1024.' : 'a number ends where a space, a brace or `..` follows.',
    fixes: thousand
      ? [1024, 1000].map((unit) => replace(at, String(Number(number.image) * unit), `write \`${Number(number.image) * unit}\``))
      : [replace(at, spaced, `write \`${spaced}\``)],
  });
}

/** Tokens of a text. Where a fault swallows several tokens, `diagnostics` has one entry for all of them. */
export function lex(text: string, file: string): Lexed {
  if (text.length > MAX_LENGTH) {
    const message = `the file has ${text.length} characters; a spec has at most ${MAX_LENGTH}`;
    const why = 'nothing that describes a model is so long: this is probably another kind of file.';
    return { tokens: [], comments: [], diagnostics: [error('MOE1014', message, { at: { file, start: 0, end: 1 }, why })] };
  }
  // A byte order mark in front is the editor's business; offsets still count it.
  const { tokens, groups, errors } = moeLexer.tokenize(text.startsWith('\ufeff') ? ` ${text.slice(1)}` : text);
  const comments = groups['comments'] ?? [];
  const diagnostics: Diagnostic[] = [];

  let last: Span | undefined;
  const strays: Span[] = [];
  for (const e of errors) {
    if (last !== undefined && e.offset === last.end) last = { ...last, end: e.offset + e.length };
    else {
      if (last !== undefined) strays.push(last);
      last = { file, start: e.offset, end: e.offset + e.length };
    }
  }
  if (last !== undefined) strays.push(last);
  for (const at of strays) diagnostics.push(strayCharacters(text, at));

  tokens.forEach((token, i) => {
    const start = token.startOffset;
    const end = start + token.image.length;
    if (token.tokenType === OpenString) {
      const at = { file, start, end };
      diagnostics.push(
        error('MOE1002', 'this name is never closed', {
          at,
          label: 'no closing quote before the end of the line',
          why: 'a quoted name stands on one line.',
          fixes: [replace({ file, start: end, end }, '"', 'close it with `"`')],
        }),
      );
    }
    const next = tokens[i + 1];
    const touches = next !== undefined && next.startOffset === end;
    const isWord = (t: IToken): boolean => t.tokenType === Word || (t.tokenType.CATEGORIES ?? []).includes(Word);
    if (token.tokenType === NumberLiteral && touches && (isWord(next) || next.tokenType === NumberLiteral)) {
      diagnostics.push(runIn(file, token, next));
    }
  });
  for (const comment of comments) {
    if (comment.tokenType !== OpenComment) continue;
    diagnostics.push(
      error('MOE1003', 'this comment is never closed', {
        at: { file, start: comment.startOffset, end: comment.startOffset + 2 },
        label: 'the rest of the file is taken for a comment',
        fixes: [advise('close it with `*/`, or begin each line with `//`')],
      }),
    );
  }
  return { tokens, comments, diagnostics };
}
