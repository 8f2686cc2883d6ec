/**
 * moe.route: chooses experts of each token and weighs them, one block a token. All arithmetic is f32 whatever
 * the storage; a token's result does not depend on the other tokens of the call (but for expert choice).
 *
 * Operands: `logits`, or `x`, `gate`, [`normWeight`, `normBias`, `gateBias`, `sharedGate` where it is no row of `gate`]; [`selectionBias`],
 * [`table`, `tokenIds`]. Results: `weights`, `ids`, [`xn`], [`gateOut`: the op's result `gate`]; and `faults`.
 */
import { mulSize } from '../../base/size.ts';
import * as b from '../../ir/kernel/build.ts';
import type { Buffer, Expr, Stmt } from '../../ir/kernel/types.ts';
import type { Capabilities } from '../../target/types.ts';
import type { Launch } from '../launch.ts';
import { FAULT_LOGITS, inLine, lanesFor, launch, line, powerOfTwo, wantIndexable, wantWhole } from './common.ts';
import type { LaunchGroup, ScratchDecl } from './common.ts';
import { chooseTokens } from './expert-choice.ts';
import { computeLogits, computeSharedGate, hiddenRow, readLogits, sanitize } from './route-logits.ts';
import type { LogitSink } from './route-logits.ts';
import { eachOwn, faultsParam, onFirstThread, param, routeKernel, sharedArray } from './route-parts.ts';
import type { RouteKernel } from './route-parts.ts';
import type { RouteProblem, RouteSchedule } from './route-problem.ts';
import { scoreOf, softmaxOver } from './route-score.ts';
import type { Score } from './route-score.ts';
import { selectByTable, selectSparseMixer, selectTopK } from './route-select.ts';
import { writeChoice } from './route-weights.ts';

/**
 * A thread for every expert where logits are read; where they are made, four experts a team, so that x is read
 * once for four, and teams of several threads.
 */
export function routeSchedule(p: RouteProblem, caps: Capabilities): RouteSchedule {
  const most = Math.min(128, caps.maxThreadsPerBlock);
  if (p.source.kind !== 'hidden') return { block: Math.min(most, Math.max(32, powerOfTwo(p.experts))), team: 1, per: 1 };
  const per = Math.min(4, p.experts);
  const teams = powerOfTwo(Math.ceil(p.experts / per));
  const block = Math.min(most, Math.max(32, 4 * teams));
  const depth = p.source.dim / lanesFor(p.source.dim);
  return { block, team: Math.max(1, Math.min(32, Math.floor(block / teams), powerOfTwo(depth / 4))), per };
}

function check(p: RouteProblem, s: RouteSchedule, caps: Capabilities): void {
  wantWhole('route', { experts: p.experts, slots: p.slots, block: s.block, team: s.team, per: s.per });
  if (p.slots > p.experts) throw new Error(`route: ${p.slots} slots, but only ${p.experts} experts`);
  if (s.block % s.team !== 0) throw new Error(`route: a team of ${s.team} does not divide a block of ${s.block}`);
  if (s.block > caps.maxThreadsPerBlock) throw new Error(`route: ${s.block} threads a block, the target has ${caps.maxThreadsPerBlock}`);
  if (p.source.kind === 'hidden') {
    wantWhole('route', { dim: p.source.dim });
    wantIndexable('route', 'the gate', ((p.experts + 1) * p.source.dim) / lanesFor(p.source.dim));
  }
  if (p.select.kind === 'hash') wantIndexable('route', 'the table', p.select.vocab * p.slots);
  if (p.groups !== undefined) wantWhole('route', { 'experts / groups': p.experts / p.groups.count });
  if (p.source.kind === 'none' && needsLogits(p)) throw new Error('route: a rule that reads logits has no source of them');
}

/** A table that gives weight 1 reads no logits. */
const needsLogits = (p: RouteProblem): boolean => p.select.kind !== 'hash' || p.weights !== 'one';

/** What the pieces of a finished kernel make together. */
function finish(r: RouteKernel, name: string, caps: Capabilities): Launch {
  const l = line('T', caps);
  const bytes = r.shared.reduce((n, x) => n + 4 * x.size, 0) + 4 * 4 * r.s.block;
  if (bytes > caps.maxSharedBytes) throw new Error(`route: ${bytes} bytes of shared memory, the target has ${caps.maxSharedBytes}`);
  const body: readonly Stmt[] = [...r.shared.map(b.alloc), b.let_('token', l.index), ...inLine(l, r.token, b.scalar('T'), r.body)];
  return launch({ name, family: 'route', params: r.params, scalars: ['T'], block: r.s.block, body, schedule: { ...r.s }, grid: l.grid });
}

/** Sends the token's logits to `sink`; from the hidden state also the other results of the op. */
function logitsInto(r: RouteKernel, bias: 'with' | 'without', sink: LogitSink | undefined): void {
  const { source } = r.p;
  if (source.kind === 'none') return;
  if (source.kind === 'logits') {
    if (sink !== undefined) readLogits(r, undefined, sink);
    return;
  }
  const row = hiddenRow(r, source);
  if (sink !== undefined) computeLogits(r, source, row, bias === 'with' ? gateBias(r) : undefined, sink);
  computeSharedGate(r, source, row);
}

