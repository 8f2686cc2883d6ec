/** Everyone once a round, each round begun by another: what disturbs the machine disturbs all of them. */
import { performance } from 'node:perf_hooks';
import { median } from '../../../src/tuner/stats.ts';

export interface Timed<T> {
  readonly of: T;
  /** By round; empty where it failed. */
  readonly times: readonly number[];
  readonly failed: string | undefined;
}

/** @param once one measurement, in milliseconds */
export async function interleaved<T>(all: readonly T[], rounds: number, once: (one: T) => Promise<number>): Promise<readonly Timed<T>[]> {
  const state = all.map((of): { of: T; times: number[]; failed: string | undefined } => ({ of, times: [], failed: undefined }));
  for (let round = 0; round < rounds; round++) {
    for (let i = 0; i < state.length; i++) {
      const s = state[(i + round) % state.length];
      if (s === undefined || s.failed !== undefined) continue;
      try {
        s.times.push(await once(s.of));
      } catch (error) {
        s.failed = error instanceof Error ? error.message : String(error);
        s.times.length = 0;
      }
    }
  }
  return state;
}

export async function timeOf(work: () => Promise<unknown>): Promise<number> {
  const start = performance.now();
  await work();
  return performance.now() - start;
}

/** How many times as fast as `base`: median over the rounds. NaN where one of them has none. */
export const timesAsFast = (own: readonly number[], base: readonly number[]): number => median(own.map((ms, round) => (base[round] ?? NaN) / ms));
