/** What plan kernels have in common: counting an expert's ids, placing its rows, and the tiles of an expert whose rows are known. */
import * as b from '../../ir/kernel/build.ts';
import type { Buffer, Expr, Stmt } from '../../ir/kernel/types.ts';
import { DROPPED, define } from './common.ts';
import { indicator } from './keys.ts';
import { rowOfSlotAt, slotOfRowAt, tileAt, tileCountAt, usedRowsAt } from './plan-layout.ts';
import type { PlanShape } from './plan-layout.ts';

export interface PlanProblem extends PlanShape {
  /** The most tokens a call has, where that is known. */
  readonly maxTokens?: number;
}

const u = (name: string): Expr => b.variable(name);

/** Adds one id to the variables `equal` and `below`: ids of the expert, and of those before it. */
export const countId = (expert: Expr, id: Expr): readonly Stmt[] => [
  b.assign('equal', b.add(u('equal'), indicator(b.eq(id, expert)))),
  b.assign('below', b.add(u('below'), indicator(b.lt(id, expert)))),
];

/** Puts a slot of the expert at the variable `row` and moves that on; expert 0 also marks the slots that no expert serves. */
export const placeId = (p: PlanShape, out: Buffer, expert: Expr, id: Expr, slot: Expr): readonly Stmt[] => [
  b.if_(b.eq(id, expert), [
    b.store(out, slotOfRowAt(u('row')), slot),
    b.store(out, rowOfSlotAt(p, slot), u('row')),
    b.assign('row', b.add(u('row'), b.u32(1))),
  ]),
  b.if_(b.and(b.eq(expert, b.u32(0)), b.ge(id, b.u32(p.experts))), [b.store(out, rowOfSlotAt(p, slot), b.u32(DROPPED))]),
];

/** What a team of threads knows of its expert. */
export interface ExpertRows {
  readonly expert: Expr;
  /** The thread among those of the team. */
  readonly member: Expr;
  readonly team: number;
  /** The expert's first row, and how many it has. */
  readonly base: Expr;
  readonly rows: Expr;
}

/** Writes the expert's tiles; the last expert's team also says how many there are. */
export function tilesOf(p: PlanShape, out: Buffer, { expert, member, team, base, rows }: ExpertRows): readonly Stmt[] {
  const tiles: Stmt[] = [];
  const tileRows = b.u32(p.tileRows);
  const firstTile = define(tiles, 'first_tile', b.add(b.div(base, tileRows), expert));
  const lastTile = define(tiles, 'last_tile', b.add(b.div(b.add(base, rows), tileRows), expert, b.u32(1)));
  tiles.push(
    b.for_('tile', b.add(firstTile, member), lastTile, team, (tile) => {
      const stmts: Stmt[] = [];
      const offset = define(stmts, 'offset', b.mul(b.sub(tile, firstTile), tileRows));
      const at = define(stmts, 'tile_at', tileAt(p, tile));
      return [
        ...stmts,
        b.store(out, at, expert),
        b.store(out, b.add(at, b.u32(1)), b.add(base, offset)),
        b.store(out, b.add(at, b.u32(2)), b.min(tileRows, b.sub(b.max(rows, offset), offset))),
      ];
    }),
  );
  tiles.push(
    b.if_(b.and(b.eq(expert, b.u32(p.experts - 1)), b.eq(member, b.u32(0))), [
      b.store(out, tileCountAt, lastTile),
      b.store(out, usedRowsAt, b.add(base, rows)),
    ]),
  );
  return tiles;
}
