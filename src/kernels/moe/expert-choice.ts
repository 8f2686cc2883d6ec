/**
 * The second part of expert choice (Zhou et al. 2022, eq. 1–2): every expert takes its n = floor(T · c / E) best tokens.
 *
 * One block an expert. The key of its n-th best token is found bit by bit: 32 counts over the tokens, whatever
 * T is. Tokens above it are taken, and of those that equal it the first ones.
 */
import * as b from '../../ir/kernel/build.ts';
import type { Expr, Stmt } from '../../ir/kernel/types.ts';
import type { Capabilities } from '../../target/types.ts';
import type { Launch } from '../launch.ts';
import { DROPPED, F32, define, elementwise, elementwiseSchedule, globalBuffer, inLine, launch, line } from './common.ts';
import { indicator, keyOf } from './keys.ts';
import { mulRatio, ratioOver } from './ratio.ts';
import type { RouteProblem } from './route-problem.ts';
import { divideOrZero, normOfSlots } from './route-weights.ts';

/** From scratch `scores` [T, experts] to `ids` and `weights` [T, experts]. */
export function chooseTokens(p: RouteProblem, capacityFactor: number, caps: Capabilities): readonly Launch[] {
  const renormalise = p.renormalize === undefined ? [] : [renormaliseTokens(p, caps)];
  return [takeBest(p, capacityFactor, caps), ...renormalise];
}

function takeBest(p: RouteProblem, capacityFactor: number, caps: Capabilities): Launch {
  const { experts } = p;
  const block = Math.min(128, caps.maxThreadsPerBlock);
  const scores = globalBuffer('scores', 'f32');
  const ids = globalBuffer('ids', 'u32');
  const weights = globalBuffer('weights', 'f32');
  const equals = b.buffer('equals', 'shared', 'u32', 1, block);
  const tokens = b.scalar('T');
  const l = line(experts, caps);
  const expert = b.variable('expert');
  const body: Stmt[] = [];
  const take = b.min(mulRatio(body, 'share', tokens, ratioOver(capacityFactor, experts)), tokens);
  const at = (t: Expr): Expr => b.add(b.mul(t, b.u32(experts)), expert);
  /** Binds the key of token t's score. */
  const keyAt = (stmts: Stmt[], name: string, t: Expr): Expr => {
    const score = define(stmts, `${name}_score`, b.load(scores, at(t)));
    return define(stmts, name, keyOf(score));
  };
  const countIn = (name: string, from: Expr, to: Expr, step: number, p2: (key: Expr) => Expr): readonly Stmt[] => [
    b.var_(name, b.u32(0)),
    b.for_(`${name}_t`, from, to, step, (t) => {
      const stmts: Stmt[] = [];
      const key = keyAt(stmts, `${name}_key`, t);
      return [...stmts, b.assign(name, b.add(b.variable(name), indicator(p2(key))))];
    }),
  ];
  const wanted = define(body, 'take', take);

  // The greatest key that at least `take` tokens reach.
  const limit = b.variable('limit');
  body.push(b.var_('limit', b.u32(0)));
  body.push(
    b.for_('bit', b.u32(0), b.u32(32), 1, (i) => {
      const stmts: Stmt[] = [];
      const candidate = define(stmts, 'candidate', b.bin('|', limit, b.bin('>>', b.u32(0x8000_0000), i)));
      return [
        ...stmts,
        ...countIn('reach', b.thread, tokens, block, (key) => b.ge(key, candidate)),
        b.reduce('reached', 'add', b.variable('reach')),
        b.if_(b.ge(b.variable('reached'), wanted), [b.assign('limit', candidate)]),
      ];
    }),
  );
  body.push(...countIn('above', b.thread, tokens, block, (key) => b.gt(key, limit)), b.reduce('above_all', 'add', b.variable('above')));
  const room = define(body, 'room', b.sub(wanted, b.variable('above_all')));

  // Threads take runs of tokens, so that equals are numbered in token order.
  const run = define(body, 'run', b.ceilDiv(tokens, b.u32(block)));
  const first = define(body, 'first', b.min(b.mul(b.thread, run), tokens));
  const last = define(body, 'last', b.min(b.add(first, run), tokens));
  body.push(
    ...countIn('equal', first, last, 1, (key) => b.eq(key, limit)),
    b.store(equals, b.thread, b.variable('equal')),
    b.var_('earlier', b.u32(0)),
    b.for_('other', b.u32(0), b.thread, 1, (j) => [b.assign('earlier', b.add(b.variable('earlier'), b.load(equals, j)))]),
    b.for_('t', first, last, 1, (t) => {
      const stmts: Stmt[] = [];
      const key = keyAt(stmts, 'key', t);
      const isEqual = define(stmts, 'is_equal', b.eq(key, limit));
      const taken = define(stmts, 'taken', b.or(b.gt(key, limit), b.and(isEqual, b.lt(b.variable('earlier'), room))));
      const kept = p.weights === 'one' ? b.f32(1) : b.variable('key_score', F32);
      const scaled = p.scale === 1 || p.renormalize !== undefined ? kept : b.mul(kept, b.f32(p.scale));
      return [
        ...stmts,
        b.assign('earlier', b.add(b.variable('earlier'), indicator(isEqual))),
        b.store(ids, at(t), b.select(taken, expert, b.u32(DROPPED))),
        b.store(weights, at(t), b.select(taken, scaled, b.f32(0))),
      ];
    }),
  );
  return launch({
    name: `expert_choice_${experts}`,
    family: 'expert-choice',
    params: [
      ['scores', scores],
      ['ids', ids],
      ['weights', weights],
    ],
    scalars: ['T'],
    block,
    body: [b.alloc(equals), b.let_('expert', l.index), ...inLine(l, expert, b.u32(experts), body)],
    schedule: { block },
    grid: l.grid,
  });
}

/** Divides the weights of each token by their norm; a thread a token. */
function renormaliseTokens(p: RouteProblem, caps: Capabilities): Launch {
  const weights = globalBuffer('weights', 'f32');
  const rule = p.renormalize ?? { p: 1, eps: 0, epsMode: 'add' };
  return elementwise(
    {
      name: `expert_choice_norm_${p.experts}`,
      family: 'expert-choice',
      params: [['weights', weights]],
      perRow: 1,
      rows: {},
      body(token) {
        const stmts: Stmt[] = [];
        const at = (e: Expr): Expr => b.add(b.mul(token, b.u32(p.experts)), e);
        const denominator = normOfSlots(stmts, p.experts, rule, (e) => b.load(weights, at(e)));
        stmts.push(
          b.for_('e', b.u32(0), b.u32(p.experts), 1, (e) => {
            const inner: Stmt[] = [];
            const w = define(inner, 'w', b.load(weights, at(e)));
            return [...inner, b.store(weights, at(e), b.mul(divideOrZero(w, denominator), b.f32(p.scale)))];
          }),
        );
        return stmts;
      },
    },
    elementwiseSchedule(caps),
    caps,
  );
}
