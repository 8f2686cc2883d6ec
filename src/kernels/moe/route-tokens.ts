/**
 * The first half of a router for several tokens of a block at once, so that each access of the gate serves them all. The tokens'
 * (normalised) rows are staged in shared memory piece by piece; eight threads beside each other share an expert's depth.
 *
 * A logit is the sum of eight parts, part m of the accesses m, m + 8, m + 16, … of the row in ascending order, added in ascending
 * m: the same bits however many tokens a block or a call has, and however the experts are spread over blocks.
 */
import * as b from '../../ir/kernel/build.ts';
import type { Buffer, Expr, Stmt } from '../../ir/kernel/types.ts';
import { inRounds } from '../team.ts';
import { F32, define, lanesFor } from './common.ts';
import { param } from './route-parts.ts';
import type { RouteKernel } from './route-parts.ts';
import type { HiddenSource, RouteCrews } from './route-problem.ts';

/** Threads that share the depth of a logit. */
const MEMBERS = 8;
/** Sums of a thread that go through shared memory at a time. */
const SLAB = 16;
/** Accesses of a row that a thread has under way while it looks for the norm. */
const NORM_UNDER_WAY = 8;

export interface TokenTile {
  readonly s: RouteCrews;
  /** First token of the block, and how many there are for it, from 1 to s.tokens. */
  readonly token0: Expr;
  readonly count: Expr;
  /** First expert of the block, and how many experts a block takes; those beyond the last one are left out. */
  readonly expert0: Expr;
  readonly experts: number;
  /** Whether the block gives the other results too, the rows and the shared experts' gate; absent: it does. */
  readonly others?: Expr;
  /** A subgroup, and the thread in it. */
  readonly subgroup: Expr;
  readonly lane: Expr;
}

/** What takes the logit of expert `e` for token `t` of the block, in one thread each; of tokens that are missing, too. */
export type TokenSink = (t: Expr, e: Expr, logit: Expr) => readonly Stmt[];

const SUBGROUP = 32;

const ifOthers = ({ others }: TokenTile, body: readonly Stmt[]): readonly Stmt[] => (others === undefined ? body : [b.if_(others, body)]);

/** Appends the norm, the logits of the block's tokens without their bias, `xn` and the shared gate. Without a sink there are no logits. */
export function tokenLogits(r: RouteKernel, h: HiddenSource, tile: TokenTile, sink: TokenSink | undefined): void {
  const { s } = tile;
  const lanes = lanesFor(h.dim);
  const depth = h.dim / lanes;
  const x = param(r, 'x', 'f32', lanes);
  const row = rowsOfTokens(r, h, tile, x);
  const xnElem = h.xnElem ?? (h.norm === undefined ? undefined : 'f32');
  const xn = xnElem === undefined ? undefined : param(r, 'xn', xnElem, lanes);
  const stage = b.buffer('stage', 'shared', 'f32', lanes, s.tokens * s.chunk);
  r.shared.push(stage);
  const gate = sink === undefined ? undefined : gateProduct(r, h, tile, stage);
  const shared = sharedGate(r, h, tile, stage, gate?.weight);

  /** Stages `size` accesses of every token from access `from` on, and multiplies them. */
  const piece = (name: string, from: Expr, size: number): readonly Stmt[] => {
    const copy = b.for_(`${name}_copy`, b.thread, b.u32(s.tokens * size), r.block, (i) => {
      const stmts: Stmt[] = [];
      const t = define(stmts, `${name}_t`, b.div(i, b.u32(size)));
      const local = define(stmts, `${name}_local`, b.mod(i, b.u32(size)));
      const at = define(stmts, `${name}_at`, b.add(from, local));
      const value = row(t, at);
      const keep: Stmt[] = [];
      keep.push(b.let_(`${name}_x`, value), b.store(stage, b.add(b.mul(t, b.u32(s.chunk)), local), b.variable(`${name}_x`, value.ty)));
      if (xn !== undefined) {
        const to = b.add(b.mul(b.add(tile.token0, t), b.u32(depth)), at);
        keep.push(...ifOthers(tile, [b.store(xn, to, b.cast(xn.elem, b.variable(`${name}_x`, value.ty)))]));
      }
      const zeros = b.store(stage, b.add(b.mul(t, b.u32(s.chunk)), local), b.splat(lanes, b.f32(0)));
      return [...stmts, b.if_(b.lt(t, tile.count), keep, s.guarded === 1 ? [] : [zeros])];
    });
    return [copy, ...(gate?.multiply(name, from, size) ?? []), ...(shared?.multiply(name, from, size) ?? [])];
  };
  const tail = depth % s.chunk;
  if (depth >= s.chunk) r.body.push(b.for_('piece', b.u32(0), b.u32(depth - tail), s.chunk, (from) => piece('whole', from, s.chunk)));
  if (tail > 0) r.body.push(...piece('last', b.u32(depth - tail), tail));
  if (gate !== undefined && sink !== undefined) r.body.push(...gate.join(sink));
  if (shared !== undefined) r.body.push(...shared.join());
}

