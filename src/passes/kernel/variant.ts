/** A way to run main loops: what the portable expansion and those of single targets have in common. */
import type { Buffer, MainloopSchedule, Stmt, StmtOf, Tile } from '../../ir/kernel/types.ts';
import type { Fresh } from './fresh.ts';

/** A tile's accumulators as one variant keeps them, and how its statements run on them. */
export interface TileState {
  /** Declares the accumulators, zero, and where the thread stands. */
  readonly declare: readonly Stmt[];
  /** The shared buffers that the loop needs are allocated once, at the top of the kernel. */
  mainloop(s: StmtOf<'tile.mainloop'>, written: ReadonlySet<string>): { readonly shared: readonly Buffer[]; readonly body: readonly Stmt[] };
  map(s: StmtOf<'tile.map'>): readonly Stmt[];
}

export interface MainloopVariant {
  readonly name: MainloopSchedule['variant'];
  /** @throws Error where tile and schedule do not fit each other or the block */
  start(tile: Tile, schedule: MainloopSchedule, block: number, fresh: Fresh): TileState;
}
