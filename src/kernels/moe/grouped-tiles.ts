/**
 * Expert products over a sorted plan: a block computes one tile of rows of one expert, times a block of
 * columns. The grid is a bound known on the host; blocks without a tile leave at once. The shared FFN's tiles
 * come behind the routed ones in the same grid.
 */
import { addSize, ceilDivSize } from '../../base/size.ts';
import * as b from '../../ir/kernel/build.ts';
import type { Buffer, Expr, Stmt, Tile } from '../../ir/kernel/types.ts';
import type { Capabilities } from '../../target/types.ts';
import { epilogueCount } from '../epilogue.ts';
import type { Launch } from '../launch.ts';
import { walkTiles } from '../persistent.ts';
import { kernelSharedBytes, mainloopSchedule, rowLanes, tileLanes, tileRecord, tileThreads, wantLegalTile } from '../schedule.ts';
import type { TileSchedule, TileShape } from '../schedule.ts';
import { formatElem, weightView } from '../weight-matrix.ts';
import { define, launch, line } from './common.ts';
import { Params, bindSides, finishRow, groupedName, groupedScalars, inFirstSegment, localExpert, weightRow } from './grouped-parts.ts';
import type { Side } from './grouped-parts.ts';
import type { GroupedProblem } from './grouped-problem.ts';
import { maxTiles, maxTilesSize, planBuffer, slotOfRowAt, tileAt, tileCountAt } from './plan-layout.ts';

const halfOf = ({ elem }: Buffer): NonNullable<TileShape['xElem']> => (elem === 'f16' || elem === 'bf16' ? elem : 'f32');

/** Rows of one tile and where their x is. */
interface TileRows {
  readonly name: string;
  readonly side: Side;
  /** Rows in use; fewer than the tile has where the expert's rows end. */
  readonly rows: Expr;
  /** Row of x, and of the result, of row r of the tile; `firstX` where the rows of x lie one after another. */
  readonly firstX: Expr | undefined;
  xRow(r: Expr): Expr;
  yRow(r: Expr): Expr;
  /** Expert among those of the bound buffer, and among all. */
  readonly local: Expr;
  readonly expert: Expr;
  /** Experts of the bound buffer. */
  readonly banks: number;
  /** Factor of the input row. */
  weight(r: Expr): Expr | undefined;
  readonly y: Buffer;
}