/** Access `i` of the (normalised) row of token `t` of the block. The norm of a token is a subgroup's work. */
function rowsOfTokens(r: RouteKernel, h: HiddenSource, tile: TokenTile, x: Buffer): (t: Expr, i: Expr) => Expr {
  const { norm } = h;
  const { lanes } = x;
  const depth = h.dim / lanes;
  const at = (t: Expr, i: Expr): Expr => b.load(x, b.add(b.mul(b.add(tile.token0, t), b.u32(depth)), i));
  if (norm === undefined) return at;
  const weight = param(r, 'normWeight', norm.weightElem, lanes);
  const bias = norm.biasElem === undefined ? undefined : param(r, 'normBias', norm.biasElem, lanes);
  const array = (name: string): Buffer => {
    const made = b.buffer(name, 'shared', 'f32', 1, tile.s.tokens);
    r.shared.push(made);
    return made;
  };
  const factors = array('factors');
  const means = norm.kind === 'layer' ? array('means') : undefined;
  const subgroups = r.block / SUBGROUP;

  r.body.push(
    b.for_('norm_t0', b.u32(0), tile.count, subgroups, (t0) => {
      const stmts: Stmt[] = [];
      const own = define(stmts, 'norm_own', b.add(t0, tile.subgroup));
      // A subgroup without a token repeats the last one.
      const t = define(stmts, 'norm_t', b.min(own, b.sub(tile.count, b.u32(1))));
      /** Binds `name` to Σ f(element) / dim. */
      const mean = (name: string, f: (value: Expr, sum: Expr) => Expr): Expr => {
        const part = b.variable(`${name}_part`, F32);
        const round = (prefix: string, first: Expr, n: number): readonly Stmt[] => {
          const values = b.buffer(`${prefix}_values`, 'register', 'f32', lanes, n);
          const each = (what: string, body: (u: Expr) => readonly Stmt[]): Stmt => b.for_(`${prefix}_${what}`, b.u32(0), b.u32(n), 1, body, true);
          return [
            b.alloc(values),
            each('load', (u) => [b.store(values, u, at(t, b.add(first, b.mul(u, b.u32(SUBGROUP)))))]),
            each('use', (u) => Array.from({ length: lanes }, (_, l) => b.assign(`${name}_part`, f(b.lane(b.load(values, u), l), part)))),
          ];
        };
        stmts.push(
          b.var_(`${name}_part`, b.f32(0)),
          ...inRounds({ name, member: tile.lane, width: SUBGROUP, depth, unroll: NORM_UNDER_WAY }, round),
        );
        const sum = define(stmts, `${name}_sum`, b.subgroup('add', part));
        return define(stmts, name, b.div(sum, b.f32(h.dim)));
      };
      const center = norm.kind === 'layer' ? mean('mean', (value, sum) => b.add(sum, value)) : undefined;
      const centered = (value: Expr): Expr => (center === undefined ? value : b.sub(value, center));
      const spread = mean('spread', (value, sum) => b.fma(centered(value), centered(value), sum));
      const kept = [b.store(factors, own, b.rsqrt(b.add(spread, b.f32(norm.eps))))];
      if (means !== undefined && center !== undefined) kept.push(b.store(means, own, center));
      return [...stmts, b.if_(b.and(b.eq(tile.lane, b.u32(0)), b.lt(own, tile.count)), kept)];
    }),
  );
  return (t, i) => {
    const value = at(t, i);
    const centered = means === undefined ? value : b.sub(value, b.splat(lanes, b.load(means, t)));
    const scaled = b.mul(b.mul(centered, b.splat(lanes, b.load(factors, t))), b.loadF32(weight, i));
    return bias === undefined ? scaled : b.add(scaled, b.loadF32(bias, i));
  };
}

