/** Part 1: tuned kernels of random specs, measured once more in a new process beside the default. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { GENERATOR } from '../../src/driver/compile.ts';
import { TuneLog } from '../../src/tuner/store/log.ts';
import { TuneStore } from '../../src/tuner/store/store.ts';
import { tuneAll, type UnitReport } from '../../src/tuner/tune-all.ts';
import { EFFORTS } from '../../src/tuner/tune-unit.ts';
import { showConfig } from '../../src/tuner/unit.ts';
import { compare, jobOf, load, LONG, LONGER, ROUTING, type Session, specOf, standardOf, withSession } from './device.ts';
import { randomSpec } from './specs.ts';

/** Milliseconds of searching: for a spec of one unit, and at most. */
const BUDGET = 12_000;
const MOST_BUDGET = 20_000;
/** Of the numbers that winners are measured again with: others than they were found with. */
const FRESH_SEED = 1000;

export interface PromiseRow {
  readonly index: number;
  readonly spec: string;
  readonly kernel: string;
  readonly tokens: number;
  /** `default` where it stays. */
  readonly config: string;
  readonly evaluations: number;
  readonly defaultMs: number;
  readonly tunedMs: number;
  /** Tuned by default, and how far that may be off. */
  readonly ratio: number;
  readonly noise: number;
  /** The default beside itself. */
  readonly twin: number;
  readonly twinNoise: number;
  /** Measured for longer: the first ratio was beyond what is allowed. */
  readonly longer: boolean;
}

const NOISE = 0.03;
/** What a ratio may be before the promise is broken: 3 %, or what two identical runs differ by. */
export const allowance = ({ twin, twinNoise }: Pick<PromiseRow, 'twin' | 'twinNoise'>): number => 1 + Math.max(NOISE, Math.abs(twin - 1), twinNoise);

async function tuned(index: number, seed: number): Promise<readonly UnitReport[]> {
  const { text, tokens } = randomSpec(seed + index);
  const directory = mkdtempSync(join(tmpdir(), 'moec-tuned-'));
  const warn = (message: string): void => void process.stderr.write(`${message}\n`);
  try {
    return await withSession(async ({ supervisor, device, caps, units }) => {
      const all = units(specOf(text), [tokens]);
      const { reports, stopped } = await tuneAll({
        units: all, runner: supervisor, device, caps, effort: EFFORTS.quick, seed: 1, generator: GENERATOR, routing: ROUTING, resume: false,
        budgetMs: Math.min(MOST_BUDGET, BUDGET + 2000 * (all.length - 1)), store: new TuneStore(directory, warn), log: new TuneLog(directory, warn, false),
        now: () => performance.now(), onProgress: () => undefined, onDone: () => undefined,
      });
      if (stopped !== undefined) throw stopped;
      return reports;
    });
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
}

async function again(session: Session, index: number, about: string, { unit, config, entry, status, why }: UnitReport): Promise<PromiseRow> {
  if (entry === undefined || config === undefined) throw new Error(`${unit.name} of spec ${index} was not tuned (${status}): ${why ?? ''}`);
  const isDefault = entry.config === null;
  await load(session, unit, FRESH_SEED + index);
  const standard = standardOf(unit);
  // A default that stays is the same job under another name.
  const own = isDefault ? { ...standard, key: 'tuned' } : jobOf(unit, config);
  const twin = await compare(session, { ...standard, key: 'twin' }, standard, LONG);
  const first = await compare(session, own, standard, LONG);
  const longer = first.ratio > allowance({ twin: twin.ratio, twinNoise: twin.noise });
  const found = longer ? await compare(session, own, standard, LONGER) : first;
  return {
    index, spec: about, kernel: unit.name, tokens: unit.tokens, config: isDefault ? 'default' : showConfig(config), evaluations: entry.evaluations,
    defaultMs: found.besideMs, tunedMs: found.ms, ratio: found.ratio, noise: found.noise, twin: twin.ratio, twinNoise: twin.noise, longer,
  };
}

/** Rows of one spec: one a unit. */
export async function promiseRows(index: number, seed: number): Promise<readonly PromiseRow[]> {
  const reports = await tuned(index, seed);
  const { about } = randomSpec(seed + index);
  return withSession(async (session) => {
    const rows: PromiseRow[] = [];
    for (const report of reports) rows.push(await again(session, index, about, report));
    return rows;
  });
}
