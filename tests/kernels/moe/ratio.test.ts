import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import * as b from '../../../src/ir/kernel/build.ts';
import { interpret } from '../../../src/ir/kernel/interpret.ts';
import type { Stmt } from '../../../src/ir/kernel/types.ts';
import { mulRatio, ratioOf, ratioOver } from '../../../src/kernels/moe/ratio.ts';
import type { Ratio } from '../../../src/kernels/moe/ratio.ts';
import { finishKernel } from '../../../src/passes/kernel/pipeline.ts';

function compute(x: number, r: Ratio): number {
  const y = b.buffer('y', 'global', 'u32');
  const body: Stmt[] = [];
  const share = mulRatio(body, 'share', b.scalar('T'), r);
  body.push(b.store(y, b.u32(0), share));
  const kernel = finishKernel(
    { name: 'share', family: 'test', params: [y], scalars: ['T'], block: 1, schedule: {}, body },
    { subgroups: false },
  );
  const out = new Uint32Array(1);
  interpret(kernel, { grid: [1, 1, 1], memory: { y: out }, scalars: { T: x } });
  return out[0] ?? NaN;
}

describe('ratios', () => {
  it('are the fraction that was meant', () => {
    expect(ratioOf(1.25)).toEqual({ num: 5, den: 4 });
    expect(ratioOf(0.29)).toEqual({ num: 29, den: 100 });
    expect(ratioOf(2)).toEqual({ num: 2, den: 1 });
    expect(ratioOf(1 / 3)).toEqual({ num: 1, den: 3 });
    expect(ratioOf(1.1)).toEqual({ num: 11, den: 10 });
    expect(ratioOver(1.2, 8)).toEqual({ num: 3, den: 20 });
    expect(ratioOver(Math.PI, 1024).den).toBeLessThan(2 ** 30);
    expect(() => ratioOver(1, 2 ** 31)).toThrow(/30 bits/);
    for (const bad of [0, -1, NaN, Infinity, 2 ** 31]) expect(() => ratioOf(bad)).toThrow(/factor must be/);
  });

  it('approximate every factor closely', () => {
    fc.assert(
      fc.property(fc.double({ min: 0.001, max: 1000, noNaN: true }), (x) => {
        const { num, den } = ratioOf(x);
        expect(Math.abs(num / den - x) / x).toBeLessThan(1e-6);
      }),
    );
  });

  it('multiply exactly, whatever the product', () => {
    fc.assert(
      fc.property(fc.nat(2 ** 24), fc.integer({ min: 1, max: 2 ** 30 - 1 }), fc.integer({ min: 1, max: 2 ** 30 - 1 }), (x, num, den) => {
        const exact = (BigInt(x) * BigInt(num)) / BigInt(den);
        if (exact < 2n ** 32n) expect(BigInt(compute(x, { num, den }))).toBe(exact);
      }),
      { numRuns: 60 },
    );
  });
});