function gateBias(r: RouteKernel): Buffer | undefined {
  const { source } = r.p;
  return source.kind === 'hidden' && source.gateBiasElem !== undefined ? param(r, 'gateBias', source.gateBiasElem) : undefined;
}

/** Makes the logits in a kernel of their own: where one kernel would bind more buffers than the target has. */
function logitsKernel(p: RouteProblem, s: RouteSchedule, caps: Capabilities): Launch {
  const r = routeKernel(p, s);
  const out = b.buffer('logits', 'global', 'f32');
  logitsInto(r, 'without', (e, logit) => [b.store(out, b.add(b.mul(r.token, b.u32(p.experts)), e), logit)]);
  r.params.push(['logits', out]);
  return finish(r, `router_logits_${p.experts}`, caps);
}

/** The kernel of the rule: logits (made here, or by `logitsKernel` before), then experts and weights. */
function ruleKernel(p: RouteProblem, s: RouteSchedule, caps: Capabilities, logitsReady: boolean): Launch {
  const r = routeKernel(p, s);
  const { experts, slots, select } = p;
  let logit: Buffer | undefined;
  let allBad: Expr | undefined;
  let faults: Buffer | undefined;
  let score: Score = (l) => l;
  let soft: ReturnType<typeof softmaxOver> | undefined;
  if (needsLogits(p)) {
    logit = sharedArray(r, 'logit', 'f32', experts);
    const clean = sanitize(logit);
    r.body.push(b.var_('bad', b.u32(0)));
    if (logitsReady) readLogits(r, gateBias(r), clean);
    else logitsInto(r, 'with', clean);
    faults = faultsParam(r);
    r.body.push(
      b.reduce('bad_sum', 'add', b.variable('bad')),
      onFirstThread([b.atomic('add', faults, b.u32(FAULT_LOGITS), b.u32(1))], b.gt(b.variable('bad_sum'), b.u32(0))),
    );
    allBad = b.eq(b.variable('bad_sum'), b.u32(experts));
    soft = p.score === 'softmax' && select.kind !== 'sparse-mixer' ? softmaxOver(r, logit) : undefined;
    if (select.kind !== 'sparse-mixer') score = scoreOf(p.score, soft);
  } else if (!logitsReady) {
    logitsInto(r, 'with', undefined);
  }
  if (select.kind === 'expert-choice') {
    if (logit === undefined || allBad === undefined) throw new Error('route: expert choice without logits');
    return writeScores(r, logit, score, allBad, caps);
  }

  const chosen = sharedArray(r, 'chosen', 'u32', slots);
  const fromLogit = (slot: Expr): Expr => score(b.load(logit ?? chosen, b.load(chosen, slot)));
  let scoreOfSlot = fromLogit;
  if (select.kind === 'hash') selectByTable(r, select.vocab, chosen, faults ?? faultsParam(r));
  else if (logit === undefined) throw new Error('route: a choice by logits without logits');
  else if (select.kind === 'top-k') selectTopK(r, { logit, score, soft }, chosen);
  else {
    const weight = sharedArray(r, 'weight_of_slot', 'f32', slots);
    selectSparseMixer(r, select.jitter, logit, chosen, weight);
    scoreOfSlot = (slot) => b.load(weight, slot);
  }
  const weights = param(r, 'weights', 'f32');
  const ids = param(r, 'ids', 'u32');
  writeChoice(r, { chosen, logit, score: scoreOfSlot, allBad, replaceIds: select.kind !== 'hash' }, weights, ids);
  return finish(r, `route_${experts}x${slots}`, caps);
}

/** Scratch `scores` [T, experts] for the second kernel of expert choice; a row without a good logit scores 0. */
function writeScores(r: RouteKernel, logit: Buffer, score: Score, allBad: Expr, caps: Capabilities): Launch {
  const scores = param(r, 'scores', 'f32');
  r.body.push(
    eachOwn(r, 'score_e', r.p.experts, (e) => {
      const l = b.variable('score_l', b.ty('f32'));
      return [
        b.let_('score_l', b.load(logit, e)),
        b.store(scores, b.add(b.mul(r.token, b.u32(r.p.experts)), e), b.select(allBad, b.f32(0), score(l))),
      ];
    }),
  );
  return finish(r, `route_scores_${r.p.experts}`, caps);
}

/** One launch wherever the bindings allow it; expert choice needs the scores of all tokens first. */
export function route(p: RouteProblem, schedule: RouteSchedule | undefined, caps: Capabilities): LaunchGroup {
  const s = schedule ?? routeSchedule(p, caps);
  check(p, s, caps);
  const one = ruleKernel(p, s, caps, false);
  const fits = one.kernel.params.length <= caps.maxBindings || p.source.kind !== 'hidden';
  const perExpert = mulSize('T', p.experts);
  const scratch: ScratchDecl[] = [];
  const launches: Launch[] = [];
  if (fits) launches.push(one);
  else {
    scratch.push({ name: 'logits', elem: 'f32', size: perExpert });
    const rest = routeSchedule({ ...p, source: { kind: 'logits' } }, caps);
    launches.push(logitsKernel(p, s, caps), ruleKernel(p, rest, caps, true));
  }
  if (p.select.kind === 'expert-choice') {
    scratch.push({ name: 'scores', elem: 'f32', size: perExpert });
    launches.push(...chooseTokens(p, p.select.capacityFactor, caps));
  }
  return { launches, scratch };
}
