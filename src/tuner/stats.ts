/** Few numbers about few numbers: medians, and how far a median may be off. */

/** The value below which a part `q` of the values lies; between two values the nearer ranks are mixed. NaN of none. */
export function quantile(values: readonly number[], q: number): number {
  const sorted = [...values].sort((a, b) => a - b);
  if (sorted.length === 0) return NaN;
  const at = q * (sorted.length - 1);
  const low = sorted[Math.floor(at)] ?? NaN;
  const high = sorted[Math.ceil(at)] ?? NaN;
  return low + (high - low) * (at - Math.floor(at));
}

export const median = (values: readonly number[]): number => quantile(values, 0.5);

/** Times that agree to less than this are the same, whatever the batches say. */
const LEAST_NOISE = 0.01;

/** Two standard errors of the median, relative: 1.4826 · MAD is σ of a normal distribution, 1.2533 · σ / √n the error of its median. */
export function noiseOf(values: readonly number[]): number {
  const middle = median(values);
  const mad = median(values.map((x) => Math.abs(x - middle)));
  const error = (2 * 1.2533 * 1.4826 * mad) / Math.sqrt(Math.max(1, values.length)) / middle;
  return Math.max(LEAST_NOISE, Number.isFinite(error) ? error : 1);
}

/** How much single batches differ, relative to the median: half of what the middle half of them spans. */
export const spread = (values: readonly number[]): number => (quantile(values, 0.75) - quantile(values, 0.25)) / 2 / median(values);
