/**
 * Expands the tile statements into statements of single threads (tile level → simt level, without
 * barriers): main loops, products and what surrounds them as their variant says, reductions through shared memory.
 * The portable variant is always there; a target adds its own.
 */
import * as b from '../../ir/kernel/build.ts';
import type { Buffer, Kernel, MainloopSchedule, Stmt } from '../../ir/kernel/types.ts';
import { mapBodiesOf, mapBuffers, visitExprs, walkStmts } from '../../ir/kernel/walk.ts';
import { awaitBlocks } from './await-blocks.ts';
import { SINGLE, fmaVariant } from './expand-fma.ts';
import { ProductExpander } from './expand-products.ts';
import { ReducePool, expandReduce } from './expand-reduce.ts';
import { freshNames } from './fresh.ts';
import type { MainloopVariant, TileState } from './variant.ts';

export interface ExpandOptions {
  /** Whether reductions may use subgroup operations. */
  readonly subgroups: boolean;
  /** Threads of every subgroup, where that is known: main loops may then hand values round in subgroups. */
  readonly subgroupSize?: number;
  /** The target's own variants of main loops. */
  readonly variants?: readonly MainloopVariant[];
}

/** Names of buffers that a body writes. */
export function writtenBuffers(body: readonly Stmt[]): Set<string> {
  const names = new Set<string>();
  for (const s of walkStmts(body)) if (s.k === 'store' || s.k === 'atomic') names.add(s.buf.name);
  return names;
}

/** Schedules may differ in how a loop runs, not in who owns which element. */
const ownership = (s: MainloopSchedule): string =>
  JSON.stringify(s.variant === 'fma' ? [s.variant, s.tm, s.tn] : s.variant === 'mma-sync' ? [s.variant, s.warpsM, s.warpsN] : [s.variant, s.consumers]);

/** The schedule of each tile's main loops: all over one tile must agree on who owns what. */
function schedules(body: readonly Stmt[]): Map<string, MainloopSchedule> {
  const found = new Map<string, MainloopSchedule>();
  for (const s of walkStmts(body)) {
    if (s.k !== 'tile.mainloop' && s.k !== 'tile.product') continue;
    const known = found.get(s.tile.name);
    if (known !== undefined && ownership(known) !== ownership(s.schedule)) {
      throw new Error(`tile ${s.tile.name}: its main loops disagree on the piece of a thread`);
    }
    found.set(s.tile.name, s.schedule);
  }
  return found;
}

/** Throws on tiles that do not fit the block; gives the kernel at simt level. */
export function expandTiles(source: Kernel, options: ExpandOptions): Kernel {
  const kernel = awaitBlocks(source);
  const fresh = freshNames(kernel);
  const { block } = kernel;
  const written = writtenBuffers(kernel.body);
  const scheduleOf = schedules(kernel.body);
  const variants = new Map([fmaVariant(options.subgroups ? options.subgroupSize : undefined), ...(options.variants ?? [])].map((v) => [v.name, v]));
  const states = new Map<string, TileState>();
  const shared: Buffer[] = [];
  const pool = new ReducePool(fresh);
  const stateOf = (name: string): TileState => {
    const state = states.get(name);
    if (state === undefined) throw new Error(`tile ${name} is used before tile.alloc`);
    return state;
  };

  const products = new ProductExpander(variants, block, fresh, stateOf);
  const expand = (s: Stmt): readonly Stmt[] => {
    switch (s.k) {
      case 'tile.alloc': {
        const schedule = scheduleOf.get(s.tile.name) ?? SINGLE;
        const variant = variants.get(schedule.variant);
        if (variant === undefined) throw new Error(`tile ${s.tile.name}: the target has no variant ${schedule.variant}`);
        const state = variant.start(s.tile, schedule, block, fresh);
        states.set(s.tile.name, state);
        return state.declare;
      }
      case 'tile.mainloop': {
        if (s.b.length !== s.tile.count) throw new Error(`tile ${s.tile.name}: ${s.tile.count} counts, ${s.b.length} operands b`);
        const loop = stateOf(s.tile.name).mainloop(s, written);
        shared.push(...loop.shared);
        return loop.body;
      }
      case 'tile.map':
        return stateOf(s.tile.name).map(s, products.rowsFor(s.tile, [s]));
      case 'tile.reduce':
        return expandReduce(s, block, pool, options.subgroups, fresh);
      case 'tile.stage':
      case 'tile.await':
      case 'tile.product':
      case 'tile.row':
      case 'tile.fold':
      case 'tile.update':
        return products.expand(s, written, pool);
      default:
        return [mapBodiesOf(s, expandBody)];
    }
  };
  // In text order: a tile's layout is known before what stands in its scope.
  const expandBody = (body: readonly Stmt[]): readonly Stmt[] => body.flatMap(expand);

  const body = expandBody(kernel.body);
  const used = usedBuffers(body);
  const buffers = [...uniteManaged([...shared, ...products.shared]), ...pool.buffers].filter((x) => used.has(x.name));
  const managed = new Map(buffers.filter((x) => x.managed === true).map((x) => [x.name, x]));
  return mapBuffers({ ...kernel, body: [...buffers.map(b.alloc), ...body] }, (x) => managed.get(x.name) ?? x);
}

/** Memory that variants order themselves serves all main loops of a kernel in turn: one buffer a name, as large as any of them wants. */
function uniteManaged(shared: readonly Buffer[]): readonly Buffer[] {
  const largest = new Map<string, Buffer>();
  for (const x of shared) if (x.managed === true && x.size > (largest.get(x.name)?.size ?? 0)) largest.set(x.name, x);
  return [...largest.values(), ...shared.filter((x) => x.managed !== true)];
}

function usedBuffers(body: readonly Stmt[]): Set<string> {
  const used = writtenBuffers(body);
  visitExprs(body, (e) => {
    if (e.k === 'load') used.add(e.buf.name);
  });
  for (const s of walkStmts(body)) if (s.k === 'machine') for (const a of s.args) if (a.k === 'address') used.add(a.buf.name);
  return used;
}
