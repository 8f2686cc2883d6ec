/** Ridge regression over a handful of features: what the measurements so far say about candidates not measured yet. */

/** Solves (XᵀX + λI) w = Xᵀy by Gaussian elimination; the system is positive definite. */
export function ridge(rows: readonly (readonly number[])[], y: readonly number[], lambda: number): readonly number[] {
  const d = rows[0]?.length ?? 0;
  const a = Array.from({ length: d }, (_, i) => Array.from({ length: d + 1 }, (_, j) => (i === j ? lambda : 0)));
  rows.forEach((row, n) => {
    for (let i = 0; i < d; i++) {
      const line = a[i];
      if (line === undefined) continue;
      for (let j = 0; j < d; j++) line[j] = (line[j] ?? 0) + (row[i] ?? 0) * (row[j] ?? 0);
      line[d] = (line[d] ?? 0) + (row[i] ?? 0) * (y[n] ?? 0);
    }
  });
  for (let i = 0; i < d; i++) {
    const pivot = a[i] ?? [];
    for (let r = i + 1; r < d; r++) {
      const line = a[r] ?? [];
      const factor = (line[i] ?? 0) / (pivot[i] ?? 1);
      for (let j = i; j <= d; j++) line[j] = (line[j] ?? 0) - factor * (pivot[j] ?? 0);
    }
  }
  const w = new Array<number>(d).fill(0);
  for (let i = d - 1; i >= 0; i--) {
    const line = a[i] ?? [];
    let sum = line[d] ?? 0;
    for (let j = i + 1; j < d; j++) sum -= (line[j] ?? 0) * (w[j] ?? 0);
    w[i] = sum / (line[i] ?? 1);
  }
  return w;
}

export const dot = (a: readonly number[], b: readonly number[]): number => a.reduce((sum, x, i) => sum + x * (b[i] ?? 0), 0);
