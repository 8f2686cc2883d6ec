/** Scores of logits, and the keys experts are chosen by. */
import { assertNever } from '../../base/assert-never.ts';
import * as b from '../../ir/kernel/build.ts';
import type { Expr, Stmt } from '../../ir/kernel/types.ts';
import { sigmoid } from '../epilogue.ts';
import { F32, define } from './common.ts';
import { keyOf } from './keys.ts';
import { LARGEST } from './route-logits.ts';
import { eachOwn, read, reduce } from './route-parts.ts';
import type { CrewArray, RouteKernel } from './route-parts.ts';

/** The score of a logit (an f32 variable), the same bits wherever it is asked for. */
export type Score = (logit: Expr) => Expr;

/** e^(a − max), 0 for what is far below; halved first, because the difference of two finite numbers may overflow. */
export function expBelow(a: Expr, max: Expr): Expr {
  const half = b.sub(b.mul(a, b.f32(0.5)), b.mul(max, b.f32(0.5)));
  return b.exp(b.mul(b.max(half, b.f32(-52)), b.f32(2)));
}

/** ln(1 + e^x) to full relative accuracy: ln(1 + e) = 2 artanh(z), z = e / (2 + e) ≤ 1/3, by its series. */
export function softplus(x: Expr): Expr {
  const e = b.exp(b.neg(b.abs(x)));
  const z = b.div(e, b.add(e, b.f32(2)));
  const zz = b.mul(z, z);
  const series = [13, 11, 9, 7, 5, 3].reduce<Expr>((sum, n) => b.fma(sum, zz, b.f32(2 / n)), b.f32(2 / 15));
  return b.add(b.max(x, b.f32(0)), b.mul(z, b.fma(series, zz, b.f32(2))));
}

/** Binds `name` to the largest of `of(e)` over the experts. */
export function maxOver(r: RouteKernel, name: string, of: (e: Expr) => Expr): Expr {
  r.body.push(
    b.var_(`${name}_part`, b.f32(-LARGEST)),
    eachOwn(r, `${name}_e`, r.p.experts, (e) => [b.assign(`${name}_part`, b.max(b.variable(`${name}_part`, F32), of(e)))]),
    reduce(r, name, 'max', b.variable(`${name}_part`, F32)),
  );
  return b.variable(name, F32);
}

/** What the softmax of the token's logits needs besides a logit. */
export interface Softmax {
  readonly max: Expr;
  readonly sum: Expr;
}

export function softmaxOver(r: RouteKernel, logit: CrewArray): Softmax {
  const max = maxOver(r, 'max_logit', (e) => read(logit, e));
  r.body.push(
    b.var_('power_part', b.f32(0)),
    eachOwn(r, 'power_e', r.p.experts, (e) => [
      b.assign('power_part', b.add(b.variable('power_part', F32), expBelow(read(logit, e), max))),
    ]),
    reduce(r, 'power_sum', 'add', b.variable('power_part', F32)),
  );
  return { max, sum: b.variable('power_sum', F32) };
}

/** `soft` must be given for softmax scores. */
export function scoreOf(kind: RouteKernel['p']['score'], soft: Softmax | undefined): Score {
  switch (kind) {
    case 'softmax':
      if (soft === undefined) throw new Error('softmax scores need the maximum and the sum');
      return (l) => b.div(expBelow(l, soft.max), soft.sum);
    case 'sigmoid':
      return sigmoid;
    case 'sqrt-softplus':
      return (l) => b.sqrt(softplus(l));
    case 'none':
      return (l) => l;
    default:
      return assertNever(kind);
  }
}

/** Beyond these an f64 score no longer tells logits apart: e^−745 is 0, sigmoid(37) is 1. */
const UNDERFLOW = 745;
const SATURATED = 36.75;

/**
 * Key of an unbiased logit. Scores rise with the logit, so logits are compared instead of their rounded
 * scores: 20 and 30 have one sigmoid in f32. Where even f64 scores are equal, the keys are equal too.
 */
export function logitKey(kind: RouteKernel['p']['score'], soft: Softmax | undefined, stmts: Stmt[], name: string, l: Expr): Expr {
  const kept = (least: Expr, x: Expr): Expr => b.select(b.ge(l, least), x, b.f32(-LARGEST));
  const clamped =
    kind === 'none'
      ? l
      : kind === 'softmax'
        ? kept(b.sub(soft?.max ?? b.f32(0), b.f32(UNDERFLOW)), l)
        : kept(b.f32(-UNDERFLOW), kind === 'sigmoid' ? b.min(l, b.f32(SATURATED)) : l);
  return keyOf(define(stmts, name, clamped));
}
