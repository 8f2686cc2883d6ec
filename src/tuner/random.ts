/** Seeded random numbers: the same seed, the same order of candidates. */
import { hashAt, hashText } from '../runtime/core/random.ts';

export interface Random {
  /** In [0, 1). */
  next(): number;
  /** A whole number below n. */
  below(n: number): number;
}

export function random(seed: number, stream: string): Random {
  const key = hashText(stream, seed);
  let at = 0;
  const next = (): number => hashAt(key, at++) / 2 ** 32;
  return { next, below: (n) => Math.floor(next() * n) };
}

/** The list in a random order. */
export function shuffled<T>(list: readonly T[], r: Random): T[] {
  const out = [...list];
  for (let i = out.length - 1; i > 0; i--) {
    const j = r.below(i + 1);
    const [a, b] = [out[i], out[j]];
    if (a !== undefined && b !== undefined) [out[i], out[j]] = [b, a];
  }
  return out;
}
