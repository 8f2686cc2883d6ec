/** Routers of the AST to routers of the Model: which parts go together, what follows from what. */
import { advise, label, replace } from '../diagnostics/make.ts';
import type { Span } from '../diagnostics/types.ts';
import type * as ast from '../parser/ast.ts';
import { constant, misplaced, type Report, whole, LIMITS } from './report.ts';
import type { Capacity, Router } from './types.ts';

export const DEFAULT_JITTER = 0.01;

/** What a router must know of the experts it chooses from; undefined where an error hides it. */
export interface ExpertCounts {
  readonly experts: number | undefined;
  readonly active: number | undefined;
  /** Where the counts were written. */
  readonly expertsAt: Span;
  readonly activeAt: Span;
}

type Select = Router['select'];

function resolveSelect(report: Report, select: ast.Select | undefined, counts: ExpertCounts): Select | undefined {
  if (select === undefined || select.kind === 'top-k') return { kind: 'top-k' };
  if (select.kind === 'hash') return { kind: 'hash', table: select.table.value };
  if (select.kind === 'sparse-mixer') {
    const jitter = select.jitter === undefined ? DEFAULT_JITTER : constant(report, select.jitter, 'jitter', 'zero-or-more');
    if (counts.active !== undefined && counts.active !== 2) {
      report.error('MOE3032', `\`sparse-mixer\` chooses 2 experts, not ${counts.active}`, {
        at: select.span,
        labels: [label(counts.activeAt, `${counts.active} active`)],
        why: 'it is defined by a first choice, and a second one made without the first.',
        fixes: [advise('write `active 2`, or choose with `top-k`')],
      });
      return undefined;
    }
    return jitter === undefined ? undefined : { kind: 'sparse-mixer', jitter };
  }
  const capacityFactor = constant(report, select.factor, 'factor', 'positive');
  if (capacityFactor !== undefined && counts.experts !== undefined && capacityFactor > counts.experts) {
    report.error('MOE3034', `\`expert-choice factor\` ${select.factor.text} is more than the ${counts.experts} experts`, {
      at: select.factor.span,
      labels: [label(counts.expertsAt, `${counts.experts} experts`)],
      why: 'the factor is how many experts take a token on average; at the number of experts every expert takes every token.',
      fixes: [replace(select.factor.span, String(counts.experts), `factor ${counts.experts}`)],
    });
    return undefined;
  }
  return capacityFactor === undefined ? undefined : { kind: 'expert-choice', capacityFactor };
}

function resolveGroups(report: Report, groups: NonNullable<ast.Router['groups']>, counts: ExpertCounts): Router['groups'] | 'bad' {
  const count = whole(report, groups.count, 'groups', { max: LIMITS.experts });
  const keep = whole(report, groups.keep, 'keep', { max: LIMITS.experts });
  const { experts, active } = counts;
  if (count === undefined || keep === undefined || experts === undefined) return 'bad';
  const expertsLabel = label(counts.expertsAt, `${experts} routed experts`);
  if (experts % count !== 0) {
    report.error('MOE3002', `${experts} routed experts cannot be cut into ${count} equal groups`, {
      at: groups.count.span,
      label: `${experts} / ${count} is not a whole number`,
      labels: [expertsLabel],
      why: 'groups are runs of consecutive experts of one size.',
    });
    return 'bad';
  }
  if (keep > count) {
    report.error('MOE3003', `${keep} groups are kept, but there are only ${count}`, {
      at: groups.keep.span,
      labels: [label(groups.count.span, `${count} groups`)],
      why: 'each token picks `keep` different groups.',
      fixes: [replace(groups.keep.span, String(count), `keep ${count}`)],
    });
    return 'bad';
  }
  const size = experts / count;
  if (groups.by.value === 'top2-sum' && size < 2) {
    report.error('MOE3005', 'a group of 1 expert has no sum of its two best', {
      at: groups.by.span,
      labels: [label(groups.count.span, `${count} groups of ${size}`), expertsLabel],
      why: '`top2-sum` adds the two highest scores of a group.',
      fixes: [replace(groups.by.span, 'max', 'score groups by their best expert: `by max`')],
    });
    return 'bad';
  }
  if (active !== undefined && active > keep * size) {
    report.error('MOE3004', `${active} active experts, but the ${keep} kept groups have only ${keep * size}`, {
      at: counts.activeAt,
      label: `must be between 1 and ${keep * size}`,
      labels: [label(groups.span, `${keep} of ${count} groups of ${size} experts`)],
      why: 'experts of the other groups cannot be chosen.',
    });
    return 'bad';
  }
  return count === keep ? undefined : { count, keep, score: groups.by.value };
}

