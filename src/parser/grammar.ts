/**
 * The grammar as a pure chevrotain CstParser: rules only, no actions. `grammar/moe.ebnf` says the same on one page.
 * Messages of its exceptions are lists of expected token names, one a line; `problems.ts` puts them into words.
 */
import {
  type CstNode,
  CstParser,
  EOF,
  type IRecognitionException,
  type ISerializedGast,
  type IToken,
  type TokenType,
  tokenMatcher,
} from 'chevrotain';
import { type Tables, grammarTables } from './tables.ts';
import { CloseBrace, Comma, Dots, NumberLiteral, OpenBrace, StringLiteral, Word, allTokens, kw } from './tokens.ts';

/** Recovery recurses once an error, and nobody reads more. */
const MAX_ERRORS = 64;

/** Thrown out of the parser, through its recovery, when there are too many errors. */
class GiveUp extends Error {}

type Rule = ReturnType<CstParser['RULE']> & ((idx?: number) => CstNode);

/** The part of chevrotain's recovery that the types leave out; `tests/parser/recovery.test.ts` holds what we expect of it. */
interface Recovery {
  flattenFollowSet(): TokenType[];
  getHumanReadableRuleStack(): string[];
}

class MoeParser extends CstParser {
  private errorCount = 0;
  /** More blocks are opened than closed: then, and only then, a missing brace is the likelier fault than a misplaced word. */
  bracesMissing = false;
  tables: Tables | undefined;

  constructor() {
    const names = (paths: readonly (readonly TokenType[])[]): string => {
      this.count();
      return [...new Set(paths.map((p) => p[0]?.name ?? ''))].join('\n');
    };
    super(allTokens, {
      recoveryEnabled: true,
      nodeLocationTracking: 'onlyOffset',
      errorMessageProvider: {
        buildMismatchTokenMessage: ({ expected }) => names([[expected]]),
        buildNotAllInputParsedMessage: () => names([[EOF]]),
        buildNoViableAltMessage: ({ expectedPathsPerAlt }) => names(expectedPathsPerAlt.flat()),
        buildEarlyExitMessage: ({ expectedIterationPaths }) => names(expectedIterationPaths),
      },
    });
    this.performSelfAnalysis();
  }

  private count(): void {
    if (++this.errorCount > MAX_ERRORS) throw new GiveUp();
  }

  override reset(): void {
    super.reset();
    this.errorCount = 0;
  }

  /** Recovery skips a block as a whole: what stands in it belongs to the words before it. */
  protected override SKIP_TOKEN(): IToken {
    let depth = 0;
    for (;;) {
      depth += braceDepth(this.LA(1));
      const next = super.SKIP_TOKEN();
      if (depth <= 0 || next.tokenType === EOF) return next;
    }
  }

  protected override canTokenTypeBeInsertedInRecovery(type: TokenType): boolean {
    return type !== CloseBrace || this.bracesMissing;
  }

  /**
   * As inherited, but looks only where `SKIP_TOKEN` stops (or recovery would wait for a token that it has skipped),
   * and while the braces match it does not leave a block for a word that belongs further out.
   */
  findReSyncTokenType(): TokenType {
    const recovery = this as unknown as Recovery;
    const outer = this.bracesMissing ? undefined : this.tables?.outerWords(recovery.getHumanReadableRuleStack());
    const follow = recovery.flattenFollowSet().filter((type) => outer?.has(type.name) !== true);
    let depth = 0;
    for (let k = 1; ; k++) {
      const token = this.LA(k);
      if (token.tokenType === EOF) return EOF;
      const match = depth <= 0 ? follow.find((type) => tokenMatcher(token, type)) : undefined;
      if (match !== undefined) return match;
      depth = Math.max(0, depth) + braceDepth(token);
    }
  }