export function groupedTiles(p: GroupedProblem, s: TileSchedule, caps: Capabilities): Launch {
  if (s.bm !== p.tileRows) throw new Error(`grouped_linear: the schedule has tiles of ${s.bm} rows, the plan of ${p.tileRows}`);
  const count = epilogueCount(p.epilogue);
  const params = new Params();
  const { routed, shared } = bindSides(p, params, { xLanes: (lanes) => rowLanes(s, lanes) });
  const plan = planBuffer();
  params.list.splice(1, 0, ['plan', plan]);
  const routeWeights = params.maybe(p.routeWeights, 'routeWeights');
  const lanes = tileLanes(s, routed.n) === 2 && (shared === undefined || shared.n % 2 === 0) ? 2 : 1;
  const y = params.bind('y', p.yElem ?? 'f32', lanes);
  const sides = shared === undefined ? [routed] : [routed, shared];
  const shapes = sides.map((side): TileShape => ({
    k: side.k, lanes: side.lanes, count, weightElem: formatElem(side.weight), xElem: halfOf(side.x), width: Math.min(side.k, side.n),
  }));
  for (const shape of shapes) wantLegalTile('grouped_linear', s, shape, caps);
  const bytes = kernelSharedBytes(s, shapes);
  if (bytes > caps.maxSharedBytes)
    throw new Error(`grouped_linear: ${bytes} bytes of shared memory, the device has ${caps.maxSharedBytes}`);

  const columns = Math.ceil(Math.max(routed.n, shared?.n ?? 0) / s.bn);
  const out = shared === undefined ? undefined : params.bind('shared', p.shared?.yElem ?? 'f32', lanes);
  const { body, grid } = s.variant === 'wgmma' ? staying() : oneTileEach();

  /** A block for each tile there may be; the shared FFN's lie behind all of the plan's. */
  function oneTileEach(): { readonly body: readonly Stmt[]; readonly grid: Launch['grid'] } {
    const sharedTiles = shared === undefined ? 0 : ceilDivSize('T', s.bm);
    const l = line(addSize(maxTilesSize(p), sharedTiles), caps);
    const stmts: Stmt[] = [];
    const tile = define(stmts, 'tile', l.index);
    const col0 = define(stmts, 'col0', b.mul(b.builtin('block.z'), b.u32(s.bn)));
    // Between the plan's last tile and the first shared one the row wraps to a number above every T.
    const sharedRow0 = b.mul(b.sub(tile, maxTiles(p)), b.u32(s.bm));
    stmts.push(b.if_(b.lt(tile, b.load(plan, tileCountAt)), routedTile(tile, col0), sharedTile(sharedRow0, col0)));
    return { body: stmts, grid: [l.grid[0], l.grid[1], columns] };
  }

  /** Blocks that walk over the tiles there are; the shared FFN's come first, because its depth is often the greater one. */
  function staying(): { readonly body: readonly Stmt[]; readonly grid: Launch['grid'] } {
    const head: Stmt[] = [];
    const tiles = define(head, 'tiles', b.load(plan, tileCountAt));
    const sharedTiles = shared === undefined ? b.u32(0) : define(head, 'shared_tiles', b.ceilDiv(b.scalar('T'), b.u32(s.bm)));
    const walk = walkTiles(b.add(sharedTiles, tiles), columns, caps, (row, column) => {
      const stmts: Stmt[] = [];
      const place = define(stmts, 'tile_row', row);
      const col0 = define(stmts, 'col0', b.mul(column, b.u32(s.bn)));
      if (shared === undefined) return [...stmts, ...routedTile(place, col0)];
      // Wraps to a number above every tile where the place is one of the shared FFN's.
      const tile = define(stmts, 'tile', b.sub(place, sharedTiles));
      return [...stmts, b.if_(b.lt(tile, tiles), routedTile(tile, col0), sharedTile(b.mul(place, b.u32(s.bm)), col0))];
    });
    return { body: [...head, ...walk.body], grid: walk.grid };
  }

  function sharedTile(first: Expr, col0: Expr): readonly Stmt[] {
    if (shared === undefined || out === undefined) return [];
    const stmts: Stmt[] = [];
    const row0 = define(stmts, 'shared_row0', first);
    const run = computeTile(p, s, col0, {
      name: 'shared_acc',
      side: shared,
      rows: b.sub(b.scalar('T'), row0),
      firstX: row0,
      xRow: (r) => b.add(row0, r),
      yRow: (r) => b.add(row0, r),
      local: b.u32(0),
      expert: b.u32(0),
      banks: 1,
      weight: () => undefined,
      y: out,
    });
    return [...stmts, b.if_(b.and(b.lt(row0, b.scalar('T')), inColumns(shared, col0, s), inFirstSegment(p)), run)];
  }

  function routedTile(tile: Expr, col0: Expr): readonly Stmt[] {
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
      banks: Math.min(p.segmentRows ?? p.experts, p.experts),
      y,
      firstX: p.gather ? undefined : row0,
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
    grid,
  });

  function inColumns(side: Side, col: Expr, schedule: TileSchedule): Expr {
    return columns === Math.ceil(side.n / schedule.bn) ? b.bool(true) : b.lt(col, b.u32(side.n));
  }
}

/** The main loop over one tile, and what becomes of its sums. */
function computeTile(p: GroupedProblem, s: TileSchedule, col0: Expr, t: TileRows): readonly Stmt[] {
  const { side } = t;
  const count = epilogueCount(p.epilogue);
  const acc: Tile = { name: t.name, rows: s.bm, cols: s.bn, count };
  const ragged = side.n % s.bn !== 0;
  const exists = (c: Expr): Expr => b.lt(b.add(col0, c), b.u32(side.n));
  const inRows = (r: Expr): Expr => b.lt(r, t.rows);
  const { lanes: xLanes } = side.x;
  const a = b.view(
    side.x,
    (r, kk) => b.add(b.mul(t.xRow(r), b.u32(side.k / xLanes)), b.div(kk, b.u32(xLanes))),
    inRows,
    t.firstX === undefined ? {} : { matrix: { first: t.firstX } },
  );
  const rows = count * side.n;
  const banks = Array.from({ length: count }, (_, i) =>
    weightView(side.weight, (c) => weightRow(p, side, t.local, i, b.add(col0, c)), ragged ? exists : undefined, {
      first: b.add(b.mul(t.local, b.u32(rows)), b.u32(i * side.n), col0),
      // The last segment of a split bank may hold fewer.
      ...(p.segmentRows === undefined ? { rows: t.banks * rows } : {}),
    }),
  );
  return [
    b.tileAlloc(acc),
    b.mainloop(acc, a, banks, side.k, mainloopSchedule(s)),
    b.tileMap(acc, (r, c, sums) => {
      const stmts: Stmt[] = [];
      const col = define(stmts, 'col', b.add(col0, c));
      const value = b.cast(t.y.elem, finishRow(p, side, sums, t.expert, col, t.weight(r)));
      const { lanes } = t.y;
      stmts.push(b.store(t.y, b.add(b.mul(t.yRow(r), b.u32(side.n / lanes)), b.div(col, b.u32(lanes))), value));
      return [b.if_(ragged ? b.and(inRows(r), exists(c)) : inRows(r), stmts)];
    }, t.y.lanes === 2 ? 2 : 1),
  ];
}
