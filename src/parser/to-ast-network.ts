/** Concrete to abstract syntax: feed-forward networks, mixtures, routers. */
import type { CstNode } from 'chevrotain';
import { advise, error, label, replace } from '../diagnostics/make.ts';
import type * as ast from './ast.ts';
import { type Context, attemptAll, defined, has, node, nodes, once, oneOf, spanOf, tokens } from './cst.ts';
import { flag, flags, name, num, numClause, optionalNum, setting, settings, word, wordClause, words } from './literals.ts';

const GATED: Readonly<Record<string, 'silu' | 'gelu' | 'gelu-tanh' | 'relu'>> = {
  swiglu: 'silu',
  geglu: 'gelu',
  'geglu-tanh': 'gelu-tanh',
  reglu: 'relu',
};

function clamp(ctx: Context, cst: CstNode): NonNullable<ast.Network['clamp']> {
  return defined({
    span: spanOf(ctx, cst),
    limit: num(ctx, cst),
    alpha: setting(ctx, cst, 'alpha'),
    offset: setting(ctx, cst, 'offset'),
  });
}

export function network(ctx: Context, cst: CstNode): ast.Network {
  const options = nodes(cst, 'NetworkPart');
  const said = (word: string): readonly ast.Flag[] => options.flatMap((o) => flags(ctx, o, word));
  const clamps = attemptAll(
    options.flatMap((o) => nodes(o, 'Clamp')),
    (c) => clamp(ctx, c),
  );
  const gate = Object.keys(GATED).find((w) => has(cst, w));
  const activation: ast.Network['activation'] =
    gate === undefined
      ? word(ctx, cst, ['silu', 'gelu', 'gelu-tanh', 'relu'])
      : { value: GATED[gate] ?? 'silu', span: word(ctx, cst, [gate]).span };
  return defined({
    span: spanOf(ctx, cst),
    gated: gate !== undefined,
    activation,
    width: num(ctx, cst),
    bias: once(ctx, '`bias`', said('bias')),
    clamp: once(ctx, '`clamp`', clamps),
    interleaved: once(ctx, '`interleaved`', said('interleaved')),
  });
}

export const dense = (ctx: Context, cst: CstNode): ast.Dense => ({
  kind: 'dense',
  span: spanOf(ctx, cst),
  network: network(ctx, node(cst, 'Network')),
});

function select(ctx: Context, part: CstNode): readonly ast.Select[] {
  return [
    ...flags(ctx, part, 'top-k').map((f) => ({ kind: 'top-k' as const, ...f })),
    ...attemptAll(nodes(part, 'Hash'), (n) => ({ kind: 'hash' as const, span: spanOf(ctx, n), table: name(ctx, node(n, 'Name')) })),
    ...attemptAll(nodes(part, 'ExpertChoice'), (n) => ({ kind: 'expert-choice' as const, span: spanOf(ctx, n), factor: num(ctx, n) })),
    ...attemptAll(nodes(part, 'SparseMixer'), (n) =>
      defined({ kind: 'sparse-mixer' as const, span: spanOf(ctx, n), jitter: optionalNum(ctx, n) }),
    ),
  ];
}

function renormalize(ctx: Context, cst: CstNode): ast.Renormalize {
  const eps = (['add', 'clamp'] as const).flatMap((mode) => settings(ctx, cst, mode).map((s) => ({ span: s.span, mode, value: s.value })));
  return defined({
    span: spanOf(ctx, cst),
    p: once(ctx, '`p`', settings(ctx, cst, 'p')),
    eps: oneOf(
      ctx,
      'the denominator',
      eps.sort((a, b) => a.span.start - b.span.start),
    ),
  });
}

function groups(ctx: Context, cst: CstNode): NonNullable<ast.Router['groups']> {
  return { span: spanOf(ctx, cst), count: num(ctx, cst), keep: num(ctx, cst, 1), by: word(ctx, cst, ['max', 'top2-sum']) };
}

function router(ctx: Context, cst: CstNode): ast.Router {
  const all = nodes(cst, 'RouterPart');
  const rules = (rule: string): readonly CstNode[] => all.flatMap((p) => nodes(p, rule));
  const said = (word: string): readonly ast.Flag[] => all.flatMap((p) => flags(ctx, p, word));
  const weights = rules('Weights');
  return defined({
    span: spanOf(ctx, cst),
    score: oneOf(
      ctx,
      'the score of the router',
      all.flatMap((p) => words(ctx, p, ['softmax', 'sigmoid', 'sqrt-softplus', 'none'])),
    ),
    logitBias: once(ctx, '`logit-bias`', said('logit-bias')),
    selectionBias: once(ctx, '`selection-bias`', said('selection-bias')),
    groups: once(
      ctx,
      '`groups`',
      attemptAll(rules('Groups'), (n) => groups(ctx, n)),
    ),
    select: oneOf(
      ctx,
      'how experts are selected',
      all.flatMap((p) => select(ctx, p)),
    ),
    weights: oneOf(
      ctx,
      'what the weights are',
      attemptAll(
        weights.filter((w) => !has(w, 'on')),
        (n) => wordClause(ctx, n, ['scores', 'softmax', 'one']),
      ),
    ),
    applyTo: oneOf(
      ctx,
      'what the weights multiply',
      attemptAll(
        weights.filter((w) => has(w, 'on')),
        (n) => wordClause(ctx, n, ['output', 'input']),
      ),
    ),
    renormalize: once(
      ctx,
      '`renormalize`',
      attemptAll(rules('Renormalize'), (n) => renormalize(ctx, n)),
    ),
    scale: once(
      ctx,
      '`scale`',
      attemptAll(rules('RouterScale'), (n) => numClause(ctx, n)),
    ),
    precision: oneOf(
      ctx,
      'the precision',
      attemptAll(rules('Precision'), (n) => wordClause(ctx, n, ['f32', 'model'])),
    ),
  });
}