  private either(rules: readonly Rule[]): void {
    this.OR(rules.map((rule) => ({ ALT: () => this.SUBRULE(rule) })));
  }
  private word(idx: number, words: readonly string[]): void {
    this.or(
      idx,
      words.map((w) => ({ ALT: () => this.consume(idx, kw(w)) })),
    );
  }
  private number(idx = 0): void {
    this.consume(idx, NumberLiteral);
  }
  /** `'keyword' Number` */
  private setting(word: string, idx = 0): void {
    this.CONSUME(kw(word));
    this.number(idx);
  }
  private numberRule(name: string, word: string): Rule {
    return this.RULE(name, () => this.setting(word));
  }
  private block(item: Rule): void {
    this.CONSUME(OpenBrace);
    this.MANY(() => this.SUBRULE(item));
    this.CONSUME(CloseBrace);
  }

  readonly Name: Rule = this.RULE('Name', () => {
    this.OR([{ ALT: () => this.CONSUME(Word) }, { ALT: () => this.CONSUME(StringLiteral) }]);
  });

  // Experts and networks
  readonly Clamp: Rule = this.RULE('Clamp', () => {
    this.setting('clamp');
    this.option(1, () => this.setting('alpha', 1));
    this.option(2, () => this.setting('offset', 2));
  });
  readonly NetworkPart: Rule = this.RULE('NetworkPart', () => {
    this.OR([
      { ALT: () => this.CONSUME(kw('bias')) },
      { ALT: () => this.CONSUME(kw('interleaved')) },
      { ALT: () => this.SUBRULE(this.Clamp) },
    ]);
  });
  readonly Network: Rule = this.RULE('Network', () => {
    this.OR([
      ...['swiglu', 'geglu', 'geglu-tanh', 'reglu'].map((w) => ({ ALT: () => this.CONSUME(kw(w)) })),
      {
        ALT: () => {
          this.CONSUME(kw('mlp'));
          this.word(1, ['silu', 'gelu', 'gelu-tanh', 'relu']);
        },
      },
    ]);
    this.number();
    this.MANY(() => this.SUBRULE(this.NetworkPart));
  });
  readonly Dense: Rule = this.RULE('Dense', () => {
    this.CONSUME(kw('ffn'));
    this.SUBRULE(this.Network);
  });

  // Routers
  readonly Groups: Rule = this.RULE('Groups', () => {
    this.setting('groups', 1);
    this.setting('keep', 2);
    this.CONSUME(kw('by'));
    this.word(1, ['max', 'top2-sum']);
  });
  readonly Hash: Rule = this.RULE('Hash', () => {
    this.CONSUME(kw('hash'));
    this.CONSUME(kw('table'));
    this.SUBRULE(this.Name);
  });
  readonly ExpertChoice: Rule = this.RULE('ExpertChoice', () => {
    this.CONSUME(kw('expert-choice'));
    this.setting('factor');
  });
  readonly SparseMixer: Rule = this.RULE('SparseMixer', () => {
    this.CONSUME(kw('sparse-mixer'));
    this.OPTION(() => this.setting('jitter'));
  });
  readonly Weights: Rule = this.RULE('Weights', () => {
    this.CONSUME(kw('weights'));
    this.OR([
      ...['scores', 'softmax', 'one'].map((w) => ({ ALT: () => this.CONSUME(kw(w)) })),
      {
        ALT: () => {
          this.CONSUME(kw('on'));
          this.word(1, ['output', 'input']);
        },
      },
    ]);
  });
  readonly Renormalize: Rule = this.RULE('Renormalize', () => {
    this.CONSUME(kw('renormalize'));
    this.MANY(() => this.OR(['p', 'add', 'clamp'].map((w, i) => ({ ALT: () => this.setting(w, i) }))));
  });
  readonly RouterScale: Rule = this.numberRule('RouterScale', 'scale');
  readonly Precision: Rule = this.RULE('Precision', () => {
    this.CONSUME(kw('precision'));
    this.word(1, ['f32', 'model']);
  });
  readonly RouterPart: Rule = this.RULE('RouterPart', () => {
    const words = (list: readonly string[]): { ALT: () => unknown }[] => list.map((w) => ({ ALT: () => this.CONSUME(kw(w)) }));
    const rules = (list: readonly Rule[]): { ALT: () => unknown }[] => list.map((r) => ({ ALT: () => this.SUBRULE(r) }));
    this.OR([
      ...words(['softmax', 'sigmoid', 'sqrt-softplus', 'none', 'logit-bias', 'selection-bias']),
      ...rules([this.Groups]),
      ...words(['top-k']),
      ...rules([this.Hash, this.ExpertChoice, this.SparseMixer, this.Weights, this.Renormalize, this.RouterScale, this.Precision]),
    ]);
  });
  readonly Router: Rule = this.RULE('Router', () => {
    this.CONSUME(kw('router'));
    this.AT_LEAST_ONE(() => this.SUBRULE(this.RouterPart));
  });

