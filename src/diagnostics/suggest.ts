/** Did-you-mean: the nearest of a few known words. */

/**
 * Damerau-Levenshtein distance (adjacent transpositions, each substring edited once), in UTF-16 units.
 * More than `limit` is returned as `limit + 1`.
 */
export function editDistance(a: string, b: string, limit: number): number {
  if (Math.abs(a.length - b.length) > limit) return limit + 1;
  const at = (row: readonly number[], i: number): number => row[i] ?? limit + 1;
  let beforeLast: number[] = [];
  let last = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (let i = 1; i <= a.length; i++) {
    const row = [i];
    for (let j = 1; j <= b.length; j++) {
      const same = a[i - 1] === b[j - 1];
      let d = Math.min(at(last, j) + 1, at(row, j - 1) + 1, at(last, j - 1) + (same ? 0 : 1));
      if (i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1]) d = Math.min(d, at(beforeLast, j - 2) + 1);
      row.push(d);
    }
    if (Math.min(...row) > limit) return limit + 1;
    beforeLast = last;
    last = row;
  }
  return Math.min(at(last, b.length), limit + 1);
}

/** Words that differ only in case, hyphens and underscores are the same word misspelt. */
const plain = (word: string): string => word.toLowerCase().replace(/[-_.]/g, '');

/** The known words nearest to `word`, best first; empty where none is near enough to be meant. */
export function suggest(word: string, known: Iterable<string>, max = 3): readonly string[] {
  if (word.length > 64) return [];
  const p = plain(word);
  const limit = Math.max(1, Math.floor(p.length / 3));
  const scored: { readonly word: string; readonly distance: number }[] = [];
  for (const candidate of new Set(known)) {
    const q = plain(candidate);
    // A one-letter word is near everything; only its other spellings count.
    const distance = p === q ? 0 : p.length < 2 || q.length < 2 ? limit + 1 : editDistance(p, q, limit);
    if (distance <= limit && distance < Math.max(p.length, q.length)) scored.push({ word: candidate, distance });
  }
  scored.sort((a, b) => a.distance - b.distance || (a.word < b.word ? -1 : 1));
  const best = scored[0]?.distance ?? 0;
  return scored
    .filter((s) => s.distance <= best + 1)
    .slice(0, max)
    .map((s) => s.word);
}
