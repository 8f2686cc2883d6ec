/**
 * Main loop without shared memory: tile[c](r, n) += Σ_k a(r, k) · b[c](n, k).
 *
 * Each step reads S elements of depth of the thread's tm rows of a and tn rows of every b once, and
 * multiplies them lane by lane with fma in ascending k: the order of every `fma` expansion.
 */
import * as b from '../../ir/kernel/build.ts';
import type { Expr, Stmt, StmtOf } from '../../ir/kernel/types.ts';
import type { Fresh } from './fresh.ts';
import type { TileLayout } from './tile-layout.ts';
import { Hoisted, readRow, rowAccess } from './view-access.ts';
import type { RowAccess } from './view-access.ts';

/** Elements of depth one step covers: the widest access of the operands. */
export const stepDepth = (s: StmtOf<'tile.mainloop'>): number => Math.max(s.a.buf.lanes, ...s.b.map((v) => v.buf.lanes));

/** Values of one operand row over one step: element k of the step is lane k % lanes of access k / lanes. */
type Row = readonly Expr[];

const element = (row: Row, lanes: number, k: number): Expr => {
  const access = row[Math.floor(k / lanes)];
  if (access === undefined) throw new Error('the step is longer than what was read for it');
  return b.lane(access, k % lanes);
};

/** acc[c][i][j] = fma(a[i](k), b[c][j](k), acc[c][i][j]) for k = 0 … depth − 1. */
export function multiply(
  layout: TileLayout, depth: number,
  a: { readonly lanes: number; readonly rows: readonly Row[] },
  bs: readonly { readonly lanes: number; readonly rows: readonly Row[] }[],
): readonly Stmt[] {
  const stmts: Stmt[] = [];
  for (let k = 0; k < depth; k++) {
    bs.forEach((bc, c) =>
      a.rows.forEach((ra, i) =>
        bc.rows.forEach((rb, j) => {
          const acc = layout.acc(c, i, j);
          stmts.push(b.assign(acc.name, b.fma(element(ra, a.lanes, k), element(rb, bc.lanes, k), acc)));
        })));
  }
  return stmts;
}

export function expandRegister(
  s: StmtOf<'tile.mainloop'>, layout: TileLayout, fresh: Fresh, written: ReadonlySet<string>,
): readonly Stmt[] {
  const step = stepDepth(s);
  const hoisted = new Hoisted(fresh);
  const prepare = (rows: readonly Expr[], view: typeof s.a): readonly RowAccess[] =>
    rows.map((row) => rowAccess(view, row, hoisted, view.buf.name));
  const aRows = prepare(layout.rows, s.a);
  const bRows = s.b.map((view) => prepare(layout.cols, view));

  const body = (k0: Expr, depth: number): readonly Stmt[] => {
    const stmts: Stmt[] = [];
    const read = (rows: readonly RowAccess[]): { lanes: number; rows: Row[] } => {
      const lanes = rows[0]?.view.buf.lanes ?? 1;
      return {
        lanes,
        rows: rows.map((row, i) =>
          Array.from({ length: Math.ceil(depth / lanes) }, (_, j) => {
            const name = fresh(`${row.view.buf.name}${i}`);
            stmts.push(...readRow(row, b.add(k0, b.u32(j * lanes)), name, written));
            return b.variable(name, b.ty('f32', row.view.buf.lanes));
          })),
      };
    };
    const a = read(aRows);
    const bs = bRows.map(read);
    return [...stmts, ...multiply(layout, depth, a, bs)];
  };

  const full = Math.floor(s.depth / step);
  const tail = s.depth % step;
  const loop = full === 0 ? [] : [b.for_(fresh('k'), b.u32(0), b.u32(full), 1, (k) => body(b.mul(k, b.u32(step)), step))];
  const rest = tail === 0 ? [] : body(b.u32(full * step), tail);
  return [...hoisted.stmts, ...loop, ...rest];
}
