/**
 * Two jobs timed in turns. Devices speed up and slow down for milliseconds at a time (clocks, threads that wake up, other programs),
 * so one batch is A B B A or B A A B: what drifts evenly, drifts for both, and batches differ by what does not.
 */
import type { Measured } from './outcome.ts';
import type { BatchRule } from './protocol.ts';
import { median, noiseOf } from './stats.ts';

/** Milliseconds of one run of each job, in one batch. */
export interface Turn {
  readonly ms: number;
  readonly besideMs: number;
}

/** One submission: what runs in it, in order, and what the times of all that say. */
export interface Batch<R> {
  readonly runs: readonly R[];
  turnOf(times: readonly number[]): Turn;
}

/**
 * A B B A for each scenario. The first run is one more that wakes the device up and does not count.
 * @param own and `other`: one run a scenario; @param weighted the mean over scenarios
 */
export function batchOf<R>(own: readonly R[], other: readonly R[], swapped: boolean, weighted: (byScenario: readonly number[]) => number): Batch<R> {
  const [outer, inner] = swapped ? [other, own] : [own, other];
  const order = outer.flatMap((run, s) => [run, inner[s] ?? run, inner[s] ?? run, run]);
  return {
    runs: [...order.slice(0, 1), ...order],
    turnOf(times) {
      const mean = (i: number, j: number): number => weighted(outer.map((_, s) => ((times[1 + 4 * s + i] ?? NaN) + (times[1 + 4 * s + j] ?? NaN)) / 2));
      const [outerMs, innerMs] = [mean(0, 3), mean(1, 2)];
      return swapped ? { ms: innerMs, besideMs: outerMs } : { ms: outerMs, besideMs: innerMs };
    },
  };
}

/** A ratio known so well needs no more batches. */
const EXACT = 0.012;
/** Nor does one that is so many times its noise away from 1. */
const CLEAR = 3;

/** @param batch the other job comes first where `swapped` */
export async function inTurns(rule: BatchRule, batch: (swapped: boolean) => Promise<Turn>, now: () => number = () => performance.now()): Promise<Measured> {
  const turns: Turn[] = [];
  const began = now();
  const { batches: most, ms: mostMs } = rule.most ?? { batches: 0, ms: 0 };
  const ratios = (): readonly number[] => turns.map((t) => t.ms / t.besideMs);
  const isClear = (): boolean => {
    const noise = noiseOf(ratios());
    return noise <= EXACT || Math.abs(Math.log(median(ratios()))) > CLEAR * noise;
  };
  while (turns.length < rule.batches || (turns.length < most && now() - began < mostMs && !isClear())) turns.push(await batch(turns.length % 2 === 1));
  return {
    ok: true, ms: median(turns.map((t) => t.ms)), besideMs: median(turns.map((t) => t.besideMs)),
    ratio: median(ratios()), noise: noiseOf(ratios()), batches: turns.length, rough: false,
  };
}
