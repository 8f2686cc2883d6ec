/**
 * How a tile's accumulators are spread over the threads of a block.
 *
 * Threads stand in a grid of (rows / tm) x (cols / tn). A thread owns tm neighbouring rows and tn columns
 * that are (cols / tn) apart, so that neighbouring threads touch neighbouring columns. The accumulators
 * are scalar variables: registers on every target, whatever its compiler thinks of local arrays.
 */
import * as b from '../../ir/kernel/build.ts';
import type { Expr, Stmt, Tile } from '../../ir/kernel/types.ts';
import type { Fresh } from './fresh.ts';

export interface TileLayout {
  readonly tile: Tile;
  readonly tm: number;
  readonly tn: number;
  /** Threads that own elements: the first ones of the block. */
  readonly threads: number;
  /** Row of the thread's element i, column of its element j (u32). */
  readonly rows: readonly Expr[];
  readonly cols: readonly Expr[];
  /** Accumulator of [count][i][j] (f32 variable). */
  acc(count: number, i: number, j: number): Expr & { readonly k: 'var' };
  /** Declares the accumulators, zero, and where the thread stands. */
  readonly declare: readonly Stmt[];
}

const range = (n: number): readonly number[] => Array.from({ length: n }, (_, i) => i);

/** Throws where the tile does not divide into tm x tn pieces or the block has too few threads for them. */
export function tileLayout(tile: Tile, tm: number, tn: number, block: number, fresh: Fresh): TileLayout {
  if (tile.rows % tm !== 0 || tile.cols % tn !== 0) {
    throw new Error(`tile ${tile.name}: ${tile.rows} x ${tile.cols} does not divide into pieces of ${tm} x ${tn}`);
  }
  const across = tile.cols / tn;
  const threads = (tile.rows / tm) * across;
  if (threads > block) throw new Error(`tile ${tile.name}: needs ${threads} threads, the block has ${block}`);
  const row = fresh(`${tile.name}_row`);
  const col = fresh(`${tile.name}_col`);
  const names = range(tile.count).map((c) => range(tm).map((i) => range(tn).map((j) => fresh(`${tile.name}${c}_${i}_${j}`))));
  const t: Expr = b.thread;
  return {
    tile, tm, tn, threads,
    rows: range(tm).map((i) => b.add(b.variable(row), b.u32(i))),
    cols: range(tn).map((j) => b.add(b.variable(col), b.u32(j * across))),
    acc(c, i, j) {
      const name = names[c]?.[i]?.[j];
      if (name === undefined) throw new Error(`tile ${tile.name} has no element [${c}][${i}, ${j}] per thread`);
      return { k: 'var', ty: b.ty('f32'), name };
    },
    declare: [
      b.let_(row, b.mul(b.div(t, b.u32(across)), b.u32(tm))),
      b.let_(col, b.mod(t, b.u32(across))),
      ...names.flat(2).map((name) => b.var_(name, b.f32(0))),
    ],
  };
}

/** Runs `body` in the threads that own elements only. */
export const inOwners = (layout: TileLayout, block: number, body: readonly Stmt[]): readonly Stmt[] =>
  layout.threads === block || body.length === 0 ? body : [b.if_(b.lt(b.thread, b.u32(layout.threads)), body)];
