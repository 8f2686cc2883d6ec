/** What the mixture-of-experts families share: several launches for one op, routed rows, small loops. */
import type { Size } from '../../base/size.ts';
import { mulSize } from '../../base/size.ts';
import * as b from '../../ir/kernel/build.ts';
import type { Expr } from '../../ir/kernel/types.ts';

export {
  copy,
  define,
  elementwise,
  elementwiseSchedule,
  globalBuffer,
  inLine,
  lanesFor,
  launch,
  line,
  powerOfTwo,
  wantIndexable,
  wantWhole,
} from '../dense/common.ts';
export type { ElementwiseSchedule, StorageElem, WeightElem } from '../dense/common.ts';
export type { LaunchGroup, ScratchDecl } from '../launch.ts';

/** The id of a slot that is dropped or not used. */
export const DROPPED = 0xffff_ffff;

/** Counters of `faults`: rows with non-finite router logits; ids outside of a table. */
export const FAULT_LOGITS = 0;
export const FAULT_IDS = 1;

/** Routed rows of a call, on the host and on the device. */
export const routedSize = (slots: number): Size => mulSize('T', slots);
export const routedRows = (slots: number): Expr => b.mul(b.scalar('T'), b.u32(slots));

/** How routed rows are found: see `PlanType` of the graph IR. */
export interface Planned {
  readonly experts: number;
  readonly slots: number;
  readonly mode: 'direct' | 'sorted';
  /** Rows of a tile of the plan (sorted only). */
  readonly tileRows: number;
}

export const F32: Expr['ty'] = b.ty('f32');