  // Mixtures
  readonly Experts: Rule = this.RULE('Experts', () => {
    this.setting('experts');
    this.CONSUME(kw('of'));
    this.SUBRULE(this.Network);
  });
  readonly Segment: Rule = this.RULE('Segment', () => {
    this.CONSUME(kw('segment'));
    this.setting('m', 1);
    this.CONSUME(kw('of'));
    this.setting('N', 2);
    this.word(1, ['of', 'into']);
    this.SUBRULE(this.Network);
  });
  readonly Active: Rule = this.RULE('Active', () => {
    this.CONSUME(kw('active'));
    this.OPTION(() => this.CONSUME(kw('K')));
    this.number();
  });
  readonly Shared: Rule = this.RULE('Shared', () => {
    this.CONSUME(kw('shared'));
    this.OPTION(() => this.CONSUME(kw('Ks')));
    this.number();
    this.OPTION1(() => {
      this.word(1, ['of', 'as']);
      this.SUBRULE(this.Network);
    });
    this.OPTION2(() => this.CONSUME(kw('gated')));
  });
  readonly Capacity: Rule = this.RULE('Capacity', () => {
    this.CONSUME(kw('capacity'));
    this.OR([
      { ALT: () => this.number() },
      {
        ALT: () => {
          this.setting('factor', 1);
          this.OPTION(() => this.setting('min', 2));
        },
      },
    ]);
    this.OPTION1(() => {
      this.CONSUME(kw('renormalize'));
      this.word(1, ['before', 'after', 'none']);
    });
  });
  readonly MoeItem: Rule = this.RULE('MoeItem', () => {
    this.either([this.Experts, this.Segment, this.Active, this.Shared, this.Router, this.Capacity]);
  });
  readonly Moe: Rule = this.RULE('Moe', () => {
    this.CONSUME(kw('moe'));
    this.block(this.MoeItem);
  });

