import { describe, expect, it } from 'vitest';
import * as b from '../../../src/ir/kernel/build.ts';
import { KernelFault, interpret } from '../../../src/ir/kernel/interpret.ts';
import type { FaultKind, Launched, TypedArray } from '../../../src/ir/kernel/interpret.ts';
import { bf16ToNumber, f16ToNumber, numberToBf16, numberToF16 } from '../../../src/ir/kernel/numerics.ts';
import type { Buffer, Expr, Kernel, Stmt } from '../../../src/ir/kernel/types.ts';
import { global, kernel } from './samples.ts';

const t = b.thread;
const B = 4;
const shared = (size: number): Buffer => b.buffer('s', 'shared', 'u32', 1, size);
const y = global('y', 'u32');

function run(params: readonly Buffer[], body: readonly Stmt[], memory: Record<string, TypedArray>, more: Partial<Launched> & { kernel?: Partial<Kernel> } = {}): ReturnType<typeof interpret> {
  return interpret(kernel(params, body, { block: B, ...more.kernel }), { grid: [1, 1, 1], memory, ...more });
}

function fault(f: () => unknown): { kind: FaultKind; message: string } {
  try {
    f();
  } catch (error) {
    if (error instanceof KernelFault) return { kind: error.fault.kind, message: error.message };
    throw error;
  }
  throw new Error('no fault');
}

/** y[thread] = e for one block of four threads, in the type of e. */
function evaluate(e: Expr, params: readonly Buffer[] = [], memory: Record<string, TypedArray> = {}): number[] {
  const out = b.buffer('out', 'global', e.ty.elem === 'bool' ? 'u32' : e.ty.elem, e.ty.lanes);
  const data = e.ty.elem === 'f32' ? new Float32Array(16) : e.ty.elem === 'i32' ? new Int32Array(16) : new Uint32Array(16);
  run([...params, out], [b.store(out, t, e.ty.elem === 'bool' ? b.cast('u32', e) : e)], { ...memory, out: data });
  return Array.from(data.subarray(0, B * e.ty.lanes));
}

