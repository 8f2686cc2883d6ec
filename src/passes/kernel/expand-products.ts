/**
 * Expands products of blocks and values of rows: what is the same for all variants. Which memory a block lies in, which
 * threads hold a row value, and that both fit what they are used with.
 */
import type { Block, Buffer, Expr, Stmt, StmtOf, Tile } from '../../ir/kernel/types.ts';
import { substitute, visitExprs } from '../../ir/kernel/walk.ts';
import type { ReducePool } from './expand-reduce.ts';
import type { Fresh } from './fresh.ts';
import type { BlockMemory, MainloopVariant, RowHolder, RowValues, TileProducts, TileState } from './variant.ts';

export type ProductStmt = StmtOf<'tile.stage' | 'tile.await' | 'tile.product' | 'tile.row' | 'tile.fold' | 'tile.update'>;

interface Held {
  readonly holder: RowHolder;
  readonly owners: string;
}

export class ProductExpander {
  /** Shared buffers of blocks, and what products need besides. */
  readonly shared: Buffer[] = [];
  readonly #memory = new Map<string, Buffer>();
  readonly #rows = new Map<string, Held>();
  readonly #variants: ReadonlyMap<string, MainloopVariant>;
  readonly #threads: number;
  readonly #fresh: Fresh;
  readonly #stateOf: (tile: string) => TileState;

  constructor(variants: ReadonlyMap<string, MainloopVariant>, threads: number, fresh: Fresh, stateOf: (tile: string) => TileState) {
    this.#variants = variants;
    this.#threads = threads;
    this.#fresh = fresh;
    this.#stateOf = stateOf;
  }

  expand(s: ProductStmt, written: ReadonlySet<string>, pool: ReducePool): readonly Stmt[] {
    switch (s.k) {
      case 'tile.stage':
        return this.#blocks(s.block).stage(s, this.#memoryOf(s.block), this.#threads, this.#fresh, written);
      case 'tile.await':
        return [...this.#variants.values()].flatMap((v) => (this.#uses(v) ? (v.blocks?.wait ?? []) : []));
      case 'tile.product': {
        const source = s.a.k === 'tile' ? this.#stateOf(s.a.tile.name) : undefined;
        if (s.a.k === 'tile' && this.#products(s.a.tile).owners !== this.#products(s.tile).owners) {
          throw new Error(`tile ${s.tile.name}: other threads hold the rows of its operand ${s.a.tile.name}`);
        }
        const { shared, body } = this.#products(s.tile).product(s, (block) => this.#memoryOf(block), source);
        this.shared.push(...shared);
        return body;
      }
      case 'tile.update':
        return this.#products(s.tile).update(s, this.rowsFor(s.tile, [s]));
      case 'tile.row': {
        const products = this.#products(s.tile);
        const rows = this.rowsFor(s.tile, [s]);
        const { holder } = s.assign ? this.#held(s.name, products.owners) : this.#hold(s.name, products);
        const at = (i: Expr, row: Expr): Map<string, Expr> => rowBindings(rows, i).set(s.row, row);
        return [...(s.assign ? [] : holder.declare), ...products.eachRow((i, row) => [holder.set(i, substitute(s.value, at(i, row)))])];
      }
      case 'tile.fold': {
        const products = this.#products(s.tile);
        const rows = this.rowsFor(s.tile, [s]);
        const { holder } = this.#hold(s.name, products);
        return [...holder.declare, ...products.fold(s, holder, rows, pool)];
      }
    }
  }

  /** The row values that statements over a tile read. Throws where threads read a value that they do not hold. */
  rowsFor(tile: Tile, body: readonly Stmt[]): RowValues {
    const read = new Set<string>();
    visitExprs(body, (e) => {
      if (e.k === 'var' && this.#rows.has(e.name)) read.add(e.name);
    });
    return new Map([...read].map((name) => [name, this.#held(name, this.#products(tile).owners).holder]));
  }

  #held(name: string, owners: string): Held {
    const held = this.#rows.get(name);
    if (held === undefined) throw new Error(`row value ${name} is used before it is bound`);
    if (held.owners !== owners) throw new Error(`row value ${name} is held by other threads than those of the tile that reads it`);
    return held;
  }

  #hold(name: string, products: TileProducts): Held {
    const held = { holder: products.holder(name), owners: products.owners };
    this.#rows.set(name, held);
    return held;
  }

  #products(tile: Tile): TileProducts {
    const { products } = this.#stateOf(tile.name);
    if (products === undefined) throw new Error(`tile ${tile.name}: its variant has no products of blocks and no row values`);
    return products;
  }

  #blocks(block: Block): BlockMemory {
    const blocks = this.#variants.get(block.variant)?.blocks;
    if (blocks === undefined) throw new Error(`block ${block.name}: the target has no blocks of variant ${block.variant}`);
    return blocks;
  }

  #uses(v: MainloopVariant): boolean {
    return [...this.#memory.keys()].some((key) => key.startsWith(`${v.name} `));
  }

  #memoryOf(block: Block): Buffer {
    const key = `${block.variant} ${block.name}`;
    const known = this.#memory.get(key);
    if (known !== undefined) return known;
    const made = this.#blocks(block).buffer(block, this.#fresh(block.name));
    this.#memory.set(key, made);
    this.shared.push(made);
    return made;
  }
}

/** What the names of row values stand for in the thread's i-th row. */
export const rowBindings = (rows: RowValues, i: Expr): Map<string, Expr> => new Map([...rows].map(([name, holder]) => [name, holder.at(i)]));