  // Attention
  readonly Heads: Rule = this.RULE('Heads', () => {
    this.setting('heads');
    this.OPTION(() => this.setting('x', 1));
  });
  readonly KvHeads: Rule = this.numberRule('KvHeads', 'kv');
  readonly AttentionBias: Rule = this.RULE('AttentionBias', () => {
    this.CONSUME(kw('bias'));
    this.OR([{ ALT: () => this.CONSUME(kw('none')) }, { ALT: () => this.AT_LEAST_ONE(() => this.word(1, ['q', 'k', 'v', 'o'])) }]);
  });
  readonly QkNorm: Rule = this.RULE('QkNorm', () => {
    this.CONSUME(kw('qk-norm'));
    this.word(1, ['head', 'full', 'none']);
  });
  readonly YarnItem: Rule = this.RULE('YarnItem', () => {
    const numbers = ['factor', 'original', 'beta-fast', 'beta-slow', 'mscale', 'mscale-all-dim'];
    this.OR([...numbers.map((w, i) => ({ ALT: () => this.setting(w, i) })), { ALT: () => this.CONSUME(kw('no-truncate')) }]);
  });
  readonly Yarn: Rule = this.RULE('Yarn', () => {
    this.CONSUME(kw('yarn'));
    this.block(this.YarnItem);
  });
  readonly RopePart: Rule = this.RULE('RopePart', () => {
    this.OR([
      { ALT: () => this.setting('dim', 1) },
      { ALT: () => this.CONSUME(kw('half')) },
      { ALT: () => this.CONSUME(kw('interleaved')) },
      { ALT: () => this.setting('linear', 2) },
      { ALT: () => this.SUBRULE(this.Yarn) },
    ]);
  });
  readonly Rope: Rule = this.RULE('Rope', () => {
    this.CONSUME(kw('rope'));
    this.OR([
      { ALT: () => this.CONSUME(kw('none')) },
      {
        ALT: () => {
          this.number();
          this.MANY(() => this.SUBRULE(this.RopePart));
        },
      },
    ]);
  });
  readonly Window: Rule = this.RULE('Window', () => {
    this.CONSUME(kw('window'));
    this.OR([{ ALT: () => this.CONSUME(kw('none')) }, { ALT: () => this.number() }]);
  });
  readonly Sinks: Rule = this.RULE('Sinks', () => {
    this.CONSUME(kw('sinks'));
    this.OPTION(() => this.CONSUME(kw('none')));
  });
  readonly Scale: Rule = this.numberRule('Scale', 'scale');
  readonly QLora: Rule = this.numberRule('QLora', 'q-lora');
  readonly KvLora: Rule = this.numberRule('KvLora', 'kv-lora');
  readonly Nope: Rule = this.numberRule('Nope', 'nope');
  readonly ValueDim: Rule = this.numberRule('ValueDim', 'value');
  readonly AttentionItem: Rule = this.RULE('AttentionItem', () => {
    this.either([
      this.Heads,
      this.KvHeads,
      this.AttentionBias,
      this.QkNorm,
      this.Rope,
      this.Window,
      this.Sinks,
      this.Scale,
      this.QLora,
      this.KvLora,
      this.Nope,
      this.ValueDim,
    ]);
  });
  readonly Attention: Rule = this.RULE('Attention', () => {
    this.CONSUME(kw('attention'));
    this.OPTION(() => this.word(1, ['mha', 'gqa', 'mla']));
    this.block(this.AttentionItem);
  });

  // Layers
  readonly Range: Rule = this.RULE('Range', () => {
    this.number();
    this.OPTION(() => {
      this.CONSUME(Dots);
      this.number(1);
    });
  });
  readonly Every: Rule = this.RULE('Every', () => {
    this.setting('every');
    this.option(1, () => this.setting('from', 1));
    this.option(2, () => this.setting('to', 2));
  });
  readonly Selector: Rule = this.RULE('Selector', () => {
    this.OR([
      { ALT: () => this.CONSUME(kw('all')) },
      { ALT: () => this.CONSUME(kw('rest')) },
      { ALT: () => this.setting('first') },
      { ALT: () => this.SUBRULE(this.Every) },
      {
        ALT: () => {
          this.SUBRULE(this.Range);
          this.MANY(() => {
            this.CONSUME(Comma);
            this.SUBRULE1(this.Range);
          });
        },
      },
    ]);
  });
  readonly BodyItem: Rule = this.RULE('BodyItem', () => this.either([this.Attention, this.Dense, this.Moe]));
  readonly LayerBlock: Rule = this.RULE('LayerBlock', () => {
    this.word(1, ['layer', 'layers']);
    this.SUBRULE(this.Selector);
    this.block(this.BodyItem);
  });