/** Pieces of a product with staged rows: multiplying one piece, and what becomes of the sums at the end. */
interface Staged<Join extends (...args: never[]) => readonly Stmt[]> {
  readonly weight: Buffer;
  multiply(name: string, from: Expr, size: number): readonly Stmt[];
  readonly join: Join;
}

/** The tokens' rows times those of the gate: a thread's sums are [token][expert]. */
function gateProduct(r: RouteKernel, h: HiddenSource, tile: TokenTile, stage: Buffer): Staged<(sink: TokenSink) => readonly Stmt[]> {
  const { s } = tile;
  const { lanes } = stage;
  const depth = h.dim / lanes;
  const teams = r.block / MEMBERS;
  const per = Math.ceil(tile.experts / teams);
  const weight = param(r, 'gate', h.gateElem, lanes);
  const member = define(r.body, 'gate_member', b.mod(b.thread, b.u32(MEMBERS)));
  const team = define(r.body, 'gate_team', b.div(b.thread, b.u32(MEMBERS)));
  const acc = b.buffer('logit_sum', 'register', 'f32', 1, s.tokens * per);
  const rows = Array.from({ length: per }, (_, j) => {
    // Experts beyond the last one repeat it; what they find is not kept.
    const e = b.min(b.add(tile.expert0, team, b.u32(j * teams)), b.u32(r.p.experts - 1));
    return define(r.body, `gate_row${j}`, b.mul(e, b.u32(depth)));
  });
  r.body.push(b.alloc(acc), b.for_('logit_zero', b.u32(0), b.u32(acc.size), 1, (z) => [b.store(acc, z, b.f32(0))], true));

  const round = (name: string, from: Expr, first: Expr, n: number): readonly Stmt[] => {
    const g = b.buffer(`${name}_g`, 'register', 'f32', lanes, n * per);
    const at = (u: Expr): Expr => b.add(first, b.mul(u, b.u32(MEMBERS)));
    const each = (what: string, count: number, body: (u: Expr) => readonly Stmt[]): Stmt => b.for_(`${name}_${what}`, b.u32(0), b.u32(count), 1, body, true);
    const token = (u: Expr, t: Expr): readonly Stmt[] => {
      const xv = b.variable(`${name}_xv`, b.ty('f32', lanes));
      const terms = rows.map((_, j) => {
        const place = b.add(b.mul(t, b.u32(per)), b.u32(j));
        const gv = b.load(g, b.add(b.mul(u, b.u32(per)), b.u32(j)));
        const total = Array.from({ length: lanes }, (_l, l) => l).reduce((sum, l) => b.fma(b.lane(xv, l), b.lane(gv, l), sum), b.load(acc, place));
        return b.store(acc, place, total);
      });
      const all = [b.let_(`${name}_xv`, b.load(stage, b.add(b.mul(t, b.u32(s.chunk)), at(u)))), ...terms];
      return s.guarded === 1 ? [b.if_(b.lt(t, tile.count), all)] : all;
    };
    return [
      b.alloc(g),
      each('load', n, (u) => rows.map((row, j) => b.store(g, b.add(b.mul(u, b.u32(per)), b.u32(j)), b.loadF32(weight, b.add(row, from, at(u)))))),
      each('use', n, (u) => [each('token', s.tokens, (t) => token(u, t))]),
    ];
  };
  return {
    weight,
    multiply: (name, from, size) =>
      inRounds({ name: `${name}_gate`, member, width: MEMBERS, depth: size, unroll: s.unroll }, (part, first, n) => round(part, from, first, n)),
    join(sink) {
      const slab = Math.min(SLAB, acc.size);
      const parts = b.buffer('logit_parts', 'shared', 'f32', 1, slab * r.block);
      r.shared.push(parts);
      const slabs = Array.from({ length: Math.ceil(acc.size / slab) }, (_, k) => k);
      const at = (z: Expr, m: Expr, of: Expr): Expr => b.add(b.mul(z, b.u32(r.block)), b.mul(m, b.u32(teams)), of);
      return slabs.flatMap((k) => {
        const from = k * slab;
        const size = Math.min(slab, acc.size - from);
        const leave = b.for_(`leave${k}`, b.u32(0), b.u32(size), 1, (z) => [b.store(parts, at(z, member, team), b.load(acc, b.add(z, b.u32(from))))], true);
        const gather = b.for_(`gather${k}`, b.thread, b.u32(size * teams), r.block, (o) => {
          const stmts: Stmt[] = [];
          const z = define(stmts, `z${k}`, b.div(o, b.u32(teams)));
          const of = define(stmts, `of${k}`, b.mod(o, b.u32(teams)));
          const place = define(stmts, `place${k}`, b.add(z, b.u32(from)));
          const t = define(stmts, `t${k}`, b.div(place, b.u32(per)));
          const local = define(stmts, `local${k}`, b.add(of, b.mul(b.mod(place, b.u32(per)), b.u32(teams))));
          const e = define(stmts, `e${k}`, b.add(tile.expert0, local));
          const sum = b.variable(`logit${k}`, F32);
          stmts.push(
            b.var_(`logit${k}`, b.load(parts, at(z, b.u32(0), of))),
            b.for_(`m${k}`, b.u32(1), b.u32(MEMBERS), 1, (m) => [b.assign(`logit${k}`, b.add(sum, b.load(parts, at(z, m, of))))]),
          );
          return [...stmts, b.if_(b.lt(e, b.u32(r.p.experts)), sink(t, e, sum))];
        });
        return [leave, gather];
      });
    },
  };
}

