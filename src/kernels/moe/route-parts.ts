/** The state that the pieces of a router kernel share while it is built. */
import * as b from '../../ir/kernel/build.ts';
import type { Buffer, Elem, Expr, Lanes, ReduceOp, Stmt } from '../../ir/kernel/types.ts';
import { globalBuffer } from './common.ts';
import type { RouteProblem } from './route-problem.ts';

/** The threads that choose for one token: a whole block, or a subgroup beside others in its block. */
export interface Crew {
  readonly threads: number;
  /** This thread among them. */
  readonly self: Expr;
  /** Crews of a block, and which of them this is; one crew is the block itself. */
  readonly count: number;
  readonly index: Expr;
  /** Subgroups only: whether there is a token for the crew; crews without one repeat another's, and write nothing that others see. */
  readonly here?: Expr;
}

/** A router kernel under construction. */
export interface RouteKernel {
  readonly p: RouteProblem;
  /** Threads of a block. */
  readonly block: number;
  readonly crew: Crew;
  readonly params: (readonly [operand: string, buffer: Buffer])[];
  readonly shared: Buffer[];
  readonly body: Stmt[];
  readonly token: Expr;
}

export const blockCrew = (block: number): Crew => ({ threads: block, self: b.thread, count: 1, index: b.u32(0) });

export const routeKernel = (p: RouteProblem, block: number, crew: Crew = blockCrew(block)): RouteKernel => ({
  p,
  block,
  crew,
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

/** A crew's part of a shared array. */
export interface CrewArray {
  readonly buf: Buffer;
  /** Where the part begins. */
  readonly base: Expr;
}

export function sharedArray(r: RouteKernel, name: string, elem: Elem, size: number): CrewArray {
  const buf = b.buffer(name, 'shared', elem, 1, size * r.crew.count);
  r.shared.push(buf);
  return { buf, base: b.mul(r.crew.index, b.u32(size)) };
}

export const read = (a: CrewArray, i: Expr): Expr => b.load(a.buf, b.add(a.base, i));
export const write = (a: CrewArray, i: Expr, value: Expr): Stmt => b.store(a.buf, b.add(a.base, i), value);

/** Runs `body` for every own i below `count`: the thread's number in its crew, then every crew's-length further. */
export const eachOwn = (r: RouteKernel, name: string, count: number, body: (i: Expr) => readonly Stmt[]): Stmt =>
  b.for_(name, r.crew.self, b.u32(count), r.crew.threads, body);

/** Binds `name` in every thread to the reduction of `value` over its crew. */
export const reduce = (r: RouteKernel, name: string, op: ReduceOp, value: Expr): Stmt =>
  r.crew.here === undefined ? b.reduce(name, op, value) : b.let_(name, b.subgroup(op, value));

/** `body` where the crew has a token: around everything that others can see. */
export const ifHere = (r: RouteKernel, body: readonly Stmt[]): readonly Stmt[] =>
  r.crew.here === undefined ? body : [b.if_(r.crew.here, body)];

/** `body` in one thread of the crew. */
export const onFirstThread = (r: RouteKernel, body: readonly Stmt[], cond: Expr = b.bool(true)): Stmt =>
  b.if_(b.and(b.eq(r.crew.self, b.u32(0)), cond), body);
