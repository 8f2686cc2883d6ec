import { describe, expect, it } from 'vitest';
import * as b from '../../../src/ir/kernel/build.ts';
import { costOf, sharedBytes } from '../../../src/ir/kernel/cost.ts';
import { printKernel } from '../../../src/ir/kernel/print.ts';
import type { Buffer, Expr, Kernel, Stmt, Ty } from '../../../src/ir/kernel/types.ts';
import { verify } from '../../../src/ir/kernel/verify.ts';
import type { Level, VerifyOptions } from '../../../src/ir/kernel/verify.ts';
import { exprKey, instantiate, walkStmts } from '../../../src/ir/kernel/walk.ts';
import { finishKernel } from '../../../src/passes/kernel/pipeline.ts';
import { global, kernel, matmul } from './samples.ts';

const t = b.thread;
const y = global('y', 'u32');
const f = global('f');
const half = global('half', 'f16');
const s: Buffer = b.buffer('s', 'shared', 'f32', 1, 8);
const problems = (body: readonly Stmt[], level: Level = 'simt', options: VerifyOptions = {}, extra: Partial<Kernel> = {}): string =>
  verify(kernel([y, f, half], body, extra), level, options).map((p) => p.message).join('; ');
const bad = (op: '+' | '<' | '<<' | '&&' | '&', a: Expr, c: Expr, ty: Ty = a.ty): Expr => ({ k: 'bin', ty, op, a, b: c });
const x2 = b.splat(2, b.f32(1));
const tile = { name: 'acc', rows: 4, cols: 4, count: 1 };
const view = b.view(f, (r, c) => b.add(r, c));
const schedule = { variant: 'fma', staging: 'register', tm: 2, tn: 2, bk: 1 } as const;

