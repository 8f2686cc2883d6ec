/**
 * Accumulators of mma.sync: a warp owns [rows / warpsM, cols / warpsN] of a tile, in pieces of 16 x 8. PTX ISA, "Matrix fragments
 * for mma.m16n8k16": lane l holds, of each piece, rows l / 4 and l / 4 + 8 and columns 2 (l mod 4) and the next one.
 */
import * as b from '../../../ir/kernel/build.ts';
import type { Buffer, Expr, MmaSyncSchedule, Stmt, Tile } from '../../../ir/kernel/types.ts';

export const WARP = 32;
const U = b.u32;

/** A warp's share of a tile. */
export interface Fragments {
  readonly tile: Tile;
  readonly schedule: MmaSyncSchedule;
  readonly rowPieces: number;
  readonly colPieces: number;
  /** f32 [count][rowPieces][colPieces][4] a thread. */
  readonly acc: Buffer;
  readonly lane: Expr;
  readonly row0: Expr;
  readonly col0: Expr;
}

/** First accumulator of piece (i, j) of product `c`. */
export const pieceAt = (f: Fragments, c: number, i: Expr, j: Expr): Expr =>
  b.mul(b.add(b.mul(b.add(U(c * f.rowPieces), i), U(f.colPieces)), j), U(4));

/** Rows that a lane holds. */
export const heldRows = (f: Fragments): number => 2 * f.rowPieces;
export const heldRow = (f: Fragments, i: Expr): Expr =>
  b.add(f.row0, b.mul(b.div(i, U(2)), U(16)), b.mul(b.mod(i, U(2)), U(8)), b.div(f.lane, U(4)));

/** Columns that a lane holds of each of its rows. */
export const heldCols = (f: Fragments): number => 2 * f.colPieces;
export const heldCol = (f: Fragments, j: Expr): Expr =>
  b.add(f.col0, b.mul(b.div(j, U(2)), U(8)), b.mul(b.mod(f.lane, U(4)), U(2)), b.mod(j, U(2)));

/** The accumulator of the i-th row and the j-th column that a lane holds. */
export const heldAt = (f: Fragments, c: number, i: Expr, j: Expr): Expr =>
  b.add(pieceAt(f, c, b.div(i, U(2)), b.div(j, U(2))), b.mul(b.mod(i, U(2)), U(2)), b.mod(j, U(2)));

/** A loop that the compiler writes out: register arrays need constant indices. */
export const unrolled = (name: string, count: number, body: (i: Expr) => readonly Stmt[]): readonly Stmt[] =>
  count === 1 ? body(U(0)) : [b.for_(name, U(0), U(count), 1, body, true)];
