/** Part 2: small spaces measured whole, and what the search finds in them with 15 % of the measurements. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { NamedJob } from '../../src/tuner/protocol.ts';
import { random, shuffled } from '../../src/tuner/random.ts';
import { makeConfig, type SearchSpace } from '../../src/tuner/search/search.ts';
import type { Choices } from '../../src/tuner/space/index.ts';
import { TuneLog } from '../../src/tuner/store/log.ts';
import { EFFORTS, spaceOf, tuneUnit } from '../../src/tuner/tune-unit.ts';
import { type Config, configText, showConfig, type Unit } from '../../src/tuner/unit.ts';
import { compare, jobOf, load, LONG, LONGER, type Session, specOf, standardOf, withSession } from './device.ts';
import { type Dice, diceOf } from './specs.ts';

export interface ExhaustiveRow {
  readonly index: number;
  readonly what: string;
  readonly tokens: number;
  /** Configurations of the space, the default among them. */
  readonly size: number;
  readonly evaluations: number;
  /** The default's time by the optimum's. */
  readonly room: number;
  /** Of the found one among all, 1 for the fastest, by the first measurements. */
  readonly place: number;
  /** Time of the found one by the optimum's, measured in turns. */
  readonly ratio: number;
  readonly noise: number;
  readonly longer: boolean;
  readonly found: string;
  readonly optimum: string;
}

const PART = 0.15;
const [FEWEST, MOST] = [30, 60];
/** The fastest of the whole measurement that are measured again: one of them is the optimum. */
const FINALISTS = 4;
export const WITHIN = 1.05;

interface Problem {
  readonly what: string;
  readonly text: string;
  readonly tokens: number;
  readonly unit: string;
  /** Which of the unit's kernels has choices. */
  readonly kernel: number;
}

const PROBLEMS: readonly ((d: Dice) => Problem)[] = [
  (d) => moe('decode, gate and up', d, d.pick([1, 2, 4, 8]), 0),
  (d) => moe('prefill, gate and up', d, d.pick([32, 64, 128]), 0),
  (d) => dense('dense', d, d.pick([16, 64, 128])),
  (d) => moe('decode, down', d, d.pick([2, 4, 8]), 1),
  (d) => moe('prefill, down', d, d.pick([32, 64, 128]), 1),
];

function moe(what: string, d: Dice, tokens: number, kernel: number): Problem {
  const [hidden, experts, width] = [d.pick([128, 192, 256]), d.pick([4, 8, 16]), d.pick([64, 128, 192])];
  const text = `layer space { hidden ${hidden}  moe { experts ${experts} of swiglu ${width}  active 2  router softmax top-k } }`;
  return { what: `${what}: ${experts} of ${width}, hidden ${hidden}`, text, tokens, unit: 'experts', kernel };
}

function dense(what: string, d: Dice, tokens: number): Problem {
  const [hidden, width] = [d.pick([128, 192, 256]), d.pick([256, 384, 512])];
  return { what: `${what}: ${width}, hidden ${hidden}`, text: `layer space { hidden ${hidden}  ffn swiglu ${width} }`, tokens, unit: '', kernel: 0 };
}

export function problemOf(index: number, seed: number): Problem {
  const d = diceOf(seed + 7919 * (index + 1));
  const make = PROBLEMS[index % PROBLEMS.length];
  if (make === undefined) throw new RangeError('no such problem');
  return make(d);
}

/** The unit's space with some choices of one kernel, the default among them, and the default of all others. */
export function restricted(unit: Unit, whole: SearchSpace, kernel: number, size: number, seed: number): SearchSpace {
  const rows = unit.plan?.standard;
  const lists = whole.choices(rows).map((c, i): Choices => {
    const others = shuffled(c.all.filter((x) => x.text !== c.standard.text), random(seed, 'space'));
    return { ...c, all: [c.standard, ...(i === kernel ? others.slice(0, size - 1) : [])] };
  });
  return { tileRows: [rows], choices: () => lists };
}

