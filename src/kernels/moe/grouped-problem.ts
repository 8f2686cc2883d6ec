/** What a product with a bank of experts does, as data; field meanings as in `moe.grouped_linear` of the graph IR. */
import type { Epilogue } from '../epilogue.ts';
import type { MatvecSchedule, TileSchedule } from '../schedule.ts';
import type { Planned, StorageElem, WeightElem } from './common.ts';

export interface GroupedProblem extends Planned {
  /** Columns of the result; a bank of `glu` has 2n rows an expert, the n gate rows first. */
  readonly n: number;
  readonly k: number;
  /** x is [T, k], read through the plan; else [T × slots, k]. */
  readonly gather: boolean;
  readonly epilogue: Epilogue;
  readonly weightElem: WeightElem;
  /** Storage of x and of the result y; f32 where not said. */
  readonly xElem?: StorageElem;
  readonly yElem?: StorageElem;
  /** Storage of the bias [experts, rows of a bank]; absent: there is none. */
  readonly biasElem?: StorageElem;
  /** Operand `routeWeights`: multiplies the input rows, or with `combine` the output rows. */
  readonly routeWeights: boolean;
  /** The result is [T, n]: the token's rows summed in slot order. */
  readonly combine: boolean;
  /** With `combine` only. */
  readonly scale: number;
  readonly residual: boolean;
  readonly shared?: SharedProblem;
  /** Experts of the largest segment where the bank is split; absent: one buffer holds the bank. */
  readonly segmentRows?: number;
}

/** The shared FFN's product beside the routed ones. With `combine` its columns are those of the result. */
export interface SharedProblem {
  readonly n: number;
  readonly k: number;
  readonly weightElem: WeightElem;
  readonly biasElem?: StorageElem;
  /** Operand `sharedX` [T, k]; else the rows of the gathered x. */
  readonly ownX: boolean;
  /** Storage of `sharedX` where it is there, and of the result `shared`; f32 where not said. */
  readonly xElem?: StorageElem;
  readonly yElem?: StorageElem;
  /** Operand `sharedGate` [T, 1]: with `combine`, the shared rows are multiplied by its sigmoid. */
  readonly gate: boolean;
}

/** Sorted plans run tiles, direct ones rows. */
export interface GroupedSchedule {
  readonly tile?: TileSchedule;
  readonly matvec?: MatvecSchedule;
}
