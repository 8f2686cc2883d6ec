/**
 * Main loop that shares rows within subgroups: tile[c](r, n) += Σ_k a(r, k) · b[c](n, k).
 *
 * All threads of a subgroup multiply the same rows of a. Lane l loads access l of a step of each row, and the elements go round
 * by broadcasts; weights are loaded by each thread for its own columns. No shared memory and no barrier. The order is that of
 * every `fma` expansion.
 */
import * as b from '../../ir/kernel/build.ts';
import type { Expr, Stmt, StmtOf } from '../../ir/kernel/types.ts';
import type { Fresh } from './fresh.ts';
import { alongDepth, element, operandRows, stepDepth } from './operand-rows.ts';
import type { Run } from './operand-rows.ts';
import type { TileLayout } from './tile-layout.ts';
import { Hoisted } from './view-access.ts';

/** Whether every thread of the block has a piece, and those of a subgroup have the same rows. */
export const broadcasts = (layout: TileLayout, block: number, subgroupSize: number): boolean =>
  layout.threads === block && (layout.tile.cols / layout.tn) % subgroupSize === 0;

/** Wants `broadcasts` to hold, and uniform control flow. */
export function expandBroadcast(
  s: StmtOf<'tile.mainloop'>, layout: TileLayout, subgroupSize: number, fresh: Fresh, written: ReadonlySet<string>,
): readonly Stmt[] {
  const hoisted = new Hoisted(fresh);
  const aRows = operandRows(s.a, fresh, written);
  const a = { rows: aRows, ready: layout.rows.map((row, i) => aRows.row(row, hoisted, i)) };
  const bs = s.b.map((view) => {
    const rows = operandRows(view, fresh, written);
    return { rows, ready: layout.cols.map((col, j) => rows.row(col, hoisted, j)) };
  });
  /** Elements of a that the lanes load at once, and of b that a thread keeps at once. */
  const round = subgroupSize * aRows.unit;
  const piece = stepDepth(bs.map((o) => o.rows));
  const step = Math.max(round, piece);

  const body = (k0: Expr, count: number): readonly Stmt[] => {
    const stmts: Stmt[] = [];
    const keep = (run: Run & { readonly stmts: readonly Stmt[] }): Run => {
      stmts.push(...run.stmts);
      return run;
    };
    // Round q of a row: lane l has its elements q · round + l · unit and those after it.
    const rounds = a.ready.map((row) =>
      Array.from({ length: Math.ceil(count / round) }, (_, q) => {
        const left = Math.min(round, count - q * round);
        const lanes = Math.ceil(left / aRows.unit);
        const used = lanes < subgroupSize ? b.lt(b.builtin('lane'), b.u32(lanes)) : undefined;
        return keep(row.read(b.add(k0, b.u32(q * round), b.mul(b.builtin('lane'), b.u32(aRows.unit))), aRows.unit, used));
      }));
    const shared = (i: number, k: number): Expr => {
      const run = rounds[i]?.[Math.floor(k / round)];
      if (run === undefined) throw new Error('the step is longer than what was read for it');
      return b.subgroup('broadcast', element(run, k % aRows.unit), Math.floor((k % round) / aRows.unit));
    };
    for (let first = 0; first < count; first += piece) {
      const length = Math.min(piece, count - first);
      const columns = bs.map((o) => o.ready.map((col) => keep(col.read(b.add(k0, b.u32(first)), length))));
      for (let k = 0; k < length; k++) {
        a.ready.forEach((_, i) => {
          const name = fresh(`${s.a.buf.name}${i}_k`);
          stmts.push(b.let_(name, shared(i, first + k)));
          columns.forEach((bc, c) =>
            bc.forEach((run, j) => {
              const acc = layout.acc(c, i, j);
              stmts.push(b.assign(acc.name, b.fma(b.variable(name, acc.ty), element(run, k), acc)));
            }));
        });
      }
    }
    return stmts;
  };
  const loop = alongDepth({ depth: s.depth, step }, fresh, [a, ...bs], body);
  return [...hoisted.stmts, ...loop];
}
