/**
 * The ring of slices between the warpgroup that loads and those that multiply: shared memory, two mbarriers a stage, and where
 * a role stands in the ring. A stage holds a slice of 64 columns, rows of 128 bytes in the 128-byte swizzle.
 *
 * `full` of a stage is over when all of its slice has come, `empty` when no product reads it any more. Both sides pass the
 * stages in the same order from tile to tile, so that the loads of the next tile begin while the last one is finished.
 */
import * as b from '../../../ir/kernel/build.ts';
import type { Buffer, Expr, Stmt } from '../../../ir/kernel/types.ts';
import type { Fresh } from '../../../passes/kernel/fresh.ts';

const U = b.u32;

export const WARP = 32;
export const WARPGROUP = 128;
/** Columns of a slice: a row of 16-bit elements in 128 bytes. */
export const DEPTH = 64;
/** Chunks of 16 bytes in a row of a slice; buffers count in them. */
export const ROW_CHUNKS = 8;
/** Rows of A of one wgmma. */
export const GROUP_ROWS = 64;
/** Columns of one wgmma step of depth 16, in chunks. */
export const STEP_CHUNKS = 2;

/** Stages begin where the swizzle's pattern of 8 rows does. */
const ALIGN = 1024;

export interface Stages {
  readonly count: number;
  readonly consumers: number;
  /** Rows of x, and of weights (all products), in a stage. */
  readonly xRows: number;
  readonly weightRows: number;
  readonly x: Buffer;
  readonly weights: Buffer;
  /** One mbarrier an access. */
  readonly full: Buffer;
  readonly empty: Buffer;
}

export function makeStages(count: number, consumers: number, xRows: number, weightRows: number, fresh: Fresh): Stages {
  const slices = (name: string, rows: number): Buffer => ({
    ...b.buffer(fresh(name), 'shared', 'u32', 4, count * rows * ROW_CHUNKS),
    managed: true,
    align: ALIGN,
  });
  const barriers = (name: string): Buffer => ({ ...b.buffer(fresh(name), 'shared', 'u32', 2, count), managed: true });
  return {
    count,
    consumers,
    xRows,
    weightRows,
    x: slices('slices_x', xRows),
    weights: slices('slices_w', weightRows),
    full: barriers('full'),
    empty: barriers('empty'),
  };
}

/** First chunk of a stage. */
export const xAt = (s: Stages, stage: Expr): Expr => b.mul(stage, U(s.xRows * ROW_CHUNKS));
export const weightsAt = (s: Stages, stage: Expr): Expr => b.mul(stage, U(s.weightRows * ROW_CHUNKS));

/** Where a role stands: variables that last as long as the role. */
export interface Position {
  readonly declare: readonly Stmt[];
  readonly stage: Expr;
  /** Of the phase that the role waits for at its stage. */
  readonly parity: Expr;
  /** To the next stage. */
  readonly advance: readonly Stmt[];
}

/** @param first parity: 0 waits for the first phase of a barrier, 1 passes, since the phase before the first counts as over */
export function position(s: Stages, first: 0 | 1, fresh: Fresh): Position {
  const names = { stage: fresh('stage'), parity: fresh('parity'), last: fresh('last_stage') };
  const stage = b.variable(names.stage);
  const parity = b.variable(names.parity);
  const last = b.variable(names.last, b.ty('bool'));
  return {
    declare: [b.var_(names.stage, U(0)), b.var_(names.parity, U(first))],
    stage,
    parity,
    advance: [
      b.let_(names.last, b.eq(stage, U(s.count - 1))),
      b.assign(names.stage, b.select(last, U(0), b.add(stage, U(1)))),
      b.assign(names.parity, b.select(last, b.bin('^', parity, U(1)), parity)),
    ],
  };
}

/** The stage that lies `back` (less than all of them) before `stage`. */
export const stageBefore = (s: Stages, stage: Expr, back: Expr): Expr => b.mod(b.add(stage, b.sub(U(s.count), back)), U(s.count));

/** Waits until the phase of the barrier at the role's stage is over. */
export const wait = (barrier: Buffer, at: Position): Stmt => b.machine('mbarrier_wait', b.address(barrier, at.stage), b.value(at.parity));
export const arrive = (barrier: Buffer, stage: Expr): Stmt => b.machine('mbarrier_arrive', b.address(barrier, stage));
