/** Numbers, names and chosen words of the syntax tree. */
import type { CstNode, IToken } from 'chevrotain';
import { advise, error, replace } from '../diagnostics/make.ts';
import type * as ast from './ast.ts';
import { type Context, Missing, spanOf, tokens } from './cst.ts';

/** Longest spelling that is read; no honest number needs more. */
const MAX_DIGITS = 64;

function toNum(ctx: Context, token: IToken): ast.Num {
  const span = spanOf(ctx, token);
  const text = token.image;
  const value = Number(text.replaceAll('_', ''));
  if (!Number.isFinite(value) || text.length > MAX_DIGITS) {
    ctx.report(
      error('MOE1006', Number.isFinite(value) ? `this number has more than ${MAX_DIGITS} digits` : 'this number is too large', {
        at: span,
        label: 'no such double-precision number',
        why: 'numbers are kept in double precision, up to about 1.8e308.',
        fixes: [advise('write a number that can be represented', 'placeholder')],
      }),
    );
    throw new Missing('number');
  }
  // Digits that are there but get lost would silently be another number.
  const digits = text.replaceAll('_', '');
  if (/^-?\d+$/.test(digits) && BigInt(digits) !== BigInt(value)) {
    ctx.report(
      error('MOE1006', `${text} cannot be kept exactly`, {
        at: span,
        label: `would become ${BigInt(value)}`,
        why: 'whole numbers are exact up to 9007199254740992 (2^53).',
        fixes: [advise('write a smaller number', 'placeholder')],
      }),
    );
    throw new Missing('number');
  }
  return { value, integer: Number.isInteger(value) && Math.abs(value) <= 2 ** 53, text, span };
}

/** The `index`-th number of a rule. */
export function num(ctx: Context, node: CstNode, index = 0): ast.Num {
  const token = tokens(node, 'Number')[index];
  if (token === undefined) throw new Missing('number');
  return toNum(ctx, token);
}

export const optionalNum = (ctx: Context, node: CstNode, index = 0): ast.Num | undefined =>
  tokens(node, 'Number').length > index ? num(ctx, node, index) : undefined;

/** The number that follows each use of a word in a rule, with both as its span. */
export function settings(ctx: Context, node: CstNode, word: string): readonly ast.NumClause[] {
  const numbers = tokens(node, 'Number');
  return tokens(node, word).flatMap((keyword) => {
    const token = numbers.find((n) => n.startOffset > keyword.startOffset);
    if (token === undefined) return [];
    const value = toNum(ctx, token);
    return [{ span: { ...spanOf(ctx, keyword), end: value.span.end }, value }];
  });
}

export const setting = (ctx: Context, node: CstNode, word: string): ast.NumClause | undefined => settings(ctx, node, word)[0];

/** A rule that is a word and a number. */
export const numClause = (ctx: Context, node: CstNode): ast.NumClause => ({ span: spanOf(ctx, node), value: num(ctx, node) });

/** Every use of any of these words in a rule, in order. */
export function words<T extends string>(ctx: Context, node: CstNode, choices: readonly T[]): readonly ast.Word<T>[] {
  const found = choices.flatMap((value) => tokens(node, value).map((token) => ({ value, span: spanOf(ctx, token) })));
  return found.sort((a, b) => a.span.start - b.span.start);
}

/** The one of these words that a rule holds. `index` counts all of them. */
export function word<T extends string>(ctx: Context, node: CstNode, choices: readonly T[], index = 0): ast.Word<T> {
  const found = words(ctx, node, choices)[index];
  if (found === undefined) throw new Missing(choices[0] ?? '');
  return found;
}

export const wordClause = <T extends string>(ctx: Context, node: CstNode, choices: readonly T[]): ast.WordClause<T> => ({
  span: spanOf(ctx, node),
  value: word(ctx, node, choices),
});

export const flags = (ctx: Context, node: CstNode, name: string): readonly ast.Flag[] =>
  tokens(node, name).map((token) => ({ span: spanOf(ctx, token) }));

export const flag = (ctx: Context, node: CstNode, name: string): ast.Flag | undefined => flags(ctx, node, name)[0];

const CONTROL = /\p{Cc}/u;
const ESCAPES: ReadonlyMap<string, string> = new Map([
  ['"', '"'],
  ['\\', '\\'],
]);

function unquote(ctx: Context, token: IToken): string {
  const start = token.startOffset;
  const body = token.image.replace(/^"/, '').replace(/"$/, '');
  let out = '';
  const bad = (offset: number, length: number, message: string, why: string): never => {
    ctx.report(
      error('MOE1004', message, {
        at: { file: ctx.file, start: start + 1 + offset, end: start + 1 + offset + length },
        why,
        notes: ['the escapes are \\" and \\\\ and \\u with four hexadecimal digits.'],
        fixes: [replace({ file: ctx.file, start: start + 1 + offset, end: start + 1 + offset + length }, '', 'leave it out')],
      }),
    );
    throw new Missing('name');
  };
  for (let i = 0; i < body.length; i++) {
    const c = body.charAt(i);
    if (CONTROL.test(c)) bad(i, 1, 'a control character stands in a name', 'it would be invisible wherever the name is shown.');
    if (c !== '\\') {
      out += c;
      continue;
    }
    const hex = /^u([0-9a-fA-F]{4})/.exec(body.slice(i + 1, i + 6))?.[1];
    const simple = ESCAPES.get(body.charAt(i + 1));
    const unit = hex === undefined ? '' : String.fromCharCode(Number.parseInt(hex, 16));
    if (CONTROL.test(unit)) bad(i, 6, 'a name has a control character', 'it would be invisible wherever the name is shown.');
    if (hex !== undefined) out += unit;
    else if (simple !== undefined) out += simple;
    else bad(i, 2, `\`\\${body.charAt(i + 1)}\` is no escape`, 'a backslash in a name begins an escape.');
    i += hex === undefined ? 1 : 5;
  }
  return out;
}

/** A name, escapes resolved. */
export function name(ctx: Context, node: CstNode): ast.Name {
  const string = tokens(node, 'String')[0] ?? tokens(node, 'OpenString')[0];
  const token = string ?? tokens(node, 'Word')[0];
  if (token === undefined) throw new Missing('name');
  const span = spanOf(ctx, token);
  const value = string === undefined ? token.image : unquote(ctx, string);
  const fault = value.trim() === '' ? 'a name is empty' : /\p{Cs}/u.test(value) ? 'a name is not valid Unicode' : undefined;
  if (fault !== undefined) {
    ctx.report(
      error('MOE1016', fault, {
        at: span,
        why: 'names appear in messages, files and packages; there must be something to show.',
        fixes: [advise('give it a name, such as `my_model`', 'placeholder')],
      }),
    );
    throw new Missing('name');
  }
  return { value, span };
}
