/**
 * Main loop staged through shared memory: slices of depth bk of a and of every b are copied by all
 * threads, then multiplied from there. Barriers are not written here; they follow from the accesses.
 *
 * A slice lies as [depth / lanes][rows], rows padded by one access, so that the threads of a subgroup,
 * which differ in their row, read neighbouring cells.
 */
import * as b from '../../ir/kernel/build.ts';
import type { Buffer, Expr, Stmt, StmtOf, View } from '../../ir/kernel/types.ts';
import { substitute } from '../../ir/kernel/walk.ts';
import { multiply, stepDepth } from './expand-register.ts';
import type { Fresh } from './fresh.ts';
import { inOwners } from './tile-layout.ts';
import type { TileLayout } from './tile-layout.ts';
import { Hoisted, readRow, rowAccess } from './view-access.ts';
import type { RowAccess } from './view-access.ts';

const PAD = 1;
/** Most copies per thread and slice that are written out one by one, their row addresses kept in registers. */
const MAX_UNROLLED_COPIES = 8;

/** One operand and its place in shared memory. */
interface Staged {
  readonly view: View;
  readonly rows: number;
  readonly buf: Buffer;
  /** Accesses of one row of a whole slice. */
  readonly per: number;
  /** Rows of the thread's copies, where every slice is copied by the same scheme. */
  readonly copies: readonly Copy[] | undefined;
}

interface Copy {
  readonly row: Expr;
  readonly access: RowAccess;
  /** Access within the row's part of the slice. */
  readonly q: Expr;
  /** False where the thread has no such copy. */
  readonly exists: Expr | undefined;
}

const cell = (st: Staged, q: Expr, row: Expr): Expr => b.add(b.mul(q, b.u32(st.rows + PAD)), row);

function stage(view: View, rows: number, bk: number, block: number, fresh: Fresh, hoisted: Hoisted): Staged {
  const { lanes } = view.buf;
  const per = Math.ceil(bk / lanes);
  const size = (per - 1) * (rows + PAD) + rows;
  const buf = b.buffer(fresh(`${view.buf.name}_tile`), 'shared', 'f32', lanes, size);
  const total = rows * per;
  const count = Math.ceil(total / block);
  // With whole rows per round of copies, a thread keeps its rows from slice to slice.
  const steady = block % per === 0 && count <= MAX_UNROLLED_COPIES;
  const copies = !steady ? undefined : Array.from({ length: count }, (_, i): Copy => {
    const row = hoisted.bind(b.add(b.div(b.thread, b.u32(per)), b.u32((i * block) / per)), undefined, `${view.buf.name}_row`);
    const partial = (i + 1) * block > total;
    const inRange = b.lt(b.add(b.thread, b.u32(i * block)), b.u32(total));
    const guard = view.guard;
    const guarded = partial ? { ...view, guard: guard === undefined ? inRange : b.and(inRange, guard) } : view;
    return {
      row, q: b.mod(b.thread, b.u32(per)),
      access: rowAccess(guarded, row, hoisted, view.buf.name),
      exists: partial ? inRange : undefined,
    };
  });
  return { view, rows, buf, per, copies };
}

/** Copies `depth` elements of depth from element column `k0` on. */
function copySlice(st: Staged, k0: Expr, depth: number, block: number, fresh: Fresh, written: ReadonlySet<string>): readonly Stmt[] {
  const { lanes } = st.view.buf;
  const per = Math.ceil(depth / lanes);
  if (st.copies !== undefined && per === st.per) {
    return st.copies.flatMap((copy) => {
      const name = fresh(`${st.view.buf.name}_next`);
      const put = b.store(st.buf, cell(st, copy.q, copy.row), b.variable(name, b.ty('f32', lanes)));
      const read = readRow(copy.access, b.add(k0, b.mul(copy.q, b.u32(lanes))), name, written);
      return [...read, copy.exists === undefined ? put : b.if_(copy.exists, [put])];
    });
  }
  return [b.for_(fresh('e'), b.thread, b.u32(st.rows * per), block, (e) => {
    const row = b.div(e, b.u32(per));
    const q = b.mod(e, b.u32(per));
    const index = substitute(st.view.index, new Map([[st.view.row, row], [st.view.col, b.add(k0, b.mul(q, b.u32(lanes)))]]));
    const read = b.store(st.buf, cell(st, q, row), b.loadF32(st.view.buf, index));
    if (st.view.guard === undefined) return [read];
    const guard = substitute(st.view.guard, new Map([[st.view.row, row]]));
    return [b.if_(guard, [read], [b.store(st.buf, cell(st, q, row), b.splat(lanes, b.f32(0)))])];
  })];
}

/** Multiplies the staged slice of `depth`. */
function multiplySlice(layout: TileLayout, a: Staged, bs: readonly Staged[], depth: number, step: number, fresh: Fresh): readonly Stmt[] {
  const body = (k0: Expr, length: number): readonly Stmt[] => {
    const stmts: Stmt[] = [];
    const read = (st: Staged, rows: readonly Expr[]): { lanes: number; rows: Expr[][] } => {
      const { lanes } = st.buf;
      return {
        lanes,
        rows: rows.map((row, i) =>
          Array.from({ length: Math.ceil(length / lanes) }, (_, j) => {
            const name = fresh(`${st.view.buf.name}${i}`);
            stmts.push(b.let_(name, b.load(st.buf, cell(st, b.add(b.div(k0, b.u32(lanes)), b.u32(j)), row))));
            return b.variable(name, b.ty('f32', lanes));
          })),
      };
    };
    const av = read(a, layout.rows);
    const bv = bs.map((st) => read(st, layout.cols));
    return [...stmts, ...multiply(layout, length, av, bv)];
  };
  const full = Math.floor(depth / step);
  const tail = depth % step;
  const loop = full === 0 ? [] : [b.for_(fresh('kk'), b.u32(0), b.u32(full), 1, (kk) => body(b.mul(kk, b.u32(step)), step), true)];
  return [...loop, ...(tail === 0 ? [] : body(b.u32(full * step), tail))];
}

/** Shared buffers to allocate, and the loop. */
export function expandShared(
  s: StmtOf<'tile.mainloop'>, layout: TileLayout, block: number, fresh: Fresh, written: ReadonlySet<string>,
): { readonly shared: readonly Buffer[]; readonly body: readonly Stmt[] } {
  const step = stepDepth(s);
  const bk = Math.min(s.schedule.bk, Math.ceil(s.depth / step) * step);
  if (bk % step !== 0) throw new Error(`tile ${s.tile.name}: slices of depth ${bk} are no whole number of accesses of ${step} elements`);
  const hoisted = new Hoisted(fresh);
  const a = stage(s.a, s.tile.rows, bk, block, fresh, hoisted);
  const bs = s.b.map((view) => stage(view, s.tile.cols, bk, block, fresh, hoisted));
  const slice = (k0: Expr, depth: number): readonly Stmt[] => [
    ...[a, ...bs].flatMap((st) => copySlice(st, k0, depth, block, fresh, written)),
    ...inOwners(layout, block, multiplySlice(layout, a, bs, depth, step, fresh)),
  ];
  const full = Math.floor(s.depth / bk);
  const tail = s.depth % bk;
  const loop = full === 0 ? [] : [b.for_(fresh('k0'), b.u32(0), b.u32(full * bk), bk, (k0) => slice(k0, bk))];
  const body = [...hoisted.stmts, ...loop, ...(tail === 0 ? [] : slice(b.u32(full * bk), tail))];
  return { shared: [a.buf, ...bs.map((st) => st.buf)], body };
}