/** Parts that only top-k knows. */
function refuseBesideTopK(report: Report, r: ast.Router, select: ast.Select): void {
  const name = select.kind;
  const because = { span: select.span, text: 'experts are chosen here' };
  const why = {
    'top-k': '',
    hash: 'the table alone decides which expert a token goes to.',
    'expert-choice': 'experts take tokens by their scores; nothing is chosen per token.',
    'sparse-mixer': 'it defines by itself how experts are chosen and weighted.',
  }[name];
  if (r.groups !== undefined) misplaced(report, r.groups.span, `\`${name}\` has no \`groups\``, why, because);
  if (r.selectionBias !== undefined) misplaced(report, r.selectionBias.span, `\`${name}\` has no \`selection-bias\``, why, because);
  if (name === 'hash') return;
  if (r.renormalize !== undefined) misplaced(report, r.renormalize.span, `\`${name}\` has no \`renormalize\``, why, because);
  if (r.weights !== undefined && r.weights.value.value === 'softmax') {
    misplaced(report, r.weights.span, `\`${name}\` has no \`weights softmax\``, why, because);
  }
  if (name === 'sparse-mixer' && r.score !== undefined && r.score.value !== 'softmax') {
    misplaced(report, r.score.span, `\`sparse-mixer\` is a softmax, not ${r.score.value}`, why, because);
  }
}

interface ScoreAndWeights {
  readonly score: Router['score'];
  readonly weights: Router['weights'];
}

function resolveScore(report: Report, r: ast.Router | undefined, select: ast.Select | undefined): ScoreAndWeights | undefined {
  const hash = select?.kind === 'hash' ? select : undefined;
  const word = r?.weights?.value.value;
  const wanted = word === 'softmax' ? 'softmax-selected' : word;
  const logits = wanted === 'scores' || wanted === 'softmax-selected';
  const score = r?.score?.value ?? (hash !== undefined && !logits ? 'none' : hash === undefined ? 'softmax' : undefined);
  if (score === 'none' && hash === undefined) {
    report.error('MOE3039', 'a router without scores cannot choose experts', {
      at: (r?.score ?? r)?.span ?? { file: '', start: 0, end: 0 },
      why: '`none` means that there is no router matrix; then a hash table must say where a token goes.',
      fixes: [advise('write `softmax` or `sigmoid`'), advise('choose by a table: `router hash table "hash_table"`')],
    });
    return undefined;
  }
  if (hash !== undefined && r !== undefined && (score === undefined || score === 'none') && (logits || r.logitBias !== undefined)) {
    report.error('MOE3031', 'this hash router has no scores to make weights from', {
      at: (r.weights ?? r.logitBias ?? r).span,
      labels: [label(hash.span, 'chosen by a table, without a router matrix')],
      why: 'without a score there is no router matrix, and the weight of an expert is 1.',
      fixes: [advise('name the score, such as `router softmax hash table …`'), advise('remove it: the weight is then 1')],
    });
    return undefined;
  }
  if (hash !== undefined && r?.score !== undefined && score !== 'none' && wanted === 'one') {
    report.error('MOE3031', 'the scores of this hash router are used for nothing', {
      at: r.score.span,
      labels: [
        label(hash.span, 'the table chooses'),
        ...(r.weights === undefined ? [] : [label(r.weights.span, 'and the weight is 1')]),
      ],
      why: 'a router matrix would be loaded and multiplied without any effect.',
      fixes: [replace(r.score.span, 'none', 'write `none`'), advise('use the scores: `weights scores`')],
    });
    return undefined;
  }
  if (score === undefined) return undefined;
  return { score, weights: wanted ?? (score === 'none' ? 'one' : 'scores') };
}

