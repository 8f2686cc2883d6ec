/** A way to run main loops: what the portable expansion and those of single targets have in common. */
import type { Block, Buffer, Expr, MainloopSchedule, Stmt, StmtOf, Tile } from '../../ir/kernel/types.ts';
import type { ReducePool } from './expand-reduce.ts';
import type { Fresh } from './fresh.ts';

/** Statements, and the shared buffers that they need: those are allocated once, at the top of the kernel. */
export interface Expanded {
  readonly shared: readonly Buffer[];
  readonly body: readonly Stmt[];
}

/** A row value as a variant keeps it; `i` counts the rows that a thread holds. */
export interface RowHolder {
  readonly declare: readonly Stmt[];
  at(i: Expr): Expr;
  set(i: Expr, value: Expr): Stmt;
}

/** Row values by name, as far as the threads that hold a tile's rows hold them. */
export type RowValues = ReadonlyMap<string, RowHolder>;

/** A tile's accumulators as one variant keeps them, and how its statements run on them. */
export interface TileState {
  /** Declares the accumulators, zero, and where the thread stands. */
  readonly declare: readonly Stmt[];
  mainloop(s: StmtOf<'tile.mainloop'>, written: ReadonlySet<string>): Expanded;
  map(s: StmtOf<'tile.map'>, rows: RowValues): readonly Stmt[];
  /** Absent where the variant multiplies no blocks. */
  readonly products?: TileProducts;
}

/** What products of blocks, and values of rows, ask of a tile. */
export interface TileProducts {
  /** Who holds which rows: tiles of one text share row values, and one may be operand of a product into another. */
  readonly owners: string;
  holder(name: string): RowHolder;
  /** `body` for each row that the thread holds. */
  eachRow(body: (i: Expr, row: Expr) => readonly Stmt[]): readonly Stmt[];
  /** @param source the tile that is operand a, if one is */
  product(s: StmtOf<'tile.product'>, memory: (block: Block) => Buffer, source: TileState | undefined): Expanded;
  update(s: StmtOf<'tile.update'>, rows: RowValues): readonly Stmt[];
  fold(s: StmtOf<'tile.fold'>, into: RowHolder, rows: RowValues, pool: ReducePool): readonly Stmt[];
}

/** Blocks in fast memory. */
export interface BlockMemory {
  buffer(block: Block, name: string): Buffer;
  stage(s: StmtOf<'tile.stage'>, memory: Buffer, threads: number, fresh: Fresh, written: ReadonlySet<string>): readonly Stmt[];
  /** Of tile.await: nothing where plain stores and loads do it all, since barriers follow from those. */
  readonly wait: readonly Stmt[];
}

export interface MainloopVariant {
  readonly name: MainloopSchedule['variant'];
  /** @throws Error where tile and schedule do not fit each other or the block */
  start(tile: Tile, schedule: MainloopSchedule, block: number, fresh: Fresh): TileState;
  readonly blocks?: BlockMemory;
}
