/**
 * Scratch by lifetime: values whose live ranges do not meet share a slot. A value lives from the step
 * that writes it to the last step that reads it, both included, so a step never writes what it reads.
 */
import { sameData } from '../base/hash.ts';
import { evalSize, size, type Size } from '../base/size.ts';
import type { Elem } from '../ir/kernel/types.ts';
import type { ScratchSlot } from './program.ts';

export interface LiveValue {
  readonly id: string;
  readonly elem: Elem;
  /** In elements. */
  readonly size: Size;
  /** Steps, both included. */
  readonly first: number;
  readonly last: number;
}

export interface SlotPlan {
  readonly slots: readonly ScratchSlot[];
  readonly slotOf: ReadonlyMap<string, number>;
}

/** Sizes are compared at a typical call; the slot takes the larger of the two expressions. */
const TYPICAL = { T: 512, past: 0, seq: 512, cap: 4096 } as const;

/** Every value gets a slot; slots of the same element type are reused, best fit first. */
export function assignSlots(values: readonly LiveValue[]): SlotPlan {
  const slots: { elem: Elem; size: Size; freeFrom: number }[] = [];
  const slotOf = new Map<string, number>();
  const ordered = [...values].sort((a, b) => a.first - b.first || b.last - a.last || (a.id < b.id ? -1 : 1));
  for (const value of ordered) {
    const want = evalSize(value.size, TYPICAL);
    const misfit = (s: Size): number => (sameData(s, value.size) ? -1 : Math.abs(evalSize(s, TYPICAL) - want));
    const free = slots
      .map((slot, index) => ({ slot, index }))
      .filter(({ slot }) => slot.elem === value.elem && slot.freeFrom <= value.first)
      .sort((a, b) => misfit(a.slot.size) - misfit(b.slot.size) || a.index - b.index)[0];
    if (free === undefined) {
      slotOf.set(value.id, slots.length);
      slots.push({ elem: value.elem, size: value.size, freeFrom: value.last + 1 });
    } else {
      slotOf.set(value.id, free.index);
      if (!sameData(free.slot.size, value.size)) free.slot.size = size('max', free.slot.size, value.size);
      free.slot.freeFrom = value.last + 1;
    }
  }
  return { slots: slots.map(({ elem, size: n }) => ({ elem, size: n })), slotOf };
}