function resolveRenormalize(
  report: Report,
  r: ast.Renormalize,
  weights: Router['weights'],
  counts: ExpertCounts,
  scale: number,
): Router['renormalize'] | 'bad' {
  const p = r.p === undefined ? 1 : constant(report, r.p.value, 'p', 'positive');
  const eps = r.eps === undefined ? 0 : constant(report, r.eps.value, r.eps.mode, 'zero-or-more');
  if (p === undefined || eps === undefined) return 'bad';
  if (weights === 'one') {
    misplaced(report, r.span, 'weights of 1 cannot be renormalised', 'they do not come from scores.');
    return 'bad';
  }
  if (weights === 'softmax-selected') {
    report.warning('MOE3037', '`renormalize` changes nothing here', {
      at: r.span,
      why: '`weights softmax` already sum to 1.',
      fixes: [replace(r.span, '', 'remove it', 'machine')],
    });
  } else if (counts.active === 1) {
    report.warning('MOE3037', `renormalising the weight of 1 active expert makes every weight ${scale}`, {
      at: r.span,
      labels: [label(counts.activeAt, '1 active expert')],
      why: 'a number divided by itself is 1: the router no longer weighs anything.',
      fixes: [replace(r.span, '', 'remove it')],
    });
  }
  return { p, eps, epsMode: r.eps?.mode ?? 'add' };
}

/** Resolves a router (absent: softmax, top-k); undefined after an error. */
export function resolveRouter(report: Report, r: ast.Router | undefined, counts: ExpertCounts): Router | undefined {
  if (r?.select !== undefined && r.select.kind !== 'top-k') refuseBesideTopK(report, r, r.select);
  const select = resolveSelect(report, r?.select, counts);
  const choosesPerToken = select?.kind === 'top-k' || select?.kind === 'hash';
  const groups = r?.groups === undefined || select?.kind !== 'top-k' ? undefined : resolveGroups(report, r.groups, counts);
  const scored = resolveScore(report, r, r?.select);
  const scale = r?.scale === undefined ? 1 : constant(report, r.scale.value, 'scale', 'positive');
  const renormalize =
    r?.renormalize === undefined || scored === undefined || !choosesPerToken
      ? undefined
      : resolveRenormalize(report, r.renormalize, scored.weights, counts, scale ?? 1);
  if (select === undefined || scored === undefined || scale === undefined || groups === 'bad' || renormalize === 'bad')
    return undefined;
  return {
    score: scored.score,
    logitBias: r?.logitBias !== undefined,
    selectionBias: r?.selectionBias !== undefined,
    ...(groups === undefined ? {} : { groups }),
    select,
    weights: scored.weights,
    ...(renormalize === undefined ? {} : { renormalize }),
    scale,
    applyTo: r?.applyTo?.value.value ?? 'output',
    precision: r?.precision?.value.value ?? 'f32',
  };
}

/** Resolves the dropping rule of a `moe` block. */
export function resolveCapacity(report: Report, c: ast.Capacity, r: ast.Router | undefined): Capacity | undefined {
  const select = r?.select;
  if (select !== undefined && select.kind !== 'top-k' && select.kind !== 'hash') {
    misplaced(
      report,
      c.span,
      `\`${select.kind}\` has no \`capacity\``,
      'token dropping belongs to routers where tokens choose experts.',
      {
        span: select.span,
        text: 'experts are chosen here',
      },
    );
    return undefined;
  }
  if (r?.renormalize !== undefined) {
    report.error('MOE3036', 'the weights are renormalised by the router and there is a capacity', {
      at: r.renormalize.span,
      labels: [label(c.span, 'the capacity drops some of them')],
      why: 'whether weights are renormalised before or after dropping changes the result, and only the capacity can say which.',
      fixes: [advise('write `capacity … renormalize before` (GShard) or `renormalize after` (fairseq), and none in the router')],
    });
    return undefined;
  }
  const renormalize = c.renormalize?.value.value ?? 'none';
  if (c.limit.kind === 'tokens') {
    const tokens = whole(report, c.limit.tokens, 'capacity', { max: LIMITS.tokens });
    return tokens === undefined ? undefined : { limit: { kind: 'tokens', tokens }, renormalize };
  }
  const factor = constant(report, c.limit.factor, 'factor', 'positive');
  const min = c.limit.min === undefined ? 1 : whole(report, c.limit.min, 'min', { min: 0, max: LIMITS.tokens });
  return factor === undefined || min === undefined ? undefined : { limit: { kind: 'factor', factor, min }, renormalize };
}
