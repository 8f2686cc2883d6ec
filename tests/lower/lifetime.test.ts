import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { evalSize, mulSize } from '../../src/base/size.ts';
import { assignSlots, type LiveValue } from '../../src/lower/lifetime.ts';

const values = (widths: fc.Arbitrary<number>): fc.Arbitrary<readonly LiveValue[]> =>
  fc
    .array(fc.record({ elem: fc.constantFrom('f32', 'u32'), width: widths, first: fc.nat(20), length: fc.nat(6) }), { maxLength: 30 })
    .map((made) =>
      made.map(({ elem, width, first, length }, i) => ({ id: `v${i}`, elem, size: mulSize('T', width), first, last: first + length })),
    );

const meet = (a: LiveValue, b: LiveValue): boolean => a.first <= b.last && b.first <= a.last;

describe('scratch slots', () => {
  it('are never shared by values that live together, and always large enough', () => {
    fc.assert(
      fc.property(values(fc.integer({ min: 1, max: 9 })), fc.integer({ min: 1, max: 5000 }), (live, T) => {
        const { slots, slotOf } = assignSlots(live);
        const env = { T, past: 0, seq: T, cap: T };
        for (const value of live) {
          const slot = slots[slotOf.get(value.id) ?? -1];
          expect(slot?.elem).toBe(value.elem);
          expect(evalSize(slot?.size ?? 0, env)).toBeGreaterThanOrEqual(evalSize(value.size, env));
        }
        for (const a of live) for (const b of live) if (a !== b && slotOf.get(a.id) === slotOf.get(b.id)) expect(meet(a, b)).toBe(false);
      }),
    );
  });

  it('are as few as values that live together, where all are of one size', () => {
    fc.assert(
      fc.property(values(fc.constant(4)), (live) => {
        const most = (elem: string): number =>
          Math.max(0, ...live.map((v) => live.filter((w) => w.elem === elem && w.first <= v.first && v.first <= w.last).length));
        expect(assignSlots(live).slots).toHaveLength(most('f32') + most('u32'));
      }),
    );
  });

  it('keeps a value that a step reads apart from one it writes', () => {
    const { slotOf } = assignSlots([
      { id: 'x', elem: 'f32', size: 'T', first: 0, last: 1 },
      { id: 'y', elem: 'f32', size: 'T', first: 1, last: 2 },
      { id: 'z', elem: 'f32', size: 'T', first: 2, last: 3 },
    ]);
    expect(slotOf.get('x')).not.toBe(slotOf.get('y'));
    expect(slotOf.get('z')).toBe(slotOf.get('x'));
  });
});
