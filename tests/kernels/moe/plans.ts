/** Plans for tests: ids of a call, and the plan buffer that the kernel makes of them. */
import { expect } from 'vitest';
import { evalSize } from '../../../src/base/size.ts';
import type { PlanData } from '../../../src/ir/graph/evaluate/data.ts';
import { DROPPED, plan, planSize } from '../../../src/kernels/index.ts';
import type { PlanBlocks, PlanSchedule } from '../../../src/kernels/index.ts';
import { CAPS, planOf, random, reference, remember, run } from './harness.ts';

const planOnce = remember(plan);

/** Ids of a call: distinct experts per token, some dropped. */
export function makeIds(T: number, slots: number, experts: number, seed: number, drop = 0): Uint32Array {
  const r = random(T * slots * 2, seed);
  return Uint32Array.from({ length: T * slots }, (_, i) => {
    const token = Math.floor(i / slots);
    const start = Math.floor((((r[token] ?? 0) + 1) / 2) * experts);
    return ((r[T * slots + i] ?? 0) + 1) / 2 < drop
      ? DROPPED
      : (start + (i % slots) * (experts > slots ? 2 : 1) + (i % slots > experts / 2 ? 1 : 0)) % experts;
  });
}

const envOf = (T: number): { T: number; past: number; seq: number; cap: number } => ({ T, past: 0, seq: T, cap: 0 });

/** Builds the plan on the interpreter and holds every word of it against the reference. */
export function makePlan(
  ids: Uint32Array,
  experts: number,
  slots: number,
  tileRows: number,
  schedule?: PlanSchedule | PlanBlocks,
  caps = CAPS,
): { buffer: Uint32Array; want: PlanData } {
  const T = ids.length / slots;
  const P = ids.length;
  const words = evalSize(planSize({ experts, slots, tileRows }), envOf(T));
  const buffer = new Uint32Array(words).fill(0xabcdabcd);
  run(planOnce({ experts, slots, tileRows }, schedule, caps), { ids, plan: buffer }, { T, subgroups: caps.subgroups }, ['plan'], ['plan']);
  const want = planOf(
    reference('moe.plan', { ids: { shape: ['T', slots], data: ids } }, { experts, slots, mode: 'sorted', tileRows }, { T }),
  );
  const used = ids.filter((id) => id !== DROPPED).length;
  expect(buffer[1]).toBe(used);
  for (let row = 0; row < used; row++) expect(buffer[4 + row]).toBe((want.tokenOf[row] ?? 0) * slots + (want.slotOf[row] ?? 0));
  for (let slot = 0; slot < P; slot++) expect(buffer[4 + P + slot]).toBe((want.rowOf[slot] ?? 0) >>> 0);
  // The tiles cover every used row once, each within one expert.
  const covered = new Uint8Array(used);
  const tiles = buffer[0] ?? 0;
  expect(4 + 2 * P + 3 * tiles).toBeLessThanOrEqual(words);
  for (let t = 0; t < tiles; t++) {
    const [expert = 0, first = 0, rows = 0] = buffer.subarray(4 + 2 * P + 3 * t, 4 + 2 * P + 3 * t + 3);
    expect(rows).toBeLessThanOrEqual(tileRows);
    for (let row = first; row < first + rows; row++) {
      expect(want.expertOf[row]).toBe(expert);
      covered[row] = (covered[row] ?? 0) + 1;
    }
  }
  expect(covered.every((c) => c === 1)).toBe(true);
  return { buffer, want };
}
