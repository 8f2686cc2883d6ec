/** Reading chevrotain's concrete syntax trees. Trees made with recovery lack parts: asking for one throws `Missing`. */
import type { CstElement, CstNode, IToken } from 'chevrotain';
import { error, label, replace } from '../diagnostics/make.ts';
import type { Diagnostic, Span } from '../diagnostics/types.ts';

/** A part of the tree that recovery left out. Its absence has been reported already. */
export class Missing extends Error {}

export interface Context {
  readonly file: string;
  readonly text: string;
  readonly report: (diagnostic: Diagnostic) => void;
}

const isNode = (element: CstElement): element is CstNode => 'children' in element;

/** Every real token of a rule with this name. */
export const tokens = (node: CstNode, name: string): readonly IToken[] =>
  (node.children[name] ?? []).filter((e): e is IToken => !isNode(e) && e.isInsertedInRecovery !== true);

export const nodes = (node: CstNode, name: string): readonly CstNode[] => (node.children[name] ?? []).filter(isNode);

export function node(parent: CstNode, name: string, index = 0): CstNode {
  const found = nodes(parent, name)[index];
  if (found === undefined) throw new Missing(name);
  return found;
}

export const has = (parent: CstNode, name: string): boolean => tokens(parent, name).length > 0;

/** All parts of a rule in the order of the text. */
export function parts(parent: CstNode): readonly CstElement[] {
  return Object.values(parent.children)
    .flat()
    .filter((e) => isNode(e) || e.isInsertedInRecovery !== true)
    .sort((a, b) => startOf(a) - startOf(b));
}

const startOf = (e: CstElement): number => (isNode(e) ? (e.location?.startOffset ?? Number.NaN) : e.startOffset);

/** Whether recovery left anything out of, or put anything into, this tree. */
export function isDamaged(tree: CstNode): boolean {
  if (tree.recoveredNode === true) return true;
  return Object.values(tree.children).some((list) => list.some((e) => (isNode(e) ? isDamaged(e) : e.isInsertedInRecovery === true)));
}

export function spanOf(ctx: Context, element: CstElement): Span {
  const at = isNode(element) ? element.location : element;
  const start = at?.startOffset ?? 0;
  const end = at?.endOffset ?? start - 1;
  if (!Number.isFinite(start) || !Number.isFinite(end)) throw new Missing('place');
  return { file: ctx.file, start, end: end + 1 };
}

/** `build()`, or nothing where the tree is damaged. */
export function attempt<T>(build: () => T): T | undefined {
  try {
    return build();
  } catch (e) {
    if (e instanceof Missing) return undefined;
    throw e;
  }
}

export const attemptAll = <T>(list: readonly CstNode[], build: (n: CstNode) => T): readonly T[] =>
  list.flatMap((n) => {
    const built = attempt(() => build(n));
    return built === undefined ? [] : [built];
  });

/** Optional keys where a value may be undefined. */
export type Defined<T> = { [K in keyof T as undefined extends T[K] ? never : K]: T[K] } & {
  [K in keyof T as undefined extends T[K] ? K : never]?: Exclude<T[K], undefined>;
};

/** Leaves out keys without a value. */
export function defined<T extends object>(record: T): Defined<T> {
  return Object.fromEntries(Object.entries(record).filter(([, v]) => v !== undefined)) as Defined<T>;
}

/** The first of several clauses that may be said once; the others are reported. `what` is the clause in the user's words. */
export function once<T extends { readonly span: Span }>(ctx: Context, what: string, said: readonly T[]): T | undefined {
  const [first, ...again] = said;
  if (first === undefined) return undefined;
  for (const other of again) {
    ctx.report(
      error('MOE1012', `${what} is said twice`, {
        at: other.span,
        label: 'said again here',
        labels: [label(first.span, 'said here first')],
        why: 'each clause may stand once in a block, so that nobody has to know which of two would count.',
        fixes: [replace(other.span, '', `keep one of the two`)],
      }),
    );
  }
  return first;
}

/** At most one of several alternatives, such as the score of a router. */
export function oneOf<T extends { readonly span: Span }>(ctx: Context, question: string, said: readonly T[]): T | undefined {
  const [first, ...others] = said;
  if (first === undefined) return undefined;
  const words = (span: Span): string => ctx.text.slice(span.start, span.end).replace(/\s+/g, ' ');
  for (const other of others) {
    const same = words(first.span) === words(other.span);
    const a = words(first.span);
    const b = words(other.span);
    const quote = (s: string): string => (s.length <= 32 ? `\`${s}\`` : `\`${s.slice(0, 30)}…\``);
    ctx.report(
      same
        ? error('MOE1012', `${quote(b)} is said twice`, {
            at: other.span,
            label: 'said again here',
            labels: [label(first.span, 'said here first')],
            fixes: [replace(other.span, '', 'keep one of the two', 'machine')],
          })
        : error('MOE1018', `${question}: both ${quote(a)} and ${quote(b)} are given`, {
            at: other.span,
            label: 'and this',
            labels: [label(first.span, 'this')],
            why: 'they are alternatives: only one of them can hold.',
            fixes: [replace(other.span, '', `keep ${quote(a)} only`), replace(first.span, '', `keep ${quote(b)} only`)],
          }),
    );
  }
  return first;
}
