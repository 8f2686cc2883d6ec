/** The table that `moec analyze` prints for people. */
import type { Analysis, LayerAnalysis } from './analyze.ts';
import { showLayers } from './resolve-layers.ts';
import type { WeightPart } from './weights.ts';

const UNITS: readonly (readonly [number, string])[] = [
  [1e15, 'P'],
  [1e12, 'T'],
  [1e9, 'B'],
  [1e6, 'M'],
  [1e3, 'k'],
];

/** `2.83 B`: three significant digits and a unit. */
export function short(n: number): string {
  for (const [size, unit] of UNITS) {
    if (Math.abs(n) >= size) {
      const x = n / size;
      return `${x.toFixed(x >= 99.95 ? 1 : 2)} ${unit}`;
    }
  }
  return String(n);
}

/** `1.40 GiB` */
export function shortBytes(n: number): string {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB'];
  let x = n;
  let i = 0;
  while (x >= 1024 && i < units.length - 1) {
    x /= 1024;
    i++;
  }
  return i === 0 ? `${x} B` : `${x.toFixed(2)} ${units[i]}`;
}

/** `16,375,728,128` in every locale. */
export const grouped = (n: number): string => String(Math.round(n)).replace(/\B(?=(\d{3})+(?!\d))/g, ',');

const percent = (part: number, whole: number): string =>
  whole === 0 ? '0 %' : `${((100 * part) / whole).toFixed(part / whole < 0.01 ? 3 : 1)} %`;

/** Columns aligned: the first to the left, the rest to the right. */
export function table(rows: readonly (readonly string[])[]): string[] {
  const widths: number[] = [];
  for (const row of rows) row.forEach((cell, i) => (widths[i] = Math.max(widths[i] ?? 0, cell.length)));
  return rows.map((row) =>
    row
      .map((cell, i) => (i === 0 ? cell.padEnd(widths[i] ?? 0) : cell.padStart(widths[i] ?? 0)))
      .join('  ')
      .trimEnd(),
  );
}

const PARTS: readonly (readonly [WeightPart, string])[] = [
  ['embedding', 'input embedding'],
  ['attention', 'attention'],
  ['norm', 'norms'],
  ['dense', 'dense feed-forward'],
  ['router', 'routers'],
  ['experts', 'routed experts'],
  ['shared', 'shared experts'],
  ['head', 'output head'],
];

function layerRows(layers: readonly LayerAnalysis[]): string[] {
  return table([
    ['layers', 'parameters', 'active', 'standard FFNs'],
    ...layers.map((l) => [
      `  ${showLayers(l.layers)}  ${l.description}`,
      short(l.params.total),
      short(l.params.active),
      String(Math.round(l.standardFfns * 1000) / 1000),
    ]),
  ]);
}

/** The analysis as a table, without a final line break. */
export function analyzeText(a: Analysis): string {
  const { params, flops, bytes } = a;
  const model = a.kind === 'model';
  const count = (what: string, n: number, note = ''): string[] => [`  ${what}`, grouped(n), short(n), note];
  const lines = [
    `${a.kind} ${a.name}`,
    '',
    ...table([
      ['parameters', '', '', ''],
      count('total', params.total),
      count('active for one token', params.active, percent(params.active, params.total)),
      ...(model
        ? [
            count('  without input embedding', params.activeWithoutInputEmbedding),
            count('  without both embeddings', params.activeWithoutEmbeddings),
          ]
        : []),
      ...PARTS.flatMap(([part, name]) =>
        params.byPart[part] === 0 ? [] : [count(name, params.byPart[part], percent(params.byPart[part], params.total))],
      ),
    ]),
    '',
    ...layerRows(a.layers),
    '',
    ...table([
      [`computation for ${grouped(a.tokens)} tokens`, '', ''],
      ['  paper rule (training, nominal widths)', short(flops.paper), 'FLOPs'],
      ['  the same with the widths of this spec', short(flops.exact), 'FLOPs'],
      ['  inference, forward only', short(flops.forward), 'FLOPs'],
      ['  one prefill, causal attention, routers', short(flops.prefill), 'FLOPs'],
    ]),
    '',
    ...table([
      ['memory', ''],
      ['  weights', shortBytes(bytes.weights)],
      ['  weights read for one token', shortBytes(bytes.activeWeights)],
      [`  activations of ${grouped(a.tokens)} tokens, at most`, shortBytes(bytes.activations)],
      ...(model ? [[`  KV cache of ${grouped(a.tokens)} tokens`, shortBytes(bytes.kvCache)]] : []),
      ['  together', shortBytes(bytes.total)],
    ]),
  ];
  return lines.join('\n');
}
