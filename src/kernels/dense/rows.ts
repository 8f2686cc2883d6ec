/**
 * The dense product of the few rows of a decode call, by teams that are subgroups of the device (`team.ts`): a team owns columns
 * and multiplies all rows with each access of the weight, which is read once. A call of one row runs code for one row, one of up
 * to four rows code for four, others code for the most there may be; a row's bits are the same in all of them.
 */
import { mulSize } from '../../base/size.ts';
import * as b from '../../ir/kernel/build.ts';
import type { Expr, ScalarName, Stmt } from '../../ir/kernel/types.ts';
import type { Capabilities } from '../../target/types.ts';
import type { Launch } from '../launch.ts';
import { bySubgroups, legalMatvec, matvecColumns } from '../schedule.ts';
import type { MatvecSchedule } from '../schedule.ts';
import { accessesUnderWay, joinSums, residentBlocks, sumAt, teamSize, teamSums } from '../team.ts';
import { piecesOf, weightMatrix } from '../weight-matrix.ts';
import { define, globalBuffer, inLine, lanesFor, launch, line, rowsExpr, segmentOf, segmentScalars } from './common.ts';
import type { MatmulParts, MatmulProblem } from './matmul.ts';

/** Rows up to which a call is served by teams. */
const MOST_ROWS = 8;
/** Rows of the next larger piece of code. */
const SIZES = 4;
/** Columns from which on a team takes two: each access of x then serves two of the weight. */
const MANY_COLUMNS = 4096;

/** Nothing where the call may have more rows, or the device has no subgroups of a known size. */
export function rowsSchedule(p: MatmulProblem, caps: Capabilities): MatvecSchedule | undefined {
  const team = teamSize(caps);
  if (team === undefined || p.maxRows === undefined || p.maxRows > MOST_ROWS) return undefined;
  const pieces = piecesOf(p.weightElem, p.k, team);
  const cols = p.products === 1 && p.heads * p.n >= MANY_COLUMNS ? 2 : 1;
  const block = Math.min(4 * team, caps.maxThreadsPerBlock);
  return { block, team, cols, unroll: accessesUnderWay(pieces.count, team, pieces.bytes, cols * p.products) };
}

