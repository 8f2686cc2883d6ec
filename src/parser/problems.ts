/** The parser's exceptions in words. */
import { EOF, type IRecognitionException, type IToken } from 'chevrotain';
import { advise, error, insertAt, label, replace } from '../diagnostics/make.ts';
import { suggest } from '../diagnostics/suggest.ts';
import type { Diagnostic, Label, Span } from '../diagnostics/types.ts';
import { tables } from './grammar.ts';
import type { Block } from './tables.ts';
import { CloseBrace, Identifier, NumberLiteral, OpenBrace, StringLiteral, isKeyword } from './tokens.ts';

const MAX_LISTED = 16;

const DESCRIPTIONS: Readonly<Record<string, string>> = {
  Number: 'a number',
  Word: 'a name',
  String: 'a name',
  OpenBrace: '`{`',
  CloseBrace: '`}`',
  Dots: '`..`',
  Comma: '`,`',
  EOF: 'the end of the file',
};

function list(names: Iterable<string>, last: 'or' | 'and' = 'or'): string {
  const all = [...new Set([...names].map((n) => DESCRIPTIONS[n] ?? `\`${n}\``))];
  const shown = all.length > MAX_LISTED ? [...all.slice(0, MAX_LISTED), '…'] : all;
  return shown.length < 2 ? (shown[0] ?? '') : `${shown.slice(0, -1).join(', ')} ${last} ${shown.at(-1)}`;
}

const quote = (text: string): string => (text.length > 40 ? `\`${text.slice(0, 40)}…\`` : `\`${text}\``);

function describe(token: IToken): string {
  if (token.tokenType === EOF) return 'the file ends';
  if (token.tokenType === NumberLiteral) return `the number ${quote(token.image)}`;
  if (token.tokenType === StringLiteral) return `the name ${quote(token.image)}`;
  return quote(token.image);
}

const isWord = (token: IToken): boolean => token.tokenType === Identifier || isKeyword(token.image);
const aBlock = (block: Block): string => `${/^[aeio]/.test(block.word) ? 'an' : 'a'} \`${block.word}\` block`;

/** The braces that are open before an offset, outermost first. */
function openBraces(tokens: readonly IToken[], offset: number): readonly IToken[] {
  const open: IToken[] = [];
  for (const token of tokens) {
    if (token.startOffset >= offset) break;
    if (token.tokenType === OpenBrace) open.push(token);
    if (token.tokenType === CloseBrace) open.pop();
  }
  return open;
}

