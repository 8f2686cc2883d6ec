/**
 * Expert products of single rows (decoding): row token · slots + slot, its expert from `ids`; then, in the
 * same grid, one row a token of the shared FFN. Dropped rows are skipped: nothing reads their results.
 */
import { addSize } from '../../base/size.ts';
import * as b from '../../ir/kernel/build.ts';
import type { Expr, Stmt } from '../../ir/kernel/types.ts';
import type { Capabilities } from '../../target/types.ts';
import { epilogueCount } from '../epilogue.ts';
import type { Launch } from '../launch.ts';
import { bySubgroups, matvecColumns, rowLanes } from '../schedule.ts';
import type { MatvecSchedule } from '../schedule.ts';
import { residentBlocks } from '../team.ts';
import { define, launch, line, routedRows, routedSize } from './common.ts';
import { Params, bindSides, finishRow, groupedName, groupedScalars, inFirstSegment, localExpert, weightRow } from './grouped-parts.ts';
import type { Side } from './grouped-parts.ts';
import type { GroupedProblem } from './grouped-problem.ts';
import { columnsOf, dots, storing } from './matvec.ts';

export function groupedRows(p: GroupedProblem, s: MatvecSchedule, caps: Capabilities): Launch {
  const count = epilogueCount(p.epilogue);
  const params = new Params();
  const { routed, shared } = bindSides(p, params, { streamed: bySubgroups(s, caps), xLanes: (lanes) => rowLanes(s, lanes) });
  const ids = params.bind('ids', 'u32');
  const routeWeights = params.maybe(p.routeWeights, 'routeWeights');
  const y = params.bind('y', p.yElem ?? 'f32');
  const perBlock = matvecColumns(s);
  const l = line(addSize(routedSize(p.slots), shared === undefined ? 0 : 'T'), caps);
  const body: Stmt[] = [];
  const row = define(body, 'row', l.index);
  const col0 = define(body, 'col0', b.mul(b.builtin('block.z'), b.u32(perBlock)));
  const columns = columnsOf(body, s, col0, { count, weightElem: p.weightElem }, caps);

  const computeRow = (
    name: string,
    side: Side,
    out: typeof y,
    at: { x: Expr; y: Expr; local: Expr; expert: Expr; weight: Expr | undefined },
  ): readonly Stmt[] => {
    const stmts: Stmt[] = [];
    const x0 = define(stmts, `${name}_x0`, b.mul(at.x, b.u32(side.k / side.x.lanes)));
    const sums = dots(stmts, columns, {
      name,
      weight: side.weight,
      count,
      n: side.n,
      x: side.x,
      x0,
      row: (col, i) => weightRow(p, side, at.local, i, col),
    });
    columns.cols.forEach((col, j) => {
      const value = finishRow(p, side, sums[j] ?? [], at.expert, col, at.weight);
      stmts.push(storing(columns, col, side.n, [b.store(out, b.add(b.mul(at.y, b.u32(side.n)), col), b.cast(out.elem, value))]));
    });
    return stmts;
  };
  const widest = Math.max(routed.n, shared?.n ?? 0);
  const inColumns = (side: Side): Expr =>
    Math.ceil(widest / perBlock) === Math.ceil(side.n / perBlock) ? b.bool(true) : b.lt(col0, b.u32(side.n));

  const rows = define(body, 'rows', routedRows(p.slots));
  const routedRow: Stmt[] = [];
  const expert = define(routedRow, 'expert', b.load(ids, row));
  const bound = localExpert(p, expert);
  const local = define(routedRow, 'local', bound.local);
  const run = computeRow('routed', routed, y, {
    x: p.gather ? b.div(row, b.u32(p.slots)) : row,
    y: row,
    local,
    expert,
    weight: routeWeights === undefined ? undefined : b.load(routeWeights, row),
  });
  const columnsThere = inColumns(routed);
  routedRow.push(b.if_(b.lt(local, bound.count), columnsThere.k === 'const' ? run : [b.if_(columnsThere, run)]));
  const sharedRow: Stmt[] = [];
  if (shared !== undefined) {
    const out = params.bind('shared', p.shared?.yElem ?? 'f32');
    const token = define(sharedRow, 'token', b.sub(row, rows));
    sharedRow.push(
      b.if_(
        b.and(b.lt(token, b.scalar('T')), inColumns(shared), inFirstSegment(p)),
        computeRow('shared', shared, out, {
          x: token,
          y: token,
          local: b.u32(0),
          expert: b.u32(0),
          weight: undefined,
        }),
      ),
    );
  }
  body.push(b.if_(b.lt(row, rows), routedRow, sharedRow));
  return launch({
    name: groupedName(p, 'rows'),
    family: 'grouped-linear',
    params: params.list,
    scalars: groupedScalars(p),
    block: s.block,
    ...(columns.subgroups && { resident: residentBlocks(s.block, routed.weight.buf) }),
    body: columns.parts === undefined ? body : [b.alloc(columns.parts), ...body],
    schedule: { ...s },
    grid: [l.grid[0], l.grid[1], Math.ceil(widest / perBlock)],
  });
}
