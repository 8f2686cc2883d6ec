/**
 * Kernels whose blocks stay: one a processor, each walks over tiles of the result until none is left. What a block has
 * under way for its next tile does not end with the last one.
 */
import * as b from '../ir/kernel/build.ts';
import type { Expr, Stmt } from '../ir/kernel/types.ts';
import type { Capabilities } from '../target/types.ts';

/** Most columns of tiles side by side: with a hundred-odd blocks at work, as many rows of weights as rows of x are in use at once. */
const GROUP = 16;

/** Columns of tiles that are walked as one group: of the numbers up to GROUP the largest that leaves the last group fullest. */
export function groupColumns(columns: number): number {
  const sizes = Array.from({ length: Math.min(GROUP, columns) }, (_, i) => i + 1);
  const padded = (size: number): number => Math.ceil(columns / size) * size;
  // Narrow groups read x too often, so only the upper half competes.
  const wide = sizes.filter((size) => 2 * size > sizes.length);
  return wide.reduce((best, size) => (padded(size) <= padded(best) ? size : best));
}

export interface Walk {
  readonly body: readonly Stmt[];
  readonly grid: readonly [number, number, number];
}

/**
 * Runs `item` for each of rows x columns tiles, neighbours at the same time: a group of columns is done for all rows, row by
 * row, before the next, so that tiles which share weights or rows of x find them in the cache.
 *
 * @param rows u32, uniform; may be 0
 * @throws Error where the device's number of processors is not known
 */
export function walkTiles(rows: Expr, columns: number, caps: Capabilities, item: (row: Expr, column: Expr) => readonly Stmt[]): Walk {
  const blocks = caps.multiprocessors;
  if (blocks === undefined) throw new Error(`${caps.profile}: blocks that stay need a known number of processors`);
  const across = groupColumns(columns);
  const groups = Math.ceil(columns / across);
  const head: Stmt[] = [];
  const bind = (stmts: Stmt[], name: string, value: Expr): Expr => {
    stmts.push(b.let_(name, value));
    return b.variable(name, value.ty);
  };
  const perGroup = bind(head, 'group_tiles', b.mul(rows, b.u32(across)));
  const loop = b.for_('work', b.builtin('block.x'), b.mul(perGroup, b.u32(groups)), blocks, (work) => {
    const stmts: Stmt[] = [];
    const place = groups === 1 ? work : bind(stmts, 'in_group', b.mod(work, perGroup));
    const first = groups === 1 ? b.u32(0) : b.mul(b.div(work, perGroup), b.u32(across));
    const column = bind(stmts, 'column', b.add(first, b.mod(place, b.u32(across))));
    const body = item(b.div(place, b.u32(across)), column);
    return [...stmts, ...(columns % across === 0 ? body : [b.if_(b.lt(column, b.u32(columns)), body)])];
  });
  return { body: [...head, loop], grid: [blocks, 1, 1] };
}
