/** Text to syntax tree. Everything wrong is reported, nothing is thrown. */
import type { CstNode } from 'chevrotain';
import { error, hasErrors, note, sortDiagnostics } from '../diagnostics/make.ts';
import type { Diagnostic } from '../diagnostics/types.ts';
import type * as ast from './ast.ts';
import { type Context, isDamaged, nodes, spanOf } from './cst.ts';
import { parseCst } from './grammar.ts';
import { type Lexed, lex } from './lex.ts';
import { problems } from './problems.ts';
import { unit } from './to-ast.ts';

/** More problems than this are counted, not shown. */
export const MAX_SHOWN = 20;

export interface Parsed {
  /** The units without any syntax error, also where others have some; undefined if the file could not be read at all. */
  readonly ast: ast.File | undefined;
  readonly diagnostics: Diagnostic[];
}

/** Sorted by place, one a place, the first `MAX_SHOWN` of them and a note on the rest. */
function readable(found: readonly Diagnostic[]): Diagnostic[] {
  const seen = new Set<number>();
  const sorted = sortDiagnostics(found).filter((d) => {
    const start = d.primary?.span.start;
    if (start === undefined) return true;
    if (seen.has(start)) return false;
    seen.add(start);
    return true;
  });
  if (sorted.length <= MAX_SHOWN) return sorted;
  const rest = sorted.length - MAX_SHOWN;
  return [...sorted.slice(0, MAX_SHOWN), note('MOE1015', `and ${rest} more problem${rest === 1 ? '' : 's'}`)];
}

/** Parser errors at a place where the lexer has already objected are echoes. */
function withoutEchoes(lexical: readonly Diagnostic[], syntactic: readonly Diagnostic[]): readonly Diagnostic[] {
  const spans = lexical.flatMap((d) => (d.primary === undefined ? [] : [d.primary.span]));
  return syntactic.filter(
    (d) => !spans.some((s) => d.primary !== undefined && d.primary.span.start >= s.start && d.primary.span.start <= s.end),
  );
}

/** What parsing makes on its way, for those who need more than the syntax tree. */
export interface Trees extends Parsed, Pick<Lexed, 'tokens' | 'comments'> {
  readonly cst: CstNode | undefined;
  /** Whether the tree holds all of the text; contradictions in it do not matter. */
  readonly whole: boolean;
}

/** Problems of a text that can be read all the same: nothing declared, said twice, counted twice, two answers. */
const READABLE: ReadonlySet<string> = new Set(['MOE1012', 'MOE1013', 'MOE1017', 'MOE1018']);

/** Parses a `.moe` file. `file` is the name that spans and messages carry. */
export function parse(text: string, file: string): Parsed {
  const { ast: tree, diagnostics } = parseTrees(text, file);
  return { ast: tree, diagnostics };
}

export function parseTrees(text: string, file: string): Trees {
  const { tokens, comments, diagnostics: lexical } = lex(text, file);
  const tooLong = lexical.some((d) => d.code === 'MOE1014');
  if (tooLong) return { ast: undefined, diagnostics: [...lexical], cst: undefined, tokens, comments, whole: false };

  const { cst, errors } = parseCst(tokens);
  const found: Diagnostic[] = [...lexical, ...withoutEchoes(lexical, problems(file, text, tokens, errors))];
  const units: ast.Unit[] = [];
  for (const tree of cst === undefined ? [] : nodes(cst, 'Unit')) {
    const own: Diagnostic[] = [];
    const ctx: Context = { file, text, report: (d) => own.push(d) };
    const built = unit(ctx, tree);
    found.push(...own);
    if (built === undefined || isDamaged(tree) || hasErrors(own)) continue;
    const { start, end } = spanOf(ctx, tree);
    const hurt = found.some((d) => d.primary !== undefined && d.primary.span.start >= start && d.primary.span.start <= end);
    if (!hurt) units.push(built);
  }
  if (found.length === 0 && units.length === 0) {
    found.push(
      error('MOE1017', 'this file declares nothing', {
        at: { file, start: 0, end: 0 },
        why: 'a spec holds at least one `model NAME { … }` or `layer NAME { … }`.',
      }),
    );
  }
  const whole = cst !== undefined && found.every((d) => READABLE.has(d.code));
  return { ast: { span: { file, start: 0, end: text.length }, units }, diagnostics: readable(found), cst, tokens, comments, whole };
}
