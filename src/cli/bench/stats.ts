/** Numbers of repeated measurements. */
import { median, quantile } from '../../tuner/stats.ts';

export interface Summary {
  readonly n: number;
  readonly median: number;
  readonly p90: number;
}

export const summarise = (values: readonly number[]): Summary => ({ n: values.length, median: median(values), p90: quantile(values, 0.9) });

/** Median over the rounds of a's time divided by b's time of the same round. */
export const medianRatio = (a: readonly number[], b: readonly number[]): number => median(a.map((ms, round) => ms / (b[round] ?? NaN)));
