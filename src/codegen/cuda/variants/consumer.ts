/**
 * The warpgroups that multiply 64 rows each: wgmma m64nNk16 over both operands in shared memory, N columns of all products at
 * once, f32 accumulators in registers. Two slices are in flight: a stage is given back when the products of the next one have
 * been started and its own are over.
 *
 * PTX ISA, "Register fragments for wgmma": thread t of a warpgroup holds in accumulator 4 j + 2 h + c row
 * t / 32 * 16 + t % 32 / 4 + 8 h and column 8 j + t % 4 * 2 + c.
 */
import * as b from '../../../ir/kernel/build.ts';
import type { Buffer, Expr, Stmt, StmtOf, Tile } from '../../../ir/kernel/types.ts';
import { instantiate } from '../../../ir/kernel/walk.ts';
import type { Fresh } from '../../../passes/kernel/fresh.ts';
import type { HalfElem } from './ring.ts';
import {
  DEPTH, GROUP_ROWS, ROW_CHUNKS, STEP_CHUNKS, type Position, type Stages, WARP, WARPGROUP, arrive, position, wait, weightsAt, xAt,
} from './stages.ts';

const U = b.u32;

/** Arrivals at `empty`: one of each consuming warp. */
export const emptyArrivals = (consumers: number): number => (consumers * WARPGROUP) / WARP;

/** f32 [products][columns / 8][2 rows][2 columns] a thread. */
interface Sums {
  readonly tile: Tile;
  readonly acc: Buffer;
}

export class Consumer {
  readonly #stages: Stages;
  readonly #fresh: Fresh;
  readonly #at: Position;
  /** First row of the thread's warpgroup, and its own first row and column in a tile. */
  readonly #groupRow: Expr;
  readonly #row: Expr;
  readonly #col: Expr;
  readonly #sums = new Map<string, Sums>();
  readonly declare: readonly Stmt[];

  constructor(stages: Stages, fresh: Fresh) {
    this.#stages = stages;
    this.#fresh = fresh;
    this.#at = position(stages, 0, fresh);
    const names = { group: fresh('group_row'), row: fresh('own_row'), col: fresh('own_col') };
    this.#groupRow = b.variable(names.group);
    this.#row = b.variable(names.row);
    this.#col = b.variable(names.col);
    const lane = b.mod(b.thread, U(WARP));
    const warp = b.mod(b.div(b.thread, U(WARP)), U(WARPGROUP / WARP));
    this.declare = [
      ...this.#at.declare,
      b.let_(names.group, b.mul(b.sub(b.div(b.thread, U(WARPGROUP)), U(1)), U(GROUP_ROWS))),
      b.let_(names.row, b.add(this.#groupRow, b.mul(warp, U(16)), b.div(lane, U(4)))),
      b.let_(names.col, b.mul(b.mod(lane, U(4)), U(2))),
    ];
  }

  alloc({ tile }: StmtOf<'tile.alloc'>): readonly Stmt[] {
    const acc = b.buffer(this.#fresh(tile.name), 'register', 'f32', 1, (tile.count * tile.cols) / 2);
    this.#sums.set(tile.name, { tile, acc });
    return [b.alloc(acc), b.for_(this.#fresh('z'), U(0), U(acc.size), 1, (i) => [b.store(acc, i, b.f32(0))], true)];
  }

  #sumsOf(tile: Tile): Sums {
    const sums = this.#sums.get(tile.name);
    if (sums === undefined) throw new Error(`tile ${tile.name} is used before tile.alloc`);
    return sums;
  }

  mainloop(s: StmtOf<'tile.mainloop'>, elem: HalfElem): readonly Stmt[] {
    const { acc } = this.#sumsOf(s.tile);
    const { full, empty, x, weights } = this.#stages;
    const at = this.#at;
    const before = this.#fresh('stage_before');
    const keep = b.machine('wgmma_keep', b.immediate(acc.size), b.address(acc, U(0)));
    const columns = s.tile.count * s.tile.cols;
    const release = b.if_(b.eq(b.mod(b.thread, U(WARP)), U(0)), [arrive(empty, b.variable(before))]);
    const products = Array.from({ length: DEPTH / 16 }, (_, k) => {
      const own = b.add(xAt(this.#stages, at.stage), b.mul(this.#groupRow, U(ROW_CHUNKS)), U(k * STEP_CHUNKS));
      const all = b.add(weightsAt(this.#stages, at.stage), U(k * STEP_CHUNKS));
      return b.machine(`wgmma_m64k16_${elem}`, b.immediate(columns), b.address(acc, U(0)), b.address(x, own), b.address(weights, all));
    });
    return [
      b.var_(before, U(0)),
      b.for_(this.#fresh('slice'), U(0), U(Math.ceil(s.depth / DEPTH)), 1, (slice) => [
        wait(full, at),
        keep,
        b.machine('wgmma_fence'),
        ...products,
        b.machine('wgmma_commit'),
        keep,
        b.if_(b.gt(slice, U(0)), [b.machine('wgmma_wait', b.immediate(1)), release]),
        b.assign(before, at.stage),
        ...at.advance,
      ]),
      b.machine('wgmma_wait', b.immediate(0)),
      keep,
      release,
    ];
  }

  /** Once per run of columns a thread holds: loops that unroll, so that the text stays short. */
  map(s: StmtOf<'tile.map'>): readonly Stmt[] {
    const { tile, acc } = this.#sumsOf(s.tile);
    const per = 2 / s.lanes;
    const runs = (tile.cols / 8) * per;
    return [
      b.for_(this.#fresh('i'), U(0), U(2), 1, (i) => [
        b.for_(this.#fresh('j'), U(0), U(runs), 1, (j) => {
          const piece = b.div(j, U(per));
          const inPiece = b.mod(j, U(per));
          const stmts: Stmt[] = [];
          const bind = (name: string, value: Expr): Expr => {
            const v = this.#fresh(name);
            stmts.push(b.let_(v, value));
            return b.variable(v, value.ty);
          };
          const bindings = new Map<string, Expr>([
            [s.row, bind(s.row, b.add(this.#row, b.mul(i, U(8))))],
            [s.col, bind(s.col, b.add(this.#col, b.mul(piece, U(8)), inPiece))],
          ]);
          s.values.forEach((name, c) => {
            const first = b.add(U((c * tile.cols) / 2), b.mul(piece, U(4)), b.mul(i, U(2)), inPiece);
            const values = Array.from({ length: s.lanes }, (_, l) => b.load(acc, b.add(first, U(l))));
            bindings.set(name, bind(name, b.pack(values)));
          });
          return [...stmts, ...instantiate(s.body, bindings, this.#fresh)];
        }, true),
      ], true),
    ];
  }
}
