import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import * as b from '../../../src/ir/kernel/build.ts';
import { KernelFault, interpret } from '../../../src/ir/kernel/interpret.ts';
import { printExpr, printStmts } from '../../../src/ir/kernel/print.ts';
import type { BinOp, Expr, Stmt } from '../../../src/ir/kernel/types.ts';
import { simplifyExpr } from '../../../src/passes/kernel/simplify-expr.ts';
import { simplify } from '../../../src/passes/kernel/simplify.ts';
import { global, kernel } from '../../ir/kernel/samples.ts';

const BLOCK = 12;
const x = b.variable('x');
const ranges = { block: BLOCK, variables: new Map([['small', { lo: 2, hi: 9 }]]), constants: new Map() };
const small = b.variable('small');
const t = b.thread;
const say = (e: Expr): string => printExpr(simplifyExpr(e, ranges));

// Trees are made by hand here, not by the builders, which fold as they go.
const raw = (op: BinOp, a: Expr, c: Expr): Expr => {
  const compares = ['<', '<=', '>', '>=', '==', '!=', '&&', '||'].includes(op);
  return { k: 'bin', ty: b.ty(compares ? 'bool' : 'u32'), op, a, b: c };
};

describe('the rules', () => {
  it.each<[Expr, string]>([
    [raw('+', b.u32(3), x), 'x + 3'],
    [raw('+', raw('+', x, b.u32(3)), b.u32(4)), 'x + 7'],
    [raw('+', raw('+', x, b.u32(3)), t), '(x + thread) + 3'],
    [raw('-', raw('+', x, t), t), 'x'],
    [raw('-', x, x), '0'],
    [raw('*', raw('*', x, b.u32(3)), b.u32(4)), 'x * 12'],
    [raw('/', raw('*', t, b.u32(4)), b.u32(4)), 'thread'],
    [raw('/', raw('*', x, b.u32(4)), b.u32(4)), '(x * 4) / 4'],
    [raw('/', raw('+', raw('*', t, b.u32(8)), small), b.u32(4)), '(thread * 2) + (small / 4)'],
    [raw('%', raw('+', raw('*', t, b.u32(8)), small), b.u32(4)), 'small % 4'],
    [raw('/', raw('/', x, b.u32(3)), b.u32(5)), 'x / 15'],
    [raw('%', raw('%', x, b.u32(12)), b.u32(4)), 'x % 4'],
    [raw('%', raw('%', x, b.u32(12)), b.u32(5)), '(x % 12) % 5'],
    [raw('/', t, b.u32(12)), '0'],
    [raw('%', t, b.u32(12)), 'thread'],
    [raw('%', t, b.u32(11)), 'thread % 11'],
    [raw('<', t, b.u32(12)), 'true'],
    [raw('<', t, b.u32(11)), 'thread < 11'],
    [raw('>=', small, b.u32(10)), 'false'],
    [raw('==', x, x), 'true'],
    [raw('min', t, b.u32(11)), 'thread'],
    [raw('max', b.u32(9), small), '9'],
    [b.not(raw('<', x, t)), 'x >= thread'],
    [b.not(b.not(raw('<', x, t))), 'x < thread'],
    [raw('&&', raw('<', x, t), b.bool(true)), 'x < thread'],
    [b.select(raw('<', x, t), t, t), 'thread'],
  ])('%#', (e, text) => {
    expect(say(e)).toBe(text);
  });

  it('keep what a load may do', () => {
    const buf = global('buf', 'u32');
    expect(say(raw('-', b.load(buf, x), b.load(buf, x)))).toBe('buf[x] - buf[x]');
    expect(say(raw('*', b.load(buf, x), b.u32(0)))).toBe('buf[x] * 0');
  });
});