/** Result `gate` [T, 1]: a token's row times the shared gate's, a subgroup's work. */
function sharedGate(r: RouteKernel, h: HiddenSource, tile: TokenTile, stage: Buffer, gate: Buffer | undefined): Staged<() => readonly Stmt[]> | undefined {
  const inGate = h.sharedGateRow === true;
  if (h.sharedGateElem === undefined && !inGate) return undefined;
  const { lanes } = stage;
  const weight = inGate ? (gate ?? param(r, 'gate', h.gateElem, lanes)) : param(r, 'sharedGate', h.sharedGateElem ?? 'f32', lanes);
  const row0 = inGate ? (r.p.experts * h.dim) / lanes : 0;
  const result = b.buffer('gate_logit', 'global', 'f32');
  r.params.push(['gateOut', result]);
  const subgroups = r.block / SUBGROUP;
  const sums = b.buffer('shared_sum', 'register', 'f32', 1, Math.ceil(tile.s.tokens / subgroups));
  const each = (name: string, body: (k: Expr) => readonly Stmt[]): Stmt => b.for_(name, b.u32(0), b.u32(sums.size), 1, body, true);
  const tokenOf = (k: Expr): Expr => b.add(tile.subgroup, b.mul(k, b.u32(subgroups)));
  r.body.push(b.alloc(sums), each('shared_zero', (k) => [b.store(sums, k, b.f32(0))]));
  return {
    weight,
    multiply: (name, from, size) => [
      each(`${name}_shared`, (k) => {
        const product = b.for_(`${name}_shared_i`, tile.lane, b.u32(size), SUBGROUP, (i) => {
          const stmts: Stmt[] = [];
          const xv = define(stmts, `${name}_shared_x`, b.load(stage, b.add(b.mul(tokenOf(k), b.u32(tile.s.chunk)), i)));
          const wv = define(stmts, `${name}_shared_w`, b.loadF32(weight, b.add(b.u32(row0), from, i)));
          const total = Array.from({ length: lanes }, (_, l) => l).reduce((sum, l) => b.fma(b.lane(xv, l), b.lane(wv, l), sum), b.load(sums, k));
          return [...stmts, b.store(sums, k, total)];
        });
        return ifOthers(tile, [b.if_(b.lt(tokenOf(k), tile.count), [product])]);
      }),
    ],
    join: () => [
      each('shared_join', (k) => [
        b.let_('shared_logit', b.subgroup('add', b.load(sums, k))),
        ...ifOthers(tile, [
          b.if_(b.and(b.eq(tile.lane, b.u32(0)), b.lt(tokenOf(k), tile.count)), [
            b.store(result, b.add(tile.token0, tokenOf(k)), b.variable('shared_logit', F32)),
          ]),
        ]),
      ]),
    ],
  };
}
