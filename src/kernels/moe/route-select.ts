/**
 * The second half of a router: which experts. Each rule fills `chosen` [slots] with experts in descending
 * order of selection; ranks are counted, not sorted: rank(e) = #{j before e}, the same in every run.
 */
import * as b from '../../ir/kernel/build.ts';
import type { Buffer, Expr, Stmt } from '../../ir/kernel/types.ts';
import { F32, FAULT_IDS, define } from './common.ts';
import { LEAST_KEY, before, indicator, keyOf, numberOf } from './keys.ts';
import { eachOwn, ifHere, onFirstThread, param, read, reduce, sharedArray, write } from './route-parts.ts';
import type { CrewArray, RouteKernel } from './route-parts.ts';
import { expBelow, logitKey } from './route-score.ts';
import type { Score, Softmax } from './route-score.ts';

/** What a rule can read. */
export interface Scored {
  readonly logit: CrewArray;
  readonly score: Score;
  readonly soft: Softmax | undefined;
}

/** Counts into the variable `name` how many of 0 … count − 1 satisfy `p`. */
const countWhere = (name: string, loop: string, count: number, p: (j: Expr) => Expr): readonly Stmt[] => [
  b.var_(name, b.u32(0)),
  b.for_(loop, b.u32(0), b.u32(count), 1, (j) => [b.assign(name, b.add(b.variable(name), indicator(p(j))))]),
];

/** The `slots` greatest of score + bias, within the kept groups. */
export function selectTopK(r: RouteKernel, from: Scored, chosen: CrewArray): void {
  const { p } = r;
  const bias = p.selectionBiasElem === undefined ? undefined : param(r, 'selectionBias', p.selectionBiasElem);
  const key = sharedArray(r, 'key', 'u32', p.experts);
  r.body.push(
    eachOwn(r, 'key_e', p.experts, (e) => {
      const stmts: Stmt[] = [];
      const l = define(stmts, 'l', read(from.logit, e));
      const value =
        bias === undefined
          ? logitKey(p.score, from.soft, stmts, 'key_l', l)
          : keyOf(define(stmts, 'biased', b.add(from.score(l), b.loadF32(bias, e))));
      stmts.push(write(key, e, value));
      return stmts;
    }),
  );
  if (p.groups !== undefined) maskGroups(r, p.groups, from, bias !== undefined, key);
  if (r.crew.here !== undefined) return chooseInRounds(r, key, chosen);
  r.body.push(
    eachOwn(r, 'rank_e', p.experts, (e) => {
      const stmts: Stmt[] = [];
      const mine = define(stmts, 'mine', read(key, e));
      stmts.push(...countWhere('rank', 'rank_j', p.experts, (j) => before(read(key, j), j, mine, e)));
      return [...stmts, b.if_(b.lt(b.variable('rank'), b.u32(p.slots)), [write(chosen, b.variable('rank'), e)])];
    }),
  );
}

/** By a subgroup: the greatest key that is left, slot by slot; every thread keeps the keys of its own experts in registers. */
function chooseInRounds(r: RouteKernel, key: CrewArray, chosen: CrewArray): void {
  const { experts, slots } = r.p;
  const { self, threads } = r.crew;
  const own = b.buffer('own_key', 'register', 'u32', 1, Math.ceil(experts / threads));
  const [topKey, topE] = [b.variable('top_key'), b.variable('top_e')];
  const each = (name: string, body: (n: Expr, e: Expr) => readonly Stmt[]): Stmt =>
    b.for_(name, b.u32(0), b.u32(own.size), 1, (n) => body(n, b.add(self, b.mul(n, b.u32(threads)))), true);
  const mine = (e: Expr): Expr => read(key, experts % threads === 0 ? e : b.min(e, b.u32(experts - 1)));
  const isExpert = (e: Expr): Expr => (experts % threads === 0 ? b.bool(true) : b.lt(e, b.u32(experts)));
  r.body.push(
    b.alloc(own),
    each('own', (n, e) => [b.store(own, n, b.select(isExpert(e), mine(e), b.u32(LEAST_KEY)))]),
    b.for_('slot_of_rank', b.u32(0), b.u32(slots), 1, (rank) => [
      b.var_('top_key', b.u32(LEAST_KEY)),
      b.var_('top_e', b.u32(experts)),
      each('candidate', (n, e) => [b.if_(b.gt(b.load(own, n), topKey), [b.assign('top_key', b.load(own, n)), b.assign('top_e', e)])]),
      reduce(r, 'best_key', 'max', topKey),
      // Among equals the lowest expert; each thread has found its own lowest.
      reduce(r, 'best_e', 'min', b.select(b.eq(topKey, b.variable('best_key')), topE, b.u32(experts))),
      each('taken', (n, e) => [b.if_(b.eq(e, b.variable('best_e')), [b.store(own, n, b.u32(LEAST_KEY))])]),
      onFirstThread(r, [write(chosen, rank, b.variable('best_e'))]),
    ]),
  );
}

