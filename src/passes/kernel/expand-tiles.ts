/**
 * Expands the tile statements into statements of single threads (tile level → simt level, without
 * barriers): accumulators become variables, main loops become loads and fma, maps are written out per
 * element, reductions go through shared memory. Portable: every target can run the result.
 */
import * as b from '../../ir/kernel/build.ts';
import type { Buffer, Expr, Kernel, Stmt, StmtOf } from '../../ir/kernel/types.ts';
import { instantiate, mapBodiesOf, visitExprs, walkStmts } from '../../ir/kernel/walk.ts';
import { ReducePool, expandReduce } from './expand-reduce.ts';
import { expandRegister } from './expand-register.ts';
import { expandShared } from './expand-shared.ts';
import { freshNames } from './fresh.ts';
import type { Fresh } from './fresh.ts';
import { inOwners, tileLayout } from './tile-layout.ts';
import type { TileLayout } from './tile-layout.ts';

export interface ExpandOptions {
  /** Whether reductions may use subgroup operations. */
  readonly subgroups: boolean;
}

/** Names of buffers that a body writes. */
export function writtenBuffers(body: readonly Stmt[]): Set<string> {
  const names = new Set<string>();
  for (const s of walkStmts(body)) if (s.k === 'store' || s.k === 'atomic') names.add(s.buf.name);
  return names;
}

/** The piece of each tile that one thread owns: all main loops over a tile must agree on it. */
function pieces(body: readonly Stmt[]): Map<string, { tm: number; tn: number }> {
  const found = new Map<string, { tm: number; tn: number }>();
  for (const s of walkStmts(body)) {
    if (s.k !== 'tile.mainloop') continue;
    const { tm, tn } = s.schedule;
    const known = found.get(s.tile.name);
    if (known !== undefined && (known.tm !== tm || known.tn !== tn)) {
      throw new Error(`tile ${s.tile.name}: its main loops disagree on the piece of a thread`);
    }
    found.set(s.tile.name, { tm, tn });
  }
  return found;
}

/** Throws on tiles that do not fit the block; gives the kernel at simt level. */
export function expandTiles(kernel: Kernel, options: ExpandOptions): Kernel {
  const fresh = freshNames(kernel);
  const { block } = kernel;
  const written = writtenBuffers(kernel.body);
  const pieceOf = pieces(kernel.body);
  const layouts = new Map<string, TileLayout>();
  const shared: Buffer[] = [];
  const pool = new ReducePool(fresh);
  const layoutOf = (name: string): TileLayout => {
    const layout = layouts.get(name);
    if (layout === undefined) throw new Error(`tile ${name} is used before tile.alloc`);
    return layout;
  };

  const expand = (s: Stmt): readonly Stmt[] => {
    switch (s.k) {
      case 'tile.alloc': {
        const { tm, tn } = pieceOf.get(s.tile.name) ?? { tm: 1, tn: 1 };
        const layout = tileLayout(s.tile, tm, tn, block, fresh);
        layouts.set(s.tile.name, layout);
        return layout.declare;
      }
      case 'tile.mainloop': {
        const layout = layoutOf(s.tile.name);
        if (s.b.length !== s.tile.count) throw new Error(`tile ${s.tile.name}: ${s.tile.count} counts, ${s.b.length} operands b`);
        if (s.schedule.staging === 'register') return inOwners(layout, block, expandRegister(s, layout, fresh, written));
        const staged = expandShared(s, layout, block, fresh, written);
        shared.push(...staged.shared);
        return staged.body;
      }
      case 'tile.map':
        return expandMap(s, layoutOf(s.tile.name), block, fresh);
      case 'tile.reduce':
        return expandReduce(s, block, pool, options.subgroups, fresh);
      default:
        return [mapBodiesOf(s, expandBody)];
    }
  };
  // In text order: a tile's layout is known before what stands in its scope.
  const expandBody = (body: readonly Stmt[]): readonly Stmt[] => body.flatMap(expand);

  const body = expandBody(kernel.body);
  const used = usedBuffers(body);
  const allocs = [...shared, ...pool.buffers].filter((x) => used.has(x.name)).map(b.alloc);
  return { ...kernel, body: [...allocs, ...body] };
}

function usedBuffers(body: readonly Stmt[]): Set<string> {
  const used = writtenBuffers(body);
  visitExprs(body, (e) => {
    if (e.k === 'load') used.add(e.buf.name);
  });
  return used;
}

/** The body once per element the thread owns, its names made unique. */
function expandMap(s: StmtOf<'tile.map'>, layout: TileLayout, block: number, fresh: Fresh): readonly Stmt[] {
  const stmts: Stmt[] = [];
  for (let i = 0; i < layout.tm; i++) {
    for (let j = 0; j < layout.tn; j++) {
      const bindings = new Map<string, Expr>(s.values.map((v, c): [string, Expr] => [v, layout.acc(c, i, j)]));
      const row = layout.rows[i];
      const col = layout.cols[j];
      if (row !== undefined) bindings.set(s.row, row);
      if (col !== undefined) bindings.set(s.col, col);
      const single = layout.tm * layout.tn === 1;
      stmts.push(...instantiate(s.body, bindings, (name) => (single ? name : fresh(`${name}_${i}_${j}`))));
    }
  }
  return inOwners(layout, block, stmts);
}
