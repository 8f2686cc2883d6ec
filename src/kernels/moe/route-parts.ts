/** The state that the pieces of a router kernel share while it is built. */
import * as b from '../../ir/kernel/build.ts';
import type { Buffer, Elem, Expr, Lanes, Stmt } from '../../ir/kernel/types.ts';
import { globalBuffer } from './common.ts';
import type { RouteProblem, RouteSchedule } from './route-problem.ts';

/** A router kernel under construction: one block a token. */
export interface RouteKernel {
  readonly p: RouteProblem;
  readonly s: RouteSchedule;
  readonly params: (readonly [operand: string, buffer: Buffer])[];
  readonly shared: Buffer[];
  readonly body: Stmt[];
  readonly token: Expr;
}

export const routeKernel = (p: RouteProblem, s: RouteSchedule): RouteKernel => ({
  p,
  s,
  params: [],
  shared: [],
  body: [],
  token: b.variable('token'),
});

/** Adds a parameter named after its operand. */
export function param(r: RouteKernel, operand: string, elem: Elem, lanes: Lanes = 1): Buffer {
  const made = globalBuffer(operand, elem, lanes);
  r.params.push([operand, made]);
  return made;
}

/** Adds the counters. */
export function faultsParam(r: RouteKernel): Buffer {
  const made: Buffer = { ...globalBuffer('faults', 'u32'), atomic: true };
  r.params.push(['faults', made]);
  return made;
}

export function sharedArray(r: RouteKernel, name: string, elem: Elem, size: number): Buffer {
  const made = b.buffer(name, 'shared', elem, 1, size);
  r.shared.push(made);
  return made;
}

/** Runs `body` for i = thread, thread + block, … below `count`. */
export const eachOwn = (r: RouteKernel, name: string, count: number, body: (i: Expr) => readonly Stmt[]): Stmt =>
  b.for_(name, b.thread, b.u32(count), r.s.block, body);

export const onFirstThread = (body: readonly Stmt[], cond: Expr = b.bool(true)): Stmt => b.if_(b.and(b.eq(b.thread, b.u32(0)), cond), body);