const leaf = fc.oneof(
  fc.constantFrom(0, 1, 2, 3, 4, 5, 8, 12, 31, 0x7fff_ffff, 0x8000_0000, 0xffff_fffe, 0xffff_ffff).map((n) => b.u32(n)),
  fc.constantFrom(t, b.variable('x'), b.variable('small'), b.builtin('block.x'), b.variable('i')),
);
const OPS: readonly BinOp[] = ['+', '-', '*', '/', '%', 'min', 'max', '&', '|', '^'];
const index: fc.Arbitrary<Expr> = fc.letrec<{ e: Expr; c: Expr }>((tie) => ({
  e: fc.oneof(
    { maxDepth: 5, depthSize: 'small' },
    leaf,
    fc.tuple(fc.constantFrom(...OPS), tie('e'), tie('e')).map(([op, p, q]) => raw(op, p, q)),
    fc.tuple(fc.constantFrom<BinOp>('/', '%', '*'), tie('e'), fc.integer({ min: 1, max: 16 })).map(([op, p, n]) => raw(op, p, b.u32(n))),
    fc.tuple(fc.constantFrom<BinOp>('<<', '>>'), tie('e'), fc.integer({ min: 0, max: 31 })).map(([op, p, n]) => raw(op, p, b.u32(n))),
    fc.tuple(tie('c'), tie('e'), tie('e')).map(([c, p, q]): Expr => ({ k: 'select', ty: p.ty, cond: c, a: p, b: q })),
  ),
  c: fc.oneof(
    { maxDepth: 4, depthSize: 'small' },
    fc.tuple(fc.constantFrom<BinOp>('<', '<=', '>', '>=', '==', '!='), tie('e'), tie('e')).map(([op, p, q]) => raw(op, p, q)),
    fc.tuple(fc.constantFrom<BinOp>('&&', '||'), tie('c'), tie('c')).map(([op, p, q]) => raw(op, p, q)),
    tie('c').map((c) => b.not(c)),
  ),
})).e;

const y = global('y', 'u32');
const given = global('given', 'u32');

/** Every value of `e` over blocks, threads and iterations; a fault's kind where it faults. */
function outputs(body: readonly Stmt[], data: Uint32Array): string {
  const out = new Uint32Array(2 * BLOCK * 3);
  try {
    interpret(kernel([given, y], body, { block: BLOCK }), { grid: [2, 1, 1], memory: { given: data, y: out } });
  } catch (error) {
    if (error instanceof KernelFault) return error.fault.kind;
    throw error;
  }
  return out.join();
}

const program = (e: Expr): readonly Stmt[] => [
  b.let_('x', b.load(given, t)),
  b.let_('small', b.add(b.u32(2), b.mod(b.load(given, t), b.u32(8)))),
  b.for_('i', b.u32(0), b.u32(3), 1, (i) => [
    b.store(y, b.add(b.mul(b.add(b.mul(b.builtin('block.x'), b.u32(3)), i), b.u32(BLOCK)), t), e),
  ]),
];

describe('simplify', () => {
  it('keeps the value of every index expression, wrapping included', () => {
    fc.assert(
      fc.property(index, fc.array(fc.integer({ min: 0, max: 0xffff_ffff }), { minLength: BLOCK, maxLength: BLOCK }), (e, data) => {
        const memory = Uint32Array.from(data);
        const before = outputs(program(e), memory);
        // A simplified expression may lose a division by zero that decided nothing; it may not gain one.
        if (before === 'division-by-zero') return;
        const after = simplify(kernel([given, y], program(e), { block: BLOCK })).body;
        expect(outputs(after, memory)).toBe(before);
      }),
      { numRuns: 500 },
    );
  });

  it('decides branches and loops, and drops what nothing uses', () => {
    const body = [
      b.let_('unused', b.load(given, t)),
      b.let_('four', b.u32(4)),
      b.if_(b.lt(t, b.u32(BLOCK)), [b.store(y, t, b.variable('four'))], [b.store(y, t, b.u32(0))]),
      b.for_('i', b.u32(3), b.u32(3), 1, (i) => [b.store(y, i, i)]),
      b.for_('j', b.u32(8), b.u32(12), 4, (j) => [b.store(y, b.add(t, j), j)]),
      b.for_('k', t, b.u32(BLOCK - 4), BLOCK, (k) => [b.store(y, b.add(k, b.u32(40)), k)]),
      b.if_(b.lt(t, b.variable('z')), []),
    ];
    expect(printStmts(simplify(kernel([given, y], [b.let_('z', b.load(given, t)), ...body], { block: BLOCK })).body)).toBe(
      ['y[thread] = 4', 'y[thread + 8] = 8', 'if thread < 8 {', '  let k: u32 = thread', '  y[k + 40] = k', '}'].join('\n'),
    );
  });

  it('is done after one run', () => {
    fc.assert(fc.property(index, (e) => {
      const once = simplifyExpr(e, ranges);
      expect(printExpr(simplifyExpr(once, ranges))).toBe(printExpr(once));
    }), { numRuns: 200 });
  });
});
