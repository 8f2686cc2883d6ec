/**
 * Expert products over a sorted plan: a block computes one tile of rows of one expert, times a block of
 * columns. The grid is a bound known on the host; blocks without a tile leave at once. The shared FFN's tiles
 * come behind the routed ones in the same grid.
 */
import { addSize, ceilDivSize } from '../../base/size.ts';
import * as b from '../../ir/kernel/build.ts';
import type { Expr, Stmt, Tile } from '../../ir/kernel/types.ts';
import type { Capabilities } from '../../target/types.ts';
import { epilogueCount } from '../epilogue.ts';
import type { Launch } from '../launch.ts';
import { mainloopSchedule, tileRecord, tileSharedBytes, tileThreads, wantLegalTile } from '../schedule.ts';
import type { TileSchedule } from '../schedule.ts';
import { define, launch, line } from './common.ts';
import { Params, bindSides, finishRow, groupedName, groupedScalars, inFirstSegment, localExpert, weightRow } from './grouped-parts.ts';
import type { Side } from './grouped-parts.ts';
import type { GroupedProblem } from './grouped-problem.ts';
import { maxTiles, maxTilesSize, planBuffer, slotOfRowAt, tileAt, tileCountAt } from './plan-layout.ts';

/** Rows of one tile and where their x is. */
interface TileRows {
  readonly name: string;
  readonly side: Side;
  /** Rows in use; fewer than the tile has where the expert's rows end. */
  readonly rows: Expr;
  /** Row of x, and of the result, of row r of the tile. */
  xRow(r: Expr): Expr;
  yRow(r: Expr): Expr;
  /** Expert among those of the bound buffer, and among all. */
  readonly local: Expr;
  readonly expert: Expr;
  /** Factor of the input row. */
  weight(r: Expr): Expr | undefined;
  readonly y: ReturnType<typeof planBuffer>;
}

