/**
 * The first half of a router: norm, logits, what is wrong with them. Everything in f32, sums in a fixed order
 * that depends on nothing but the sizes and the schedule.
 */
import * as b from '../../ir/kernel/build.ts';
import type { Buffer, Expr, Stmt } from '../../ir/kernel/types.ts';
import { F32, define, lanesFor } from './common.ts';
import type { StorageElem } from './common.ts';
import { eachOwn, onFirstThread, param, reduce, sharedArray, write } from './route-parts.ts';
import type { CrewArray, RouteKernel } from './route-parts.ts';
import type { HiddenSource, RouteSchedule } from './route-problem.ts';

/** The largest finite f32: stands for +∞; its negative for −∞ and NaN. */
export const LARGEST = 3.4028234663852886e38;
const INFINITY_BITS = 0x7f80_0000;

/** Takes the logit of expert `e`, in one thread each. */
export type LogitSink = (e: Expr, logit: Expr) => readonly Stmt[];

/** Reads the token's logits from memory (operand `logits`), adds the bias that they were made without. */
export function readLogits(r: RouteKernel, bias: Buffer | undefined, sink: LogitSink): void {
  const logits = param(r, 'logits', 'f32');
  const { experts } = r.p;
  r.body.push(
    eachOwn(r, 'logit_e', experts, (e) => {
      const raw = b.load(logits, b.add(b.mul(r.token, b.u32(experts)), e));
      return sink(e, bias === undefined ? raw : b.add(raw, b.loadF32(bias, e)));
    }),
  );
}

/** One access of the (normalised) hidden state at access `i` of the token's row. */
export type HiddenRow = (i: Expr) => Expr;

/** Reads `x`, computes the norm, writes `xn`; who asks for the row gets it in f32. */
export function hiddenRow(r: RouteKernel, h: HiddenSource): HiddenRow {
  const lanes = lanesFor(h.dim);
  const depth = h.dim / lanes;
  const x = param(r, 'x', 'f32', lanes);
  const base = define(r.body, 'x_base', b.mul(r.token, b.u32(depth)));
  const at = (i: Expr): Expr => b.load(x, b.add(base, i));
  const { norm, xnElem } = h;
  const keep = (elem: StorageElem, row: HiddenRow): void => {
    const xn = param(r, 'xn', elem, lanes);
    r.body.push(eachOwn(r, 'xn_i', depth, (i) => [b.store(xn, b.add(base, i), b.cast(elem, row(i)))]));
  };
  if (norm === undefined) {
    if (xnElem !== undefined) keep(xnElem, at);
    return at;
  }
  const weight = param(r, 'normWeight', norm.weightElem, lanes);
  const bias = norm.biasElem === undefined ? undefined : param(r, 'normBias', norm.biasElem, lanes);

  /** Binds `name` to Σ f(element) / dim. */
  const mean = (name: string, f: (value: Expr, sum: Expr) => Expr): Expr => {
    const part = b.variable(`${name}_part`, F32);
    r.body.push(
      b.var_(`${name}_part`, b.f32(0)),
      eachOwn(r, `${name}_i`, depth, (i) => {
        const stmts: Stmt[] = [];
        const value = define(stmts, `${name}_x`, at(i));
        for (let j = 0; j < lanes; j++) stmts.push(b.assign(`${name}_part`, f(b.lane(value, j), part)));
        return stmts;
      }),
      reduce(r, `${name}_sum`, 'add', part),
    );
    return define(r.body, name, b.div(b.variable(`${name}_sum`, F32), b.f32(h.dim)));
  };
  const center = norm.kind === 'layer' ? mean('mean', (value, sum) => b.add(sum, value)) : undefined;
  const centered = (value: Expr): Expr => (center === undefined ? value : b.sub(value, b.splat(value.ty.lanes, center)));
  const spread = mean('spread', (value, sum) => b.fma(centered(value), centered(value), sum));
  const factor = define(r.body, 'factor', b.rsqrt(b.add(spread, b.f32(norm.eps))));
  const normalised: HiddenRow = (i) => {
    const scaled = b.mul(b.mul(centered(at(i)), b.splat(lanes, factor)), b.loadF32(weight, i));
    return bias === undefined ? scaled : b.add(scaled, b.loadF32(bias, i));
  };
  keep(xnElem ?? 'f32', normalised);
  return normalised;
}

/** acc = Σ over the lanes, ascending. */
const multiply = (acc: string, x: Expr, w: Expr): readonly Stmt[] =>
  Array.from({ length: x.ty.lanes }, (_, j) => b.assign(acc, b.fma(b.lane(x, j), b.lane(w, j), b.variable(acc, F32))));

