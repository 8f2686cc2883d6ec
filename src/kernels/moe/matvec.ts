/**
 * Rows times matrices, for calls of few rows: a thread (or a team of threads) owns columns and walks down
 * their depth. Teams of one thread are tiles of one row: their sums are those of the tile kernels, bit for bit. Teams that are
 * subgroups of the device work as `team.ts` says.
 */
import * as b from '../../ir/kernel/build.ts';
import type { Buffer, Expr, Stmt, Tile } from '../../ir/kernel/types.ts';
import type { Capabilities } from '../../target/types.ts';
import { bySubgroups, legalMatvec } from '../schedule.ts';
import type { MatvecSchedule } from '../schedule.ts';
import { joinSums, teamSums } from '../team.ts';
import { formatElem, loadPiece, pieceValues, piecesOf, weightView } from '../weight-matrix.ts';
import type { WeightMatrix } from '../weight-matrix.ts';
import { F32, define } from './common.ts';
import type { WeightElem } from './common.ts';

/** Where the thread stands: its columns (some may lie beyond the last one) and its part of the depth. */
export interface Columns {
  readonly s: MatvecSchedule;
  /** The block's first column. */
  readonly col0: Expr;
  readonly cols: readonly Expr[];
  readonly member: Expr;
  /** Whether the thread is the one that stores for its team; undefined where every thread is. */
  readonly stores: Expr | undefined;
  /** Partial sums of teams that are no subgroups. */
  readonly parts: Buffer | undefined;
  readonly subgroups: boolean;
}

/** Products of each column, and how the weights are stored. */
interface ColumnProducts {
  readonly count: number;
  readonly weightElem: WeightElem;
}

/** Declares the thread's columns; the block's first column is col0. */
export function columnsOf(stmts: Stmt[], s: MatvecSchedule, col0: Expr, { count, weightElem }: ColumnProducts, caps: Capabilities): Columns {
  const verdict = legalMatvec(s, count, caps, weightElem);
  if (!verdict.ok) throw new Error(`matvec: ${verdict.why}`);
  const teams = s.block / s.team;
  const single = s.team === 1;
  const subgroups = bySubgroups(s, caps);
  const team = single ? b.thread : define(stmts, 'team', b.div(b.thread, b.u32(s.team)));
  const member = single ? b.u32(0) : define(stmts, 'member', b.mod(b.thread, b.u32(s.team)));
  return {
    s,
    col0,
    member,
    cols: Array.from({ length: s.cols }, (_, j) => define(stmts, `column${j}`, b.add(col0, team, b.u32(j * teams)))),
    stores: single ? undefined : b.eq(member, b.u32(0)),
    parts: single || subgroups ? undefined : b.buffer('parts', 'shared', 'f32', 1, s.block * s.cols * count),
    subgroups,
  };
}

export interface Dots {
  /** Beginning of the names that are made. */
  readonly name: string;
  /** The row of x begins at access `x0`. */
  readonly x: Buffer;
  readonly x0: Expr;
  readonly weight: WeightMatrix;
  /** First access of the weight row for column `col` of matrix 0 … count − 1. */
  row(col: Expr, matrix: number): Expr;
  readonly count: number;
  /** Columns there are; a column beyond reads the last one, and is not stored. */
  readonly n: number;
}

interface Cell {
  readonly col: Expr;
  readonly matrix: number;
  readonly name: string;
}

/** The products of a thread, column by column. */
const cellsOf = (c: Columns, d: Dots): readonly Cell[] =>
  c.cols.flatMap((col, j) => Array.from({ length: d.count }, (_, matrix) => ({ col, matrix, name: `${d.name}_sum${j}_${matrix}` })));

