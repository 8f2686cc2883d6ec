/** Concrete to abstract syntax: units, layers, attention. */
import type { CstNode } from 'chevrotain';
import type * as ast from './ast.ts';
import { type Context, attempt, attemptAll, defined, has, node, nodes, once, oneOf, spanOf } from './cst.ts';
import { flag, flags, name, num, numClause, optionalNum, setting, settings, word, wordClause, words } from './literals.ts';
import { dense, moe } from './to-ast-network.ts';

interface Clauses {
  readonly all: (rule: string) => readonly CstNode[];
  /** `word` is the clause in the user's words. */
  readonly once: <T extends ast.Flag>(rule: string, word: string, build: (ctx: Context, cst: CstNode) => T) => T | undefined;
  readonly number: (rule: string, word: string) => ast.NumClause | undefined;
  readonly words: <T extends string>(rule: string, word: string, choices: readonly T[]) => ast.WordClause<T> | undefined;
  readonly ffn: () => ast.LayerFfn | undefined;
}

/** Finds the clauses of a block by rule: each is a rule of its own inside an `item` rule. */
function clausesOf(ctx: Context, block: CstNode, item: string): Clauses {
  const all: Clauses['all'] = (rule) => nodes(block, item).flatMap((i) => nodes(i, rule));
  const single: Clauses['once'] = (rule, w, build) =>
    once(
      ctx,
      `\`${w}\``,
      attemptAll(all(rule), (n) => build(ctx, n)),
    );
  return {
    all,
    once: single,
    number: (rule, w) => single(rule, w, numClause),
    words: (rule, w, choices) => single(rule, w, (c, n) => wordClause(c, n, choices)),
    ffn: () => {
      const built: ast.LayerFfn[] = [...attemptAll(all('Dense'), (n) => dense(ctx, n)), ...attemptAll(all('Moe'), (n) => moe(ctx, n))];
      return oneOf(
        ctx,
        'the feed-forward part',
        built.sort((x, y) => x.span.start - y.span.start),
      );
    },
  };
}

function yarn(ctx: Context, cst: CstNode): ast.Yarn {
  const items = nodes(cst, 'YarnItem');
  const number = (w: string): ast.NumClause | undefined =>
    once(
      ctx,
      `\`${w}\``,
      items.flatMap((i) => settings(ctx, i, w)),
    );
  return defined({
    kind: 'yarn' as const,
    span: spanOf(ctx, cst),
    factor: number('factor'),
    original: number('original'),
    betaFast: number('beta-fast'),
    betaSlow: number('beta-slow'),
    mscale: number('mscale'),
    mscaleAllDim: number('mscale-all-dim'),
    noTruncate: once(
      ctx,
      '`no-truncate`',
      items.flatMap((i) => flags(ctx, i, 'no-truncate')),
    ),
  });
}

function rope(ctx: Context, cst: CstNode): ast.Rope {
  const span = spanOf(ctx, cst);
  if (has(cst, 'none')) return { kind: 'none', span };
  const options = nodes(cst, 'RopePart');
  const scalings: ast.RopeScaling[] = [
    ...options.flatMap((o) => settings(ctx, o, 'linear')).map((s) => ({ kind: 'linear' as const, span: s.span, factor: s.value })),
    ...attemptAll(
      options.flatMap((o) => nodes(o, 'Yarn')),
      (n) => yarn(ctx, n),
    ),
  ];
  return defined({
    kind: 'rope' as const,
    span,
    theta: num(ctx, cst),
    dim: once(
      ctx,
      '`dim`',
      options.flatMap((o) => settings(ctx, o, 'dim')),
    ),
    style: oneOf(
      ctx,
      'how pairs are rotated',
      options.flatMap((o) => words(ctx, o, ['half', 'interleaved'])),
    ),
    scaling: oneOf(
      ctx,
      'how positions are scaled',
      scalings.sort((a, b) => a.span.start - b.span.start),
    ),
  });
}

function heads(ctx: Context, cst: CstNode): NonNullable<ast.Attention['heads']> {
  return defined({ span: spanOf(ctx, cst), count: num(ctx, cst), headDim: optionalNum(ctx, cst, 1) });
}

function attentionBias(ctx: Context, cst: CstNode): NonNullable<ast.Attention['bias']> {
  const all = words(ctx, cst, ['q', 'k', 'v', 'o']);
  for (const letter of ['q', 'k', 'v', 'o'] as const)
    once(
      ctx,
      `\`${letter}\``,
      all.filter((p) => p.value === letter),
    );
  return { span: spanOf(ctx, cst), parts: all.filter((p, i) => all.findIndex((o) => o.value === p.value) === i) };
}

function attention(ctx: Context, cst: CstNode): ast.Attention {
  const clauses = clausesOf(ctx, cst, 'AttentionItem');
  return defined({
    span: spanOf(ctx, cst),
    variant: words(ctx, cst, ['mha', 'gqa', 'mla'])[0],
    heads: clauses.once('Heads', 'heads', heads),
    kv: clauses.number('KvHeads', 'kv'),
    bias: clauses.once('AttentionBias', 'bias', attentionBias),
    qkNorm: clauses.words('QkNorm', 'qk-norm', ['head', 'full', 'none']),
    rope: clauses.once('Rope', 'rope', rope),
    window: clauses.once('Window', 'window', (c, n) => ({ span: spanOf(c, n), value: has(n, 'none') ? undefined : num(c, n) })),
    sinks: clauses.once('Sinks', 'sinks', (c, n) => ({ span: spanOf(c, n), enabled: !has(n, 'none') })),
    scale: clauses.number('Scale', 'scale'),
    qLora: clauses.number('QLora', 'q-lora'),
    kvLora: clauses.number('KvLora', 'kv-lora'),
    nope: clauses.number('Nope', 'nope'),
    value: clauses.number('ValueDim', 'value'),
  });
}

