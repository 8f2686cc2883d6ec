/** The names most like a missing one: Dice's coefficient over pairs of characters. */

const pairs = (text: string): Map<string, number> => {
  const out = new Map<string, number>();
  for (let i = 0; i + 1 < text.length; i++) {
    const p = text.slice(i, i + 2);
    out.set(p, (out.get(p) ?? 0) + 1);
  }
  return out;
};

const LEAST = 0.6;

/** At most `max` of `known`, best first; none where nothing is alike. */
export function nearestNames(name: string, known: Iterable<string>, max = 2): readonly string[] {
  const wanted = pairs(name);
  const scored: { readonly name: string; readonly score: number }[] = [];
  for (const other of known) {
    if (other.length > 2 * name.length || name.length > 2 * other.length) continue;
    let shared = 0;
    for (const [p, n] of pairs(other)) shared += Math.min(n, wanted.get(p) ?? 0);
    const score = (2 * shared) / Math.max(1, name.length + other.length - 2);
    if (score >= LEAST) scored.push({ name: other, score });
  }
  scored.sort((a, b) => b.score - a.score || (a.name < b.name ? -1 : 1));
  return scored.slice(0, max).map((s) => s.name);
}