describe('values', () => {
  const f = (xs: readonly number[]): [readonly Buffer[], Record<string, TypedArray>] => [[global('f')], { f: Float32Array.from(xs) }];
  const loadF = b.load(global('f'), t);

  it('u32 arithmetic wraps', () => {
    expect(evaluate(b.sub(t, b.u32(1)))).toEqual([0xffff_ffff, 0, 1, 2]);
    expect(evaluate(b.mul(b.add(t, b.u32(0x1_0001)), b.u32(0xffff)))).toEqual([0xffff_ffff, 0xfffe, 0x1_fffd, 0x2_fffc]);
    expect(evaluate(b.bin('<<', b.add(t, b.u32(1)), b.u32(31)))).toEqual([0x8000_0000, 0, 0x8000_0000, 0]);
    expect(evaluate(b.bin('^', t, b.u32(0xffff_ffff)))).toEqual([0xffff_ffff, 0xffff_fffe, 0xffff_fffd, 0xffff_fffc]);
    expect(evaluate(b.not(b.lt(t, b.u32(2))))).toEqual([0, 0, 1, 1]);
  });

  it('f32 rounds after every operation', () => {
    const third = 1 / 3;
    expect(evaluate(b.add(loadF, b.f32(third)), ...f([third, 1e8, -third, 0]))).toEqual(
      [third, 1e8, -third, 0].map((x) => Math.fround(Math.fround(x) + Math.fround(third))),
    );
    expect(evaluate(b.fma(loadF, loadF, b.f32(1)), ...f([1e-9, 4097, 3, -2]))[1]).toBe(Math.fround(4097 * 4097 + 1));
    expect(evaluate(b.exp(loadF), ...f([0, 1, -200, 200]))).toEqual([1, Math.fround(Math.E), 0, Infinity]);
    expect(evaluate(b.rsqrt(loadF), ...f([4, 16, 1, 0.25]))).toEqual([0.5, 0.25, 1, 2]);
  });

  it('converts, saturating, and reinterprets', () => {
    expect(evaluate(b.cast('u32', loadF), ...f([1.9, -3, 5e9, NaN]))).toEqual([1, 0, 0xffff_ffff, 0]);
    expect(evaluate(b.cast('i32', loadF), ...f([1.9, -3.7, 5e9, -5e9]))).toEqual([1, -3, 0x7fff_ffff, -0x8000_0000]);
    expect(evaluate(b.bitcast('u32', loadF), ...f([1, -0, Infinity, -2]))).toEqual([0x3f80_0000, 0x8000_0000, 0x7f80_0000, 0xc000_0000]);
    expect(evaluate(b.isNonFinite(loadF), ...f([1, NaN, -Infinity, 3.4e38]))).toEqual([0, 1, 1, 0]);
  });

  it('lanes: pack, splat, lane, mixed width', () => {
    const v = b.pack([b.cast('f32', t), b.f32(2)]);
    expect(evaluate(b.mul(v, b.f32(3)))).toEqual([0, 6, 3, 6, 6, 6, 9, 6]);
    expect(evaluate(b.lane(b.add(v, b.splat(2, b.f32(1))), 1))).toEqual([3, 3, 3, 3]);
  });

  it('decodes and encodes halves', () => {
    for (let bits = 0; bits < 65536; bits++) {
      const x = f16ToNumber(bits);
      if (!Number.isNaN(x)) expect(numberToF16(x)).toBe(bits);
      const z = bf16ToNumber(bits);
      if (!Number.isNaN(z)) expect(numberToBf16(z)).toBe(bits);
    }
    expect(numberToF16(65519)).toBe(0x7bff);
    expect(numberToF16(65520)).toBe(0x7c00);
    expect(numberToF16(1 + 2 ** -11)).toBe(0x3c00);
    expect(numberToF16(1 + 3 * 2 ** -11)).toBe(0x3c02);
    expect(numberToBf16(Math.fround(1 + 2 ** -8))).toBe(0x3f80);
  });

  it('evaluates && and || for the threads that need it', () => {
    const short = global('short', 'u32');
    const cond = b.and(b.lt(t, b.u32(2)), b.eq(b.load(short, t), b.u32(7)));
    expect(evaluate(b.cast('u32', cond), [short], { short: Uint32Array.of(7, 8) })).toEqual([1, 0, 0, 0]);
    const either = b.or(b.ge(t, b.u32(2)), b.eq(b.load(short, t), b.u32(7)));
    expect(evaluate(b.cast('u32', either), [short], { short: Uint32Array.of(7, 8) })).toEqual([1, 0, 1, 1]);
  });

  it('runs subgroup operations per subgroup, the last one partly filled', () => {
    const e = b.subgroup('add', b.add(t, b.u32(1)));
    const out = new Uint32Array(6);
    interpret(kernel([y], [b.store(y, t, e)], { block: 6 }), { grid: [1, 1, 1], memory: { y: out }, subgroupSize: 4 });
    expect(Array.from(out)).toEqual([10, 10, 10, 10, 11, 11]);
    interpret(kernel([y], [b.store(y, t, b.subgroup('broadcast', t, 1))], { block: 6 }), { grid: [1, 1, 1], memory: { y: out }, subgroupSize: 4 });
    expect(Array.from(out)).toEqual([1, 1, 1, 1, 5, 5]);
  });
});

