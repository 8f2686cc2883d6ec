/**
 * The norms of `norm.ts` where subgroups have a known size: every thread keeps its accesses of the run in registers, so that memory
 * is read once, with all of a thread's loads under way together. A short run is the work of a subgroup, several of them in a block;
 * a long one that of the whole block.
 */
import { ceilDivSize, mulSize } from '../../base/size.ts';
import * as b from '../../ir/kernel/build.ts';
import type { Expr, Stmt } from '../../ir/kernel/types.ts';
import { subgroupThreads } from '../../target/types.ts';
import type { Capabilities } from '../../target/types.ts';
import type { Launch } from '../launch.ts';
import { teamSize } from '../team.ts';
import { define, globalBuffer, inLine, lanesFor, launch, line, powerOfTwo, rowsExpr, rowsSize } from './common.ts';
import type { NormProblem } from './norm.ts';

export interface NormTeams {
  readonly block: number;
  /** Threads of a run: the subgroup, or the block. */
  readonly team: number;
}

/** Accesses a thread can keep. */
const MOST_KEPT = 16;
/** Accesses of a thread in a run that a subgroup normalises. */
const SHORT = 4;

const accessesOf = (p: NormProblem): number => p.dim / p.groups / lanesFor(p.dim / p.groups);

/** Nothing where subgroups have no known size, or a run is too long. */
export function normTeams(p: NormProblem, caps: Capabilities): NormTeams | undefined {
  const size = teamSize(caps);
  if (size === undefined) return undefined;
  const accesses = accessesOf(p);
  if (accesses <= SHORT * size) return { block: 4 * size, team: size };
  const block = Math.min(caps.maxThreadsPerBlock, 512, powerOfTwo(accesses / SHORT));
  return accesses > MOST_KEPT * block ? undefined : { block, team: block };
}

/** Shapes as in `norm`. */
export function normByTeams(p: NormProblem, { block, team }: NormTeams, caps: Capabilities): Launch {
  const size = subgroupThreads(caps);
  if (size === undefined || (team !== size && team !== block) || block % size !== 0)
    throw new Error(`norm: teams of ${team} threads in blocks of ${block} are neither subgroups nor blocks`);
  const run = p.dim / p.groups;
  const lanes = lanesFor(run);
  const perRun = run / lanes;
  const kept = Math.ceil(perRun / team);
  if (kept > MOST_KEPT) throw new Error(`norm: ${kept} accesses a thread, at most ${MOST_KEPT} stay in registers`);
  const x = globalBuffer('x', 'f32', lanes);
  const weight = globalBuffer('weight', p.weightElem, lanes);
  const bias = p.biasElem === undefined ? undefined : globalBuffer('bias', p.biasElem, lanes);
  const y = globalBuffer('y', p.yElem ?? 'f32', lanes);
  const teams = block / team;
  const runs = b.mul(rowsExpr(p), b.u32(p.groups));
  const l = line(ceilDivSize(mulSize(rowsSize(p), p.groups), teams), caps);

  const head: Stmt[] = [];
  const index = define(head, 'block_index', l.index);
  const body: Stmt[] = [];
  const place = teams === 1 ? index : define(body, 'place', b.add(b.mul(index, b.u32(teams)), b.div(b.thread, b.u32(team))));
  // A team without a run repeats the last one, and writes nothing.
  const own = teams === 1 ? place : define(body, 'run', b.min(place, b.sub(runs, b.u32(1))));
  const member = teams === 1 ? b.thread : define(body, 'member', b.mod(b.thread, b.u32(team)));
  const base = define(body, 'base', b.mul(own, b.u32(perRun)));
  const values = b.buffer('values', 'register', 'f32', lanes, kept);
  const whole = perRun % team === 0;
  /** Every own access: the last one of some threads may be beyond the run. */
  const each = (name: string, of: (u: Expr, i: Expr) => readonly Stmt[]): Stmt =>
    b.for_(name, b.u32(0), b.u32(kept), 1, (u) => {
      const i = b.add(member, b.mul(u, b.u32(team)));
      return whole ? of(u, i) : [b.if_(b.lt(i, b.u32(perRun)), of(u, i))];
    }, true);
  const total = (name: string, part: Expr): readonly Stmt[] =>
    team === size ? [b.let_(name, b.subgroup('add', part))] : [b.reduce(name, 'add', part)];
  body.push(b.alloc(values), each('load', (u, i) => [b.store(values, u, b.load(x, b.add(base, i)))]));

  /** Binds `name` to Σ f(value) / run over the run. */
  const mean = (name: string, f: (value: Expr, sum: Expr) => Expr): Expr => {
    const part = b.variable(`${name}_part`, b.ty('f32'));
    const add = (u: Expr): readonly Stmt[] =>
      Array.from({ length: lanes }, (_, j) => b.assign(`${name}_part`, f(b.lane(b.load(values, u), j), part)));
    body.push(b.var_(`${name}_part`, b.f32(0)), each(`${name}_u`, add), ...total(`${name}_sum`, part));
    return define(body, name, b.div(b.variable(`${name}_sum`, b.ty('f32')), b.f32(run)));
  };
  const center = p.kind === 'layer' ? mean('mean', (value, sum) => b.add(sum, value)) : undefined;
  const centered = (value: Expr): Expr => (center === undefined ? value : b.sub(value, b.splat(value.ty.lanes, center)));
  const spread = mean('spread', (value, sum) => b.fma(centered(value), centered(value), sum));
  const factor = define(body, 'factor', b.rsqrt(b.add(spread, b.f32(p.eps))));
  const put = each('put', (u, i) => {
    const scaled = b.mul(b.mul(centered(b.load(values, u)), b.splat(lanes, factor)), b.loadF32(weight, i));
    return [b.store(y, b.add(base, i), b.cast(y.elem, bias === undefined ? scaled : b.add(scaled, b.loadF32(bias, i))))];
  });
  body.push(teams === 1 ? put : b.if_(b.lt(place, runs), [put]));

  return launch({
    name: `norm_${p.kind}_${run}`,
    family: 'norm',
    params: [['x', x], ['weight', weight], ...(bias === undefined ? [] : [['bias', bias] as const]), ['y', y]],
    scalars: ['T'],
    block,
    resident: Math.max(1, Math.floor(1024 / block)),
    body: [...head, ...(teams === 1 ? inLine(l, index, runs, body) : body)],
    schedule: { block, team },
    grid: l.grid,
  });
}
