/**
 * tile.reduce: every thread gets the reduction of one value per thread, always combined in the same order.
 *
 * Portable: all values go to shared memory, a few threads combine every g-th of them, and every thread combines
 * those g results by itself. Two barriers whatever the block, where a tree needs one per halving (on a software
 * adapter the tree took 3 to 4.5 times as long, 2026-11). With subgroups: one subgroup operation, then the results of
 * the subgroups in ascending order, one barrier.
 */
import * as b from '../../ir/kernel/build.ts';
import type { Buffer, Elem, Expr, ReduceOp, Stmt, StmtOf } from '../../ir/kernel/types.ts';
import type { Fresh } from './fresh.ts';

/** The smallest subgroup any device has. */
const MIN_SUBGROUP = 4;
/** Up to this many threads, every thread combines all values. */
const ONE_LEVEL = 16;

export const combine = (op: ReduceOp, x: Expr, y: Expr): Expr => (op === 'add' ? b.add(x, y) : op === 'max' ? b.max(x, y) : b.min(x, y));

/** Shared buffers for the reductions of a kernel, used again and again. */
export class ReducePool {
  readonly buffers: Buffer[] = [];
  readonly #turns = new Map<string, number>();
  readonly #known = new Map<string, Buffer>();
  readonly #fresh: Fresh;

  constructor(fresh: Fresh) {
    this.#fresh = fresh;
  }

  /** One of `copies` buffers of that use, in turn. */
  take(use: string, elem: Elem, size: number, copies: number): Buffer {
    const turn = this.#turns.get(use + elem) ?? 0;
    this.#turns.set(use + elem, turn + 1);
    const key = `${use}_${elem}_${turn % copies}`;
    const known = this.#known.get(key);
    if (known !== undefined) return known;
    const made = b.buffer(this.#fresh(`${use}_${elem}`), 'shared', elem, 1, size);
    this.#known.set(key, made);
    this.buffers.push(made);
    return made;
  }
}

export function expandReduce(s: StmtOf<'tile.reduce'>, block: number, pool: ReducePool, subgroups: boolean, fresh: Fresh): readonly Stmt[] {
  if (block === 1) return [b.let_(s.name, s.value)];
  if (subgroups) return bySubgroups(s, block, pool, fresh);
  return block <= ONE_LEVEL ? oneLevel(s, block, pool, fresh) : twoLevels(s, block, pool, fresh);
}

/** `name` = buf[from] op buf[from + step] op … below `to`. */
function fold(op: ReduceOp, name: string, buf: Buffer, from: Expr, to: Expr, step: number, fresh: Fresh): readonly Stmt[] {
  const total = b.variable(name, b.ty(buf.elem));
  return [
    b.var_(name, b.load(buf, from)),
    b.for_(fresh('i'), b.add(from, b.u32(step)), to, step, (i) => [b.assign(name, combine(op, total, b.load(buf, i)))]),
  ];
}

/** Two buffers in turn: a reduction then need not wait for the readers of the one before it. */
function oneLevel(s: StmtOf<'tile.reduce'>, block: number, pool: ReducePool, fresh: Fresh): readonly Stmt[] {
  const values = pool.take('values', s.value.ty.elem, block, 2);
  return [b.store(values, b.thread, s.value), ...fold(s.op, s.name, values, b.u32(0), b.u32(block), 1, fresh)];
}

/** The barrier between the levels also orders this reduction after the one before it: one pair of buffers serves all. */
function twoLevels(s: StmtOf<'tile.reduce'>, block: number, pool: ReducePool, fresh: Fresh): readonly Stmt[] {
  const { elem } = s.value.ty;
  const groups = 2 ** Math.ceil(Math.log2(Math.sqrt(block)));
  const values = pool.take('values', elem, block, 1);
  const parts = pool.take('parts', elem, groups, 1);
  const part = fresh(`${s.name}_part`);
  return [
    b.store(values, b.thread, s.value),
    b.if_(b.lt(b.thread, b.u32(groups)), [
      ...fold(s.op, part, values, b.thread, b.u32(block), groups, fresh),
      b.store(parts, b.thread, b.variable(part, s.value.ty)),
    ]),
    ...fold(s.op, s.name, parts, b.u32(0), b.u32(groups), 1, fresh),
  ];
}

function bySubgroups(s: StmtOf<'tile.reduce'>, block: number, pool: ReducePool, fresh: Fresh): readonly Stmt[] {
  const part = fresh(`${s.name}_part`);
  const parts = pool.take('parts', s.value.ty.elem, Math.ceil(block / MIN_SUBGROUP), 2);
  const count = b.ceilDiv(b.u32(block), b.builtin('subgroup.size'));
  return [
    b.let_(part, b.subgroup(s.op, s.value)),
    b.if_(b.eq(b.builtin('lane'), b.u32(0)), [b.store(parts, b.builtin('subgroup'), b.variable(part, s.value.ty))]),
    ...fold(s.op, s.name, parts, b.u32(0), count, 1, fresh),
  ];
}
