/**
 * Products of blocks and values of rows in the portable variant: blocks lie in shared memory as f32 [rows][cols], rows padded by
 * one so that threads which differ in their row read different banks; row values are variables.
 */
import * as b from '../../ir/kernel/build.ts';
import type { Buffer, Expr, Stmt, StmtOf, Tile } from '../../ir/kernel/types.ts';
import { substitute } from '../../ir/kernel/walk.ts';
import { rowBindings } from './expand-products.ts';
import { combine } from './expand-reduce.ts';
import type { Fresh } from './fresh.ts';
import type { TileLayout } from './tile-layout.ts';
import type { BlockMemory, Expanded, RowHolder, RowValues, TileProducts, TileState } from './variant.ts';

const PAD = 1;
const U = b.u32;

const shape = (name: string, rows: number, cols: number): Buffer => b.buffer(name, 'shared', 'f32', 1, rows * (cols + PAD) - PAD);
const at = (cols: number, row: Expr, col: Expr): Expr => b.add(b.mul(row, U(cols + PAD)), col);

export const fmaBlocks: BlockMemory = {
  buffer: (block, name) => shape(name, block.rows, block.cols),

  stage({ block, view }, memory, threads, fresh) {
    const { lanes } = view.buf;
    const per = block.cols / lanes;
    return [b.for_(fresh('e'), b.thread, U(block.rows * per), threads, (e) => {
      const row = b.div(e, U(per));
      const col = b.mul(b.mod(e, U(per)), U(lanes));
      const put = (value: Expr): readonly Stmt[] =>
        Array.from({ length: lanes }, (_, l) => b.store(memory, at(block.cols, row, b.add(col, U(l))), b.lane(value, l)));
      const name = fresh(`${block.name}_next`);
      const index = substitute(view.index, new Map([[view.row, row], [view.col, col]]));
      const copy = [b.let_(name, b.loadF32(view.buf, index)), ...put(b.variable(name, b.ty('f32', lanes)))];
      if (view.guard === undefined) return copy;
      return [b.if_(substitute(view.guard, new Map([[view.row, row]])), copy, put(b.splat(lanes, b.f32(0))))];
    })];
  },

  // Plain stores and loads: barriers follow from them.
  wait: [],
};

const count = (n: number): readonly number[] => Array.from({ length: n }, (_, i) => i);