/** Gives every expert outside the best `keep` groups the least key. */
function maskGroups(r: RouteKernel, groups: NonNullable<RouteKernel['p']['groups']>, from: Scored, biased: boolean, key: CrewArray): void {
  const { experts } = r.p;
  const width = experts / groups.count;
  const groupKey = sharedArray(r, 'group_key', 'u32', groups.count);
  /** Largest key, or key of the sum of the two largest scores, of the group. */
  const ofGroup = (g: Expr): readonly Stmt[] => {
    const start = b.mul(g, b.u32(width));
    if (groups.score === 'max' || width === 1) {
      return [
        b.var_('best', b.u32(LEAST_KEY)),
        b.for_('member_e', b.u32(0), b.u32(width), 1, (i) => [b.assign('best', b.max(b.variable('best'), read(key, b.add(start, i))))]),
        write(groupKey, g, b.variable('best')),
      ];
    }
    // The two largest, kept as first ≥ second while the members pass by.
    const value = (e: Expr): Expr => (biased ? numberOf(read(key, e)) : from.score(read(from.logit, e)));
    const [first, second] = [b.variable('first_score', F32), b.variable('second_score', F32)];
    const stmts: Stmt[] = [];
    const v0 = define(stmts, 'v0', value(start));
    const v1 = define(stmts, 'v1', value(b.add(start, b.u32(1))));
    stmts.push(
      b.var_('first_score', b.max(v0, v1)),
      b.var_('second_score', b.min(v0, v1)),
      b.for_('member_e', b.u32(2), b.u32(width), 1, (i) => {
        const inner: Stmt[] = [];
        const v = define(inner, 'v', value(b.add(start, i)));
        return [...inner, b.assign('second_score', b.max(second, b.min(first, v))), b.assign('first_score', b.max(first, v))];
      }),
    );
    const sum = define(stmts, 'group_score', b.add(first, second));
    return [...stmts, write(groupKey, g, keyOf(sum))];
  };
  r.body.push(eachOwn(r, 'group', groups.count, ofGroup));
  r.body.push(
    eachOwn(r, 'masked_e', experts, (e) => {
      const stmts: Stmt[] = [];
      const g = define(stmts, 'own_group', b.div(e, b.u32(width)));
      const mine = define(stmts, 'own_key', read(groupKey, g));
      stmts.push(...countWhere('group_rank', 'other', groups.count, (j) => before(read(groupKey, j), j, mine, g)));
      return [...stmts, b.if_(b.ge(b.variable('group_rank'), b.u32(groups.keep)), [write(key, e, b.u32(LEAST_KEY))])];
    }),
  );
}

