/** The last step of a router: weights of the chosen experts, and writing both. */
import * as b from '../../ir/kernel/build.ts';
import type { Buffer, Expr, Stmt } from '../../ir/kernel/types.ts';
import { F32, define } from './common.ts';
import { LARGEST } from './route-logits.ts';
import type { RouteProblem } from './route-problem.ts';
import { eachOwn, ifHere, read } from './route-parts.ts';
import type { CrewArray, RouteKernel } from './route-parts.ts';
import { expBelow } from './route-score.ts';

/** Folds `f` over the slots into the variable `name`. */
function foldSlots(stmts: Stmt[], name: string, slots: number, start: number, f: (acc: Expr, slot: Expr) => Expr): Expr {
  const acc = b.variable(name, F32);
  stmts.push(
    b.var_(name, b.f32(start)),
    b.for_(`${name}_s`, b.u32(0), b.u32(slots), 1, (s) => [b.assign(name, f(acc, s))]),
  );
  return acc;
}

/** |w|^p */
function power(w: Expr, p: number): Expr {
  const a = b.abs(w);
  if (p === 1) return a;
  if (p === 2) return b.mul(w, w);
  return b.select(b.gt(a, b.f32(0)), b.exp(b.mul(b.f32(p), b.log(a))), b.f32(0));
}

/** Denominator of the renormalisation over all slots; 0 stands for "weights are 0". */
export function normOfSlots(stmts: Stmt[], slots: number, rule: NonNullable<RouteProblem['renormalize']>, raw: (slot: Expr) => Expr): Expr {
  const sum = foldSlots(stmts, 'power_sum_slots', slots, 0, (acc, s) => b.add(acc, power(raw(s), rule.p)));
  const root =
    rule.p === 1 ? sum : rule.p === 2 ? b.sqrt(sum) : b.select(b.gt(sum, b.f32(0)), b.exp(b.div(b.log(sum), b.f32(rule.p))), b.f32(0));
  const norm = define(stmts, 'slots_norm', root);
  if (rule.eps === 0) return norm;
  return define(stmts, 'denominator', rule.epsMode === 'add' ? b.add(norm, b.f32(rule.eps)) : b.max(norm, b.f32(rule.eps)));
}

/** w / denominator, 0 where there is nothing to divide by. */
export const divideOrZero = (w: Expr, denominator: Expr): Expr => b.select(b.gt(denominator, b.f32(0)), b.div(w, denominator), b.f32(0));

export interface Written {
  readonly chosen: CrewArray;
  /** Present where logits were computed. */
  readonly logit: CrewArray | undefined;
  /** Weight of a slot by the rule's own account (`scores`). */
  readonly score: (slot: Expr) => Expr;
  /** Whether all logits of the row were bad; absent where there are none. */
  readonly allBad: Expr | undefined;
  /** Whether an all-bad row falls back to experts 0 … slots − 1; a table's choice stands. */
  readonly replaceIds: boolean;
}

/** weights and ids [T, slots] of the token. */
export function writeChoice(r: RouteKernel, w: Written, weights: Buffer, ids: Buffer): void {
  const { slots, renormalize, scale } = r.p;
  const logitAt = (slot: Expr): Expr => {
    if (w.logit === undefined) throw new Error('route: weights from logits need logits');
    return read(w.logit, read(w.chosen, slot));
  };
  let raw: (slot: Expr) => Expr = () => b.f32(1);
  if (r.p.weights === 'scores') raw = w.score;
  if (r.p.weights === 'softmax-selected') {
    // Every thread adds up for itself, in slot order: k numbers, no barrier.
    const max = foldSlots(r.body, 'slots_max', slots, -LARGEST, (acc, s) => b.max(acc, logitAt(s)));
    const sum = foldSlots(r.body, 'slots_sum', slots, 0, (acc, s) => b.add(acc, expBelow(logitAt(s), max)));
    raw = (slot) => b.div(expBelow(logitAt(slot), max), sum);
  }
  const denominator = renormalize === undefined ? undefined : normOfSlots(r.body, slots, renormalize, raw);
  r.body.push(
    eachOwn(r, 'slot', slots, (slot) => {
      const stmts: Stmt[] = [];
      const at = define(stmts, 'out_at', b.add(b.mul(r.token, b.u32(slots)), slot));
      const value = define(stmts, 'raw_weight', raw(slot));
      const normed = denominator === undefined ? value : divideOrZero(value, denominator);
      const scaled = scale === 1 ? normed : b.mul(normed, b.f32(scale));
      const expert = read(w.chosen, slot);
      const weight = w.allBad === undefined ? scaled : b.select(w.allBad, b.f32(0), scaled);
      const id = w.allBad === undefined || !w.replaceIds ? expert : b.select(w.allBad, slot, expert);
      return [...stmts, ...ifHere(r, [b.store(weights, at, weight), b.store(ids, at, id)])];
    }),
  );
}
