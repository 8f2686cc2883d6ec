/**
 * The last expert product with the sum over the slots, as `grouped-combine.ts`, by teams that are subgroups of the device. `ways`
 * teams share a column: each takes every ways-th slot and its part of the shared FFN's depth, so that even a single token has
 * enough weights under way. A thread adds up its parts of all slots before the team joins them: slots in order within a way,
 * then ways in order.
 */
import * as b from '../../ir/kernel/build.ts';
import type { Buffer, Expr, Stmt } from '../../ir/kernel/types.ts';
import type { Capabilities } from '../../target/types.ts';
import type { Launch } from '../launch.ts';
import { legalMatvec, matvecColumns } from '../schedule.ts';
import type { MatvecSchedule } from '../schedule.ts';
import { joinSums, residentBlocks, teamSums } from '../team.ts';
import { addSlot, finishSum } from './combine-sum.ts';
import { F32, define, inLine, launch, line } from './common.ts';
import { Params, bindCombine, groupedName, groupedScalars, inLastSegment, localExpert, weightRow } from './grouped-parts.ts';
import type { Side } from './grouped-parts.ts';
import type { GroupedProblem } from './grouped-problem.ts';
import { rowOfSlotAt } from './plan-layout.ts';
import { sigmoid } from '../epilogue.ts';

