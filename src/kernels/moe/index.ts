/**
 * The families of a mixture-of-experts layer: routing, capacity, planning, permuting, expert products, combining.
 *
 *   route(problem, schedule, caps): LaunchGroup      all forms of moe.route
 *   capacity(problem, schedule, caps): Launch        moe.capacity
 *   plan(problem, schedule, caps): Launch            moe.plan, sorted (direct needs no kernel)
 *   permute(problem, schedule, caps): Launch         moe.permute
 *   groupedLinear(problem, schedule, caps): Launch   all forms of moe.grouped_linear
 *   combine(problem, schedule, caps): Launch         moe.combine
 */
export { DROPPED, FAULT_IDS, FAULT_LOGITS } from './common.ts';
export type { LaunchGroup, Planned, ScratchDecl } from './common.ts';
export { route, routeSchedule } from './route.ts';
export type { RouteCrews, RouteProblem, RouteSchedule } from './route-problem.ts';
export { capacity } from './capacity.ts';
export type { CapacityProblem } from './capacity.ts';
export { plan } from './plan.ts';
export type { PlanProblem, PlanSchedule } from './plan.ts';
export type { PlanBlocks } from './plan-blocks.ts';
export { planSize } from './plan-layout.ts';
export { permute } from './permute.ts';
export type { PermuteProblem } from './permute.ts';
export { groupedLinear, groupedSchedule } from './grouped.ts';
export type { GroupedProblem, GroupedSchedule } from './grouped-problem.ts';
export { combine } from './combine.ts';
export type { CombineProblem } from './combine.ts';
