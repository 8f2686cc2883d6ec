/** Times of two jobs in turns: what drifts does not count, what is not clear is followed up, what is clear is not. */
import { describe, expect, it } from 'vitest';
import { random } from '../../src/tuner/random.ts';
import { batchOf, inTurns, type Turn } from '../../src/tuner/turns.ts';

const sum = (times: readonly number[]): number => times.reduce((a, b) => a + b, 0);
/** Two scenarios of a job: what a run of each takes on a device that does not drift. */
const OWN = [1, 3];
const OTHER = [2, 4];

/** A device that slows down from run to run, and takes twice as long for the first one. */
function drifting(perRun: number): (runs: readonly number[]) => readonly number[] {
  return (runs) => runs.map((ms, i) => ms * (i === 0 ? 2 : 1 + perRun * i));
}

describe('a batch', () => {
  it.each([false, true])('gives each job its own times (swapped: %s)', (swapped) => {
    const { runs, turnOf } = batchOf(OWN, OTHER, swapped, sum);
    expect(runs).toHaveLength(9);
    expect(turnOf(runs)).toEqual({ ms: 4, besideMs: 6 });
  });

  it.each([false, true])('counts neither an even drift nor the first run (swapped: %s)', (swapped) => {
    const { runs, turnOf } = batchOf([1, 1], [1, 1], swapped, sum);
    const { ms, besideMs } = turnOf(drifting(0.1)(runs));
    expect(ms / besideMs).toBeCloseTo(1, 12);
  });
});

describe('batches', () => {
  const rule = { batches: 5, batchMs: 1, most: { batches: 40, ms: 1e9 } };
  /** Turns of a ratio with noise of so many percent. */
  function turns(ratio: number, noise: number): { readonly swaps: boolean[]; batch(swapped: boolean): Promise<Turn> } {
    const r = random(5, 'turns');
    const swaps: boolean[] = [];
    return { swaps, batch: (swapped) => Promise.resolve((swaps.push(swapped), { ms: 10 * ratio * (1 + noise * (2 * r.next() - 1)), besideMs: 10 })) };
  }

  it('alternate, and as few as asked for are enough where they agree or are far apart', async () => {
    const alike = turns(1, 0.001);
    expect(await inTurns(rule, alike.batch, () => 0)).toMatchObject({ ok: true, batches: 5, noise: 0.01, rough: false });
    expect(alike.swaps).toEqual([false, true, false, true, false]);
    const far = await inTurns(rule, turns(1.6, 0.05).batch, () => 0);
    expect(far.batches).toBe(5);
    expect(far.ratio).toBeGreaterThan(1.5);
  });

  it('go on where a difference is not clear, to the end of the rule', async () => {
    expect((await inTurns(rule, turns(1.02, 0.1).batch, () => 0)).batches).toBe(40);
    let now = 0;
    expect((await inTurns({ ...rule, most: { batches: 40, ms: 10 } }, turns(1.02, 0.1).batch, () => now++)).batches).toBeLessThan(20);
    expect((await inTurns({ batches: 5, batchMs: 1 }, turns(1.02, 0.1).batch, () => 0)).batches).toBe(5);
  });

  it('end with less noise for it', async () => {
    const few = await inTurns({ batches: 5, batchMs: 1 }, turns(1.02, 0.1).batch, () => 0);
    const many = await inTurns({ ...rule, batches: 40 }, turns(1.02, 0.1).batch, () => 0);
    expect(many.noise).toBeLessThan(few.noise);
    expect(many.ratio).toBeCloseTo(1.02, 1);
  });
});