/** @param layoutOf of another tile of this variant */
export function fmaProducts(
  layout: TileLayout, threads: number, fresh: Fresh, layoutOf: (tile: TileState) => TileLayout | undefined,
): TileProducts {
  const { tile, tm, tn } = layout;
  const across = tile.cols / tn;
  const rowAt = (i: number): Expr => layout.rows[i] ?? U(0);
  /** Names of a statement over elements, in the thread's element (i, j). */
  const bindings = (s: StmtOf<'tile.update' | 'tile.fold'>, rows: RowValues, i: number, j: number): Map<string, Expr> => {
    const names = rowBindings(rows, U(i)).set(s.row, rowAt(i)).set(s.col, layout.cols[j] ?? U(0));
    s.values.forEach((v, c) => names.set(v, layout.acc(c, i, j)));
    return names;
  };
  const wantEveryThread = (): void => {
    if (layout.threads === threads) return;
    throw new Error(`tile ${tile.name}: ${layout.threads} of ${threads} threads own elements; products of blocks need all`);
  };

  return {
    owners: `fma, pieces of ${tm} of ${tile.rows} rows, ${across} threads a row`,

    holder(name): RowHolder {
      wantEveryThread();
      const names = count(tm).map((i) => fresh(`${name}_${i}`));
      const nameOf = (i: Expr): string => {
        const found = i.k === 'const' ? names[i.value] : undefined;
        if (found === undefined) throw new Error(`row value ${name}: a thread holds ${tm} rows`);
        return found;
      };
      return {
        declare: names.map((n) => b.var_(n, b.f32(0))),
        at: (i) => b.variable(nameOf(i), b.ty('f32')),
        set: (i, value) => b.assign(nameOf(i), value),
      };
    },

    eachRow: (body) => count(tm).flatMap((i) => body(U(i), rowAt(i))),

    product(s, memory, source): Expanded {
      wantEveryThread();
      const other = source === undefined ? undefined : layoutOf(source);
      const rows = s.a.k === 'block' ? { buf: memory(s.a.block), cols: s.a.block.cols, put: [] } : spread(s.a.tile, other, fresh);
      const product = b.for_(fresh('k'), U(0), U(rows.cols), 1, (k) => {
        const stmts: Stmt[] = [];
        const read = (name: string, value: Expr): Expr => {
          const v = fresh(name);
          stmts.push(b.let_(v, value));
          return b.variable(v, b.ty('f32'));
        };
        const a = count(tm).map((i) => read(`a${i}`, b.load(rows.buf, at(rows.cols, rowAt(i), k))));
        s.b.forEach(({ block, transposed }, c) =>
          layout.cols.forEach((col, j) => {
            const cell = transposed ? at(block.cols, k, col) : at(block.cols, col, k);
            const value = read(`b${j}`, b.load(memory(block), cell));
            a.forEach((x, i) => stmts.push(b.assign(layout.acc(c, i, j).name, b.fma(x, value, layout.acc(c, i, j)))));
          }));
        return stmts;
      });
      return { shared: s.a.k === 'block' ? [] : [rows.buf], body: [...rows.put, product] };
    },

    update: (s, rows) =>
      count(tm).flatMap((i) =>
        count(tn).flatMap((j) => {
          const names = bindings(s, rows, i, j);
          const made = s.to.map((e) => substitute(e, names));
          // New values may refer to all the old ones.
          const bound = made.length === 1 ? made : made.map((e, c) => b.variable(fresh(`${tile.name}${c}_new`), e.ty));
          const lets = bound.flatMap((v, c) => (v.k === 'var' && v !== made[c] ? [b.let_(v.name, made[c] ?? v)] : []));
          return [...lets, ...bound.map((e, c) => b.assign(layout.acc(c, i, j).name, e))];
        })),

    fold(s, into, rows, pool) {
      const values = (i: number): readonly Expr[] => count(tn).map((j) => substitute(s.value, bindings(s, rows, i, j)));
      const own = (i: number): Expr => values(i).reduce((x, y) => combine(s.op, x, y));
      if (across === 1) return count(tm).map((i) => into.set(U(i), own(i)));
      const parts = pool.take(`row_parts_${tile.rows * across}`, 'f32', tile.rows * across, 1);
      const part = (i: number, q: Expr): Expr => b.add(b.mul(rowAt(i), U(across)), q);
      return [
        ...count(tm).map((i) => b.store(parts, part(i, layout.cols[0] ?? U(0)), own(i))),
        ...count(tm).flatMap((i) => [
          into.set(U(i), b.load(parts, part(i, U(0)))),
          b.for_(fresh('q'), U(1), U(across), 1, (q) => [into.set(U(i), combine(s.op, into.at(U(i)), b.load(parts, part(i, q))))]),
        ]),
      ];
    },
  };
}

/** The accumulators of a tile as an operand: in shared memory, for every thread to read. */
function spread(
  tile: Tile, layout: TileLayout | undefined, fresh: Fresh,
): { readonly buf: Buffer; readonly cols: number; readonly put: readonly Stmt[] } {
  if (layout === undefined) throw new Error(`tile ${tile.name} is no operand of a product in the portable variant`);
  const buf = shape(fresh(`${tile.name}_rows`), tile.rows, tile.cols);
  const put = layout.rows.flatMap((row, i) => layout.cols.map((col, j) => b.store(buf, at(tile.cols, row, col), layout.acc(0, i, j))));
  return { buf, cols: tile.cols, put };
}
