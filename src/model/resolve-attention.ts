/** Attention of the AST to attention of the Model: variants, head sizes, rotary embedding, softmax scale. */
import { advise, label, replace } from '../diagnostics/make.ts';
import type * as ast from '../parser/ast.ts';
import { constant, LIMITS, misplaced, missing, type Report, whole } from './report.ts';
import { softmaxMscale } from './rope.ts';
import type { Attention, HeadsAttention, LatentAttention, Rope, RopeScaling } from './types.ts';

export const DEFAULT_ROPE_THETA = 10_000;
export const DEFAULT_YARN: { readonly betaFast: number; readonly betaSlow: number } = { betaFast: 32, betaSlow: 1 };

/** A layer block's attention: without a variant it changes clauses of the model's. */
export function mergeAttention(model: ast.Attention | undefined, own: ast.Attention): ast.Attention {
  return own.variant !== undefined || model === undefined ? own : { ...model, ...own };
}

function resolveYarn(report: Report, yarn: ast.Yarn): RopeScaling | undefined {
  const why = 'YaRN stretches a context that the model was trained on by a factor; both must be known.';
  if (yarn.factor === undefined) missing(report, yarn.span, '`yarn`', 'factor', why, 'factor 40');
  if (yarn.original === undefined) missing(report, yarn.span, '`yarn`', 'original', why, 'original 4096');
  const factor = yarn.factor && constant(report, yarn.factor.value, 'factor', 'positive');
  const originalContext = yarn.original && whole(report, yarn.original.value, 'original', { max: LIMITS.context });
  const real = (
    clause: ast.NumClause | undefined,
    what: string,
    fallback: number,
    sign: 'positive' | 'zero-or-more',
  ): number | undefined => (clause === undefined ? fallback : constant(report, clause.value, what, sign));
  const betaFast = real(yarn.betaFast, 'beta-fast', DEFAULT_YARN.betaFast, 'positive');
  const betaSlow = real(yarn.betaSlow, 'beta-slow', DEFAULT_YARN.betaSlow, 'positive');
  const mscale = real(yarn.mscale, 'mscale', 0, 'zero-or-more');
  const mscaleAllDim = real(yarn.mscaleAllDim, 'mscale-all-dim', 0, 'zero-or-more');
  if (factor !== undefined && factor < 1 && yarn.factor !== undefined) {
    report.error('MOE3046', `\`factor\` is ${yarn.factor.value.text}, which shortens the context`, {
      at: yarn.factor.value.span,
      why: 'YaRN is defined for factors of 1 and more.',
    });
    return undefined;
  }
  if (betaFast !== undefined && betaSlow !== undefined && betaFast <= betaSlow) {
    const at = (yarn.betaFast ?? yarn.betaSlow ?? yarn).span;
    report.error('MOE3046', `\`beta-fast\` ${betaFast} must be more than \`beta-slow\` ${betaSlow}`, {
      at,
      why: 'waves that turn more than beta-fast times are kept; those that turn less than beta-slow times are stretched.',
    });
    return undefined;
  }
  const known = [factor, originalContext, betaFast, betaSlow, mscale, mscaleAllDim];
  if (known.includes(undefined) || factor === undefined || originalContext === undefined) return undefined;
  return {
    kind: 'yarn',
    factor,
    originalContext,
    betaFast: betaFast ?? DEFAULT_YARN.betaFast,
    betaSlow: betaSlow ?? DEFAULT_YARN.betaSlow,
    ...(yarn.mscale === undefined ? {} : { mscale: mscale ?? 0 }),
    ...(yarn.mscaleAllDim === undefined ? {} : { mscaleAllDim: mscaleAllDim ?? 0 }),
    truncate: yarn.noTruncate === undefined,
  };
}

interface RopeContext {
  /** Dims of the head that may rotate, and their default. */
  readonly headDim: number;
  readonly style: 'half' | 'interleaved';
  readonly head?: ast.Attention['heads'];
}

function resolveRope(report: Report, rope: Extract<ast.Rope, { readonly kind: 'rope' }>, context: RopeContext): Rope | undefined {
  const theta = constant(report, rope.theta, 'rope', 'positive');
  if (theta !== undefined && theta <= 1) {
    report.error('MOE2003', `the base of \`rope\` must be more than 1, not ${rope.theta.text}`, {
      at: rope.theta.span,
      label: 'too small',
    });
  }
  const dim = rope.dim === undefined ? context.headDim : whole(report, rope.dim.value, 'dim', { min: 2, max: LIMITS.headDim });
  const scaling =
    rope.scaling === undefined
      ? undefined
      : rope.scaling.kind === 'yarn'
        ? resolveYarn(report, rope.scaling)
        : linear(report, rope.scaling.factor);
  if (dim === undefined || theta === undefined || theta <= 1 || (rope.scaling !== undefined && scaling === undefined)) return undefined;
  const at = rope.dim?.value.span ?? rope.span;
  const labels = context.head === undefined ? [] : [label(context.head.span, `heads of ${context.headDim} dims`)];
  if (dim > context.headDim) {
    report.error('MOE3012', `\`rope\` rotates ${dim} dims of a head that has ${context.headDim}`, {
      at,
      labels,
      why: 'rotation acts on the first dims of every head.',
      fixes: [replace(at, String(context.headDim), `dim ${context.headDim}`)],
    });
    return undefined;
  }
  if (dim % 2 !== 0) {
    report.error('MOE3012', `\`rope\` rotates ${dim} dims, an odd number`, {
      at,
      labels,
      why: 'dims rotate in pairs.',
      fixes: [advise(`rotate ${dim - 1} of them: \`rope ${rope.theta.text} dim ${dim - 1}\``)],
    });
    return undefined;
  }
  return { theta, dim, style: rope.style?.value ?? context.style, ...(scaling === undefined ? {} : { scaling }) };
}