/** gate · x for every expert: teams of threads split the depth, their parts are added in order. */
export function computeLogits(r: RouteKernel, s: RouteSchedule, h: HiddenSource, row: HiddenRow, bias: Buffer | undefined, sink: LogitSink): void {
  const { experts } = r.p;
  const { block, team, per } = s;
  const lanes = lanesFor(h.dim);
  const depth = h.dim / lanes;
  const gate = param(r, 'gate', h.gateElem, lanes);
  const teams = block / team;
  const member = team === 1 ? b.u32(0) : define(r.body, 'member', b.mod(b.thread, b.u32(team)));
  const first = team === 1 ? b.thread : define(r.body, 'team_index', b.div(b.thread, b.u32(team)));
  const parts = team === 1 ? undefined : sharedArray(r, 'logit_parts', 'f32', per * block).buf;
  const js = Array.from({ length: per }, (_, j) => j);

  r.body.push(
    b.for_('pass', b.u32(0), b.u32(experts), teams * per, (pass) => {
      const stmts: Stmt[] = [];
      const e = js.map((j) => define(stmts, `e${j}`, b.add(pass, first, b.u32(j * teams))));
      // Teams beyond the last expert repeat it; what they find is not kept.
      const rows = e.map((x, j) => define(stmts, `gate_row${j}`, b.mul(b.min(x, b.u32(experts - 1)), b.u32(depth))));
      stmts.push(...js.map((j) => b.var_(`sum${j}`, b.f32(0))));
      stmts.push(
        b.for_('i', member, b.u32(depth), team, (i) => {
          const inner: Stmt[] = [];
          const xv = define(inner, 'xv', row(i));
          rows.forEach((at, j) => {
            inner.push(...multiply(`sum${j}`, xv, define(inner, `g${j}`, b.loadF32(gate, b.add(at, i)))));
          });
          return inner;
        }),
      );
      const finish = (j: number, sum: Expr): readonly Stmt[] => {
        const expert = e[j] ?? pass;
        return [b.if_(b.lt(expert, b.u32(experts)), sink(expert, bias === undefined ? sum : b.add(sum, b.loadF32(bias, expert))))];
      };
      if (parts === undefined) return [...stmts, ...js.flatMap((j) => finish(j, b.variable(`sum${j}`, F32)))];
      stmts.push(...js.map((j) => b.store(parts, b.add(b.thread, b.u32(j * block)), b.variable(`sum${j}`, F32))));
      const total = (j: number): readonly Stmt[] => [
        b.var_(`total${j}`, b.f32(0)),
        b.for_(`m${j}`, b.u32(0), b.u32(team), 1, (m) => [
          b.assign(`total${j}`, b.add(b.variable(`total${j}`, F32), b.load(parts, b.add(b.thread, m, b.u32(j * block))))),
        ]),
        ...finish(j, b.variable(`total${j}`, F32)),
      ];
      stmts.push(b.if_(b.eq(member, b.u32(0)), js.flatMap(total)));
      return stmts;
    }),
  );
}

/** Result `gate` [T, 1]: sharedGate · x, or the last row of `gate` · x. */
export function computeSharedGate(r: RouteKernel, h: HiddenSource, row: HiddenRow): void {
  const inGate = h.sharedGateRow === true;
  if (h.sharedGateElem === undefined && !inGate) return;
  const lanes = lanesFor(h.dim);
  const gate = r.params.find(([operand]) => operand === 'gate')?.[1];
  const weight = inGate ? (gate ?? param(r, 'gate', h.gateElem, lanes)) : param(r, 'sharedGate', h.sharedGateElem ?? 'f32', lanes);
  const row0 = inGate ? (r.p.experts * h.dim) / lanes : 0;
  const result = b.buffer('gate_logit', 'global', 'f32');
  r.params.push(['gateOut', result]);
  r.body.push(
    b.var_('shared_part', b.f32(0)),
    eachOwn(r, 'shared_i', h.dim / lanes, (i) => {
      const stmts: Stmt[] = [];
      const xv = define(stmts, 'shared_x', row(i));
      return [...stmts, ...multiply('shared_part', xv, b.loadF32(weight, row0 === 0 ? i : b.add(i, b.u32(row0))))];
    }),
    reduce(r, 'shared_logit', 'add', b.variable('shared_part', F32)),
    onFirstThread(r, [b.store(result, r.token, b.variable('shared_logit', F32))]),
  );
}

/**
 * A sink that puts logits into `logit`, bad ones replaced, and counts these in the variable `bad`, which must
 * be declared before. Bad ones are found by their bits: a target may assume that they do not occur.
 */
export const sanitize =
  (logit: CrewArray): LogitSink =>
  (e, value) => {
    const stmts: Stmt[] = [];
    const raw = define(stmts, 'raw', value);
    const isBad = define(stmts, 'is_bad', b.isNonFinite(raw));
    const stand = b.select(b.eq(b.bitcast('u32', raw), b.u32(INFINITY_BITS)), b.f32(LARGEST), b.f32(-LARGEST));
    return [
      ...stmts,
      b.assign('bad', b.add(b.variable('bad'), b.select(isBad, b.u32(1), b.u32(0)))),
      write(logit, e, b.select(isBad, stand, raw)),
    ];
  };