function capacity(ctx: Context, cst: CstNode): ast.Capacity {
  const factor = setting(ctx, cst, 'factor');
  const min = setting(ctx, cst, 'min');
  const limit: ast.Capacity['limit'] =
    factor === undefined
      ? { kind: 'tokens', tokens: num(ctx, cst) }
      : defined({ kind: 'factor' as const, factor: factor.value, min: min?.value });
  const when = words(ctx, cst, ['before', 'after', 'none'])[0];
  const said = flag(ctx, cst, 'renormalize');
  return defined({
    span: spanOf(ctx, cst),
    limit,
    renormalize: when === undefined || said === undefined ? undefined : { span: { ...said.span, end: when.span.end }, value: when },
  });
}

function shared(ctx: Context, cst: CstNode): ast.Shared {
  const own = nodes(cst, 'Network')[0];
  return defined({
    span: spanOf(ctx, cst),
    count: num(ctx, cst),
    network: own === undefined ? undefined : { each: word(ctx, cst, ['of', 'as']), network: network(ctx, own) },
    gated: flag(ctx, cst, 'gated'),
  });
}

/** Refuses what mixes the released counting (`experts`, `active 6`) with the paper's (`segment`, `active K 2`, `shared Ks 1`). */
function checkCounting(ctx: Context, items: Items, paper: boolean): boolean {
  const home = (paper ? items.segment : items.experts)[0];
  if (home === undefined) return true;
  const why = 'the paper counts shared experts among mN and mK; the released counting leaves them out of `experts` and `active`.';
  const here = label(spanOf(ctx, home), paper ? "this is the paper's counting" : 'this is the released counting');
  let sound = true;
  const other = items.experts[0];
  if (paper && other !== undefined) {
    ctx.report(
      error('MOE1013', 'experts are counted in two ways', {
        at: spanOf(ctx, other),
        label: 'this is the released counting',
        labels: [here],
        why,
        fixes: [replace(spanOf(ctx, other), '', 'keep `segment` only'), replace(spanOf(ctx, home), '', 'keep `experts` only')],
      }),
    );
    return false;
  }
  const check = (list: readonly CstNode[], marker: string, clause: string, meant: string): void => {
    for (const cst of list) {
      const mark = tokens(cst, marker)[0];
      const number = tokens(cst, 'Number')[0];
      if ((mark !== undefined) === paper || number === undefined) continue;
      sound = false;
      const at = spanOf(ctx, cst);
      ctx.report(
        error('MOE1013', paper ? `\`${clause}\` is counted in another way than \`segment\`` : `\`${clause} ${marker}\` needs \`segment\``, {
          at,
          label: paper ? `\`${marker}\` is missing` : `\`${marker}\` belongs to the paper's counting`,
          labels: [here],
          why,
          fixes: paper
            ? [
                replace(
                  { file: ctx.file, start: number.startOffset, end: number.startOffset },
                  `${marker} `,
                  `\`${clause} ${marker} ${number.image}\`: ${meant}`,
                ),
              ]
            : [advise(`\`${clause} NUMBER\`, counting routed experts only`, 'placeholder')],
        }),
      );
    }
  };
  check(items.active, 'K', 'active', 'mK experts run, shared ones included');
  check(items.shared, 'Ks', 'shared', 'Ks of the mN experts are shared');
  return sound;
}

interface Items {
  readonly experts: readonly CstNode[];
  readonly segment: readonly CstNode[];
  readonly active: readonly CstNode[];
  readonly shared: readonly CstNode[];
}

function counting(ctx: Context, items: Items): ast.Counting | undefined {
  const paper = items.segment.length > 0;
  if (!checkCounting(ctx, items, paper)) return undefined;
  const active = once(
    ctx,
    '`active`',
    attemptAll(items.active, (n) => numClause(ctx, n)),
  );
  if (paper) {
    const built = attemptAll(items.segment, (n) => ({
      kind: 'paper' as const,
      span: spanOf(ctx, n),
      m: num(ctx, n),
      n: num(ctx, n, 1),
      // The first `of` stands before N.
      widthOf: word(ctx, n, ['of', 'into'], 1),
      network: network(ctx, node(n, 'Network')),
    }));
    const first = once(ctx, '`segment`', built);
    return first === undefined ? undefined : defined({ ...first, k: active });
  }
  const built = attemptAll(items.experts, (n) => ({
    kind: 'released' as const,
    span: spanOf(ctx, n),
    experts: num(ctx, n),
    network: network(ctx, node(n, 'Network')),
  }));
  const first = once(ctx, '`experts`', built);
  return first === undefined ? undefined : defined({ ...first, active });
}

export function moe(ctx: Context, cst: CstNode): ast.Moe {
  const rules = (rule: string): readonly CstNode[] => nodes(cst, 'MoeItem').flatMap((item) => nodes(item, rule));
  const items: Items = { experts: rules('Experts'), segment: rules('Segment'), active: rules('Active'), shared: rules('Shared') };
  return defined({
    kind: 'moe' as const,
    span: spanOf(ctx, cst),
    counting: counting(ctx, items),
    shared: once(
      ctx,
      '`shared`',
      attemptAll(items.shared, (n) => shared(ctx, n)),
    ),
    router: once(
      ctx,
      '`router`',
      attemptAll(rules('Router'), (n) => router(ctx, n)),
    ),
    capacity: once(
      ctx,
      '`capacity`',
      attemptAll(rules('Capacity'), (n) => capacity(ctx, n)),
    ),
  });
}