function selector(ctx: Context, cst: CstNode): ast.Selector {
  const span = spanOf(ctx, cst);
  if (has(cst, 'all')) return { kind: 'all', span };
  if (has(cst, 'rest')) return { kind: 'rest', span };
  if (has(cst, 'first')) return { kind: 'first', span, count: num(ctx, cst) };
  const every = nodes(cst, 'Every')[0];
  if (every !== undefined) {
    const value = (w: string): ast.Num | undefined => setting(ctx, every, w)?.value;
    return defined({ kind: 'every' as const, span, step: num(ctx, every), from: value('from'), to: value('to') });
  }
  const ranges = nodes(cst, 'Range').map((n) => defined({ span: spanOf(ctx, n), first: num(ctx, n), last: optionalNum(ctx, n, 1) }));
  return { kind: 'list', span, ranges };
}

function layerBlock(ctx: Context, cst: CstNode): ast.LayerBlock {
  const clauses = clausesOf(ctx, cst, 'BodyItem');
  return defined({
    span: spanOf(ctx, cst),
    selector: selector(ctx, node(cst, 'Selector')),
    attention: clauses.once('Attention', 'attention', attention),
    ffn: clauses.ffn(),
  });
}

function norm(ctx: Context, cst: CstNode): ast.Norm {
  return defined({
    span: spanOf(ctx, cst),
    kind: word(ctx, cst, ['rms', 'layer']),
    eps: optionalNum(ctx, cst),
    bias: flag(ctx, cst, 'bias'),
  });
}

function expertDType(ctx: Context, cst: CstNode): ast.ExpertDType {
  return defined({
    span: spanOf(ctx, cst),
    values: word(ctx, cst, ['int8', 'int4']),
    group: setting(ctx, cst, 'group'),
    scales: words(ctx, cst, ['f16', 'f32'])[0],
  });
}

function dtype(ctx: Context, cst: CstNode): ast.DType {
  const [experts] = nodes(cst, 'ExpertDType');
  return defined({ ...wordClause(ctx, cst, ['f32', 'f16', 'bf16']), experts: experts && expertDType(ctx, experts) });
}

function embedding(ctx: Context, cst: CstNode): ast.Embedding {
  return defined({
    span: spanOf(ctx, cst),
    tied: once(ctx, '`tied`', flags(ctx, cst, 'tied')),
    multiplier: once(ctx, '`multiplier`', settings(ctx, cst, 'multiplier')),
  });
}

function head(ctx: Context, cst: CstNode): ast.Head {
  return defined({
    span: spanOf(ctx, cst),
    bias: once(ctx, '`bias`', flags(ctx, cst, 'bias')),
    divisor: once(ctx, '`divisor`', settings(ctx, cst, 'divisor')),
  });
}

function model(ctx: Context, cst: CstNode): ast.Model {
  const clauses = clausesOf(ctx, cst, 'ModelItem');
  return defined({
    kind: 'model' as const,
    span: spanOf(ctx, cst),
    name: name(ctx, node(cst, 'Name')),
    vocab: clauses.number('Vocab', 'vocab'),
    hidden: clauses.number('Hidden', 'hidden'),
    context: clauses.number('Context', 'context'),
    depth: clauses.number('Depth', 'depth'),
    dtype: clauses.once('DType', 'dtype', dtype),
    deterministic: clauses.words('Deterministic', 'deterministic', ['run', 'batch']),
    norm: clauses.once('Norm', 'norm', norm),
    embedding: clauses.once('Embedding', 'embedding', embedding),
    head: clauses.once('Head', 'head', head),
    residualMultiplier: clauses.number('Multiplier', 'residual multiplier'),
    attention: clauses.once('Attention', 'attention', attention),
    ffn: clauses.ffn(),
    layers: attemptAll(clauses.all('LayerBlock'), (n) => layerBlock(ctx, n)),
  });
}

function layerUnit(ctx: Context, cst: CstNode): ast.LayerUnit {
  const clauses = clausesOf(ctx, cst, 'LayerItem');
  return defined({
    kind: 'layer' as const,
    span: spanOf(ctx, cst),
    name: name(ctx, node(cst, 'Name')),
    hidden: clauses.number('Hidden', 'hidden'),
    vocab: clauses.number('Vocab', 'vocab'),
    dtype: clauses.once('DType', 'dtype', dtype),
    deterministic: clauses.words('Deterministic', 'deterministic', ['run', 'batch']),
    norm: clauses.once('Norm', 'norm', norm),
    residual: clauses.once('Residual', 'residual', (c, n) => ({ span: spanOf(c, n) })),
    ffn: clauses.ffn(),
  });
}

/** One `Unit` of the tree; undefined where recovery left too little of it. */
export function unit(ctx: Context, cst: CstNode): ast.Unit | undefined {
  return attempt(() => {
    const inner = nodes(cst, 'Model')[0];
    return inner === undefined ? layerUnit(ctx, node(cst, 'LayerUnit')) : model(ctx, inner);
  });
}