/** Shapes and segments as in `matmul`. */
export function rowsByTeams(parts: MatmulParts, s: MatvecSchedule, caps: Capabilities): Launch {
  const { family, shape: p } = parts;
  const verdict = legalMatvec(s, p.products, caps);
  if (!verdict.ok) throw new Error(`${family}: ${verdict.why}`);
  if (!bySubgroups(s, caps)) throw new Error(`${family}: a team of ${s.team} is no subgroup of the device`);
  if (p.maxRows === undefined || p.maxRows > MOST_ROWS) throw new Error(`${family}: teams serve at most ${MOST_ROWS} rows`);
  const lanes = lanesFor(p.k);
  const depth = p.k / lanes;
  const byHead = p.heads > 1;
  const heads = segmentOf(byHead ? p : {}, p.heads);
  const columns = segmentOf(byHead ? {} : p, p.n);
  const x = globalBuffer('x', p.xElem ?? 'f32', lanes);
  const weight = weightMatrix('weight', p.weightElem, p.k, true);
  const y = globalBuffer('y', p.yElem ?? 'f32');

  const perBlock = matvecColumns(s);
  const teams = s.block / s.team;
  const perHead = Math.ceil(columns.most / perBlock);
  const l = line(mulSize(heads.most, perHead), caps);
  const head: Stmt[] = [];
  const index = define(head, 'block_index', l.index);
  const body: Stmt[] = [];
  const rows = define(body, 'rows', rowsExpr(p));
  const localHead = byHead ? define(body, 'local_head', b.div(index, b.u32(perHead))) : b.u32(0);
  const globalHead = byHead ? b.add(heads.first, localHead) : b.u32(0);
  const col0 = define(body, 'col0', b.mul(byHead ? b.mod(index, b.u32(perHead)) : index, b.u32(perBlock)));
  const team = define(body, 'team', b.div(b.thread, b.u32(s.team)));
  const member = define(body, 'member', b.mod(b.thread, b.u32(s.team)));
  const last = b.sub(columns.count, b.u32(1));
  const cols = Array.from({ length: s.cols }, (_, j) => define(body, `column${j}`, b.add(col0, team, b.u32(j * teams))));
  // Columns beyond the last one repeat it; they are not stored.
  const weightRows = cols.flatMap((col, j) =>
    Array.from({ length: p.products }, (_, i) => {
      const row = b.add(b.mul(localHead, b.u32(p.products * p.n)), b.u32(i * p.n), b.min(col, last));
      return define(body, `weight_row${j}_${i}`, b.mul(row, b.u32(weight.stride)));
    }),
  );
  // Rows of x take registers too.
  const { unroll = 1 } = s;
  const rowOf = (r: Expr): Expr => b.add(b.mul(r, b.u32(p.heads)), globalHead);

  /** Serves calls of more than `fewer` and at most `most` rows; rows beyond those of the call repeat the last one. */
  const compute = (fewer: number, most: number): readonly Stmt[] => {
    const stmts: Stmt[] = [];
    const name = `rows${most}`;
    const exact = most === fewer + 1;
    const there = (r: Expr): Expr => (exact ? r : b.min(r, b.sub(rows, b.u32(1))));
    const acc = teamSums(stmts, {
      name, member, width: s.team, team: s.team, unroll: most === 1 ? unroll : Math.ceil(unroll / 2), weight, weightRows, rows: most,
      x: (r, i) => b.loadF32(x, b.add(b.mul(rowOf(there(r)), b.u32(depth)), i)),
    });
    stmts.push(joinSums(acc, name));
    const store = (r: Expr, j: number, col: Expr): readonly Stmt[] => {
      const stored: Stmt[] = [];
      const sums = Array.from({ length: p.products }, (_, i) => b.load(acc, sumAt({ weightRows }, r, j * p.products + i)));
      const column = define(stored, 'y_col', b.add(columns.first, col));
      const at = define(stored, 'y_at', b.add(b.mul(rowOf(r), b.u32(p.n)), column));
      return [...stored, b.store(y, at, b.cast(y.elem, parts.result(sums, column, at)))];
    };
    const each = (r: Expr): readonly Stmt[] => cols.map((col, j) => b.if_(b.lt(col, columns.count), store(r, j, col)));
    const all = b.for_(`${name}_y`, b.u32(0), b.u32(most), 1, (r) => (exact ? each(r) : [b.if_(b.lt(r, rows), each(r))]), true);
    return [...stmts, b.if_(b.eq(member, b.u32(0)), [all])];
  };
  const { maxRows } = p;
  const choose = (fewer: number, most: number): readonly Stmt[] =>
    most >= maxRows ? compute(fewer, maxRows) : [b.if_(b.le(rows, b.u32(most)), compute(fewer, most), choose(most, SIZES * most))];
  body.push(...choose(0, 1));

  // The last segment may be smaller than the grid is made for.
  const inside = byHead ? b.lt(b.div(index, b.u32(perHead)), heads.count) : b.lt(b.mul(index, b.u32(perBlock)), columns.count);
  const ran = p.segmentRows === undefined ? body : [b.if_(inside, body)];
  const scalars: readonly ScalarName[] = ['T', ...segmentScalars(p)];
  return launch({
    name: parts.name,
    family,
    params: [['x', x], ['weight', weight.buf], ...parts.extra, ['y', y]],
    scalars,
    block: s.block,
    resident: residentBlocks(s.block, weight.buf),
    body: [...head, ...inLine(l, index, b.u32(heads.most * perHead), ran)],
    schedule: { ...s },
    grid: l.grid,
  });
}