/** Words for exceptions, given the file, its text and its tokens. */
export function problems(file: string, text: string, tokens: readonly IToken[], errors: readonly IRecognitionException[]): Diagnostic[] {
  const spanOf = (token: IToken): Span => ({ file, start: token.startOffset, end: token.startOffset + token.image.length });
  const lastToken = tokens.at(-1);
  const end = lastToken === undefined ? 0 : spanOf(lastToken).end;

  const braceMissing = openBraces(tokens, Number.POSITIVE_INFINITY).length > 0;

  const unclosed = (offset: number, block: Block | undefined): Diagnostic => {
    const open = openBraces(tokens, offset).at(-1);
    const at = open === undefined ? { file, start: end, end } : spanOf(open);
    const name = block === undefined ? 'this block' : `this \`${block.word}\` block`;
    return error('MOE1010', `${name} is never closed`, {
      at,
      label: 'opened here',
      labels: [label({ file, start: end, end }, '`}` is missing at the latest here')],
      fixes: [insertAt(file, end, '\n}', 'close it with `}`')],
    });
  };

  /** A word that no clause of this block, or of a file, begins with. */
  const misplaced = (token: IToken, block: Block | undefined, stack: readonly string[]): Diagnostic => {
    const at = spanOf(token);
    const items = block?.items ?? tables.first('File');
    const where = block === undefined ? 'a file' : aBlock(block);
    const units = '`model NAME { … }` and `layer NAME { … }`';
    const holds = `${where} holds ${block === undefined ? units : list(items, 'and')}.`;
    const word = isWord(token) ? token.image : undefined;
    if (word !== undefined && !isKeyword(word)) {
      const known = suggest(word, block === undefined ? items : [...block.words]);
      return error('MOE1007', `unknown word ${quote(word)} in ${where}`, {
        at,
        label: known[0] === undefined ? 'no clause begins with this' : `did you mean \`${known[0]}\`?`,
        notes: known.length === 0 || block === undefined ? [holds] : [],
        fixes: known.map((k) => replace(at, k, `write \`${k}\``)),
      });
    }
    if (word === undefined) {
      if (token.tokenType === CloseBrace) {
        return error('MOE1011', 'this brace closes nothing', {
          at,
          label: 'no block is open here',
          fixes: [replace(at, '', 'leave it out'), advise('look for a block above that is closed too early')],
        });
      }
      return error('MOE1009', `${describe(token)} stands where ${block === undefined ? 'a unit' : 'a clause'} should begin`, {
        at,
        label: 'a clause begins with a word',
        notes: [holds],
        fixes: [replace(at, '', 'leave it out')],
      });
    }
    const homes = [...tables.blocks.values()].filter((b) => b.items.has(word));
    const inside = block !== undefined && block.words.has(word);
    const outer = homes.find((home) => stack.includes(home.rule));
    const open = openBraces(tokens, at.start).at(-1);
    const labels: Label[] = open === undefined || block === undefined ? [] : [label(spanOf(open), `this \`${block.word}\` block is open`)];
    const home = [...new Set(homes.map(aBlock))].join(' or ');
    return error('MOE1008', `${quote(word)} cannot stand here in ${where}`, {
      at,
      label: homes.length > 0 ? `belongs in ${home}` : inside ? 'belongs right behind the clause it is part of' : 'not expected here',
      labels: outer === undefined ? [] : labels,
      notes: [holds],
      fixes: [
        outer === undefined || !braceMissing
          ? advise(`move it to ${home === '' ? 'where it belongs' : home}`)
          : insertAt(file, at.start, '} ', `close the \`${block?.word}\` block before it`),
      ],
    });
  };

  const unexpected = (token: IToken, expected: readonly string[], before: IToken | undefined): Diagnostic => {
    const atEnd = token.tokenType === EOF;
    const at = atEnd ? { file, start: end, end } : spanOf(token);
    const behind = before === undefined || !isWord(before) ? '' : ` behind ${quote(before.image)}`;
    const known = isWord(token)
      ? suggest(
          token.image,
          expected.filter((e) => DESCRIPTIONS[e] === undefined),
        )
      : [];
    const many = expected.length > 6;
    const wanted = many ? 'another word' : list(expected);
    return error(known.length > 0 ? 'MOE1007' : 'MOE1009', `expected ${wanted}${behind}, ${atEnd ? 'but' : 'found'} ${describe(token)}`, {
      at,
      label: known[0] === undefined ? (atEnd ? 'the end of the file' : 'not expected here') : `did you mean \`${known[0]}\`?`,
      notes: many && known.length === 0 ? [`here may stand ${list(expected)}.`] : [],
      fixes: known.map((k) => replace(at, k, `write \`${k}\``)),
    });
  };

  return errors.map((e) => {
    const stack = e.context.ruleStack;
    const expected = e.message.split('\n');
    const block = tables.blockOf(stack);
    const token = e.token;
    const before = 'previousToken' in e && typeof e.previousToken === 'object' ? (e.previousToken as IToken) : undefined;
    const inBlock = stack.at(-1) === block?.rule && expected.length === 1 && expected[0] === 'CloseBrace';
    if (token.tokenType === EOF) return inBlock ? unclosed(text.length, block) : unexpected(token, expected, before);
    if (stack.length <= 1) return misplaced(token, undefined, stack);
    if (inBlock) return misplaced(token, block, stack);
    return unexpected(token, expected, before);
  });
}
