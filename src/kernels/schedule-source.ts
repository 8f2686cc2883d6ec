/** Schedules from outside: a tuner's winners. Families run by their defaults where there is none. */
import type { AttentionProblem, AttentionSchedule } from './dense/index.ts';
import type { HeadLinearProblem, LinearProblem } from './dense/linear.ts';
import type { LinearSchedule } from './dense/matmul.ts';
import type { GroupedProblem, GroupedSchedule } from './moe/grouped-problem.ts';
import type { MatvecSchedule } from './schedule.ts';

/** Families that are tuned: what a kernel is asked for, and the record it runs by. */
export interface TunedFamilies {
  readonly linear: { readonly problem: LinearProblem; readonly schedule: LinearSchedule | MatvecSchedule };
  readonly head_linear: { readonly problem: HeadLinearProblem; readonly schedule: LinearSchedule | MatvecSchedule };
  readonly 'grouped-linear': { readonly problem: GroupedProblem; readonly schedule: GroupedSchedule };
  readonly attention: { readonly problem: AttentionProblem; readonly schedule: AttentionSchedule };
}
export type TunedFamily = keyof TunedFamilies;

/** What a sorted plan is over. */
export interface PlanShape {
  readonly experts: number;
  readonly slots: number;
}

/** Schedules of one bucket; legal ones, or kernels refuse them by throwing. */
export interface ScheduleSource {
  /** Rows of the tiles of a sorted plan, and of the expert products over it. */
  tileRows?(plan: PlanShape): number | undefined;
  find?<F extends TunedFamily>(family: F, problem: TunedFamilies[F]['problem']): TunedFamilies[F]['schedule'] | undefined;
}
