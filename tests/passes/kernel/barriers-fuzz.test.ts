/** Random kernels through the barrier pass: no race is left, and in straight-line code no barrier is one too many. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import * as b from '../../../src/ir/kernel/build.ts';
import { interpret } from '../../../src/ir/kernel/interpret.ts';
import { printKernel } from '../../../src/ir/kernel/print.ts';
import type { Buffer, Expr, Kernel, Stmt } from '../../../src/ir/kernel/types.ts';
import { verify } from '../../../src/ir/kernel/verify.ts';
import { finishKernel } from '../../../src/passes/kernel/pipeline.ts';
import { global, kernel } from '../../ir/kernel/samples.ts';
import { simtMutations, survivors } from '../../ir/kernel/mutate.ts';

const B = 8;
const SIZE = 32;
const p: Buffer = b.buffer('p', 'shared', 'u32', 1, SIZE);
const q: Buffer = b.buffer('q', 'shared', 'u32', 1, SIZE);
const y: Buffer = global('y', 'u32');
const t = b.thread;

/** Cells that differ from thread to thread. */
const own: fc.Arbitrary<Expr> = fc.oneof(
  fc.integer({ min: 0, max: 3 }).map((n) => b.add(t, b.u32(8 * n))),
  fc.integer({ min: 1, max: 7 }).map((n) => b.mod(b.add(t, b.u32(n)), b.u32(B))),
  fc.integer({ min: 1, max: 7 }).map((n) => b.bin('^', t, b.u32(n))),
  fc.integer({ min: 0, max: 3 }).map((n) => b.add(b.mul(t, b.u32(4)), b.u32(n))),
  fc.constant(b.add(b.mul(b.mod(t, b.u32(2)), b.u32(4)), b.div(t, b.u32(2)))),
);
const any: fc.Arbitrary<Expr> = fc.oneof(own, fc.integer({ min: 0, max: SIZE - 1 }).map((n) => b.u32(n)), fc.constant(b.div(t, b.u32(2))));
const guard = fc.oneof(
  fc.integer({ min: 1, max: 7 }).map((n) => b.lt(t, b.u32(n))),
  fc.integer({ min: 0, max: 7 }).map((n) => b.eq(t, b.u32(n))),
  fc.integer({ min: 1, max: 7 }).map((n) => b.ge(t, b.u32(n))),
);
const buffer = fc.constantFrom(p, q, y);
const simple: fc.Arbitrary<Stmt> = fc.oneof(
  fc.tuple(buffer, own).map(([buf, i]) => b.store(buf, i, b.add(t, b.u32(1)))),
  fc.tuple(buffer, any, own).map(([buf, i, j]) => b.store(y, j, b.load(buf, i))),
  fc.tuple(guard, buffer, own).map(([c, buf, i]) => b.if_(c, [b.store(buf, i, t)])),
  fc.tuple(guard, buffer, any).map(([c, buf, i]) => b.if_(c, [b.assign('sum', b.add(b.variable('sum'), b.load(buf, i)))])),
  fc.tuple(buffer, any).map(([buf, i]) => b.assign('sum', b.add(b.variable('sum'), b.load(buf, i)))),
  fc.tuple(buffer).map(([buf]) => b.for_('e', t, b.u32(SIZE), B, (e) => [b.store(buf, e, e)])),
  fc.tuple(buffer).map(([buf]) => b.for_('e', b.mul(t, b.u32(4)), b.add(b.mul(t, b.u32(4)), b.u32(4)), 1, (e) => [b.assign('sum', b.add(b.variable('sum'), b.load(buf, e)))])),
);
const straight = fc.array(simple, { minLength: 1, maxLength: 6 });
/** Cells of another iteration, another half, the same cells. */
const inLoop: fc.Arbitrary<Stmt> = fc.oneof(
  simple,
  fc.tuple(buffer, fc.constantFrom(0, 1)).map(([buf, n]) => b.store(buf, b.add(t, b.mul(b.mod(b.add(b.variable('l'), b.u32(n)), b.u32(2)), b.u32(B))), t)),
  fc.tuple(buffer, own).map(([buf, i]) => b.assign('sum', b.add(b.variable('sum'), b.load(buf, b.mod(b.add(i, b.variable('l')), b.u32(SIZE)))))),
);
const nested: fc.Arbitrary<readonly Stmt[]> = fc.array(
  fc.oneof(
    simple,
    fc.tuple(fc.integer({ min: 0, max: 3 }), fc.array(inLoop, { minLength: 1, maxLength: 4 })).map(([n, body]) => b.for_('l', b.u32(0), b.u32(n), 1, () => body)),
    fc.tuple(fc.array(inLoop, { minLength: 1, maxLength: 3 })).map(([body]) => b.for_('l', b.u32(0), b.scalar('T'), 1, () => body)),
    fc.tuple(fc.boolean(), straight, straight).map(([yes, c, d]) => b.if_(b.lt(b.scalar('T'), b.u32(yes ? 9 : 1)), c, d)),
  ),
  { minLength: 1, maxLength: 5 },
);

/** Everything written first, each cell by its own thread, so that no read is of nothing. */
const program = (body: readonly Stmt[]): Kernel => {
  const zero = [p, q, y].map((buf) => b.for_('z', t, b.u32(SIZE), B, (z) => [b.store(buf, z, z)]));
  const last = b.store(y, t, b.variable('sum'));
  return finishKernel(kernel([y], [b.alloc(p), b.alloc(q), ...zero, b.var_('sum', b.u32(0)), ...body, last], { block: B, scalars: ['T'] }), { subgroups: false });
};
const run = (T: number): { grid: readonly [number, number, number]; scalars: { T: number }; memory: () => { y: Uint32Array } } => ({
  grid: [1, 1, 1], scalars: { T }, memory: () => ({ y: new Uint32Array(SIZE) }),
});

describe('random kernels', () => {
  it('have no race left', () => {
    fc.assert(fc.property(nested, fc.integer({ min: 0, max: 3 }), (body, T) => {
      const k = program(body);
      expect(verify(k, 'simt')).toEqual([]);
      const launch = run(T);
      expect(() => interpret(k, { ...launch, memory: launch.memory() }), printKernel(k)).not.toThrow();
    }), { numRuns: 300 });
  });

  it('without loops have no barrier too many', () => {
    fc.assert(fc.property(straight, (body) => {
      const k = program(body);
      const deleted = simtMutations(k).filter((m) => m.kind === 'barrier');
      expect(survivors(k, deleted, [run(1)]).map((m) => m.what), printKernel(k)).toEqual([]);
    }), { numRuns: 100 });
  });
});