describe('verify', () => {
  it('accepts kernels of both levels', () => {
    const k = matmul({ m: 5, n: 7, k: 12, rows: 4, cols: 4, block: 8, aLanes: 4, bLanes: 4, count: 2, gather: true, schedule: { staging: 'shared', tm: 2, tn: 1, bk: 4 } });
    expect(verify(k, 'tile')).toEqual([]);
    expect(verify(finishKernel(k, { subgroups: false }), 'simt')).toEqual([]);
  });

  const cases: readonly (readonly [string, readonly Stmt[], RegExp])[] = [
    ['unbound', [b.store(y, t, b.variable('x'))], /x is not bound here/],
    ['out of scope', [b.if_(b.lt(t, b.u32(1)), [b.let_('x', t)]), b.store(y, t, b.variable('x'))], /x is not bound here/],
    ['other type', [b.let_('x', t), b.let_('z', b.variable('x', b.ty('f32')))], /x is u32, used as f32/],
    ['bound twice', [b.let_('x', t), b.if_(b.lt(t, b.u32(1)), [b.let_('x', t)])], /x is bound already/],
    ['loop variable bound twice', [b.for_('i', b.u32(0), t, 1, () => [b.for_('i', b.u32(0), t, 1, () => [])])], /i is bound already/],
    ['assigned let', [b.let_('x', t), b.assign('x', t)], /x is not a var/],
    ['assigned type', [b.var_('x', t), b.assign('x', b.f32(1))], /the value is f32, not u32/],
    ['stored type', [b.store(f, t, t)], /the value stored is u32, not f32/],
    ['index type', [b.store(f, b.f32(0), b.f32(1))], /an index is u32, not f32/],
    ['unknown buffer', [b.store(s, t, b.f32(1))], /s is neither a parameter nor allocated here/],
    ['other declaration', [b.alloc(s), b.store({ ...s, size: 9 }, t, b.f32(1))], /used otherwise than it is declared/],
    ['two buffers of one name', [b.alloc(s), b.alloc(s)], /another buffer called s/],
    ['shared halves', [b.alloc({ ...s, elem: 'f16' })], /f16 exists in global memory only/],
    ['empty buffer', [b.alloc({ ...s, size: 0 })], /has size 0/],
    ['arithmetic on halves', [b.let_('x', bad('+', b.load(half, t), b.load(half, t)))], /storage type; cast it first/],
    ['mixed types', [b.let_('x', bad('+', t, b.f32(1)))], /operands of different types/],
    ['mixed width', [b.let_('x', bad('<', x2, b.f32(1), b.ty('bool', 2)))], /operands of different width/],
    ['logic on numbers', [b.let_('x', bad('&&', t, t))], /logic is on bool/],
    ['bits of floats', [b.let_('x', bad('&', b.f32(1), b.f32(2)))], /bits of f32 need a bitcast/],
    ['signed shift count', [b.let_('x', bad('<<', t, b.i32(1)))], /operands of different types/],
    ['negated u32', [b.let_('x', b.neg(t))], /neg has no meaning on u32/],
    ['lane out of range', [b.let_('x', { k: 'lane', ty: b.ty('f32'), a: x2, i: 2 })], /f32x2 has no lane 2/],
    ['fma of two', [b.let_('x', { k: 'call', ty: b.ty('f32'), fn: 'fma', args: [b.f32(1), b.f32(2)] })], /fma takes 3 arguments/],
    ['exp of u32', [b.let_('x', b.exp(t))], /exp has no meaning on u32/],
    ['constant out of range', [b.let_('x', b.u32(-1))], /-1 is no u32/],
    ['infinite constant', [b.let_('x', b.f32(1e39))], /no finite f32/],
    ['select of two types', [b.let_('x', b.select(b.lt(t, b.u32(1)), t, b.f32(1)))], /select of u32 and f32/],
    ['condition', [b.if_(t, [])], /the condition is u32, not bool/],
    ['step', [b.for_('i', b.u32(0), t, 0, () => [])], /a step of 0/],
    ['undeclared scalar', [b.store(y, t, b.scalar('T'))], /scalar T is not declared/],
    ['atomic on a plain buffer', [b.atomic('add', y, t, t)], /y is not atomic/],
    ['store to what is read', [b.store({ ...y, access: 'read' }, t, t)], /y is only read/],
    ['barrier by thread', [b.if_(b.lt(t, b.u32(2)), [b.barrier()])], /barrier in control flow that is not uniform/],
    ['barrier by data', [b.alloc(s), b.for_('i', b.u32(0), b.cast('u32', b.load(s, b.u32(0))), 1, () => [b.barrier()])], /not uniform/],
    ['barrier by a variable that threads change', [
      b.var_('n', b.u32(0)), b.if_(b.lt(t, b.u32(1)), [b.assign('n', b.u32(1))]), b.if_(b.eq(b.variable('n'), b.u32(0)), [b.barrier()]),
    ], /not uniform/],
    ['barrier by a variable changed later in the loop', [
      b.var_('n', b.u32(0)), b.for_('i', b.u32(0), b.u32(2), 1, () => [b.if_(b.eq(b.variable('n'), b.u32(0)), [b.barrier()]), b.assign('n', t)]),
    ], /not uniform/],
    ['subgroup operation by thread', [b.if_(b.lt(t, b.u32(2)), [b.let_('x', b.subgroup('add', t))])], /not uniform/],
    ['broadcast without a lane', [b.let_('x', b.subgroup('broadcast', t))], /needs lane/],
    ['tile statement', [b.tileAlloc(tile)], /tile.alloc at the simt level/],
  ];
  it.each(cases.map((c) => [...c] as const))('%s', (_name, body, message) => {
    expect(problems(body)).toMatch(message);
  });

  const tiles: readonly (readonly [string, readonly Stmt[], RegExp])[] = [
    ['tile not allocated', [b.mainloop(tile, view, [view], 2, schedule)], /tile acc is not allocated here/],
    ['operands', [b.tileAlloc(tile), b.mainloop(tile, view, [view, view], 2, schedule)], /2 operands b for 1/],
    ['pieces', [b.tileAlloc(tile), b.mainloop(tile, view, [view], 2, { ...schedule, tm: 3 })], /do not divide/],
    ['threads', [b.tileAlloc(tile), b.mainloop(tile, view, [view], 2, { ...schedule, tm: 1, tn: 1 })], /more pieces than threads/],
    ['depth', [b.tileAlloc(tile), b.mainloop(tile, view, [view], 0, schedule)], /a depth of 0/],
    ['guard over the column', [b.tileAlloc(tile), b.mainloop(tile, { ...view, guard: b.lt(b.variable('col'), b.u32(1)) }, [view], 2, schedule)], /col is not bound/],
    ['barrier in a map', [b.tileAlloc(tile), b.tileMap(tile, () => [b.barrier()])], /a barrier/],
    ['reduce by thread', [b.if_(b.lt(t, b.u32(1)), [b.reduce('n', 'add', t)])], /tile.reduce in control flow that is not uniform/],
    ['staged loop by thread', [b.tileAlloc(tile), b.if_(b.lt(t, b.u32(1)), [b.mainloop(tile, view, [view], 2, { ...schedule, staging: 'shared' })])], /staged main loop/],
  ];
  it.each(tiles.map((c) => [...c] as const))('tile level: %s', (_name, body, message) => {
    expect(problems(body, 'tile')).toMatch(message);
  });

  it('knows what is uniform', () => {
    const rows = b.load(y, b.builtin('block.x'));
    expect(problems([b.let_('n', rows), b.for_('i', b.u32(0), b.variable('n'), 1, () => [b.barrier()])])).toBe('');
    expect(problems([b.store(y, t, t), b.let_('n', rows), b.for_('i', b.u32(0), b.variable('n'), 1, () => [b.barrier()])])).toMatch(/not uniform/);
    const v = b.variable('v');
    expect(problems([b.var_('v', b.u32(1)), b.for_('i', b.u32(0), b.u32(4), 1, (i) => [b.assign('v', b.add(v, i)), b.if_(b.lt(v, b.u32(3)), [b.barrier()])])])).toBe('');
  });

  it('holds a kernel against limits', () => {
    const limits = { maxThreadsPerBlock: 4, maxSharedBytes: 16, maxBindings: 2 };
    expect(problems([b.alloc(s), b.store(s, t, b.f32(0))], 'simt', { limits })).toMatch(/8 threads per block, 4.*3 buffers, 2.*32 bytes of shared memory, 16/);
    expect(problems([b.let_('x', b.builtin('lane'))], 'simt', { subgroups: false })).toMatch(/lane exists only with subgroups/);
    expect(problems([], 'simt', {}, { name: 'Bad name', block: 0 })).toMatch(/is not \[a-z\].*a block of 0 threads/);
  });
});