/** Appends the loop; gives the sums [column][matrix]. Uniform control flow only. */
export function dots(stmts: Stmt[], c: Columns, d: Dots): readonly (readonly Expr[])[] {
  const { s } = c;
  if (s.team === 1) return tileDots(stmts, c, d);
  const cells = cellsOf(c, d);
  const rows = cells.map(({ col, matrix, name }) => {
    const inside = b.min(col, b.u32(d.n - 1));
    return define(stmts, `${name}_row`, d.row(inside, matrix));
  });
  if (c.subgroups) return joinedDots(stmts, c, d, rows);
  const pieces = piecesOf(formatElem(d.weight), d.weight.k, s.team);
  for (const { name } of cells) stmts.push(b.var_(name, b.f32(0)));
  stmts.push(
    b.for_(`${d.name}_i`, c.member, b.u32(pieces.count), s.team, (i) => {
      const inner: Stmt[] = [];
      const read = cells.map(({ name }, n) => {
        const loaded = loadPiece(d.weight, pieces, rows[n] ?? i, i);
        const words = loaded.words.map((word, w) => define(inner, `${name}_w${w}`, word));
        const scale = loaded.scale && define(inner, `${name}_s`, loaded.scale);
        const values = pieceValues(d.weight, pieces, `${name}_v`, { words, scale }, i);
        inner.push(...values.begin);
        return { name, values };
      });
      const perWord = pieces.span / pieces.words;
      for (let w = 0; w < pieces.words; w++) {
        const xs = Array.from({ length: perWord }, (_, v) => {
          const at = w * perWord + v;
          return define(inner, `${d.name}_x${pieces.span === 1 ? '' : `k${at}`}`, b.loadF32(d.x, b.add(d.x0, b.mul(i, b.u32(pieces.span)), b.u32(at))));
        });
        for (const { name, values } of read) {
          const word = values.word(w);
          inner.push(...word.stmts);
          xs.forEach((x, v) => {
            const of = word.values[v] ?? x;
            for (let j = 0; j < x.ty.lanes; j++) inner.push(b.assign(name, b.fma(b.lane(x, j), b.lane(of, j), b.variable(name, F32))));
          });
        }
      }
      return inner;
    }),
  );
  const { parts } = c;
  const sums = cells.map(({ name }) => b.variable(name, F32));
  if (parts !== undefined) {
    const team0 = define(stmts, `${d.name}_team0`, b.sub(b.thread, c.member));
    sums.forEach((sum, n) => stmts.push(b.store(parts, b.add(b.thread, b.u32(n * s.block)), sum)));
    cells.forEach(({ name }) => stmts.push(b.assign(name, b.f32(0))));
    stmts.push(
      b.for_(`${d.name}_m`, b.u32(0), b.u32(s.team), 1, (m) =>
        cells.map(({ name }, n) => b.assign(name, b.add(b.variable(name, F32), b.load(parts, b.add(team0, m, b.u32(n * s.block)))))),
      ),
    );
  }
  return c.cols.map((_, j) => sums.slice(j * d.count, (j + 1) * d.count));
}

/** The same as the main loop of a tile of one row and a column a thread, with as many operands as a thread has products. */
function tileDots(stmts: Stmt[], c: Columns, d: Dots): readonly (readonly Expr[])[] {
  const { block, broadcast } = c.s;
  const cells = cellsOf(c, d);
  const tile: Tile = { name: `${d.name}_acc`, rows: 1, cols: block, count: cells.length };
  const x = b.view(d.x, (_row, k) => b.add(d.x0, b.div(k, b.u32(d.x.lanes))));
  const weights = cells.map(({ matrix }, n) => {
    const first = b.add(c.col0, b.u32(Math.floor(n / d.count) * block));
    return weightView(d.weight, (col) => d.row(b.min(b.add(first, col), b.u32(d.n - 1)), matrix), undefined);
  });
  stmts.push(
    ...cells.map(({ name }) => b.var_(name, b.f32(0))),
    b.tileAlloc(tile),
    b.mainloop(tile, x, weights, d.weight.k, { variant: 'fma', staging: broadcast === 1 ? 'broadcast' : 'register', tm: 1, tn: 1, bk: 1 }),
    b.tileMap(tile, (_row, _col, sums) => cells.map(({ name }, n) => b.assign(name, sums[n] ?? b.f32(0)))),
  );
  const sums = cells.map(({ name }) => b.variable(name, F32));
  return c.cols.map((_, j) => sums.slice(j * d.count, (j + 1) * d.count));
}

/** The same by teams that are subgroups. */
function joinedDots(stmts: Stmt[], c: Columns, d: Dots, weightRows: readonly Expr[]): readonly (readonly Expr[])[] {
  const { member, s } = c;
  const { name, weight } = d;
  const x = (_row: Expr, i: Expr): Expr => b.loadF32(d.x, b.add(d.x0, i));
  const acc = teamSums(stmts, { name, member, width: s.team, team: s.team, unroll: s.unroll ?? 1, weight, weightRows, rows: 1, x });
  stmts.push(joinSums(acc, name));
  return c.cols.map((_, j) => Array.from({ length: d.count }, (_m, i) => b.load(acc, b.u32(j * d.count + i))));
}

/** `body` in the threads that store, for columns there are. */
export const storing = (c: Columns, col: Expr, n: number, body: readonly Stmt[]): Stmt => {
  const exists = b.lt(col, b.u32(n));
  return b.if_(c.stores === undefined ? exists : b.and(c.stores, exists), body);
};
