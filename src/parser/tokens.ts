/** The words, marks and literals of the language. */
import { Lexer, type TokenType, createToken } from 'chevrotain';

export type Keyword = string;

/** Every keyword. None is reserved: wherever a name may stand, any of them may be that name. */
export const keywords: readonly Keyword[] = `
  model layer layers vocab hidden context depth dtype f32 f16 bf16 int8 int4 group scales
  deterministic run batch norm rms bias embedding tied multiplier head divisor residual
  all rest first every from to
  attention mha gqa mla heads x kv q k v o qk-norm full none window sinks scale
  q-lora kv-lora nope value rope dim half interleaved linear
  yarn factor original beta-fast beta-slow mscale mscale-all-dim no-truncate
  ffn swiglu geglu geglu-tanh reglu mlp silu gelu gelu-tanh relu clamp alpha offset
  moe experts of segment m N into active K shared Ks as gated
  capacity min renormalize before after
  router softmax sigmoid sqrt-softplus logit-bias selection-bias groups keep by max top2-sum
  top-k hash table expert-choice sparse-mixer jitter weights scores one on output input
  p add precision
`
  .trim()
  .split(/\s+/);

/** Any word: the category of keywords and identifiers. */
export const Word: TokenType = createToken({ name: 'Word', pattern: Lexer.NA });

export const Identifier: TokenType = createToken({
  name: 'Identifier',
  pattern: /[A-Za-z_][A-Za-z0-9_]*(?:[-.][A-Za-z0-9_]+)*/,
  categories: [Word],
});

const keywordTokens: ReadonlyMap<Keyword, TokenType> = new Map(
  keywords.map((text) => [text, createToken({ name: text, pattern: text, longer_alt: Identifier, categories: [Word] })]),
);

/** The token type of a keyword; throws for other words. */
export function kw(text: Keyword): TokenType {
  const token = keywordTokens.get(text);
  if (token === undefined) throw new Error(`no keyword '${text}'`);
  return token;
}

export const isKeyword = (text: string): boolean => keywordTokens.has(text);

export const NumberLiteral: TokenType = createToken({
  name: 'Number',
  pattern: /-?[0-9]+(?:_[0-9]+)*(?:\.[0-9]+(?:_[0-9]+)*)?(?:[eE][-+]?[0-9]+)?/,
});

export const StringLiteral: TokenType = createToken({ name: 'String', pattern: /"(?:[^"\\\r\n]|\\[^\r\n])*"/ });
/** A quote that nothing closes on its line; the parser takes it for a string, so that it is reported once. */
export const OpenString: TokenType = createToken({ name: 'OpenString', pattern: /"[^\r\n]*/, categories: [StringLiteral] });

export const OpenBrace: TokenType = createToken({ name: 'OpenBrace', pattern: '{', label: '{' });
export const CloseBrace: TokenType = createToken({ name: 'CloseBrace', pattern: '}', label: '}' });
export const Dots: TokenType = createToken({ name: 'Dots', pattern: '..', label: '..' });
export const Comma: TokenType = createToken({ name: 'Comma', pattern: ',', label: ',' });

const WhiteSpace = createToken({ name: 'WhiteSpace', pattern: /[ \t\r\n]+/, group: Lexer.SKIPPED, line_breaks: true });
export const LineComment: TokenType = createToken({ name: 'LineComment', pattern: /\/\/[^\r\n]*/, group: 'comments' });
export const BlockComment: TokenType = createToken({
  name: 'BlockComment',
  pattern: /\/\*[^]*?\*\//,
  group: 'comments',
  line_breaks: true,
});
/** A block comment that nothing closes: the rest of the file. */
export const OpenComment: TokenType = createToken({ name: 'OpenComment', pattern: /\/\*[^]*/, group: 'comments', line_breaks: true });

/** In the order in which the lexer tries them. */
export const allTokens: TokenType[] = [
  WhiteSpace,
  LineComment,
  BlockComment,
  OpenComment,
  // A keyword that begins another one, as `o` begins `of`, must be tried after it.
  ...[...keywordTokens.values()].sort((a, b) => b.name.length - a.name.length),
  Identifier,
  NumberLiteral,
  StringLiteral,
  OpenString,
  OpenBrace,
  CloseBrace,
  Dots,
  Comma,
  Word,
];

export const moeLexer: Lexer = new Lexer(allTokens);
