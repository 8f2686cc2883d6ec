/**
 * moe.route: chooses experts of each token and weighs them, one block a token, or by the subgroups of a block (`route-crews.ts`).
 * All arithmetic is f32 whatever the storage; a token's result does not depend on the other tokens of the call (but for expert choice).
 *
 * Operands: `logits`, or `x`, `gate`, [`normWeight`, `normBias`, `gateBias`, `sharedGate` where it is no row of `gate`]; [`selectionBias`],
 * [`table`, `tokenIds`]. Results: `weights`, `ids`, [`xn`], [`gateOut`: the op's result `gate`]; and `faults`.
 */
import { mulSize } from '../../base/size.ts';
import * as b from '../../ir/kernel/build.ts';
import type { Stmt } from '../../ir/kernel/types.ts';
import type { Capabilities } from '../../target/types.ts';
import type { Launch } from '../launch.ts';
import { inLine, lanesFor, launch, line, powerOfTwo, wantIndexable, wantWhole } from './common.ts';
import type { LaunchGroup, ScratchDecl } from './common.ts';
import { chooseTokens } from './expert-choice.ts';
import { routeByCrews, routeCrews } from './route-crews.ts';
import { computeLogits, computeSharedGate, hiddenRow, readLogits } from './route-logits.ts';
import type { LogitSink } from './route-logits.ts';
import { routeKernel } from './route-parts.ts';
import type { RouteKernel } from './route-parts.ts';
import type { RouteCrews, RouteProblem, RouteSchedule } from './route-problem.ts';
import { buildRule, gateBias, needsLogits } from './route-rule.ts';

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

function checkSchedule(s: RouteSchedule, caps: Capabilities): void {
  wantWhole('route', { block: s.block, team: s.team, per: s.per });
  if (s.block % s.team !== 0) throw new Error(`route: a team of ${s.team} does not divide a block of ${s.block}`);
  if (s.block > caps.maxThreadsPerBlock) throw new Error(`route: ${s.block} threads a block, the target has ${caps.maxThreadsPerBlock}`);
}

function checkProblem(p: RouteProblem): void {
  wantWhole('route', { experts: p.experts, slots: p.slots });
  if (p.slots > p.experts) throw new Error(`route: ${p.slots} slots, but only ${p.experts} experts`);
  if (p.source.kind === 'hidden') {
    wantWhole('route', { dim: p.source.dim });
    wantIndexable('route', 'the gate', ((p.experts + 1) * p.source.dim) / lanesFor(p.source.dim));
  }
  if (p.select.kind === 'hash') wantIndexable('route', 'the table', p.select.vocab * p.slots);
  if (p.groups !== undefined) wantWhole('route', { 'experts / groups': p.experts / p.groups.count });
  if (p.source.kind === 'none' && needsLogits(p)) throw new Error('route: a rule that reads logits has no source of them');
}

/** What the pieces of a finished kernel make together. */
function finish(r: RouteKernel, s: RouteSchedule, name: string, caps: Capabilities): Launch {
  const l = line('T', caps);
  const bytes = r.shared.reduce((n, x) => n + 4 * x.size, 0) + 4 * 4 * r.block;
  if (bytes > caps.maxSharedBytes) throw new Error(`route: ${bytes} bytes of shared memory, the target has ${caps.maxSharedBytes}`);
  const body: readonly Stmt[] = [...r.shared.map(b.alloc), b.let_('token', l.index), ...inLine(l, r.token, b.scalar('T'), r.body)];
  return launch({ name, family: 'route', params: r.params, scalars: ['T'], block: r.block, body, schedule: { ...s }, grid: l.grid });
}

/** Sends the token's logits to `sink`; from the hidden state also the other results of the op. */
function logitsInto(r: RouteKernel, s: RouteSchedule, bias: 'with' | 'without', sink: LogitSink | undefined): void {
  const { source } = r.p;
  if (source.kind === 'none') return;
  if (source.kind === 'logits') {
    if (sink !== undefined) readLogits(r, undefined, sink);
    return;
  }
  const row = hiddenRow(r, source);
  if (sink !== undefined) computeLogits(r, s, source, row, bias === 'with' ? gateBias(r) : undefined, sink);
  computeSharedGate(r, source, row);
}

/** Makes the logits in a kernel of their own: where one kernel would bind more buffers than the target has. */
function logitsKernel(p: RouteProblem, s: RouteSchedule, caps: Capabilities): Launch {
  const r = routeKernel(p, s.block);
  const out = b.buffer('logits', 'global', 'f32');
  logitsInto(r, s, 'without', (e, logit) => [b.store(out, b.add(b.mul(r.token, b.u32(p.experts)), e), logit)]);
  r.params.push(['logits', out]);
  return finish(r, s, `router_logits_${p.experts}`, caps);
}

/** The kernel of the rule: logits (made here, or by `logitsKernel` before), then experts and weights. */
function ruleKernel(p: RouteProblem, s: RouteSchedule, caps: Capabilities, logitsReady: boolean): Launch {
  const r = routeKernel(p, s.block);
  const name = buildRule(r, (sink) => {
    if (!logitsReady) logitsInto(r, s, 'with', sink);
    else if (sink !== undefined) readLogits(r, gateBias(r), sink);
  });
  return finish(r, s, name, caps);
}

/** One launch wherever the bindings allow it; expert choice needs the scores of all tokens first. */
export function route(p: RouteProblem, schedule: RouteSchedule | RouteCrews | undefined, caps: Capabilities): LaunchGroup {
  const chosen = schedule ?? routeCrews(p, caps) ?? routeSchedule(p, caps);
  checkProblem(p);
  return 'tokens' in chosen ? routeByCrews(p, chosen, caps) : routeByBlocks(p, chosen, caps);
}

function routeByBlocks(p: RouteProblem, s: RouteSchedule, caps: Capabilities): LaunchGroup {
  checkSchedule(s, caps);
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
