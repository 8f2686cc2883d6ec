/** What `moec tune` says: progress lines, the table of results, failures by class. */
import { type Column, plainTable } from '../table.ts';
import { FAILURES } from '../../tuner/outcome.ts';
import type { UnitReport } from '../../tuner/tune-all.ts';
import type { FailureNote, Progress } from '../../tuner/tune-unit.ts';
import { showConfig } from '../../tuner/unit.ts';

const ms = (x: number): string => (x >= 100 ? x.toFixed(0) : x >= 10 ? x.toFixed(1) : x.toFixed(3));
const clock = (seconds: number): string => `${Math.floor(seconds / 60)}:${String(Math.floor(seconds % 60)).padStart(2, '0')}`;

/** Short words for classes in a line. */
const WORDS: Readonly<Record<string, string>> = { incorrect: 'wrong', 'out-of-bounds': 'out of bounds', 'device-lost': 'lost', 'out-of-memory': 'out of memory' };
const ALWAYS: ReadonlySet<string> = new Set(['incorrect', 'timeout', 'crash']);

/** `experts T=64  38/120  best 0.412 ms (1.31x default)  last 0.498  bad: 3 wrong 1 timeout 0 crash  ETA 0:41` */
export function progressLine(p: Progress, elapsedMs: number): string {
  const bad = FAILURES.filter((f) => ALWAYS.has(f) || (p.failures[f] ?? 0) > 0).map((f) => `${p.failures[f] ?? 0} ${WORDS[f] ?? f}`);
  const eta = p.done === 0 ? '' : `  ETA ${clock((elapsedMs / p.done / 1000) * Math.max(0, p.planned - p.done))}`;
  const last = p.lastMs === undefined ? '' : `  last ${ms(p.lastMs)}`;
  const stage = p.stage === 'final' ? '  measuring the best again' : eta;
  return `${p.unit.name} T=${p.unit.tokens}  ${p.done}/${p.planned}  best ${ms(p.bestMs)} ms (${p.gain.toFixed(2)}x default)${last}  bad: ${bad.join(' ')}${stage}`;
}

export interface TableRow {
  readonly kernel: string;
  readonly tokens: number;
  readonly defaultMs: number;
  readonly bestMs: number;
  readonly gain: number;
  readonly noise: number;
  readonly config: string;
}

export function rowOf({ unit, entry, config, status }: UnitReport): TableRow | undefined {
  if (entry === undefined) return undefined;
  const isDefault = entry.config === null;
  return {
    kernel: unit.name, tokens: unit.tokens, defaultMs: entry.standardMs, bestMs: entry.ms, gain: entry.standardMs / entry.ms, noise: entry.noise,
    config: `${isDefault || config === undefined ? 'default' : showConfig(config)}${status === 'known' ? ' (known)' : ''}`,
  };
}

const COLUMNS: readonly Column<TableRow>[] = [
  { title: 'kernel', left: true, cell: (r) => r.kernel },
  { title: 'T', cell: (r) => String(r.tokens) },
  { title: 'default ms', cell: (r) => ms(r.defaultMs) },
  { title: 'best ms', cell: (r) => ms(r.bestMs) },
  { title: 'gain', cell: (r) => `${r.gain.toFixed(2)}x` },
  { title: 'noise', cell: (r) => `${(100 * r.noise).toFixed(1)} %` },
  { title: 'config', left: true, cell: (r) => r.config },
];

export const tableText = (rows: readonly TableRow[]): string => plainTable(COLUMNS, rows);

export interface FailureRow {
  readonly failure: string;
  readonly count: number;
  readonly kernel: string;
  readonly tokens: number;
  readonly message: string;
  readonly config: string;
}

/** Failures by class, each with its first example. */
export function failureRows(reports: readonly UnitReport[]): readonly FailureRow[] {
  const all = reports.flatMap(({ unit, result }) => (result?.failures ?? []).map((note: FailureNote) => ({ unit, note })));
  return FAILURES.flatMap((failure) => {
    const own = all.filter(({ note }) => note.failure === failure);
    const [first] = own;
    if (first === undefined) return [];
    return [{ failure, count: own.length, kernel: first.unit.name, tokens: first.unit.tokens, message: first.note.message, config: showConfig(first.note.config) }];
  });
}

export const failureText = (rows: readonly FailureRow[]): string =>
  rows.map((r) => `${r.count} ${r.failure}: first ${r.kernel} T=${r.tokens}, ${r.config}: ${r.message}`).join('\n');
