/** How far results are from expected ones; all sums in f64. */

export interface Deviation {
  /** Σ(a − r)² / Σr² */
  readonly nmse: number;
  /** The same of the worst row, over max(row energy, 10⁻³ × mean row energy). */
  readonly rowNmse: number;
}

/** Gates of f32 kernels on WebGPU, `exp` and `/` as loose as WGSL allows them to be. */
export const F32_GATE: Deviation = { nmse: 1e-9, rowNmse: 1e-8 };
/** Gates of an FFN, dense or of experts, whose rows are rounded to 16 bits, in memory or before tensor cores: half a unit is 2^-12 and 2^-9 of a value. */
export const HALF_GATES: Readonly<Record<'f16' | 'bf16', Deviation>> = {
  f16: { nmse: 5e-7, rowNmse: 2e-6 },
  bf16: { nmse: 3e-5, rowNmse: 6e-5 },
};

/** A value that is not finite must be the same one in both; otherwise the deviation is infinite. */
export function deviation(actual: ArrayLike<number>, expected: ArrayLike<number>, rows: number): Deviation {
  if (actual.length !== expected.length) return { nmse: Infinity, rowNmse: Infinity };
  if (rows === 0 || expected.length === 0) return { nmse: 0, rowNmse: 0 };
  const width = expected.length / rows;
  const errors = new Float64Array(rows);
  const energies = new Float64Array(rows);
  for (let r = 0; r < rows; r++) {
    for (let i = r * width; i < (r + 1) * width; i++) {
      const a = actual[i] ?? NaN;
      const e = expected[i] ?? NaN;
      if (Number.isFinite(a) && Number.isFinite(e)) {
        errors[r] = (errors[r] ?? 0) + (a - e) ** 2;
        energies[r] = (energies[r] ?? 0) + e ** 2;
      } else if (!Object.is(a, e)) {
        return { nmse: Infinity, rowNmse: Infinity };
      }
    }
  }
  const sum = (list: Float64Array): number => list.reduce((a, b) => a + b, 0);
  const energy = sum(energies);
  const least = (1e-3 * energy) / rows;
  const ratio = (error: number, of: number): number => (error === 0 ? 0 : of === 0 ? Infinity : error / of);
  return {
    nmse: ratio(sum(errors), energy),
    rowNmse: Math.max(...Array.from(errors, (e, r) => ratio(e, Math.max(energies[r] ?? 0, least)))),
  };
}