function linear(report: Report, factor: ast.Num): RopeScaling | undefined {
  const value = constant(report, factor, 'linear', 'positive');
  return value === undefined ? undefined : { kind: 'linear', factor: value };
}

/** Clauses that only the other variants know. */
function refuseForeign(report: Report, a: ast.Attention, variant: ast.Word<string>): void {
  const because = { span: variant.span, text: `this is \`${variant.value}\`` };
  const refuse = (clause: { readonly span: ast.Attention['span'] } | undefined, name: string, why: string): void => {
    if (clause !== undefined) misplaced(report, clause.span, `\`${variant.value}\` attention has no \`${name}\``, why, because);
  };
  if (variant.value === 'mla') {
    refuse(a.kv, 'kv', 'latent attention compresses keys and values instead of sharing heads; see `kv-lora`.');
    refuse(a.bias?.parts.length === 0 ? undefined : a.bias, 'bias', 'no published model has biases in latent attention.');
    refuse(
      a.qkNorm?.value.value === 'none' ? undefined : a.qkNorm,
      'qk-norm',
      'latent attention normalises the compressed vectors by itself.',
    );
    refuse(a.window?.value === undefined ? undefined : a.window, 'window', 'windows are known for `mha` and `gqa` only.');
    refuse(a.sinks?.enabled === true ? a.sinks : undefined, 'sinks', 'sinks are known for `mha` and `gqa` only.');
    return;
  }
  const why = 'it belongs to latent attention (`mla`).';
  refuse(a.qLora, 'q-lora', why);
  refuse(a.kvLora, 'kv-lora', why);
  refuse(a.nope, 'nope', why);
  refuse(a.value, 'value', why);
  if (variant.value === 'mha') refuse(a.kv, 'kv', 'multi-head attention has as many key heads as query heads; `gqa` shares them.');
}

function headDimOf(
  report: Report,
  heads: NonNullable<ast.Attention['heads']>,
  count: number,
  hidden: number | undefined,
): number | undefined {
  if (heads.headDim !== undefined) return whole(report, heads.headDim, 'heads x', { max: LIMITS.headDim });
  if (hidden === undefined) return undefined;
  if (hidden % count === 0) return hidden / count;
  report.error('MOE3011', `${count} heads do not divide the hidden size ${hidden}`, {
    at: heads.span,
    label: `${hidden} / ${count} is not a whole number`,
    why: 'without its own size a head has hidden / heads dims.',
    fixes: [advise(`say the size of a head: \`heads ${count} x 128\``, 'placeholder')],
  });
  return undefined;
}

function resolveHeads(
  report: Report,
  a: ast.Attention,
  variant: ast.Word<string>,
  hidden: number | undefined,
): HeadsAttention | undefined {
  if (a.heads === undefined) {
    missing(report, a.span, 'attention', 'heads', 'the projections have one block of rows per head.', 'heads 16 x 128');
    return undefined;
  }
  const heads = whole(report, a.heads.count, 'heads', { max: LIMITS.heads });
  const headDim = heads === undefined ? undefined : headDimOf(report, a.heads, heads, hidden);
  if (variant.value === 'gqa' && a.kv === undefined) {
    missing(
      report,
      a.span,
      'grouped-query attention',
      'kv',
      'query heads share key and value heads, and their number must be known.',
      'kv 8',
    );
  }
  const kvHeads =
    a.kv === undefined ? heads : whole(report, a.kv.value, 'kv', { max: LIMITS.heads, because: [label(a.heads.span, 'query heads')] });
  const scale = a.scale === undefined ? undefined : constant(report, a.scale.value, 'scale', 'positive');
  const window = a.window?.value === undefined ? undefined : whole(report, a.window.value, 'window', { max: LIMITS.context });
  if (heads !== undefined && kvHeads !== undefined && a.kv !== undefined && heads % kvHeads !== 0) {
    report.error('MOE3010', `${heads} query heads cannot share ${kvHeads} key heads evenly`, {
      at: a.kv.value.span,
      label: `${heads} / ${kvHeads} is not a whole number`,
      labels: [label(a.heads.count.span, `${heads} query heads`)],
      why: 'every key and value head serves the same number of query heads.',
    });
    return undefined;
  }
  if (heads === undefined || headDim === undefined || kvHeads === undefined) return undefined;
  const context: RopeContext = { headDim, style: 'half', head: a.heads };
  const rope =
    a.rope === undefined ? defaultRope(report, a, headDim) : a.rope.kind === 'none' ? undefined : resolveRope(report, a.rope, context);
  if (rope === undefined && a.rope?.kind !== 'none') return undefined;
  const has = (part: 'q' | 'k' | 'v' | 'o'): boolean => a.bias?.parts.some((p) => p.value === part) ?? false;
  return {
    kind: 'heads',
    heads,
    kvHeads,
    headDim,
    bias: { q: has('q'), k: has('k'), v: has('v'), o: has('o') },
    qkNorm: a.qkNorm?.value.value ?? 'none',
    ...(rope === undefined ? {} : { rope }),
    ...(window === undefined ? {} : { window }),
    sinks: a.sinks?.enabled ?? false,
    scale: scale ?? headDim ** -0.5 * softmaxMscale(rope),
  };
}

