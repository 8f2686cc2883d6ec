/** Feed-forward parts of the AST to those of the Model: networks, the two ways of counting experts, shared experts. */
import { advise, label, replace } from '../diagnostics/make.ts';
import type { Span } from '../diagnostics/types.ts';
import type * as ast from '../parser/ast.ts';
import { constant, LIMITS, misplaced, missing, type Report, whole } from './report.ts';
import { type ExpertCounts, resolveCapacity, resolveRouter } from './resolve-router.ts';
import type { Ffn, LayerFfn, MoeLayerFfn, SharedExperts } from './types.ts';

/** alpha 1 and offset 0 make a clamped SwiGLU without other change. */
export const DEFAULT_CLAMP: { readonly alpha: number; readonly upOffset: number } = { alpha: 1, upOffset: 0 };

function resolveClamp(report: Report, n: ast.Network, clamp: NonNullable<ast.Network['clamp']>): Ffn['clamp'] | 'bad' {
  if (!n.gated || n.activation.value !== 'silu') {
    misplaced(
      report,
      clamp.span,
      '`clamp` belongs to `swiglu`',
      'gate and up values are clamped before they meet in gate · sigmoid(alpha · gate).',
      {
        span: n.activation.span,
        text: 'another network',
      },
    );
    return 'bad';
  }
  const limit = constant(report, clamp.limit, 'clamp', 'positive');
  const alpha = clamp.alpha === undefined ? DEFAULT_CLAMP.alpha : constant(report, clamp.alpha.value, 'alpha', 'positive');
  const upOffset = clamp.offset === undefined ? DEFAULT_CLAMP.upOffset : constant(report, clamp.offset.value, 'offset', 'zero-or-more');
  return limit === undefined || alpha === undefined || upOffset === undefined ? 'bad' : { limit, alpha, upOffset };
}

function resolveNetwork(report: Report, n: ast.Network): Ffn | undefined {
  const width = whole(report, n.width, 'width', { max: LIMITS.width });
  const clamp = n.clamp === undefined ? undefined : resolveClamp(report, n, n.clamp);
  if (n.interleaved !== undefined && !n.gated) {
    misplaced(
      report,
      n.interleaved.span,
      '`interleaved` belongs to gated networks',
      'it says how gate and up rows share one tensor; here is no gate.',
    );
    return undefined;
  }
  if (width === undefined || clamp === 'bad') return undefined;
  return {
    gated: n.gated,
    activation: n.activation.value,
    width,
    bias: n.bias !== undefined,
    ...(clamp === undefined ? {} : { clamp }),
    fused: n.interleaved === undefined ? 'halves' : 'interleaved',
  };
}

interface Counted {
  readonly experts: number;
  readonly active: number | undefined;
  readonly expert: Ffn;
  readonly segmentation?: NonNullable<MoeLayerFfn['segmentation']>;
  readonly expertsAt: Span;
  readonly activeAt: Span;
}

const expertChoice = (moe: ast.Moe): boolean => moe.router?.select?.kind === 'expert-choice';

/** `experts 64 of … active 6` */
function released(report: Report, moe: ast.Moe, c: ast.ReleasedCounting): Counted | undefined {
  const experts = whole(report, c.experts, 'experts', { max: LIMITS.experts });
  const expert = resolveNetwork(report, c.network);
  const hash = moe.router?.select?.kind === 'hash';
  if (c.active === undefined && !hash && !expertChoice(moe)) {
    missing(
      report,
      c.span,
      'this `moe` block',
      'active',
      'each token runs through some of the experts; how many cannot be guessed.',
      'active 2',
    );
    return undefined;
  }
  const because = [label(c.experts.span, 'experts declared here')];
  const active = c.active === undefined ? 1 : whole(report, c.active.value, 'active', { max: Number.MAX_SAFE_INTEGER, because });
  if (experts === undefined || expert === undefined || active === undefined) return undefined;
  return { experts, active, expert, expertsAt: c.experts.span, activeAt: (c.active?.value ?? c).span };
}

