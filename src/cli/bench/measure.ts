/** Contestants in interleaved rounds: everyone once a round, in turns first, so that all of them meet the same noise. */
import { type Histogram, histogramOf } from '../../driver/bench/choices.ts';
import { type Work, workOf } from '../../driver/bench/work.ts';
import type { Progress } from './progress.ts';
import type { CallInput, Sample, Timed } from './session.ts';
import { medianRatio, type Summary, summarise } from './stats.ts';

/** One input that all contestants are called with. */
export interface Point {
  readonly tokens: number;
  /** How tokens spread over experts; absent where nothing is routed. */
  readonly routing: string | undefined;
  readonly input: CallInput;
}

export interface Row {
  readonly tokens: number;
  readonly routing?: string;
  readonly name: string;
  /** The one pass that it does without. */
  readonly without?: string;
  readonly dispatches: number;
  readonly host: Summary;
  readonly device?: Summary;
  /** Median over the rounds of this one's time divided by the first one's, by the device's clock where there is one. */
  readonly ratio: number;
  readonly work: Work;
  readonly histogram?: Histogram;
}

export type Clock = 'host' | 'device';

/** All of a contestant's samples have a time by the device's clock. */
const clocked = (samples: readonly Sample[]): boolean => samples.every((s) => s.device !== undefined);
const by = (clock: Clock, samples: readonly Sample[]): number[] => samples.map((s) => s[clock] ?? NaN);

function rowOf(timed: Timed, point: Point, own: readonly Sample[], first: readonly Sample[], histogram: Histogram | undefined): Row {
  const clock = clocked(own) && clocked(first) ? 'device' : 'host';
  const { without } = timed.prepared.contestant;
  const isMixture = timed.served.model.hasRouter;
  return {
    tokens: point.tokens,
    ...(point.routing === undefined ? {} : { routing: point.routing }),
    name: timed.name,
    ...(without === undefined ? {} : { without }),
    dispatches: timed.dispatches(),
    host: summarise(by('host', own)),
    ...(clocked(own) ? { device: summarise(by('device', own)) } : {}),
    ratio: medianRatio(by(clock, own), by(clock, first)),
    work: workOf(timed.prepared.compiled, timed.served, point.tokens, isMixture ? histogram : undefined),
    ...(isMixture && histogram !== undefined ? { histogram } : {}),
  };
}

/**
 * Rows of all contestants, the first being the one that ratios are of.
 * @param step told before every call: how many calls are done, and what comes
 */
export async function measure(all: readonly Timed[], point: Point, rounds: number, step: (what: string) => void): Promise<readonly Row[]> {
  const { input } = point;
  const samples = all.map((): Sample[] => []);
  const [first] = all;
  const ids = await first?.chosen(input);
  const histogram = ids === undefined ? undefined : histogramOf(ids, first?.served.model.experts ?? 0);
  for (const timed of all) {
    step(`${timed.name}, ${point.tokens} tokens, warming up`);
    await timed.time(input);
  }
  for (let round = 0; round < rounds; round++) {
    for (let i = 0; i < all.length; i++) {
      const at = (i + round) % all.length;
      const timed = all[at];
      if (timed === undefined) continue;
      step(`${timed.name}, ${point.tokens} tokens, round ${round + 1} of ${rounds}`);
      samples[at]?.push(await timed.time(input));
    }
  }
  return all.map((timed, i) => rowOf(timed, point, samples[i] ?? [], samples[0] ?? [], histogram));
}

/** Counts calls for a progress. */
export function callCounter(progress: Progress, whole: number): (what: string) => void {
  let done = 0;
  return (what) => progress.at(done++, whole, what);
}