describe('walk, print, cost', () => {
  it('keys tell expressions apart', () => {
    const es = [
      b.u32(1), b.f32(1), b.variable('a'), b.variable('b'), b.add(t, b.u32(1)), b.sub(t, b.u32(1)), b.load(y, t), b.load(f, t),
      b.lane(x2, 0), b.lane(x2, 1), b.exp(b.f32(1)), b.log(b.f32(1)), b.subgroup('broadcast', t, 1), b.subgroup('broadcast', t, 2), b.subgroup('add', t),
      { k: 'const', ty: b.ty('f32'), value: 0 }, { k: 'const', ty: b.ty('f32'), value: -0 }, b.cast('f32', t), b.bitcast('f32', t),
    ] as readonly Expr[];
    expect(new Set(es.map(exprKey)).size).toBe(es.length);
    expect(exprKey(b.add(t, b.u32(1)))).toBe(exprKey(b.add(t, b.u32(1))));
  });

  it('instantiates a body under new names', () => {
    const body = [b.let_('x', b.variable('r')), b.for_('i', b.u32(0), b.variable('x'), 1, (i) => [b.store(y, i, b.variable('x'))])];
    const made = instantiate(body, new Map([['r', b.u32(7)]]), (n) => `${n}_0`);
    expect([...walkStmts(made)].map((q) => ('name' in q ? q.name : q.k))).toEqual(['x_0', 'i_0', 'store']);
    expect(problems(made)).toBe('');
  });

  it('prints both levels', () => {
    const text = printKernel(kernel([y, f], [
      b.note('first \u2028 line'), b.tileAlloc(tile), b.mainloop(tile, view, [view], 2, schedule),
      b.tileMap(tile, (r, c, v) => [b.store(f, b.add(r, c), v[0] ?? b.f32(0))]), b.reduce('n', 'max', b.f32(1)),
    ], { schedule: { bm: 4 }, scalars: ['T'] }));
    expect(text).toMatchInlineSnapshot(`
      "kernel k // test {bm=4}
        block 8, scalars T
        param y: u32 global
        param f: f32 global
      {
        // first ? line
        tile.alloc acc[1][4, 4]
        tile.mainloop acc += (row, col) => f[row + col] ; (row, col) => f[row + col] depth 2 {register 2x2 bk 1}
        tile.map acc (r, c, v0) {
          f[r + c] = v0
        }
        let n: f32 = tile.reduce.max 1.0
      }
      "
    `);
  });

  it('counts what a kernel does', () => {
    const k = finishKernel(matmul({ m: 4, n: 4, k: 8, rows: 4, cols: 4, block: 4, aLanes: 4, bLanes: 4, count: 1, schedule: { staging: 'shared', tm: 2, tn: 2, bk: 4 } }), { subgroups: false });
    const { perThread, sharedBytes: bytes, openLoops } = costOf(k);
    expect(perThread.fma).toBe(2 * 2 * 8);
    expect(perThread.globalLoads).toBe(2 * 2);
    expect(perThread.globalBytesLoaded).toBe(2 * 2 * 16);
    expect(perThread.sharedLoads).toBe(2 * 4);
    expect(perThread.barriers).toBe(2 * 2);
    expect(bytes).toBe(2 * 4 * 16);
    expect(sharedBytes(k)).toBe(bytes);
    expect(openLoops).toEqual([]);
    const open = costOf(kernel([f], [b.for_('i', b.u32(0), b.scalar('T'), 1, (i) => [b.store(f, i, b.f32(1))])]), () => 10);
    expect(open.perThread.globalStores).toBe(10);
    expect(open.openLoops).toEqual(['i']);
  });
});