describe('statements', () => {
  it('loops per thread, ifs per thread, variables per thread', () => {
    const n = b.variable('n');
    const out = new Uint32Array(B);
    run([y], [
      b.var_('n', b.u32(0)),
      b.for_('i', b.u32(0), t, 1, (i) => [b.if_(b.ne(i, b.u32(1)), [b.assign('n', b.add(n, b.add(i, b.u32(1))))], [b.assign('n', b.add(n, b.u32(10)))])]),
      b.store(y, t, n),
    ], { y: out });
    expect(Array.from(out)).toEqual([0, 1, 11, 14]);
  });

  it('reads a bound again in every iteration', () => {
    const out = new Uint32Array(B);
    run([y], [
      b.var_('end', b.u32(10)), b.var_('n', b.u32(0)),
      b.for_('i', b.u32(0), b.variable('end'), 1, () => [b.assign('n', b.add(b.variable('n'), b.u32(1))), b.assign('end', b.u32(3))]),
      b.store(y, t, b.variable('n')),
    ], { y: out });
    expect(Array.from(out)).toEqual([3, 3, 3, 3]);
  });

  it('atomics return the old value and add up across blocks', () => {
    const c: Buffer = { ...global('c', 'u32'), atomic: true };
    const memory = { c: Uint32Array.of(5), y: new Uint32Array(3 * B) };
    const slot = b.variable('slot');
    run([c, y], [b.atomic('add', c, b.u32(0), b.u32(2), 'slot'), b.store(y, b.div(b.sub(slot, b.u32(5)), b.u32(2)), b.u32(1))], memory, { grid: [3, 1, 1] });
    expect(memory.c[0]).toBe(5 + 2 * 3 * B);
    expect(Array.from(memory.y)).toEqual(Array.from({ length: 3 * B }, () => 1));
  });

  it('gives register arrays to each thread, and reports what stayed unwritten', () => {
    const r = b.buffer('r', 'register', 'u32', 1, 3);
    const out = new Uint32Array(2 * B);
    const { unwritten, barriers } = run([y], [
      b.alloc(r), b.for_('i', b.u32(0), b.u32(3), 1, (i) => [b.store(r, i, b.mul(t, i))]),
      b.barrier(),
      b.store(y, t, b.add(b.load(r, b.u32(1)), b.load(r, b.u32(2)))),
    ], { y: out }, { poison: ['y'] });
    expect(Array.from(out)).toEqual([0, 3, 6, 9, 0, 0, 0, 0]);
    expect(unwritten['y']).toEqual([4, 5, 6, 7]);
    expect(barriers).toBe(1);
  });

  it('walks the whole grid and gives scalars', () => {
    const out = new Uint32Array(12);
    const index = b.add(b.builtin('block.x'), b.mul(b.builtin('grid.x'), b.add(b.builtin('block.y'), b.mul(b.builtin('grid.y'), b.builtin('block.z')))));
    run([y], [b.if_(b.eq(t, b.u32(0)), [b.store(y, index, b.scalar('T'))])], { y: out }, { grid: [2, 3, 2], scalars: { T: 9 }, kernel: { scalars: ['T'] } });
    expect(Array.from(out)).toEqual(Array.from({ length: 12 }, () => 9));
  });
});

