/**
 * Main loop without shared memory: tile[c](r, n) += Σ_k a(r, k) · b[c](n, k).
 *
 * Each step reads S elements of depth of the thread's tm rows of a and tn rows of every b once, and
 * multiplies them lane by lane with fma in ascending k: the order of every `fma` expansion.
 */
import * as b from '../../ir/kernel/build.ts';
import type { Stmt, StmtOf } from '../../ir/kernel/types.ts';
import type { Fresh } from './fresh.ts';
import { alongDepth, element, operandRows, stepDepth } from './operand-rows.ts';
import type { OperandRow, Run } from './operand-rows.ts';
import type { TileLayout } from './tile-layout.ts';
import { Hoisted } from './view-access.ts';

/** acc[c][i][j] = fma(a[i](k), b[c][j](k), acc[c][i][j]) for k = 0 … depth − 1. */
export function multiply(layout: TileLayout, depth: number, a: readonly Run[], bs: readonly (readonly Run[])[]): readonly Stmt[] {
  const stmts: Stmt[] = [];
  for (let k = 0; k < depth; k++) {
    bs.forEach((bc, c) =>
      a.forEach((ra, i) =>
        bc.forEach((rb, j) => {
          const acc = layout.acc(c, i, j);
          stmts.push(b.assign(acc.name, b.fma(element(ra, k), element(rb, k), acc)));
        })));
  }
  return stmts;
}

export function expandRegister(
  s: StmtOf<'tile.mainloop'>, layout: TileLayout, fresh: Fresh, written: ReadonlySet<string>,
): readonly Stmt[] {
  const hoisted = new Hoisted(fresh);
  const [a, ...bs] = [{ view: s.a, rows: layout.rows }, ...s.b.map((view) => ({ view, rows: layout.cols }))].map(({ view, rows }) => {
    const operand = operandRows(view, fresh, written);
    return { rows: operand, ready: rows.map((row, i) => operand.row(row, hoisted, i)) };
  });
  if (a === undefined) throw new Error(`tile ${s.tile.name}: a main loop without operands`);
  const operands = [a, ...bs];
  const loop = alongDepth({ depth: s.depth, step: stepDepth(operands.map((o) => o.rows)) }, fresh, operands, (k0, depth) => {
    const stmts: Stmt[] = [];
    const read = (rows: readonly OperandRow[]): readonly Run[] =>
      rows.map((row) => {
        const run = row.read(k0, depth);
        stmts.push(...run.stmts);
        return run;
      });
    const ra = read(a.ready);
    const rbs = bs.map((o) => read(o.ready));
    return [...stmts, ...multiply(layout, depth, ra, rbs)];
  });
  return [...hoisted.stmts, ...loop];
}
