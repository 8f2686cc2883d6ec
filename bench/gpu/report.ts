/**
 * Makes the report of one or more runs on one device:
 *
 *   node .moec/gpu/bench/gpu/report.js RESULTS.jsonl... [--out bench/results]
 *
 * writes OUT/<date>-<device>.json (every row) and .md (tables).
 */
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { merge, readRows, resultName, rowsOf } from './results.ts';
import { markdown } from './tables.ts';

/** @returns paths written. @throws Error where there is nothing to report, or results of several devices */
export function report(files: readonly string[], out: string): readonly string[] {
  const rows = merge(files.flatMap((f) => readRows(readFileSync(f, 'utf8'))));
  if (rows.length === 0) throw new Error(`no results in ${files.join(', ')}`);
  const devices = rowsOf(rows, 'machine').map((m) => m.device);
  if (devices.length > 1) throw new Error(`these are results of ${devices.join(' and ')}: report one device at a time`);
  const name = resultName(rows) ?? 'unknown-device';
  mkdirSync(out, { recursive: true });
  const [json, page] = [join(out, `${name}.json`), join(out, `${name}.md`)];
  writeFileSync(json, `[\n${rows.map((r) => JSON.stringify(r)).join(',\n')}\n]\n`);
  writeFileSync(page, markdown(rows));
  return [json, page];
}

if (process.argv[1] !== undefined && resolve(process.argv[1]) === fileURLToPath(import.meta.url)) {
  const args = process.argv.slice(2);
  const at = args.indexOf('--out');
  const out = at < 0 ? 'bench/results' : (args[at + 1] ?? 'bench/results');
  const files = args.filter((_, i) => at < 0 || (i !== at && i !== at + 1));
  for (const path of report(files, out)) process.stdout.write(`wrote ${path}\n`);
}
