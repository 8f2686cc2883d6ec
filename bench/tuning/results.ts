/** What was measured, kept between runs: parts are run one by one and in pieces, and the page shows all of them. */
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname } from 'node:path';
import { isObject } from '../../src/base/is-object.ts';
import type { ExhaustiveRow } from './exhaustive.ts';
import type { FaultRow } from './faults.ts';
import type { KillsRow, PairRow } from './kills.ts';
import type { PromiseRow } from './promise.ts';

export interface Rows {
  readonly specs: PromiseRow;
  readonly exhaustive: ExhaustiveRow;
  readonly kills: KillsRow;
  readonly pair: PairRow;
  readonly faults: FaultRow;
}

export type PartName = keyof Rows;
export const PARTS: readonly PartName[] = ['specs', 'exhaustive', 'kills', 'pair', 'faults'];

export interface Part<R> {
  readonly date: string;
  readonly device: string;
  readonly versions: string;
  readonly command: string;
  readonly rows: readonly R[];
}

export type Results = { readonly [K in PartName]?: Part<Rows[K]> };

/** The file is this program's own: what has the form of a part is taken for one. */
export function readResults(path: string): Results {
  try {
    const x: unknown = JSON.parse(readFileSync(path, 'utf8'));
    return isObject(x) ? (x as Results) : {};
  } catch {
    return {};
  }
}

/** Rows of the same index are replaced. */
export function withRows<K extends PartName>(results: Results, name: K, part: Part<Rows[K]>): Results {
  const measured = new Set(part.rows.map((r) => r.index));
  const before: readonly Rows[K][] = results[name]?.rows ?? [];
  const rows = [...before.filter((r) => !measured.has(r.index)), ...part.rows].sort((a, b) => a.index - b.index);
  return { ...results, [name]: { ...part, rows } };
}

export function writeResults(path: string, results: Results): void {
  mkdirSync(dirname(path), { recursive: true });
  writeFileSync(path, `${JSON.stringify(results, null, 1)}\n`);
}