  // Units
  readonly Vocab: Rule = this.numberRule('Vocab', 'vocab');
  readonly Hidden: Rule = this.numberRule('Hidden', 'hidden');
  readonly Context: Rule = this.numberRule('Context', 'context');
  readonly Depth: Rule = this.numberRule('Depth', 'depth');
  readonly ExpertDType: Rule = this.RULE('ExpertDType', () => {
    this.CONSUME(kw('experts'));
    this.word(1, ['int8', 'int4']);
    this.OPTION(() => this.setting('group'));
    this.OPTION1(() => {
      this.CONSUME(kw('scales'));
      this.word(2, ['f16', 'f32']);
    });
  });
  readonly DType: Rule = this.RULE('DType', () => {
    this.CONSUME(kw('dtype'));
    this.word(1, ['f32', 'f16', 'bf16']);
    this.OPTION(() => this.SUBRULE(this.ExpertDType));
  });
  readonly Deterministic: Rule = this.RULE('Deterministic', () => {
    this.CONSUME(kw('deterministic'));
    this.word(1, ['run', 'batch']);
  });
  readonly Norm: Rule = this.RULE('Norm', () => {
    this.CONSUME(kw('norm'));
    this.word(1, ['rms', 'layer']);
    this.OPTION(() => this.number());
    this.OPTION1(() => this.CONSUME(kw('bias')));
  });
  readonly Embedding: Rule = this.RULE('Embedding', () => {
    this.CONSUME(kw('embedding'));
    this.AT_LEAST_ONE(() => this.OR([{ ALT: () => this.CONSUME(kw('tied')) }, { ALT: () => this.setting('multiplier') }]));
  });
  readonly Head: Rule = this.RULE('Head', () => {
    this.CONSUME(kw('head'));
    this.AT_LEAST_ONE(() => this.OR([{ ALT: () => this.CONSUME(kw('bias')) }, { ALT: () => this.setting('divisor') }]));
  });
  readonly Multiplier: Rule = this.RULE('Multiplier', () => {
    this.CONSUME(kw('residual'));
    this.setting('multiplier');
  });
  readonly Residual: Rule = this.RULE('Residual', () => {
    this.CONSUME(kw('residual'));
  });
  readonly LayerItem: Rule = this.RULE('LayerItem', () => {
    this.either([this.Vocab, this.Hidden, this.DType, this.Deterministic, this.Norm, this.Residual, this.Dense, this.Moe]);
  });
  readonly LayerUnit: Rule = this.RULE('LayerUnit', () => {
    this.CONSUME(kw('layer'));
    this.SUBRULE(this.Name);
    this.block(this.LayerItem);
  });
  readonly ModelItem: Rule = this.RULE('ModelItem', () => {
    this.either([
      this.Vocab,
      this.Hidden,
      this.Context,
      this.Depth,
      this.DType,
      this.Deterministic,
      this.Norm,
      this.Embedding,
      this.Head,
      this.Multiplier,
      this.Attention,
      this.Dense,
      this.Moe,
      this.LayerBlock,
    ]);
  });
  readonly Model: Rule = this.RULE('Model', () => {
    this.CONSUME(kw('model'));
    this.SUBRULE(this.Name);
    this.block(this.ModelItem);
  });
  readonly Unit: Rule = this.RULE('Unit', () => this.either([this.Model, this.LayerUnit]));
  readonly File: Rule = this.RULE('File', () => {
    this.MANY(() => this.SUBRULE(this.Unit));
  });
}

const braceDepth = (token: IToken): number => (token.tokenType === OpenBrace ? 1 : token.tokenType === CloseBrace ? -1 : 0);

const parser: MoeParser = new MoeParser();

/** The rules as plain data, for the tables of `expect.ts` and the test that compares them with the EBNF. */
export const serializedGrammar: readonly ISerializedGast[] = parser.getSerializedGastProductions();

export const tables: Tables = grammarTables(serializedGrammar);
parser.tables = tables;

/** Tokens to concrete syntax, with recovery. The tree is undefined where there were too many errors to go on. */
export function parseCst(tokens: readonly IToken[]): {
  readonly cst: CstNode | undefined;
  readonly errors: readonly IRecognitionException[];
} {
  parser.input = [...tokens];
  parser.bracesMissing = tokens.reduce((depth, token) => depth + braceDepth(token), 0) > 0;
  let cst: CstNode | undefined;
  try {
    cst = parser.File();
  } catch (e) {
    if (!(e instanceof GiveUp)) throw e;
  }
  const errors = parser.errors;
  parser.input = [];
  return { cst, errors };
}
