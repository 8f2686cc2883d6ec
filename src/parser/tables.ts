/** What may stand where, read off the grammar itself: for messages, for recovery and for layout. */
import type { ISerializedGast } from 'chevrotain';

export interface Block {
  /** The rule of the block, such as `Moe`. */
  readonly rule: string;
  /** The word that opens it, such as `moe`. */
  readonly word: string;
  /** What its clauses may begin with. */
  readonly items: ReadonlySet<string>;
  /** Every word of its clauses, blocks further in left out. */
  readonly words: ReadonlySet<string>;
}

export interface Tables {
  readonly blocks: ReadonlyMap<string, Block>;
  /** What a rule may begin with. */
  readonly first: (rule: string) => ReadonlySet<string>;
  /** The innermost block of a stack of rules, outermost rule first. */
  readonly blockOf: (ruleStack: readonly string[]) => Block | undefined;
  /** Words that begin clauses of the outer blocks of a stack, or units, but no clause of the innermost block. */
  readonly outerWords: (ruleStack: readonly string[]) => ReadonlySet<string>;
}

interface Node {
  readonly type: string;
  readonly name?: string;
  readonly definition?: readonly Node[];
}

const isSkippable = (node: Node): boolean => node.type === 'Option' || node.type === 'Repetition';

/** Tables of a grammar in chevrotain's serialized form. A block is a rule with an opening brace. */
export function grammarTables(grammar: readonly ISerializedGast[]): Tables {
  const rules = new Map<string, Node>(grammar.map((rule) => [(rule as Node).name ?? '', rule]));
  const body = (rule: string): readonly Node[] => rules.get(rule)?.definition ?? [];

  const firstOf = (nodes: readonly Node[]): string[] => {
    const found: string[] = [];
    for (const node of nodes) {
      if (node.type === 'Terminal') found.push(node.name ?? '');
      else if (node.type === 'NonTerminal') found.push(...firstOf(body(node.name ?? '')));
      else if (node.type === 'Alternation') for (const alt of node.definition ?? []) found.push(...firstOf(alt.definition ?? []));
      else found.push(...firstOf(node.definition ?? []));
      if (!isSkippable(node)) break;
    }
    return found;
  };
  const isBlock = (rule: string): boolean => body(rule).some((n) => n.type === 'Terminal' && n.name === 'OpenBrace');
  const wordsOf = (nodes: readonly Node[]): string[] =>
    nodes.flatMap((node) => {
      if (node.type === 'Terminal') return /^[a-z]/i.test(node.name ?? '') ? [node.name ?? ''] : [];
      if (node.type !== 'NonTerminal') return wordsOf(node.definition ?? []);
      const inner = body(node.name ?? '');
      return wordsOf(
        isBlock(node.name ?? '')
          ? inner.slice(
              0,
              inner.findIndex((n) => n.name === 'OpenBrace'),
            )
          : inner,
      );
    });

  const blocks = new Map<string, Block>();
  for (const rule of rules.keys()) {
    if (!isBlock(rule)) continue;
    const loop = body(rule).find((n) => n.type === 'Repetition')?.definition ?? [];
    const word = firstOf(body(rule)).at(-1) ?? rule;
    blocks.set(rule, { rule, word, items: new Set(firstOf(loop)), words: new Set(wordsOf(loop)) });
  }
  const blockOf = (stack: readonly string[]): Block | undefined => blocks.get(stack.findLast((rule) => blocks.has(rule)) ?? '');
  return {
    blocks,
    first: (rule) => new Set(firstOf(body(rule))),
    blockOf,
    outerWords: (stack) => {
      const outer = new Set(stack.flatMap((rule) => [...(blocks.get(rule)?.items ?? firstOf(body(rule)))]));
      for (const word of blockOf(stack)?.items ?? []) outer.delete(word);
      return outer;
    },
  };
}