/** Width of a fine expert: given, or a standard expert's divided by m. */
function fineExpert(report: Report, c: ast.PaperCounting, m: number): Ffn | undefined {
  const network = resolveNetwork(report, c.network);
  if (network === undefined || c.widthOf.value === 'into') return network;
  if (network.width % m === 0) return { ...network, width: network.width / m };
  const below = Math.max(m, network.width - (network.width % m));
  report.error('MOE3007', `a standard expert of width ${network.width} cannot be cut into ${m} equal parts`, {
    at: c.network.width.span,
    label: `${network.width} / ${m} is not a whole number`,
    labels: [label(c.m.span, `${m} parts`)],
    why: 'fine-grained experts have 1/m of the width of a standard one.',
    fixes: [
      replace(c.network.width.span, String(below), `a width of ${below} or ${below + m}`),
      advise(`give the width of a fine expert: \`segment m ${m} of N ${c.n.text} into …\``),
    ],
  });
  return undefined;
}

/** `segment m 4 of N 16 … active K 2`, shared experts counted: routed = mN − Ks, active routed = mK − Ks. */
function paper(report: Report, moe: ast.Moe, c: ast.PaperCounting): Counted | undefined {
  const m = whole(report, c.m, 'm', { max: LIMITS.experts });
  const n = whole(report, c.n, 'N', { max: LIMITS.experts });
  if (c.k === undefined) {
    missing(
      report,
      c.span,
      'this `moe` block',
      'active K',
      'K is how many standard experts a token would run through; mK fine ones do.',
      'active K 2',
    );
  }
  const k = c.k && whole(report, c.k.value, 'active K', { max: LIMITS.experts, because: [label(c.n.span, 'standard experts')] });
  const ks = moe.shared === undefined ? 0 : whole(report, moe.shared.count, 'shared Ks', { min: 0, max: LIMITS.experts });
  if (m === undefined || n === undefined || k === undefined || ks === undefined || c.k === undefined) return undefined;
  const labels = [label(c.m.span, `m = ${m}`), ...(moe.shared === undefined ? [] : [label(moe.shared.count.span, `Ks = ${ks}`)])];
  if (m * n > LIMITS.experts) {
    report.error('MOE2004', `${m} times ${n} makes ${m * n} experts; at most ${LIMITS.experts} are possible`, { at: c.span, labels });
    return undefined;
  }
  if (m * n - ks < 1 || m * k - ks < 1) {
    const [what, total] = m * n - ks < 1 ? (['experts', m * n] as const) : (['active experts', m * k] as const);
    report.error('MOE3006', `${ks} shared of ${total} ${what} leave ${total - ks === 0 ? 'none' : 'less than none'} to route`, {
      at: (moe.shared?.count ?? c.k.value).span,
      labels: [
        label(c.m.span, `m = ${m}`),
        label(c.k.value.span, `K = ${k}, so ${m * k} experts run`),
        label(c.n.span, `N = ${n}, so there are ${m * n} experts`),
      ],
      why: 'in the paper shared experts are counted: routed = mN − Ks, active routed = mK − Ks, and both must be at least 1.',
      fixes: [advise(`share fewer than ${Math.min(m * n, m * k)} experts`), advise('write a dense `ffn` if nothing is to be routed')],
    });
    return undefined;
  }
  const expert = fineExpert(report, c, m);
  if (expert === undefined) return undefined;
  const segmentation = { m, n, k, shared: ks };
  return { experts: m * n - ks, active: m * k - ks, expert, segmentation, expertsAt: c.span, activeAt: c.k.value.span };
}

function resolveShared(report: Report, s: ast.Shared, expert: Ffn, base: ast.Network): SharedExperts | undefined | 'bad' {
  const count = whole(report, s.count, 'shared', { min: 0, max: LIMITS.experts });
  const own = s.network === undefined ? undefined : resolveNetwork(report, s.network.network);
  if (count === undefined || (s.network !== undefined && own === undefined)) return 'bad';
  if (count === 0) {
    const extra = s.gated ?? s.network?.network;
    if (extra === undefined) return undefined;
    misplaced(report, extra.span, '0 shared experts have no network and no gate', 'there is nothing to describe.', {
      span: s.count.span,
      text: 'none are shared',
    });
    return 'bad';
  }
  const each = own ?? expert;
  const width = s.network?.each.value === 'as' ? each.width : each.width * count;
  if (width > LIMITS.width) {
    report.error(
      'MOE2004',
      `${count} shared experts of ${each.width} make one network of width ${width}; at most ${LIMITS.width} is possible`,
      { at: s.count.span },
    );
    return 'bad';
  }
  if (s.network !== undefined && (expert.clamp === undefined) !== (each.clamp === undefined)) {
    const [clamped, plain] = each.clamp === undefined ? ['routed', 'shared'] : ['shared', 'routed'];
    report.warning('MOE3042', `the ${clamped} experts are clamped, the ${plain} ones are not`, {
      at: s.network.network.span,
      labels: [label(base.span, 'the routed experts')],
      why: 'models that clamp do so in all experts; a forgotten clamp changes results only for large values, which is hard to notice.',
      fixes: [advise('write the same `clamp` in both, or leave the network of the shared experts out')],
    });
  }
  return { count, ffn: { ...each, width }, gate: s.gated === undefined ? 'none' : 'sigmoid' };
}

