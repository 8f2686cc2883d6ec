/** Numbers of repeated measurements. */

/** The value below which a part `q` of the values lies; between two values the nearer ranks are mixed. NaN of none. */
export function quantile(values: readonly number[], q: number): number {
  const sorted = [...values].sort((a, b) => a - b);
  const at = q * (sorted.length - 1);
  const low = sorted[Math.floor(at)] ?? NaN;
  const high = sorted[Math.ceil(at)] ?? NaN;
  return low + (high - low) * (at - Math.floor(at));
}

export interface Summary {
  readonly n: number;
  readonly median: number;
  readonly p90: number;
}

export const summarise = (values: readonly number[]): Summary => ({ n: values.length, median: quantile(values, 0.5), p90: quantile(values, 0.9) });

/** Median over the rounds of a's time divided by b's time of the same round. */
export const medianRatio = (a: readonly number[], b: readonly number[]): number => quantile(a.map((ms, round) => ms / (b[round] ?? NaN)), 0.5);
