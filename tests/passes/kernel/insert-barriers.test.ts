import { describe, expect, it } from 'vitest';
import * as b from '../../../src/ir/kernel/build.ts';
import { KernelFault, interpret } from '../../../src/ir/kernel/interpret.ts';
import { printStmts } from '../../../src/ir/kernel/print.ts';
import type { Buffer, Expr, Kernel, Stmt } from '../../../src/ir/kernel/types.ts';
import { walkStmts } from '../../../src/ir/kernel/walk.ts';
import { insertBarriers } from '../../../src/passes/kernel/insert-barriers.ts';
import { finishKernel } from '../../../src/passes/kernel/pipeline.ts';
import { global, kernel } from '../../ir/kernel/samples.ts';
import { simtMutations, survivors } from '../../ir/kernel/mutate.ts';

const B = 8;
const s: Buffer = b.buffer('s', 'shared', 'u32', 1, 2 * B);
const y = global('y', 'u32');
const t = b.thread;
const at = (buf: Buffer, i: Expr): Expr => b.load(buf, i);
const next = b.mod(b.add(t, b.u32(1)), b.u32(B));

const count = (k: Kernel): number => [...walkStmts(k.body)].filter((x) => x.k === 'barrier').length;
const withBarriers = (body: readonly Stmt[], params: readonly Buffer[] = [y], extra: Partial<Kernel> = {}): Kernel =>
  insertBarriers(kernel(params, [b.alloc(s), ...body], { block: B, ...extra }));

/** Runs a kernel; each of its barriers, deleted, must be a race. */
function holds(k: Kernel, memory: () => Record<string, Uint32Array> = () => ({ y: new Uint32Array(64) }), scalars = {}): Uint32Array {
  const run = { grid: [1, 1, 1], memory, scalars } as const;
  const mine = memory();
  interpret(k, { ...run, memory: mine });
  const deleted = simtMutations(k).filter((m) => m.kind === 'barrier');
  expect(survivors(k, deleted, [run]).map((m) => m.what)).toEqual([]);
  return mine['y'] ?? new Uint32Array();
}