export function groupedTiles(p: GroupedProblem, s: TileSchedule, caps: Capabilities): Launch {
  if (s.bm !== p.tileRows) throw new Error(`grouped_linear: the schedule has tiles of ${s.bm} rows, the plan of ${p.tileRows}`);
  const count = epilogueCount(p.epilogue);
  const params = new Params();
  const { routed, shared } = bindSides(p, params);
  const plan = planBuffer();
  params.list.splice(1, 0, ['plan', plan]);
  const routeWeights = params.maybe(p.routeWeights, 'routeWeights');
  const y = params.bind('y', 'f32');
  let bytes = 0;
  for (const side of [routed, ...(shared === undefined ? [] : [shared])]) {
    const shape = { k: side.k, lanes: side.lanes, count };
    wantLegalTile('grouped_linear', s, shape, caps);
    bytes += tileSharedBytes(s, shape);
  }
  if (bytes > caps.maxSharedBytes)
    throw new Error(`grouped_linear: ${bytes} bytes of shared memory, the device has ${caps.maxSharedBytes}`);

  const sharedTiles = shared === undefined ? 0 : ceilDivSize('T', s.bm);
  const l = line(addSize(maxTilesSize(p), sharedTiles), caps);
  const body: Stmt[] = [];
  const tile = define(body, 'tile', l.index);
  const col0 = define(body, 'col0', b.mul(b.builtin('block.z'), b.u32(s.bn)));
  const sharedTile: Stmt[] = [];
  if (shared !== undefined) {
    const out = params.bind('shared', 'f32');
    // Between the plan's last tile and the first shared one the row wraps to a number above every T.
    const row0 = define(sharedTile, 'shared_row0', b.mul(b.sub(tile, maxTiles(p)), b.u32(s.bm)));
    const run = computeTile(p, s, col0, {
      name: 'shared_acc',
      side: shared,
      rows: b.sub(b.scalar('T'), row0),
      xRow: (r) => b.add(row0, r),
      yRow: (r) => b.add(row0, r),
      local: b.u32(0),
      expert: b.u32(0),
      weight: () => undefined,
      y: out,
    });
    sharedTile.push(b.if_(b.and(b.lt(row0, b.scalar('T')), inColumns(shared, col0, s), inFirstSegment(p)), run));
  }
  body.push(b.if_(b.lt(tile, b.load(plan, tileCountAt)), routedTile(), sharedTile));

  function routedTile(): readonly Stmt[] {
    const stmts: Stmt[] = [];
    const at = define(stmts, 'tile_at', tileAt(p, tile));
    const expert = define(stmts, 'expert', b.load(plan, at));
    const row0 = define(stmts, 'row0', b.load(plan, b.add(at, b.u32(1))));
    const rows = define(stmts, 'rows', b.load(plan, b.add(at, b.u32(2))));
    const bound = localExpert(p, expert);
    const local = define(stmts, 'local', bound.local);
    const slotOf = (r: Expr): Expr => b.load(plan, slotOfRowAt(b.add(row0, r)));
    const run = computeTile(p, s, col0, {
      name: 'acc',
      side: routed,
      rows,
      local,
      expert,
      y,
      xRow: (r) => (p.gather ? b.div(slotOf(r), b.u32(p.slots)) : b.add(row0, r)),
      yRow: (r) => b.add(row0, r),
      weight: (r) => (routeWeights === undefined ? undefined : b.load(routeWeights, slotOf(r))),
    });
    const inSegment = p.segmentRows === undefined ? b.bool(true) : b.lt(local, bound.count);
    return [...stmts, b.if_(b.and(b.gt(rows, b.u32(0)), inColumns(routed, col0, s), inSegment), run)];
  }

  return launch({
    name: groupedName(p, 'tiles'),
    family: 'grouped-linear',
    params: params.list,
    scalars: groupedScalars(p),
    block: tileThreads(s),
    body,
    schedule: tileRecord(s),
    grid: [l.grid[0], l.grid[1], Math.ceil(Math.max(routed.n, shared?.n ?? 0) / s.bn)],
  });

  function inColumns(side: Side, col: Expr, schedule: TileSchedule): Expr {
    const all = Math.ceil(Math.max(routed.n, shared?.n ?? 0) / schedule.bn) === Math.ceil(side.n / schedule.bn);
    return all ? b.bool(true) : b.lt(col, b.u32(side.n));
  }
}

/** The main loop over one tile, and what becomes of its sums. */
function computeTile(p: GroupedProblem, s: TileSchedule, col0: Expr, t: TileRows): readonly Stmt[] {
  const { side } = t;
  const count = epilogueCount(p.epilogue);
  const acc: Tile = { name: t.name, rows: s.bm, cols: s.bn, count };
  const ragged = side.n % s.bn !== 0;
  const exists = (c: Expr): Expr => b.lt(b.add(col0, c), b.u32(side.n));
  const access = (kk: Expr): Expr => b.div(kk, b.u32(side.lanes));
  const inRows = (r: Expr): Expr => b.lt(r, t.rows);
  const a = b.view(side.x, (r, kk) => b.add(b.mul(t.xRow(r), b.u32(side.depth)), access(kk)), inRows);
  const banks = Array.from({ length: count }, (_, i) =>
    b.view(side.weight, (c, kk) => b.add(weightRow(p, side, t.local, i, b.add(col0, c)), access(kk)), ragged ? exists : undefined),
  );
  return [
    b.tileAlloc(acc),
    b.mainloop(acc, a, banks, side.k, mainloopSchedule(s)),
    b.tileMap(acc, (r, c, sums) => {
      const stmts: Stmt[] = [];
      const col = define(stmts, 'col', b.add(col0, c));
      const value = finishRow(p, side, sums, t.expert, col, t.weight(r));
      stmts.push(b.store(t.y, b.add(b.mul(t.yRow(r), b.u32(side.n)), col), value));
      return [b.if_(ragged ? b.and(inRows(r), exists(c)) : inRows(r), stmts)];
    }),
  ];
}
