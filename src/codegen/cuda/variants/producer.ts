/**
 * The warpgroup that loads. Weights come in boxes by the copy engine (TMA), at the word of one thread, and so do rows of x where
 * they lie one after another. Gathered rows lie anywhere: asynchronous copies of all 128 threads bring them.
 *
 * Copies are handed over LAG slices late: a thread waits for its own copies of then, makes them visible to the tensor
 * cores (fence.proxy.async) and arrives, while younger ones are under way.
 */
import * as b from '../../../ir/kernel/build.ts';
import type { Buffer, Expr, Stmt, StmtOf, TensorMap, View } from '../../../ir/kernel/types.ts';
import type { Fresh } from '../../../passes/kernel/fresh.ts';
import { Hoisted } from '../../../passes/kernel/view-access.ts';
import { type Ring, copyAsync, ring } from './ring.ts';
import { DEPTH, ROW_CHUNKS, type Position, type Stages, WARPGROUP, arrive, position, stageBefore, wait, weightsAt, xAt } from './stages.ts';

const U = b.u32;

/** Slices that copies are under way before they are waited for, where there are stages enough. */
const LAG = 2;

/** How rows of x come: in boxes, at the word of one thread, or by copies of all threads of the warpgroup. */
export type RowSource = 'boxes' | 'copies';

/** Arrivals at `full`: the announcement of the boxes' bytes and, where threads copy, each thread's. */
export const fullArrivals = (source: RowSource): number => (source === 'boxes' ? 1 : WARPGROUP + 1);

/** A box and where it goes in the stage, in chunks from its buffer's beginning. */
interface Box {
  readonly map: TensorMap;
  /** First row, not computed again from slice to slice. */
  readonly row: Expr;
  readonly to: Buffer;
  readonly at: Expr;
}

export class Producer {
  readonly #stages: Stages;
  readonly #source: RowSource;
  readonly #fresh: Fresh;
  readonly #at: Position;
  readonly #lag: number;
  /** The variable that counts slices whose copies are not handed over. */
  readonly #open: string;

  constructor(stages: Stages, source: RowSource, fresh: Fresh) {
    this.#stages = stages;
    this.#source = source;
    this.#fresh = fresh;
    this.#at = position(stages, 1, fresh);
    // A consumer gives a stage back when it has the next slice; so at least two of the stages must be handed over.
    this.#lag = Math.min(LAG, stages.count - 2);
    this.#open = fresh('open_slices');
  }

  /** The role around its body. */
  role(body: readonly Stmt[]): readonly Stmt[] {
    if (this.#source === 'boxes') return [b.if_(b.eq(b.thread, U(0)), [...this.#at.declare, ...body])];
    return [...this.#at.declare, b.var_(this.#open, U(0)), ...body, ...this.#handOverRest()];
  }

  /** Loads all slices of a main loop; `mapOf` gives the maps of its operands, of the rows of x where they come in boxes. */
  mainloop(s: StmtOf<'tile.mainloop'>, mapOf: (view: View) => TensorMap): readonly Stmt[] {
    const { count, xRows, x, empty } = this.#stages;
    const at = this.#at;
    const boxed = this.#source === 'boxes';
    const hoisted = new Hoisted(this.#fresh);
    const rows: Ring | undefined = boxed ? undefined : { ...ring(s.a, 'x', xRows, DEPTH, count, WARPGROUP, hoisted), buf: x };
    const boxes = this.#boxes(s, mapOf, hoisted);
    return [
      ...hoisted.stmts,
      b.for_(this.#fresh('slice'), U(0), U(Math.ceil(s.depth / DEPTH)), 1, (slice) => {
        const k0 = b.mul(slice, U(DEPTH));
        const load = this.#load(boxes, k0);
        return [
          wait(empty, at),
          ...(rows === undefined
            ? load
            : [b.if_(b.eq(b.thread, U(0)), load), ...copyAsync(rows, at.stage, k0, s.depth, DEPTH), b.machine('cp_async_commit'), this.#handOver()]),
          ...at.advance,
        ];
      }),
    ];
  }

  #boxes(s: StmtOf<'tile.mainloop'>, mapOf: (view: View) => TensorMap, hoisted: Hoisted): readonly Box[] {
    const { x, weights } = this.#stages;
    const { stage } = this.#at;
    const box = (v: View, to: Buffer, at: Expr): Box => ({
      map: mapOf(v), row: hoisted.bind(v.matrix?.first ?? U(0), undefined, `${v.buf.name}_row`), to, at,
    });
    // Products lie one behind another in a stage: one wgmma multiplies them all.
    const ofWeights = s.b.map((v, i) => box(v, weights, b.add(weightsAt(this.#stages, stage), U(i * s.tile.cols * ROW_CHUNKS))));
    return this.#source === 'boxes' ? [box(s.a, x, xAt(this.#stages, stage)), ...ofWeights] : ofWeights;
  }

  /** Columns beyond the depth and rows beyond the matrix arrive as zeros, and their bytes count. */
  #load(boxes: readonly Box[], k0: Expr): readonly Stmt[] {
    const { full } = this.#stages;
    const { stage } = this.#at;
    const bytes = boxes.reduce((n, { map }) => n + map.boxRows * DEPTH * 2, 0);
    return [
      b.machine('mbarrier_expect', b.address(full, stage), b.value(U(bytes))),
      ...boxes.map(({ map, row, to, at }) =>
        b.machine('tma_load_2d', b.address(to, at), b.map(map.name), b.address(full, stage), b.value(k0), b.value(row))),
    ];
  }

  /** Hands over the slice `lag` before this one, if there is one. */
  #handOver(): Stmt {
    const open = b.variable(this.#open);
    return b.if_(
      b.eq(open, U(this.#lag)),
      [
        b.machine('cp_async_wait', b.immediate(this.#lag)),
        b.machine('fence_async'),
        arrive(this.#stages.full, stageBefore(this.#stages, this.#at.stage, U(this.#lag))),
      ],
      [b.assign(this.#open, b.add(open, U(1)))],
    );
  }

  /** After the last tile. */
  #handOverRest(): readonly Stmt[] {
    const open = b.variable(this.#open);
    return [
      b.machine('cp_async_wait', b.immediate(0)),
      b.machine('fence_async'),
      b.for_(this.#fresh('late'), U(0), open, 1, (i) => [
        arrive(this.#stages.full, stageBefore(this.#stages, this.#at.stage, b.sub(open, i))),
      ]),
    ];
  }
}
