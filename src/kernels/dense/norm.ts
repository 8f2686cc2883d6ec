/**
 * RMS norm (Zhang & Sennrich 2019, eq. 4) and layer norm (Ba et al. 2016, eq. 4) over equal runs of the
 * last dim. One block a run; sums over its threads' partial sums in a fixed order.
 */
import { mulSize } from '../../base/size.ts';
import * as b from '../../ir/kernel/build.ts';
import type { Expr, Stmt } from '../../ir/kernel/types.ts';
import type { Capabilities } from '../../target/types.ts';
import type { Launch } from '../launch.ts';
import { define, globalBuffer, inLine, lanesFor, launch, line, powerOfTwo, rowsExpr, rowsSize, wantWhole } from './common.ts';
import type { Rows, StorageElem } from './common.ts';
import { type NormTeams, normByTeams, normTeams } from './norm-teams.ts';

export interface NormProblem extends Rows {
  readonly kind: 'rms' | 'layer';
  /** Columns of a row; `groups` divides it. */
  readonly dim: number;
  readonly groups: number;
  readonly eps: number;
  readonly weightElem: StorageElem;
  /** Storage of the bias; absent: there is none. */
  readonly biasElem?: StorageElem;
  /** Storage of y; f32 where not said. */
  readonly yElem?: StorageElem;
}

export interface NormSchedule {
  readonly block: number;
}

const isTeams = (s: NormSchedule | NormTeams): s is NormTeams => 'team' in s;

/** About four accesses a thread. */
export function normSchedule(p: NormProblem, caps: Capabilities): NormSchedule {
  const run = p.dim / p.groups;
  const accesses = run / lanesFor(run);
  return { block: Math.min(caps.maxThreadsPerBlock, 256, powerOfTwo(Math.min(accesses, Math.max(32, accesses / 4)))) };
}

/** x f32 and y [rows, dim]; weight (and bias) [dim / groups]. y = (x − mean) / √(var + eps) · weight + bias; RMS: no mean. */
export function norm(p: NormProblem, schedule: NormSchedule | NormTeams | undefined, caps: Capabilities): Launch {
  wantWhole('norm', { dim: p.dim, groups: p.groups, rowsPerToken: p.rowsPerToken });
  const run = p.dim / p.groups;
  wantWhole('norm', { 'dim / groups': run });
  const chosen = schedule ?? normTeams(p, caps) ?? normSchedule(p, caps);
  if (isTeams(chosen)) return normByTeams(p, chosen, caps);
  const lanes = lanesFor(run);
  const perRun = run / lanes;
  const { block } = chosen;
  const x = globalBuffer('x', 'f32', lanes);
  const weight = globalBuffer('weight', p.weightElem, lanes);
  const bias = p.biasElem === undefined ? undefined : globalBuffer('bias', p.biasElem, lanes);
  const y = globalBuffer('y', p.yElem ?? 'f32', lanes);

  const l = line(mulSize(rowsSize(p), p.groups), caps);
  const total = b.mul(rowsExpr(p), b.u32(p.groups));
  const head: Stmt[] = [];
  const index = define(head, 'run', l.index);
  const body: Stmt[] = [];
  const base = define(body, 'base', b.mul(index, b.u32(perRun)));
  const all = (name: string, each: (i: Expr) => readonly Stmt[]): Stmt => b.for_(name, b.thread, b.u32(perRun), block, each);

  /** Binds `name` to Σ f(value) / run over the run. */
  const mean = (name: string, f: (value: Expr, sum: Expr) => Expr): Expr => {
    const part = b.variable(`${name}_part`, b.ty('f32'));
    body.push(
      b.var_(`${name}_part`, b.f32(0)),
      all(`${name}_i`, (i) => {
        const stmts: Stmt[] = [];
        const value = define(stmts, `${name}_x`, b.load(x, b.add(base, i)));
        for (let j = 0; j < lanes; j++) stmts.push(b.assign(`${name}_part`, f(b.lane(value, j), part)));
        return stmts;
      }),
      b.reduce(`${name}_sum`, 'add', part),
    );
    return define(body, name, b.div(b.variable(`${name}_sum`, b.ty('f32')), b.f32(run)));
  };

  const center = p.kind === 'layer' ? mean('mean', (value, sum) => b.add(sum, value)) : undefined;
  const centered = (value: Expr): Expr => (center === undefined ? value : b.sub(value, b.splat(value.ty.lanes, center)));
  const spread = mean('spread', (value, sum) => b.fma(centered(value), centered(value), sum));
  const factor = define(body, 'factor', b.rsqrt(b.add(spread, b.f32(p.eps))));
  body.push(all('i', (i) => {
    const scaled = b.mul(b.mul(centered(b.load(x, b.add(base, i))), b.splat(lanes, factor)), b.loadF32(weight, i));
    return [b.store(y, b.add(base, i), b.cast(y.elem, bias === undefined ? scaled : b.add(scaled, b.loadF32(bias, i))))];
  }));

  return launch({
    name: `norm_${p.kind}_${run}`,
    family: 'norm',
    params: [['x', x], ['weight', weight], ...(bias === undefined ? [] : [['bias', bias] as const]), ['y', y]],
    scalars: ['T'],
    block,
    body: [...head, ...inLine(l, index, total, body)],
    schedule: { block },
    grid: l.grid,
  });
}
