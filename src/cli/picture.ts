/** Routing as text: a row per token, a column per expert, darker where the weight is larger. */
import type { LayerRouting } from '../driver/trace.ts';

const SHADES = ['·', '░', '▒', '▓', '█'] as const;

/** Shade of a weight relative to the largest of the picture. */
const shade = (weight: number, largest: number): string => SHADES[Math.min(4, Math.max(1, Math.ceil((weight / largest) * 4)))] ?? '█';

/** @param ids of the tokens, for the row labels; `shared` columns are always on */
export function routingPicture(routing: LayerRouting, ids: Int32Array, shared: number): string {
  const { experts, slots } = routing;
  const largest = Math.max(...routing.weights, Number.MIN_VALUE);
  const counts = Array.from({ length: experts }, () => 0);
  const rows = [...ids].map((id, t) => {
    const cells = Array.from({ length: experts }, () => SHADES[0] as string);
    for (let s = 0; s < slots; s++) {
      const expert = routing.ids[t * slots + s] ?? experts;
      if (expert >= experts) continue;
      cells[expert] = shade(routing.weights[t * slots + s] ?? 0, largest);
      counts[expert] = (counts[expert] ?? 0) + 1;
    }
    return `  token ${String(id).padStart(3)}  ${cells.map((c) => c.repeat(2)).join(' ')}  ${'██ '.repeat(shared)}`.trimEnd();
  });
  const head = `  expert     ${Array.from({ length: experts }, (_, e) => String(e).padStart(2)).join(' ')}  ${'S  '.repeat(shared)}`.trimEnd();
  const load = `  tokens     ${counts.map((n) => String(n).padStart(2)).join(' ')}  ${shared > 0 ? `${String(ids.length).padStart(2)} `.repeat(shared) : ''}`.trimEnd();
  return [`layer ${routing.layer}: ${slots} of ${experts} experts for each token${shared > 0 ? `, and ${shared} shared (S) for all` : ''}`, head, ...rows, load].join('\n');
}
