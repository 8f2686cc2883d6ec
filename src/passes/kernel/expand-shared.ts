/**
 * Main loop staged through shared memory: slices of depth bk of a and of every b are copied by all
 * threads, then multiplied from there. Barriers are not written here; they follow from the accesses.
 *
 * A slice lies as [depth / lanes][rows], rows padded by one access, so that the threads of a subgroup,
 * which differ in their row, read neighbouring cells.
 */
import * as b from '../../ir/kernel/build.ts';
import type { Buffer, Expr, Stmt, StmtOf, View } from '../../ir/kernel/types.ts';
import { multiply } from './expand-register.ts';
import type { Fresh } from './fresh.ts';
import { alongDepth, operandRows, stepDepth } from './operand-rows.ts';
import type { OperandRow, OperandRows, Run } from './operand-rows.ts';
import { inOwners } from './tile-layout.ts';
import type { TileLayout } from './tile-layout.ts';
import { Hoisted } from './view-access.ts';

const PAD = 1;
/** Most copies per thread and slice that are written out one by one, their row addresses kept in registers. */
const MAX_UNROLLED_COPIES = 8;

/** One operand and its place in shared memory. */
interface Staged {
  readonly operand: OperandRows;
  readonly name: string;
  readonly rows: number;
  readonly buf: Buffer;
  /** Accesses of one row of a whole slice. */
  readonly per: number;
  /** Rows of the thread's copies, where every slice is copied by the same scheme. */
  readonly copies: readonly Copy[] | undefined;
}

interface Copy {
  readonly row: Expr;
  readonly source: OperandRow;
  /** Access within the row's part of the slice. */
  readonly q: Expr;
  /** False where the thread has no such copy. */
  readonly exists: Expr | undefined;
}

const cell = (st: Pick<Staged, 'rows'>, q: Expr, row: Expr): Expr => b.add(b.mul(q, b.u32(st.rows + PAD)), row);

function stage(view: View, rows: number, bk: number, block: number, fresh: Fresh, hoisted: Hoisted, written: ReadonlySet<string>): Staged {
  const operand = operandRows(view, fresh, written);
  const { name } = view.buf;
  const per = Math.ceil(bk / operand.unit);
  const cells = (per * operand.unit) / operand.lanes;
  const buf = b.buffer(fresh(`${name}_tile`), 'shared', 'f32', operand.lanes, (cells - 1) * (rows + PAD) + rows);
  const total = rows * per;
  const count = Math.ceil(total / block);
  // With whole rows per round of copies, a thread keeps its rows from slice to slice.
  const steady = block % per === 0 && count <= MAX_UNROLLED_COPIES;
  const copies = !steady ? undefined : Array.from({ length: count }, (_, i): Copy => {
    const row = hoisted.bind(b.add(b.div(b.thread, b.u32(per)), b.u32((i * block) / per)), undefined, `${name}_row`);
    const partial = (i + 1) * block > total;
    const inRange = b.lt(b.add(b.thread, b.u32(i * block)), b.u32(total));
    const guard = view.guard;
    const guarded = partial ? { ...view, guard: guard === undefined ? inRange : b.and(inRange, guard) } : view;
    return {
      row, q: b.mod(b.thread, b.u32(per)),
      source: operandRows(guarded, fresh, written).row(row, hoisted),
      exists: partial ? inRange : undefined,
    };
  });
  return { operand, name, rows, buf, per, copies };
}

/** Copies `depth` elements of depth from element column `k0` on. */
function copySlice(st: Staged, k0: Expr, depth: number, block: number, fresh: Fresh): readonly Stmt[] {
  const { unit, lanes } = st.operand;
  const per = Math.ceil(depth / unit);
  const copy = (row: Expr, source: OperandRow, q: Expr): { readonly read: readonly Stmt[]; readonly put: readonly Stmt[] } => {
    const k = b.add(k0, b.mul(q, b.u32(unit)));
    const begin = source.begin(k);
    const { stmts, values } = source.read(k, unit);
    const put = values.map((value, v) => b.store(st.buf, cell(st, b.add(b.mul(q, b.u32(unit / lanes)), b.u32(v)), row), value));
    return { read: [...begin, ...stmts], put };
  };
  if (st.copies !== undefined && per === st.per) {
    return st.copies.flatMap(({ row, source, q, exists }) => {
      const { read, put } = copy(row, source, q);
      return [...read, ...(exists === undefined ? put : [b.if_(exists, put)])];
    });
  }
  return [b.for_(fresh('e'), b.thread, b.u32(st.rows * per), block, (e) => {
    const row = b.div(e, b.u32(per));
    const places = new Hoisted(fresh);
    const { read, put } = copy(row, st.operand.row(row, places), b.mod(e, b.u32(per)));
    return [...places.stmts, ...read, ...put];
  })];
}

/** Multiplies the staged slice of `depth`. */
function multiplySlice(layout: TileLayout, a: Staged, bs: readonly Staged[], depth: number, fresh: Fresh): readonly Stmt[] {
  const body = (k0: Expr, length: number): readonly Stmt[] => {
    const stmts: Stmt[] = [];
    const read = (st: Staged, rows: readonly Expr[]): readonly Run[] => {
      const { lanes } = st.operand;
      return rows.map((row, i) => ({
        lanes,
        values: Array.from({ length: Math.ceil(length / lanes) }, (_, j) => {
          const name = fresh(`${st.name}${i}`);
          stmts.push(b.let_(name, b.load(st.buf, cell(st, b.add(b.div(k0, b.u32(lanes)), b.u32(j)), row))));
          return b.variable(name, b.ty('f32', lanes));
        }),
      }));
    };
    const av = read(a, layout.rows);
    const bv = bs.map((st) => read(st, layout.cols));
    return [...stmts, ...multiply(layout, length, av, bv)];
  };
  const step = Math.max(...[a, ...bs].map((st) => st.operand.lanes));
  return alongDepth({ depth, step, unroll: true, name: 'kk' }, fresh, [], body);
}

/** Shared buffers to allocate, and the loop. */
export function expandShared(
  s: StmtOf<'tile.mainloop'>, layout: TileLayout, block: number, fresh: Fresh, written: ReadonlySet<string>,
): { readonly shared: readonly Buffer[]; readonly body: readonly Stmt[] } {
  const operands = [s.a, ...s.b];
  const step = stepDepth(operands.map((view) => operandRows(view, fresh, written)));
  const bk = Math.min(s.schedule.bk, Math.ceil(s.depth / step) * step);
  if (bk % step !== 0) throw new Error(`tile ${s.tile.name}: slices of depth ${bk} are no whole number of accesses of ${step} elements`);
  const hoisted = new Hoisted(fresh);
  const a = stage(s.a, s.tile.rows, bk, block, fresh, hoisted, written);
  const bs = s.b.map((view) => stage(view, s.tile.cols, bk, block, fresh, hoisted, written));
  const slice = (k0: Expr, depth: number): readonly Stmt[] => [
    ...[a, ...bs].flatMap((st) => copySlice(st, k0, depth, block, fresh)),
    ...inOwners(layout, block, multiplySlice(layout, a, bs, depth, fresh)),
  ];
  const full = Math.floor(s.depth / bk);
  const tail = s.depth % bk;
  const loop = full === 0 ? [] : [b.for_(fresh('k0'), b.u32(0), b.u32(full * bk), bk, (k0) => slice(k0, bk))];
  const body = [...hoisted.stmts, ...loop, ...(tail === 0 ? [] : slice(b.u32(full * bk), tail))];
  return { shared: [a.buf, ...bs.map((st) => st.buf)], body };
}