async function found(session: Session, unit: Unit, space: SearchSpace, evaluations: number): Promise<{ readonly config: Config; readonly evaluations: number }> {
  const directory = mkdtempSync(join(tmpdir(), 'moec-space-'));
  const warn = (message: string): void => void process.stderr.write(`${message}\n`);
  try {
    return await tuneUnit(unit, unit.id, {
      runner: session.supervisor, log: new TuneLog(directory, warn, false), device: session.device, caps: session.caps, seed: 1, space,
      effort: { ...EFFORTS.quick, least: evaluations, most: evaluations }, overtime: () => false, onProgress: () => undefined,
    });
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
}

interface Ranked {
  readonly config: Config;
  readonly ratio: number;
}

const byRatio = (list: readonly Ranked[]): Ranked[] => [...list].sort((a, b) => a.ratio - b.ratio);

/** Every configuration beside the default, fastest first; those that fail are left out. */
async function measureAll({ supervisor }: Session, unit: Unit, configs: readonly Config[]): Promise<readonly Ranked[]> {
  const standard = standardOf(unit);
  const ranked: Ranked[] = [];
  for (const [i, config] of configs.entries()) {
    if (i === 0) {
      ranked.push({ config, ratio: 1 });
      continue;
    }
    const outcome = await supervisor.attempt({ candidate: jobOf(unit, config), beside: standard, rule: EFFORTS.quick.search });
    if (outcome.ok) ranked.push({ config, ratio: outcome.ratio });
  }
  return byRatio(ranked);
}

/** The first of the configurations is the default. */
const namedJob = (unit: Unit, config: Config, [standard]: readonly Config[]): NamedJob =>
  standard !== undefined && configText(config) === configText(standard) ? standardOf(unit) : jobOf(unit, config);

export async function exhaustiveRow(index: number, seed: number): Promise<ExhaustiveRow> {
  const { what, text, tokens, unit: wanted, kernel } = problemOf(index, seed);
  return withSession(async (session) => {
    // The point before it makes the winner serve this number of tokens alone: the optimum is of one problem.
    const unit = session.units(specOf(text), [tokens - 1, tokens].filter((t) => t > 0)).find((u) => u.tokens === tokens && (wanted === '' || u.name === wanted));
    if (unit === undefined) throw new Error(`${what}: no unit`);
    const size = diceOf(seed + index).int(FEWEST, MOST);
    const space = restricted(unit, spaceOf(unit, session.caps), kernel, size, seed + index);
    const [rows] = space.tileRows;
    const lists = space.choices(rows);
    const list = lists[kernel];
    if (list === undefined) throw new Error(`${what}: no kernel ${kernel}`);
    const configs = list.all.map((choice) => makeConfig(rows, lists.map((c, i) => (i === kernel ? choice : c.standard))));
    const search = await found(session, unit, space, Math.floor(PART * configs.length));
    await load(session, unit, 1);
    const ranked = await measureAll(session, unit, configs);
    const finals: Ranked[] = [];
    for (const { config } of ranked.slice(0, FINALISTS)) finals.push({ config, ratio: (await compare(session, namedJob(unit, config, configs), standardOf(unit), LONG)).ratio });
    const [best] = byRatio(finals);
    if (best === undefined) throw new Error(`${what}: nothing runs`);
    const own = { ...namedJob(unit, search.config, configs), key: 'found' };
    const optimum = { ...namedJob(unit, best.config, configs), key: 'optimum' };
    const first = await compare(session, own, optimum, LONG);
    const longer = first.ratio > WITHIN;
    const last = longer ? await compare(session, own, optimum, LONGER) : first;
    return {
      index, what, tokens, size: configs.length, evaluations: search.evaluations, room: 1 / best.ratio, ratio: last.ratio, noise: last.noise, longer,
      place: 1 + ranked.findIndex((r) => configText(r.config) === configText(search.config)), found: showConfig(search.config), optimum: showConfig(best.config),
    };
  });
}