function checkActive(report: Report, c: Counted): boolean {
  const active = c.active ?? 1;
  if (active <= c.experts) return true;
  const { segmentation: s } = c;
  report.error('MOE3001', `${active} active experts, but only ${c.experts} exist`, {
    at: c.activeAt,
    label: s === undefined ? `must be between 1 and ${c.experts}` : `mK − Ks = ${active}`,
    labels: [label(c.expertsAt, s === undefined ? `${c.experts} routed experts declared here` : `mN − Ks = ${c.experts}`)],
    why: 'each token picks `active` different experts out of the routed ones.',
    fixes:
      s === undefined
        ? [replace(c.activeAt, String(c.experts), `active ${c.experts}`), replace(c.expertsAt, String(active), `experts ${active}`)]
        : [advise(`K may be at most N = ${s.n}`)],
  });
  return false;
}

/** Resolves a `moe` block; undefined after an error. */
function resolveMoe(report: Report, moe: ast.Moe): MoeLayerFfn | undefined {
  if (moe.counting === undefined) {
    report.error('MOE2001', 'this `moe` block does not say its experts', {
      at: moe.span,
      label: 'no `experts` and no `segment` here',
      why: 'there is nothing to route to.',
      fixes: [
        advise('count as released models do: `experts 64 of swiglu 1408  active 6  shared 2`', 'placeholder'),
        advise('count as the paper does: `segment m 4 of N 16 of swiglu 5632  active K 2  shared Ks 1`', 'placeholder'),
      ],
    });
    return undefined;
  }
  const { counting } = moe;
  const counted = counting.kind === 'released' ? released(report, moe, counting) : paper(report, moe, counting);
  const activeClause = counting.kind === 'released' ? counting.active : counting.k;
  if (expertChoice(moe) && activeClause !== undefined && counting.kind === 'released') {
    misplaced(
      report,
      activeClause.span,
      '`expert-choice` has no `active`',
      'the experts choose: how many of them take a token follows from `factor`, on average.',
    );
  }
  const ok = counted !== undefined && (expertChoice(moe) || checkActive(report, counted));
  const counts: ExpertCounts = {
    experts: counted?.experts,
    active: ok ? counted.active : undefined,
    expertsAt: counted?.expertsAt ?? counting.span,
    activeAt: counted?.activeAt ?? counting.span,
  };
  const router = resolveRouter(report, moe.router, counts);
  const capacity = moe.capacity === undefined ? undefined : resolveCapacity(report, moe.capacity, moe.router);
  if (!ok || router === undefined || (moe.capacity !== undefined && capacity === undefined)) return undefined;
  const shared = moe.shared === undefined ? undefined : resolveShared(report, moe.shared, counted.expert, counting.network);
  if (shared === 'bad') return undefined;
  const select = router.select;
  return {
    kind: 'moe',
    experts: counted.experts,
    active: select.kind === 'expert-choice' ? Math.min(counted.experts, Math.ceil(select.capacityFactor)) : (counted.active ?? 1),
    expert: counted.expert,
    ...(shared === undefined ? {} : { shared }),
    router: capacity === undefined ? router : { ...router, capacity },
    ...(counted.segmentation === undefined ? {} : { segmentation: counted.segmentation }),
  };
}

/** Resolves the feed-forward part of a layer; undefined after an error. */
export function resolveLayerFfn(report: Report, ffn: ast.LayerFfn): LayerFfn | undefined {
  if (ffn.kind === 'moe') return resolveMoe(report, ffn);
  const network = resolveNetwork(report, ffn.network);
  return network === undefined ? undefined : { kind: 'dense', ffn: network };
}