describe('faults', () => {
  const s = shared(B);
  const mem = (): Record<string, TypedArray> => ({ y: new Uint32Array(B) });
  const cases: readonly (readonly [string, FaultKind, readonly Stmt[], RegExp, (Partial<Launched> & { kernel?: Partial<Kernel> })?])[] = [
    ['read past the end', 'out-of-bounds', [b.store(y, t, b.load(y, b.u32(B)))], /reads y\[4\], which has 4 cells/],
    ['write past the end', 'out-of-bounds', [b.store(y, b.add(t, b.u32(1)), t)], /writes y\[4\].*thread 3/],
    ['shared past the end', 'out-of-bounds', [b.alloc(s), b.store(s, b.mul(t, b.u32(2)), t)], /writes s\[4\], which has 4 cells/],
    ['register past the end', 'out-of-bounds', [b.alloc(b.buffer('r', 'register', 'u32', 1, 2)), b.store(b.buffer('r', 'register', 'u32', 1, 2), t, t)], /writes r\[2\]/],
    ['shared read first', 'uninitialised', [b.alloc(s), b.store(y, t, b.load(s, t))], /reads s\[0\], which nothing wrote/],
    ['register read first', 'uninitialised', [b.alloc(b.buffer('r', 'register', 'f32', 1, 2)), b.let_('x', b.load(b.buffer('r', 'register', 'f32', 1, 2), b.u32(0)))], /reads r\[0\]/],
    ['poisoned output read', 'uninitialised', [b.store(y, t, b.load(y, t))], /reads y\[0\]/, { poison: ['y'] }],
    ['write–read race', 'race', [b.alloc(s), b.store(s, t, t), b.store(y, t, b.load(s, b.sub(b.u32(B - 1), t)))], /race on s\[3\]: reads what thread 3 wrote with no barrier/],
    ['read–write race', 'race', [b.alloc(s), b.store(s, t, t), b.barrier(), b.let_('v', b.load(s, b.u32(0))), b.store(s, t, b.variable('v'))], /race on s\[0\]: writes what several threads read/],
    ['write–write race, same value', 'race', [b.alloc(s), b.store(s, b.u32(0), b.u32(1))], /race on s\[0\]: writes what thread 0 wrote/],
    ['global race in a block', 'race', [b.store(y, t, t), b.store(y, b.mod(b.add(t, b.u32(1)), b.u32(B)), t)], /race on y\[1\]/],
    ['two blocks write one cell', 'race', [b.store(y, t, t)], /race on y\[0\]: writes what block number 0 wrote/, { grid: [2, 1, 1] }],
    ['a block reads what another writes', 'race', [b.if_(b.eq(b.builtin('block.x'), b.u32(0)), [b.store(y, t, t)], [b.let_('v', b.load(y, t))])], /reads what block number 0 wrote/, { grid: [2, 1, 1] }],
    ['a block writes what another read, a barrier is no help', 'race', [b.if_(b.eq(b.builtin('block.x'), b.u32(0)), [b.let_('v', b.load(y, t))]), b.barrier(), b.if_(b.eq(b.builtin('block.x'), b.u32(1)), [b.store(y, t, t)])], /writes what block number 0 read/, { grid: [2, 1, 1] }],
    ['barrier in a branch', 'divergent-barrier', [b.if_(b.lt(t, b.u32(2)), [b.barrier()])], /only 2 of 4 threads reach a barrier/],
    ['barrier in a loop of uneven length', 'divergent-barrier', [b.for_('i', b.u32(0), b.add(t, b.u32(1)), 1, () => [b.barrier()])], /only 3 of 4/],
    ['subgroup operation in a branch', 'divergent-subgroup', [b.if_(b.lt(t, b.u32(2)), [b.let_('v', b.subgroup('add', t))])], /only 2 of 4 threads/],
    ['a lane that is not there', 'divergent-subgroup', [b.let_('v', b.subgroup('broadcast', t, 9))], /no lane 9/],
    ['division by zero', 'division-by-zero', [b.store(y, t, b.div(b.u32(3), b.sub(t, b.u32(2))))], /3 \/ 0.*thread 2/],
    ['remainder by zero', 'division-by-zero', [b.store(y, t, b.mod(b.u32(3), t))], /3 % 0/],
    ['shift by 32', 'shift', [b.store(y, t, b.bin('>>', b.u32(3), b.add(t, b.u32(30))))], /shift by 32 bits.*thread 2/],
    ['a loop variable that wraps', 'loop-overflow', [b.for_('i', b.u32(0xffff_fff0), b.u32(0xffff_ffff), 9, () => [])], /passes 2\^32/],
    ['scalar without a value', 'memory', [b.store(y, t, b.scalar('T'))], /no value for scalar T/, { kernel: { scalars: ['T'] } }],
  ];
  it.each(cases.map((c) => [...c] as const))('%s', (_name, kind, body, message, more) => {
    const seen = fault(() => run([y], body, mem(), more));
    expect(seen.kind).toBe(kind);
    expect(seen.message).toMatch(message);
  });

  it('memory that is missing or of another type', () => {
    expect(fault(() => run([y], [], {})).message).toMatch(/no memory for parameter y/);
    expect(fault(() => run([y], [], { y: new Float32Array(B) })).message).toMatch(/Float32Array, not of u32/);
  });

  it('counts cells in accesses of the buffer: a part of one is none', () => {
    const v = global('v', 'f32', 4);
    const whole = b.load(v, b.u32(1));
    expect(fault(() => run([v], [b.let_('x', whole)], { v: new Float32Array(7) })).message).toMatch(/reads v\[1\], which has 1 cells/);
    run([v], [b.let_('x', whole)], { v: new Float32Array(8) });
  });

  it('updates race with plain accesses and not with each other', () => {
    const c: Buffer = { ...global('c', 'u32'), atomic: true };
    const seen = fault(() => run([c, y], [b.atomic('max', c, b.u32(0), t), b.store(y, t, b.load(c, b.u32(0)))], { c: new Uint32Array(1), y: new Uint32Array(B) }));
    expect(seen.message).toMatch(/race on c\[0\]: reads what several threads updated/);
    const memory = { c: new Uint32Array(1), y: new Uint32Array(B) };
    run([c, y], [b.atomic('max', c, b.u32(0), t), b.barrier(), b.store(y, t, b.load(c, b.u32(0)))], memory);
    expect(Array.from(memory.y)).toEqual([3, 3, 3, 3]);
  });

  it('does not mind what no thread does', () => {
    run([y], [b.if_(b.lt(t, b.u32(0)), [b.store(y, b.u32(99), b.div(t, b.u32(0)))])], mem());
    run([y], [b.store(y, t, b.select(b.lt(t, b.u32(9)), t, b.u32(0)))], mem());
  });
});
