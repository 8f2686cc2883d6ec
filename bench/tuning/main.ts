/**
 * Whether the tuner keeps its promises on this device. Writes bench/results/tuning-lavapipe.md; parts not asked for stay as they were:
 *
 *   npm run build && npx tsc -p bench && node .moec/bench/tuning/main.js [--specs N] [--exhaustive N] [--kills N] [--pair] [--faults]
 *
 * `--from I --to J` runs a piece of one part, `--render` only writes the page. Nothing else should run on the machine.
 */
import { existsSync, writeFileSync } from 'node:fs';
import { parseArgs } from 'node:util';
import { versionsOf, withSession } from './device.ts';
import { exhaustiveRow } from './exhaustive.ts';
import { FAULT_COUNT, faultRow } from './faults.ts';
import { killsRow, pairRow } from './kills.ts';
import { promiseRows } from './promise.ts';
import { page } from './report.ts';
import { type Part, type PartName, PARTS, readResults, type Rows, withRows, writeResults } from './results.ts';

const { values } = parseArgs({
  options: {
    specs: { type: 'string' }, exhaustive: { type: 'string' }, kills: { type: 'string' }, pair: { type: 'boolean' }, faults: { type: 'boolean' }, render: { type: 'boolean' },
    from: { type: 'string' }, to: { type: 'string' }, seed: { type: 'string', default: '1' },
    moec: { type: 'string', default: 'dist/cli/main.js' }, results: { type: 'string', default: '.moec/tuning.json' }, out: { type: 'string', default: 'bench/results/tuning-lavapipe.md' },
  },
});

/** @throws RangeError */
function whole(text: string | undefined, standard: number): number {
  const n = text === undefined ? standard : Number(text);
  if (!Number.isSafeInteger(n) || n < 0) throw new RangeError(`not a whole number: ${text ?? ''}`);
  return n;
}

const seed = whole(values.seed, 1);
const KILLS_A_ROW = 10;
/** Rows of each part. */
const counts: { readonly [K in PartName]: number } = {
  specs: whole(values.specs, 40), exhaustive: whole(values.exhaustive, 10), kills: Math.ceil(whole(values.kills, 50) / KILLS_A_ROW), pair: 2, faults: FAULT_COUNT,
};
const flags: { readonly [K in PartName]: string } = {
  specs: `--specs ${counts.specs}`, exhaustive: `--exhaustive ${counts.exhaustive}`, kills: `--kills ${values.kills ?? 50}`, pair: '--pair', faults: '--faults',
};
const { moec } = values;

const makers: { readonly [K in PartName]: (index: number) => Promise<readonly Rows[K][]> } = {
  specs: (i) => promiseRows(i, seed),
  exhaustive: async (i) => [await exhaustiveRow(i, seed)],
  kills: async (i) => [await killsRow(i, seed, moec, Math.min(KILLS_A_ROW, whole(values.kills, 50) - i * KILLS_A_ROW))],
  pair: async (i) => [await pairRow(i, moec)],
  faults: async (i) => [await faultRow(i, moec)].flatMap((row) => row ?? []),
};

async function run<K extends PartName>(name: K): Promise<void> {
  const about = await withSession(({ device }) => Promise.resolve({ device: device.name, versions: versionsOf(device) }));
  const to = Math.min(whole(values.to, counts[name]), counts[name]);
  for (let i = whole(values.from, 0); i < to; i++) {
    const began = performance.now();
    const rows = await makers[name](i);
    const part: Part<Rows[K]> = { ...about, date: new Date().toISOString().slice(0, 10), command: `node .moec/bench/tuning/main.js ${flags[name]}${seed === 1 ? '' : ` --seed ${seed}`}`, rows };
    writeResults(values.results, withRows(readResults(values.results), name, part));
    process.stdout.write(`${name} ${i} (${((performance.now() - began) / 1000).toFixed(0)} s): ${JSON.stringify(rows)}\n`);
  }
}

if (!existsSync(moec)) throw new Error(`${moec} is missing: npm run build`);
if (values.render !== true) for (const name of PARTS) if (values[name] !== undefined) await run(name);
writeFileSync(values.out, page(readResults(values.results)));
process.stdout.write(`wrote ${values.out}\n`);