describe('insertBarriers', () => {
  it('leaves a thread alone with its own cells', () => {
    const k = withBarriers([
      b.store(s, t, t), b.store(y, t, at(s, t)), b.store(s, t, b.u32(1)),
      b.store(s, b.add(t, b.u32(B)), at(s, t)), b.store(y, t, at(s, b.add(t, b.u32(B)))),
    ]);
    expect(count(k)).toBe(0);
    holds(k);
  });

  it('separates write and read, read and write, write and write of different threads', () => {
    const raw = withBarriers([b.store(s, t, t), b.store(y, t, at(s, next))]);
    expect(count(raw)).toBe(1);
    expect(Array.from(holds(raw).slice(0, B))).toEqual([1, 2, 3, 4, 5, 6, 7, 0]);
    const war = withBarriers([b.store(s, t, t), b.let_('v', at(s, next)), b.store(s, t, b.variable('v')), b.store(y, t, at(s, next))]);
    expect(count(war)).toBe(3);
    holds(war);
    const waw = withBarriers([b.store(s, t, t), b.store(s, next, b.u32(5)), b.store(y, t, at(s, next))]);
    expect(count(waw)).toBe(1);
    holds(waw);
  });

  it('places one barrier where one serves several conflicts', () => {
    const k = withBarriers([
      b.store(s, t, t), b.store(s, b.add(t, b.u32(B)), t),
      b.store(y, t, b.add(at(s, next), at(s, b.add(next, b.u32(B))))), b.store(y, b.add(t, b.u32(B)), at(s, next)),
    ]);
    expect(count(k)).toBe(1);
    holds(k);
  });

  it('sees accesses of other iterations, and puts the barrier for what came before the loop outside it', () => {
    const i = b.variable('i');
    const k = withBarriers([
      b.store(s, t, t),
      b.for_('i', b.u32(0), b.u32(3), 1, () => [b.store(y, b.add(b.mul(i, b.u32(B)), t), at(s, next))]),
    ]);
    expect(k.body.map((x) => x.k)).toEqual(['alloc', 'store', 'barrier', 'for']);
    holds(k);
    const carried = withBarriers([
      b.for_('i', b.u32(0), b.u32(3), 1, () => [b.store(s, t, b.add(t, i)), b.store(y, b.add(b.mul(i, b.u32(B)), t), at(s, next))]),
    ]);
    expect(count(carried)).toBe(2);
    holds(carried);
    const once = withBarriers([b.for_('i', b.u32(0), b.u32(1), 1, () => [b.store(s, t, b.add(t, i)), b.store(y, t, at(s, next))])]);
    expect(count(once)).toBe(1);
    holds(once);
  });

  it('needs no barrier between iterations that touch other cells', () => {
    const big: Buffer = b.buffer('big', 'shared', 'u32', 1, 3 * B);
    const i = b.variable('i');
    const k = insertBarriers(kernel([y], [
      b.alloc(big),
      b.for_('i', b.u32(0), b.u32(3), 1, () => [b.store(big, b.add(b.mul(i, b.u32(B)), t), t)]),
      b.store(y, t, at(big, b.add(next, b.u32(2 * B)))),
    ], { block: B }));
    expect(count(k)).toBe(1);
    holds(k);
  });

  it('knows loops that deal cells to threads in turn', () => {
    const n = b.scalar('T');
    const i = b.variable('i');
    const j = b.variable('j');
    const own = insertBarriers(kernel([y], [
      b.for_('i', t, n, B, () => [b.store(y, i, i)]),
      b.for_('j', t, n, B, () => [b.store(y, j, b.add(at(y, j), b.u32(1)))]),
    ], { block: B, scalars: ['T'] }));
    expect(count(own)).toBe(0);
    const out = holds(own, undefined, { T: 21 });
    expect(Array.from(out.slice(0, 22))).toEqual([...Array.from({ length: 21 }, (_, x) => x + 1), 0]);
    const other = insertBarriers(kernel([y], [
      b.for_('i', t, n, B, () => [b.store(y, i, i)]),
      b.if_(b.eq(t, b.u32(0)), [b.for_('j', b.u32(0), n, 1, () => [b.store(y, j, b.add(at(y, j), b.u32(1)))])]),
    ], { block: B, scalars: ['T'] }));
    expect(count(other)).toBe(1);
    holds(other, undefined, { T: 21 });
  });

  it('orders atomic updates against plain accesses only', () => {
    const h: Buffer = { ...global('h', 'u32'), atomic: true };
    const k = insertBarriers(kernel([h, y], [
      b.store(h, t, b.u32(0)),
      b.atomic('add', h, b.mod(t, b.u32(3)), t),
      b.atomic('add', h, b.mod(t, b.u32(2)), b.u32(1)),
      b.store(y, t, at(h, next)),
    ], { block: B }));
    expect(count(k)).toBe(2);
    const memory = (): Record<string, Uint32Array> => ({ h: new Uint32Array(B).fill(9), y: new Uint32Array(B) });
    expect(Array.from(holds(k, memory))).toEqual([16, 7, 0, 0, 0, 0, 0, 13]);
  });

  it('enters uniform branches and treats others as one piece', () => {
    const uniform = withBarriers([
      b.if_(b.lt(b.scalar('T'), b.u32(4)), [b.store(s, t, t), b.store(y, t, at(s, next))], [b.store(y, t, t)]),
    ], [y], { scalars: ['T'] });
    expect(count(uniform)).toBe(1);
    holds(uniform, undefined, { T: 3 });
    const piece = withBarriers([b.store(s, t, t), b.if_(b.lt(t, b.u32(4)), [b.store(y, t, at(s, b.add(t, b.u32(4))))])]);
    expect(piece.body.map((x) => x.k)).toEqual(['alloc', 'store', 'barrier', 'if']);
    holds(piece);
  });

  it('takes the conditions on the thread into account', () => {
    const low = b.lt(t, b.u32(4));
    const k = withBarriers([
      b.store(s, t, t),
      b.if_(low, [b.store(s, t, b.add(at(s, t), b.u32(1)))]),
      b.if_(b.not(low), [b.store(y, t, at(s, t))]),
      b.if_(b.eq(t, b.u32(2)), [b.store(y, t, at(s, b.u32(2)))]),
    ]);
    expect(count(k)).toBe(0);
    holds(k);
  });

  it('adds none between the written-out copies of one store, whatever it cannot know of their index', () => {
    const tile = { name: 'acc', rows: 4, cols: 4, count: 1 };
    const a = global('a');
    const rows = global('rows', 'u32');
    const out = global('out');
    const whole = (inPlace: boolean): Kernel => finishKernel(kernel([a, rows, out], [
      b.tileAlloc(tile),
      b.mainloop(tile, b.view(a, (r, c) => b.add(b.mul(r, b.u32(2)), c)), [b.view(a, (r, c) => b.add(b.mul(r, b.u32(2)), c))], 2, {
        variant: 'fma', staging: 'register', tm: 2, tn: 2, bk: 1,
      }),
      b.tileMap(tile, (r, c, v) => {
        const index = b.add(b.mul(b.load(rows, r), b.u32(4)), c);
        return [b.store(out, index, inPlace ? b.add(b.load(out, index), v[0] ?? b.f32(0)) : (v[0] ?? b.f32(0)))];
      }),
    ], { block: 4 }), { subgroups: false });
    expect(count(whole(false))).toBe(0);
    expect(count(whole(true))).toBe(0);
    const memory = { a: Float32Array.from({ length: 8 }, (_, i) => i), rows: Uint32Array.of(3, 1, 0, 2), out: new Float32Array(16) };
    interpret(whole(true), { grid: [1, 1, 1], memory });
    expect(memory.out[3 * 4 + 1]).toBe(3);
  });

  it('takes a statement apart whose threads meet in it', () => {
    const k = withBarriers([b.store(s, t, next), b.store(s, t, at(s, next)), b.store(y, t, at(s, t)), b.store(s, at(s, t), t), b.store(y, t, at(s, next))]);
    expect(printStmts(k.body)).toMatchInlineSnapshot(`
      "alloc s: u32[16] shared
      s[thread] = (thread + 1) % 8
      barrier block
      let s_value: u32 = s[(thread + 1) % 8]
      barrier block
      s[thread] = s_value
      y[thread] = s[thread]
      let s_at: u32 = s[thread]
      barrier block
      s[s_at] = thread
      barrier block
      y[thread] = s[(thread + 1) % 8]"
    `);
    expect(Array.from(holds(k).slice(0, B))).toEqual([7, 0, 1, 2, 3, 4, 5, 6]);
  });

  it('keeps explicit barriers and counts on them', () => {
    const k = withBarriers([b.store(s, t, t), b.barrier(), b.store(y, t, at(s, next))]);
    expect(count(k)).toBe(1);
  });

  it('drops a barrier that a later one makes needless', () => {
    // A–C conflict in one iteration, C–B across the back edge: one barrier before B orders both.
    const p = b.buffer('p', 'shared', 'u32', 1, B);
    const q = b.buffer('q', 'shared', 'u32', 1, B);
    const i = b.variable('i');
    const k = insertBarriers(kernel([y], [
      b.alloc(p), b.alloc(q), b.store(q, t, t),
      b.for_('i', b.u32(0), b.u32(3), 1, () => [
        b.store(p, t, i),
        b.let_('v', at(q, next)),
        b.store(y, b.add(b.mul(i, b.u32(B)), t), b.add(at(p, next), b.variable('v'))),
        b.store(q, t, i),
      ]),
    ], { block: B }));
    holds(k);
  });
});

describe('the interpreter finds what a missing barrier does', () => {
  it('names threads, cell and statement', () => {
    const k = kernel([y], [b.alloc(s), b.store(s, t, t), b.store(y, t, at(s, next))], { block: B });
    expect(() => interpret(k, { grid: [1, 1, 1], memory: { y: new Uint32Array(B) } })).toThrow(KernelFault);
    expect(() => interpret(k, { grid: [1, 1, 1], memory: { y: new Uint32Array(B) } })).toThrow(
      /race on s\[1\]: reads what thread 1 wrote with no barrier between \(block 0,0,0 thread 0\)\n\s+at: y\[thread\] = s\[\(thread \+ 1\) % 8\]/,
    );
  });
});
