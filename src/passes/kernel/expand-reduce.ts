/**
 * tile.reduce: every thread gets the reduction of one value per thread, always combined in the same order.
 *
 * Portable: a tree in shared memory. With subgroups: one subgroup operation, then the partial results of
 * the subgroups, which every thread adds up by itself in ascending order.
 */
import * as b from '../../ir/kernel/build.ts';
import type { Buffer, Elem, Expr, ReduceOp, Stmt, StmtOf } from '../../ir/kernel/types.ts';
import type { Fresh } from './fresh.ts';

/** The smallest subgroup any device has. */
export const MIN_SUBGROUP = 4;

const combine = (op: ReduceOp, x: Expr, y: Expr): Expr => (op === 'add' ? b.add(x, y) : op === 'max' ? b.max(x, y) : b.min(x, y));

/**
 * Shared buffers for the reductions of a kernel. Two per element type, used in turn: a reduction then
 * never waits for the readers of the one before it.
 */
export class ReducePool {
  readonly buffers: Buffer[] = [];
  readonly #turn = new Map<Elem, number>();
  readonly #fresh: Fresh;
  readonly #size: number;

  constructor(size: number, fresh: Fresh) {
    this.#size = size;
    this.#fresh = fresh;
  }

  next(elem: Elem): Buffer {
    const turn = this.#turn.get(elem) ?? 0;
    this.#turn.set(elem, turn + 1);
    const known = this.buffers.filter((x) => x.elem === elem)[turn % 2];
    if (known !== undefined) return known;
    const made = b.buffer(this.#fresh(`reduce_${elem}`), 'shared', elem, 1, this.#size);
    this.buffers.push(made);
    return made;
  }
}

export function expandReduce(s: StmtOf<'tile.reduce'>, block: number, pool: ReducePool, subgroups: boolean, fresh: Fresh): readonly Stmt[] {
  if (s.value.ty.lanes !== 1) throw new Error(`tile.reduce ${s.name}: one value per thread, not ${s.value.ty.lanes} lanes`);
  if (block === 1) return [b.let_(s.name, s.value)];
  const buf = pool.next(s.value.ty.elem);
  return subgroups ? bySubgroups(s, block, buf, fresh) : byTree(s, block, buf);
}

/** red[t] = red[t] op red[t + h] for t < h, h halving; what stands beyond the largest power of two is folded in first. */
function byTree(s: StmtOf<'tile.reduce'>, block: number, buf: Buffer): readonly Stmt[] {
  const at = (offset: number): Expr => b.load(buf, b.add(b.thread, b.u32(offset)));
  const fold = (threads: number, offset: number): Stmt =>
    b.if_(b.lt(b.thread, b.u32(threads)), [b.store(buf, b.thread, combine(s.op, at(0), at(offset)))]);
  const power = 2 ** Math.floor(Math.log2(block));
  const stmts: Stmt[] = [b.store(buf, b.thread, s.value)];
  if (block > power) stmts.push(fold(block - power, power));
  for (let half = power / 2; half >= 1; half /= 2) stmts.push(fold(half, half));
  return [...stmts, b.let_(s.name, b.load(buf, b.u32(0)))];
}

function bySubgroups(s: StmtOf<'tile.reduce'>, block: number, buf: Buffer, fresh: Fresh): readonly Stmt[] {
  const part = b.variable(fresh(`${s.name}_part`), s.value.ty);
  const total = b.variable(s.name, s.value.ty);
  if (part.k !== 'var') return [];
  const count = b.ceilDiv(b.u32(block), b.builtin('subgroup.size'));
  return [
    b.let_(part.name, b.subgroup(s.op, s.value)),
    b.if_(b.eq(b.builtin('lane'), b.u32(0)), [b.store(buf, b.builtin('subgroup'), part)]),
    b.var_(s.name, b.load(buf, b.u32(0))),
    b.for_(fresh('i'), b.u32(1), count, 1, (i) => [b.assign(s.name, combine(s.op, total, b.load(buf, i)))]),
  ];
}
