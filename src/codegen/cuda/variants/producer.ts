/**
 * The warpgroup that loads. Boxes of weights come by the copy engine (TMA), at the word of one thread; rows of x by
 * asynchronous copies of all 128 threads, since gathered rows lie anywhere.
 *
 * Copies of x are handed over LAG slices late: a thread waits for its own copies of then, makes them visible to the
 * tensor cores (fence.proxy.async) and arrives, while younger ones are under way.
 */
import * as b from '../../../ir/kernel/build.ts';
import type { Expr, Stmt, StmtOf, TensorMap } from '../../../ir/kernel/types.ts';
import type { Fresh } from '../../../passes/kernel/fresh.ts';
import { Hoisted } from '../../../passes/kernel/view-access.ts';
import { type Ring, copyAsync, ring } from './ring.ts';
import { DEPTH, ROW_CHUNKS, type Position, type Stages, WARPGROUP, arrive, position, stageBefore, wait, weightsAt } from './stages.ts';

const U = b.u32;

/** Slices that copies of x are under way before they are waited for, where there are stages enough. */
const LAG = 2;

/** Arrivals at `full`: each thread's, and the announcement of the boxes' bytes. */
export const FULL_ARRIVALS: number = WARPGROUP + 1;

export class Producer {
  readonly #stages: Stages;
  readonly #fresh: Fresh;
  readonly #at: Position;
  readonly #lag: number;
  /** Slices whose copies are not handed over. */
  readonly #open: Expr;
  readonly declare: readonly Stmt[];

  constructor(stages: Stages, fresh: Fresh) {
    this.#stages = stages;
    this.#fresh = fresh;
    this.#at = position(stages, 1, fresh);
    // A consumer gives a stage back when it has the next slice; so at least two of the stages must be handed over.
    this.#lag = Math.min(LAG, stages.count - 2);
    const open = fresh('open_slices');
    this.#open = b.variable(open);
    this.declare = [...this.#at.declare, b.var_(open, U(0))];
  }

  /** Loads all slices of a main loop; `maps` are those of its operands b. */
  mainloop(s: StmtOf<'tile.mainloop'>, maps: readonly TensorMap[]): readonly Stmt[] {
    const { count, xRows, x, empty } = this.#stages;
    const at = this.#at;
    const hoisted = new Hoisted(this.#fresh);
    const rows: Ring = { ...ring(s.a, 'x', xRows, DEPTH, count, WARPGROUP, hoisted), buf: x };
    const first = s.b.map((v) => hoisted.bind(v.matrix?.first ?? U(0), undefined, `${v.buf.name}_row`));
    return [
      ...hoisted.stmts,
      b.for_(this.#fresh('slice'), U(0), U(Math.ceil(s.depth / DEPTH)), 1, (slice) => {
        const k0 = b.mul(slice, U(DEPTH));
        return [
          wait(empty, at),
          b.if_(b.eq(b.thread, U(0)), this.#boxes(k0, first, maps)),
          ...copyAsync(rows, at.stage, k0, s.depth, DEPTH),
          b.machine('cp_async_commit'),
          ...this.#handOver(),
          ...at.advance,
        ];
      }),
    ];
  }

  /** A box of every product, one behind another in the stage. Columns beyond the depth and rows beyond the matrix become zeros. */
  #boxes(k0: Expr, first: readonly Expr[], maps: readonly TensorMap[]): readonly Stmt[] {
    const { full, weights, weightRows } = this.#stages;
    const { stage } = this.#at;
    let row = 0;
    const loads = maps.map((map, i) => {
      const to = b.add(weightsAt(this.#stages, stage), U(row * ROW_CHUNKS));
      row += map.boxRows;
      return b.machine(
        'tma_load_2d',
        b.address(weights, to), b.map(map.name), b.address(full, stage), b.value(k0), b.value(first[i] ?? U(0)),
      );
    });
    const bytes = weightRows * DEPTH * 2;
    return [b.machine('mbarrier_expect', b.address(full, stage), b.value(U(bytes))), ...loads];
  }

  /** Hands over the slice `lag` before this one, if there is one. */
  #handOver(): readonly Stmt[] {
    const open = this.#open;
    if (open.k !== 'var') return [];
    return [
      b.if_(
        b.eq(open, U(this.#lag)),
        [
          b.machine('cp_async_wait', b.immediate(this.#lag)),
          b.machine('fence_async'),
          arrive(this.#stages.full, stageBefore(this.#stages, this.#at.stage, U(this.#lag))),
        ],
        [b.assign(open.name, b.add(open, U(1)))],
      ),
    ];
  }

  /** Hands over what is still open, after the last tile. */
  end(): readonly Stmt[] {
    const open = this.#open;
    return [
      b.machine('cp_async_wait', b.immediate(0)),
      b.machine('fence_async'),
      b.for_(this.#fresh('late'), U(0), open, 1, (i) => [
        arrive(this.#stages.full, stageBefore(this.#stages, this.#at.stage, b.sub(open, i))),
      ]),
    ];
  }
}