export function groupedCombineTeams(p: GroupedProblem, s: MatvecSchedule, caps: Capabilities): Launch {
  const verdict = legalMatvec(s, 1, caps);
  if (!verdict.ok) throw new Error(`grouped_linear: ${verdict.why}`);
  const { team: width, ways = 1, unroll = 1 } = s;
  const params = new Params();
  const { routed, shared, ids, plan, weights, sharedGate, residual, y } = bindCombine(p, params, { streamed: true });
  const perBlock = matvecColumns(s);
  const perWay = perBlock / s.cols;
  const parts = ways === 1 ? undefined : b.buffer('parts', 'shared', 'f32', 1, ways * perBlock);
  const l = line('T', caps);
  const head: Stmt[] = parts === undefined ? [] : [b.alloc(parts)];
  const token = define(head, 'token', l.index);
  const body: Stmt[] = [];
  const col0 = define(body, 'col0', b.mul(b.builtin('block.z'), b.u32(perBlock)));
  const team = define(body, 'team', b.div(b.thread, b.u32(width)));
  const member = define(body, 'member', b.mod(b.thread, b.u32(width)));
  const way = ways === 1 ? b.u32(0) : define(body, 'way', b.div(team, b.u32(perWay)));
  const place = ways === 1 ? team : define(body, 'place', b.mod(team, b.u32(perWay)));
  /** Columns of the team among those of the block. A column beyond the last one repeats it; it is not stored. */
  const own = Array.from({ length: s.cols }, (_, j) => b.add(place, b.u32(j * perWay)));
  const columns = own.map((at, j) => define(body, `column${j}`, b.min(b.add(col0, at), b.u32(p.n - 1))));
  const total = b.buffer('total', 'register', 'f32', 1, s.cols);
  body.push(b.alloc(total), ...columns.map((_, j) => b.store(total, b.u32(j), b.f32(0))));

  /** Adds factor · (row · weight + bias) to the thread's totals; threads `from` (of `threads`) on share the depth. */
  const add = (stmts: Stmt[], name: string, side: Side, at: { row: Expr; local: Expr; expert: Expr; from: Expr; threads: number; factor: Expr | undefined }): void => {
    const x0 = define(stmts, `${name}_x0`, b.mul(at.row, b.u32(side.depth)));
    const weightRows = columns.map((col, j) => define(stmts, `${name}_row${j}`, weightRow(p, side, at.local, 0, col)));
    const acc = teamSums(stmts, {
      name, member: at.from, width: at.threads, team: width, unroll, weight: side.weight, weightRows, rows: 1,
      x: (_row, i) => b.loadF32(side.x, b.add(x0, i)),
    });
    const { bias } = side;
    if (bias !== undefined) {
      // One thread brings the bias in.
      const withBias = columns.map((col, j) => b.store(acc, b.u32(j), b.add(b.load(acc, b.u32(j)), b.loadF32(bias, b.add(b.mul(at.expert, b.u32(side.n)), col)))));
      stmts.push(b.if_(b.eq(at.from, b.u32(0)), withBias));
    }
    columns.forEach((_, j) => stmts.push(b.store(total, b.u32(j), addSlot(b.load(total, b.u32(j)), b.load(acc, b.u32(j)), at.factor))));
  };

  body.push(
    b.for_('s', way, b.u32(p.slots), ways, (slotIndex) => {
      const stmts: Stmt[] = [];
      const slot = define(stmts, 'slot', b.add(b.mul(token, b.u32(p.slots)), slotIndex));
      const expert = define(stmts, 'expert', b.load(ids, slot));
      const bound = localExpert(p, expert);
      const local = define(stmts, 'local', bound.local);
      const run: Stmt[] = [];
      const row = p.gather ? token : plan === undefined ? slot : b.load(plan, rowOfSlotAt(p, slot));
      const factor = weights === undefined ? undefined : define(run, 'slot_weight', b.load(weights, slot));
      add(run, 'routed', routed, { row, local, expert, from: member, threads: width, factor });
      return [...stmts, b.if_(b.lt(local, bound.count), run)];
    }),
  );
  if (shared !== undefined) {
    const stmts: Stmt[] = [];
    const factor = sharedGate === undefined ? undefined : define(stmts, 'shared_factor', sigmoid(b.load(sharedGate, token)));
    const from = define(stmts, 'shared_member', b.add(b.mul(way, b.u32(width)), member));
    add(stmts, 'shared', shared, { row: token, local: b.u32(0), expert: b.u32(0), from, threads: width * ways, factor });
    body.push(...(p.segmentRows === undefined ? stmts : [b.if_(inLastSegment(p), stmts)]));
  }
  body.push(joinSums(total, 'total'));

  /** Stores the sum of a column, with what earlier segments left. */
  const finish = (name: string, col: Expr, sum: Expr): readonly Stmt[] => {
    const stmts: Stmt[] = [];
    const at = define(stmts, `${name}_at`, b.add(b.mul(token, b.u32(p.n)), col));
    const whole = (value: Expr): Stmt =>
      b.store(y, at, finishSum(value, { shared: undefined, sharedGate: undefined, scale: p.scale, residual: residual && b.load(residual, at) }));
    if (p.segmentRows === undefined) return [...stmts, whole(sum)];
    const begun = b.variable(`${name}_begun`, F32);
    return [
      ...stmts,
      b.var_(`${name}_begun`, sum),
      b.if_(b.gt(b.scalar('segment.first'), b.u32(0)), [b.assign(`${name}_begun`, b.add(b.load(y, at), sum))]),
      b.if_(inLastSegment(p), [whole(begun)], [b.store(y, at, begun)]),
    ];
  };
  if (parts === undefined) {
    own.forEach((at, j) => {
      const col = b.add(col0, at);
      body.push(b.if_(b.and(b.eq(member, b.u32(0)), b.lt(col, b.u32(p.n))), finish(`y${j}`, col, b.load(total, b.u32(j)))));
    });
  } else body.push(...overWays(parts, own.map((at, j) => b.store(parts, b.add(b.mul(way, b.u32(perBlock)), at), b.load(total, b.u32(j))))));

  /** The teams leave their sums; one thread a column adds them up, way after way. */
  function overWays(sums: Buffer, leave: readonly Stmt[]): readonly Stmt[] {
    const stmts: Stmt[] = [];
    const col = define(stmts, 'y_col', b.add(col0, b.thread));
    const sum = b.variable('y_sum', F32);
    stmts.push(
      b.var_('y_sum', b.f32(0)),
      b.for_('w', b.u32(0), b.u32(ways), 1, (w) => [b.assign('y_sum', b.add(sum, b.load(sums, b.add(b.mul(w, b.u32(perBlock)), b.thread))))]),
      ...finish('y', col, sum),
    );
    return [b.if_(b.eq(member, b.u32(0)), leave), b.if_(b.and(b.lt(b.thread, b.u32(perBlock)), b.lt(b.add(col0, b.thread), b.u32(p.n))), stmts)];
  }

  return launch({
    name: groupedName(p, 'combine'),
    family: 'grouped-linear',
    params: params.list,
    scalars: groupedScalars(p),
    block: s.block,
    resident: residentBlocks(s.block, routed.weight.buf),
    body: [...head, ...inLine(l, token, b.scalar('T'), body)],
    schedule: { ...s },
    grid: [l.grid[0], l.grid[1], Math.ceil(p.n / perBlock)],
  });
}