/** Experts of the token id's row of the table. Ids outside the table, and experts there are none of, are clamped and counted. */
export function selectByTable(r: RouteKernel, vocab: number, chosen: CrewArray, faults: Buffer): void {
  const { experts, slots } = r.p;
  const tokenIds = param(r, 'tokenIds', 'i32');
  const table = param(r, 'table', 'i32');
  /** A negative number is a large one here. */
  const within = (stmts: Stmt[], name: string, id: Expr, count: number): Expr => {
    const raw = define(stmts, `${name}_raw`, id);
    stmts.push(b.if_(b.ge(b.bitcast('u32', raw), b.u32(count)), [b.assign('wrong', b.u32(1))]));
    return define(stmts, name, b.min(b.cast('u32', b.max(raw, b.i32(0))), b.u32(count - 1)));
  };
  r.body.push(b.var_('wrong', b.u32(0)));
  const row = within(r.body, 'table_row', b.load(tokenIds, r.token), vocab);
  r.body.push(
    eachOwn(r, 'table_slot', slots, (s) => {
      const stmts: Stmt[] = [];
      const expert = within(stmts, 'expert', b.load(table, b.add(b.mul(row, b.u32(slots)), s)), experts);
      return [...stmts, write(chosen, s, expert)];
    }),
  );
  r.body.push(
    reduce(r, 'any_wrong', 'max', b.variable('wrong')),
    onFirstThread(r, ifHere(r, [b.atomic('add', faults, b.u32(FAULT_IDS), b.u32(1))]), b.gt(b.variable('any_wrong'), b.u32(0))),
  );
}

/**
 * SparseMixer-2 in evaluation (Phi-3.5): the greatest logit M, weighed by a softmax over the logits within
 * (M − l) / max(|l|, M) ≤ 2 · jitter of it; then the same without it. Fills `weight` too.
 */
export function selectSparseMixer(r: RouteKernel, jitter: number, logit: CrewArray, chosen: CrewArray, weight: CrewArray): void {
  const { experts, slots } = r.p;
  const key = sharedArray(r, 'key', 'u32', experts);
  const u = (name: string): Expr => b.variable(name);
  r.body.push(
    eachOwn(r, 'key_e', experts, (e) => {
      const stmts: Stmt[] = [];
      const l = define(stmts, 'l', read(logit, e));
      return [...stmts, write(key, e, keyOf(l))];
    }),
  );
  r.body.push(
    b.for_('round', b.u32(0), b.u32(slots), 1, (round) => {
      const stmts: Stmt[] = [
        b.var_('top_key', b.u32(LEAST_KEY)),
        b.var_('top_e', b.u32(experts)),
        eachOwn(r, 'top_i', experts, (e) => [
          b.let_('k', read(key, e)),
          b.if_(b.gt(u('k'), u('top_key')), [b.assign('top_key', u('k')), b.assign('top_e', e)]),
        ]),
        reduce(r, 'best_key', 'max', u('top_key')),
        reduce(r, 'best_e', 'min', b.select(b.eq(u('top_key'), u('best_key')), u('top_e'), b.u32(experts))),
      ];
      const max = define(stmts, 'round_max', read(logit, u('best_e')));
      const isRival = (l: Expr): Expr =>
        b.le(b.sub(b.mul(max, b.f32(0.5)), b.mul(l, b.f32(0.5))), b.mul(b.max(b.abs(l), max), b.f32(jitter)));
      stmts.push(
        b.var_('rivals_part', b.f32(0)),
        eachOwn(r, 'rival_e', experts, (e) => {
          const inner: Stmt[] = [];
          const l = define(inner, 'rival_l', read(logit, e));
          const counts = b.and(b.ne(read(key, e), b.u32(LEAST_KEY)), isRival(l));
          return [...inner, b.if_(counts, [b.assign('rivals_part', b.add(b.variable('rivals_part', F32), expBelow(l, max)))])];
        }),
        reduce(r, 'rivals', 'add', b.variable('rivals_part', F32)),
        onFirstThread(r, [
          write(chosen, round, u('best_e')),
          write(weight, round, b.div(b.f32(1), b.variable('rivals', F32))),
          write(key, u('best_e'), b.u32(LEAST_KEY)),
        ]),
      );
      return stmts;
    }),
  );
}
