/** Tables as plain text and as Markdown. */
export interface Column<T> {
  readonly title: string;
  /** Texts stand left, numbers right. */
  readonly left?: boolean;
  cell(row: T): string;
}

const cells = <T>(columns: readonly Column<T>[], rows: readonly T[]): readonly (readonly string[])[] => [
  columns.map((c) => c.title),
  ...rows.map((row) => columns.map((c) => c.cell(row))),
];

export function plainTable<T>(columns: readonly Column<T>[], rows: readonly T[]): string {
  const all = cells(columns, rows);
  const widths = columns.map((_, c) => Math.max(...all.map((row) => row[c]?.length ?? 0)));
  const line = (row: readonly string[]): string =>
    row.map((cell, c) => (columns[c]?.left === true ? cell.padEnd(widths[c] ?? 0) : cell.padStart(widths[c] ?? 0))).join('  ').trimEnd();
  return all.map(line).join('\n');
}

const escape = (text: string): string => text.replaceAll('|', '\\|');

export function markdownTable<T>(columns: readonly Column<T>[], rows: readonly T[]): string {
  const [head = [], ...body] = cells(columns, rows);
  const line = (row: readonly string[]): string => `| ${row.map(escape).join(' | ')} |`;
  return [line(head), `|${columns.map((c) => (c.left === true ? '---' : '---:')).join('|')}|`, ...body.map(line)].join('\n');
}

/** About `digits` digits that count, without an exponent. */
export function short(value: number, digits = 3): string {
  if (!Number.isFinite(value)) return '-';
  if (value === 0) return '0';
  const decimals = Math.max(0, digits - 1 - Math.floor(Math.log10(Math.abs(value))));
  return value.toFixed(Math.min(decimals, 6));
}

const UNITS = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];

export function bytesText(bytes: number): string {
  const sign = bytes < 0 ? '-' : '';
  let value = Math.abs(bytes);
  let unit = 0;
  while (value >= 1024 && unit < UNITS.length - 1) {
    value /= 1024;
    unit++;
  }
  return `${sign}${unit === 0 ? value.toFixed(0) : short(value)} ${UNITS[unit] ?? ''}`;
}

/** With a sign in front, `±0` where there is none. */
export const signed = (text: string, value: number): string => (value > 0 ? `+${text}` : text);
