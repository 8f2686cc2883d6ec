/**
 * The last expert product with the sum over the slots: y[t] = (Σ over the slots in order of w · (weight · x[row] + bias)
 * [+ shared FFN · σ(sharedGate)]) · scale [+ residual], in one kernel, a block of columns of one token a block.
 *
 * Where the bank is split, each step adds the slots of its segment's experts to y; the last one finishes it.
 */
import * as b from '../../ir/kernel/build.ts';
import type { Expr, Stmt } from '../../ir/kernel/types.ts';
import type { Capabilities } from '../../target/types.ts';
import type { Launch } from '../launch.ts';
import { matvecColumns, rowLanes } from '../schedule.ts';
import type { MatvecSchedule } from '../schedule.ts';
import { addSlot, finishSum } from './combine-sum.ts';
import { F32, define, inLine, launch, line } from './common.ts';
import { Params, bindCombine, finishRow, groupedName, groupedScalars, inLastSegment, localExpert, weightRow } from './grouped-parts.ts';
import type { Side } from './grouped-parts.ts';
import type { GroupedProblem } from './grouped-problem.ts';
import { columnsOf, dots, storing } from './matvec.ts';
import { rowOfSlotAt } from './plan-layout.ts';

export function groupedCombine(p: GroupedProblem, s: MatvecSchedule, caps: Capabilities): Launch {
  const params = new Params();
  const { routed, shared, ids, plan, weights, sharedGate, residual, y } = bindCombine(p, params, { xLanes: (lanes) => rowLanes(s, lanes) });
  const perBlock = matvecColumns(s);
  const l = line('T', caps);
  const head: Stmt[] = [];
  const token = define(head, 'token', l.index);
  const body: Stmt[] = [];
  const col0 = define(body, 'col0', b.mul(b.builtin('block.z'), b.u32(perBlock)));
  const columns = columnsOf(body, s, col0, { count: 1, weightElem: p.weightElem }, caps);
  const sums = columns.cols.map((_, j) => b.variable(`total${j}`, F32));
  const at = (col: Expr): Expr => b.add(b.mul(token, b.u32(p.n)), col);

  /** One row times the columns, bias added: a value per column. */
  const product = (stmts: Stmt[], name: string, side: Side, row: Expr, local: Expr, expert: Expr): readonly Expr[] => {
    const x0 = define(stmts, `${name}_x0`, b.mul(row, b.u32(side.k / side.x.lanes)));
    const found = dots(stmts, columns, {
      name,
      weight: side.weight,
      count: 1,
      n: side.n,
      x: side.x,
      x0,
      row: (col, i) => weightRow(p, side, local, i, col),
    });
    return columns.cols.map((col, j) => finishRow(p, side, found[j] ?? [], expert, b.min(col, b.u32(p.n - 1)), undefined));
  };

  columns.cols.forEach((col, j) => {
    body.push(b.var_(`total${j}`, b.f32(0)));
    if (p.segmentRows === undefined) return;
    const begun = storing(columns, col, p.n, [b.assign(`total${j}`, b.load(y, at(col)))]);
    body.push(b.if_(b.gt(b.scalar('segment.first'), b.u32(0)), [begun]));
  });
  body.push(
    b.for_('s', b.u32(0), b.u32(p.slots), 1, (slotIndex) => {
      const stmts: Stmt[] = [];
      const slot = define(stmts, 'slot', b.add(b.mul(token, b.u32(p.slots)), slotIndex));
      const expert = define(stmts, 'expert', b.load(ids, slot));
      const bound = localExpert(p, expert);
      const local = define(stmts, 'local', bound.local);
      const run: Stmt[] = [];
      const row = p.gather ? token : plan === undefined ? slot : b.load(plan, rowOfSlotAt(p, slot));
      const values = product(run, 'routed', routed, row, local, expert);
      const weight = weights === undefined ? undefined : define(run, 'slot_weight', b.load(weights, slot));
      values.forEach((value, j) => run.push(b.assign(`total${j}`, addSlot(b.variable(`total${j}`, F32), value, weight))));
      return [...stmts, b.if_(b.lt(local, bound.count), run)];
    }),
  );

  const tail: Stmt[] = [];
  const sharedValues = shared === undefined ? undefined : product(tail, 'shared', shared, token, b.u32(0), b.u32(0));
  columns.cols.forEach((col, j) => {
    const finished = finishSum(sums[j] ?? b.f32(0), {
      shared: sharedValues?.[j],
      sharedGate: sharedGate === undefined ? undefined : b.load(sharedGate, token),
      scale: p.scale,
      residual: residual === undefined ? undefined : b.load(residual, at(col)),
    });
    tail.push(storing(columns, col, p.n, [b.store(y, at(col), finished)]));
  });
  if (p.segmentRows === undefined) body.push(...tail);
  else {
    const partial = columns.cols.map((col, j) => storing(columns, col, p.n, [b.store(y, at(col), sums[j] ?? b.f32(0))]));
    body.push(b.if_(inLastSegment(p), tail, partial));
  }
  const run = inLine(l, token, b.scalar('T'), body);
  return launch({
    name: groupedName(p, 'combine'),
    family: 'grouped-linear',
    params: params.list,
    scalars: groupedScalars(p),
    block: s.block,
    body: [...(columns.parts === undefined ? [] : [b.alloc(columns.parts)]), ...head, ...run],
    schedule: { ...s },
    grid: [l.grid[0], l.grid[1], Math.ceil(p.n / perBlock)],
  });
}
