/** What a router does with logits, whoever made them: bad ones replaced, scores, the choice, weights. */
import * as b from '../../ir/kernel/build.ts';
import type { Buffer, Expr } from '../../ir/kernel/types.ts';
import { FAULT_LOGITS } from './common.ts';
import { sanitize } from './route-logits.ts';
import type { LogitSink } from './route-logits.ts';
import { eachOwn, faultsParam, ifHere, onFirstThread, param, read, reduce, sharedArray } from './route-parts.ts';
import type { CrewArray, RouteKernel } from './route-parts.ts';
import type { RouteProblem } from './route-problem.ts';
import { scoreOf, softmaxOver } from './route-score.ts';
import type { Score } from './route-score.ts';
import { selectByTable, selectSparseMixer, selectTopK } from './route-select.ts';
import { writeChoice } from './route-weights.ts';

/** A table that gives weight 1 reads no logits. */
export const needsLogits = (p: RouteProblem): boolean => p.select.kind !== 'hash' || p.weights !== 'one';

/** The bias that logits from the hidden state get. */
export function gateBias(r: RouteKernel): Buffer | undefined {
  const { source } = r.p;
  return source.kind === 'hidden' && source.gateBiasElem !== undefined ? param(r, 'gateBias', source.gateBiasElem) : undefined;
}

/**
 * Appends the rule for the crew's token; gives the kernel's name. `make` sends the logits to the sink; without one it makes only
 * what else the op gives.
 */
export function buildRule(r: RouteKernel, make: (sink: LogitSink | undefined) => void): string {
  const { p } = r;
  const { experts, slots, select } = p;
  let logit: CrewArray | undefined;
  let allBad: Expr | undefined;
  let faults: Buffer | undefined;
  let score: Score = (l) => l;
  let soft: ReturnType<typeof softmaxOver> | undefined;
  if (needsLogits(p)) {
    logit = sharedArray(r, 'logit', 'f32', experts);
    const clean = sanitize(logit);
    r.body.push(b.var_('bad', b.u32(0)));
    make(clean);
    faults = faultsParam(r);
    r.body.push(
      reduce(r, 'bad_sum', 'add', b.variable('bad')),
      onFirstThread(r, ifHere(r, [b.atomic('add', faults, b.u32(FAULT_LOGITS), b.u32(1))]), b.gt(b.variable('bad_sum'), b.u32(0))),
    );
    allBad = b.eq(b.variable('bad_sum'), b.u32(experts));
    soft = p.score === 'softmax' && select.kind !== 'sparse-mixer' ? softmaxOver(r, logit) : undefined;
    if (select.kind !== 'sparse-mixer') score = scoreOf(p.score, soft);
  } else make(undefined);
  if (select.kind === 'expert-choice') {
    if (logit === undefined || allBad === undefined) throw new Error('route: expert choice without logits');
    return writeScores(r, logit, score, allBad);
  }

  const chosen = sharedArray(r, 'chosen', 'u32', slots);
  const fromLogit = (slot: Expr): Expr => score(read(logit ?? chosen, read(chosen, slot)));
  let scoreOfSlot = fromLogit;
  if (select.kind === 'hash') selectByTable(r, select.vocab, chosen, faults ?? faultsParam(r));
  else if (logit === undefined) throw new Error('route: a choice by logits without logits');
  else if (select.kind === 'top-k') selectTopK(r, { logit, score, soft }, chosen);
  else {
    const weight = sharedArray(r, 'weight_of_slot', 'f32', slots);
    selectSparseMixer(r, select.jitter, logit, chosen, weight);
    scoreOfSlot = (slot) => read(weight, slot);
  }
  const weights = param(r, 'weights', 'f32');
  const ids = param(r, 'ids', 'u32');
  writeChoice(r, { chosen, logit, score: scoreOfSlot, allBad, replaceIds: select.kind !== 'hash' }, weights, ids);
  return `route_${experts}x${slots}`;
}

/** Scratch `scores` [T, experts] for the second kernel of expert choice; a row without a good logit scores 0. */
function writeScores(r: RouteKernel, logit: CrewArray, score: Score, allBad: Expr): string {
  const scores = param(r, 'scores', 'f32');
  r.body.push(
    eachOwn(r, 'score_e', r.p.experts, (e) => {
      const l = b.variable('score_l', b.ty('f32'));
      return [
        b.let_('score_l', read(logit, e)),
        ...ifHere(r, [b.store(scores, b.add(b.mul(r.token, b.u32(r.p.experts)), e), b.select(allBad, b.f32(0), score(l)))]),
      ];
    }),
  );
  return `route_scores_${r.p.experts}`;
}