function defaultRope(report: Report, a: ast.Attention, headDim: number): Rope | undefined {
  if (headDim % 2 === 0) return { theta: DEFAULT_ROPE_THETA, dim: headDim, style: 'half' };
  report.error('MOE3012', `heads of ${headDim} dims, an odd number, cannot rotate as a whole`, {
    at: (a.heads ?? a).span,
    why: 'dims rotate in pairs; where nothing else is said, all dims of a head rotate.',
    fixes: [advise('add `rope none`'), advise(`rotate all but one: \`rope ${DEFAULT_ROPE_THETA} dim ${headDim - 1}\``)],
  });
  return undefined;
}

function resolveLatent(report: Report, a: ast.Attention): LatentAttention | undefined {
  const why = 'latent attention has no sizes that follow from others.';
  const size = (clause: ast.NumClause | undefined, name: string, example: number): number | undefined => {
    if (clause === undefined) missing(report, a.span, 'latent attention', name, why, `${name} ${example}`);
    return clause && whole(report, clause.value, name, { max: LIMITS.hidden });
  };
  if (a.heads === undefined)
    missing(report, a.span, 'attention', 'heads', 'the projections have one block of rows per head.', 'heads 16');
  if (a.heads?.headDim !== undefined) {
    misplaced(
      report,
      a.heads.headDim.span,
      'a head of `mla` attention has no single size',
      'its parts are `nope`, the rotating dims of `rope` and `value`.',
    );
  }
  const heads = a.heads && whole(report, a.heads.count, 'heads', { max: LIMITS.heads });
  const kvLora = size(a.kvLora, 'kv-lora', 512);
  const nopeDim = size(a.nope, 'nope', 128);
  const vDim = size(a.value, 'value', 128);
  const qLora = a.qLora && whole(report, a.qLora.value, 'q-lora', { max: LIMITS.hidden });
  const scale = a.scale === undefined ? undefined : constant(report, a.scale.value, 'scale', 'positive');
  const rope =
    a.rope?.kind === 'rope' && a.rope.dim !== undefined
      ? resolveRope(report, a.rope, { headDim: LIMITS.headDim, style: 'interleaved' })
      : undefined;
  if (a.rope?.kind !== 'rope' || a.rope.dim === undefined) {
    report.error('MOE3013', 'latent attention needs a `rope` that says how many dims rotate', {
      at: a.rope?.span ?? a.span,
      why: 'a key of latent attention is a part from the latent (`nope`) and a rotating part that all heads share.',
      fixes: [advise('write `rope 10000 dim 64`', 'placeholder')],
    });
  }
  const complete = heads !== undefined && kvLora !== undefined && nopeDim !== undefined && vDim !== undefined && rope !== undefined;
  if (!complete || (a.qLora !== undefined && qLora === undefined)) return undefined;
  return {
    kind: 'mla',
    heads,
    ...(qLora === undefined ? {} : { qLora }),
    kvLora,
    nopeDim,
    ropeDim: rope.dim,
    vDim,
    rope,
    scale: scale ?? (nopeDim + rope.dim) ** -0.5 * softmaxMscale(rope),
  };
}

/** Resolves a (merged) attention; `hidden` may be unknown because of another error. */
export function resolveAttention(report: Report, a: ast.Attention, hidden: number | undefined): Attention | undefined {
  if (a.variant === undefined) {
    missing(
      report,
      a.span,
      'attention',
      'variant',
      'there is no attention of the model whose clauses this could change.',
      'attention mha { … }',
    );
    return undefined;
  }
  refuseForeign(report, a, a.variant);
  return a.variant.value === 'mla' ? resolveLatent(report, a) : resolveHeads(report, a, a.variant, hidden);
}
