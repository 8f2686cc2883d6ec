/**
 * The search: coordinate descent over what a unit's kernels can be chosen to be. A unit has a tile height of its plan, where it has
 * a plan, and a list of choices per kernel; lists depend on the height. Lists are explored as `axis.ts` says, one after another
 * with everything else as in the best configuration so far. Which candidate follows is decided by the seed and by the scores.
 */
import { type Random, random } from '../random.ts';
import type { Choice, Choices } from '../space/index.ts';
import { type Config, configText } from '../unit.ts';
import { Axis } from './axis.ts';

export interface SearchSpace {
  /** Heights of the plan's tiles; [undefined] where there is no plan. */
  readonly tileRows: readonly (number | undefined)[];
  choices(tileRows: number | undefined): readonly Choices[];
}

export interface SearchOptions {
  readonly seed: number;
  /** How many configurations are measured at most, the standard one not counted. */
  readonly evaluations: number;
  estimate(choice: Choice): number;
  /** Asked before each measurement. */
  stop(): boolean;
}

export interface Scored {
  readonly config: Config;
  /** Time beside the standard configuration's. */
  readonly score: number;
}

/** Score beside the standard configuration's; undefined where the candidate failed. */
export type Evaluate = (config: Config, best: Scored) => Promise<number | undefined>;

/** Of the budget for a first look at other heights, and for one visit of a list. */
const FIRST_LOOKS = 0.3;
const VISIT = 0.2;
const LEAST_VISIT = 4;

export const makeConfig = (tileRows: number | undefined, choices: readonly Choice[]): Config => ({ ...(tileRows === undefined ? {} : { tileRows }), choices });

/** The choice that is most like `from`: every parameter the same where the list has it. */
function likest(from: Choice, list: readonly Choice[], axis: Axis | undefined): Choice | undefined {
  const same = (c: Choice): number => Object.entries(from.params).filter(([name, v]) => name !== 'bm' && c.params[name] === v).length;
  const most = Math.max(...list.map(same));
  const best = list.filter((c) => same(c) === most);
  return best.find((c) => c.text === axis?.first?.text) ?? best[0];
}

class Search {
  readonly #space: SearchSpace;
  readonly #evaluate: Evaluate;
  readonly #options: SearchOptions;
  readonly #random: Random;
  readonly #seen = new Map<string, number | undefined>();
  readonly #axes = new Map<number | undefined, readonly Axis[]>();
  readonly scored: Scored[];
  best: Scored;
  spent = 0;

  constructor(space: SearchSpace, standard: Config, evaluate: Evaluate, options: SearchOptions) {
    this.#space = space;
    this.#evaluate = evaluate;
    this.#options = options;
    this.#random = random(options.seed, 'search');
    this.best = { config: standard, score: 1 };
    this.scored = [this.best];
    this.#seen.set(configText(standard), 1);
  }

  get over(): boolean {
    return this.spent >= this.#options.evaluations || this.#options.stop();
  }

  axesOf(tileRows: number | undefined): readonly Axis[] {
    const known = this.#axes.get(tileRows);
    if (known !== undefined) return known;
    const made = this.#space.choices(tileRows).map((c) => new Axis(c.all, (x) => this.#options.estimate(x)));
    this.#axes.set(tileRows, made);
    return made;
  }

  /** Measures what was not measured. True where it is the best. */
  async try(config: Config): Promise<{ readonly score: number | undefined; readonly better: boolean }> {
    const text = configText(config);
    if (this.#seen.has(text)) return { score: this.#seen.get(text), better: false };
    this.spent++;
    const score = await this.#evaluate(config, this.best);
    this.#seen.set(text, score);
    const better = score !== undefined && score < this.best.score;
    if (score !== undefined) this.scored.push({ config, score });
    if (better) this.best = { config, score };
    return { score, better };
  }

  /** A first look at other heights: each with the choices most like the best ones, and with those that the estimates favour. */
  async heights(): Promise<void> {
    const { tileRows } = this.best.config;
    const cost = (rows: number | undefined): number => this.axesOf(rows).reduce((sum, a) => sum + (a.first === undefined ? 0 : this.#options.estimate(a.first)), 0);
    const others = this.#space.tileRows.filter((rows) => rows !== tileRows).map((rows) => ({ rows, cost: cost(rows) })).sort((a, b) => a.cost - b.cost);
    const looks = Math.max(1, Math.round(FIRST_LOOKS * this.#options.evaluations));
    const from = this.best.config.choices;
    for (const { rows } of others.slice(0, looks)) {
      if (this.over) return;
      const first = this.axesOf(rows).flatMap((a) => a.first ?? []);
      if (first.length === from.length) await this.try(makeConfig(rows, first));
    }
  }

  /** The best choices carried over to the heights beside the best one. */
  async carry(): Promise<boolean> {
    const { config } = this.best;
    const at = this.#space.tileRows.indexOf(config.tileRows);
    for (const rows of [this.#space.tileRows[at - 1], this.#space.tileRows[at + 1]]) {
      if (rows === undefined || this.over) continue;
      const axes = this.axesOf(rows);
      const lists = this.#space.choices(rows);
      const choices = config.choices.flatMap((c, i) => likest(c, lists[i]?.all ?? [], axes[i]) ?? []);
      if (choices.length === config.choices.length && (await this.try(makeConfig(rows, choices))).better) return true;
    }
    return false;
  }

  /** Explores one list. True where something better was found. */
  async visit(index: number, slice: number): Promise<boolean> {
    const axis = this.axesOf(this.best.config.tileRows)[index];
    const current = this.best.config.choices[index];
    if (axis === undefined || current === undefined) return false;
    axis.anchor(current, this.best.score);
    let found = false;
    for (let turn = 0; turn < slice && !this.over; turn++) {
      const choice = axis.next(turn, this.#random);
      if (choice === undefined) return found;
      const { tileRows, choices } = this.best.config;
      const { score, better } = await this.try(makeConfig(tileRows, choices.map((c, i) => (i === index ? choice : c))));
      axis.observe(choice, score);
      found ||= better;
    }
    return found;
  }

  async run(): Promise<void> {
    if (this.#space.tileRows.length > 1) await this.heights();
    const single = this.best.config.choices.length === 1;
    const slice = single ? Infinity : Math.max(LEAST_VISIT, Math.round(VISIT * this.#options.evaluations));
    while (!this.over) {
      const before = this.spent;
      for (let i = 0; i < this.best.config.choices.length && !this.over; i++) await this.visit(i, slice);
      if (this.#space.tileRows.length > 1) await this.carry();
      if (this.spent === before) return;
    }
  }
}

/** Everything that was measured, best first; the standard configuration is among it. */
export async function search(space: SearchSpace, standard: Config, evaluate: Evaluate, options: SearchOptions): Promise<readonly Scored[]> {
  const s = new Search(space, standard, evaluate, options);
  await s.run();
  return [...s.scored].sort((a, b) => a.score - b.score);
}

/** Configurations of a space. */
export const spaceSize = (space: SearchSpace): number =>
  space.tileRows.reduce<number>((sum, rows) => sum + space.choices(rows).reduce((n, c) => n * c.all.length, 1), 0);

/** Choices of a space, lists one beside the other: what a descent goes through. */
export const listedChoices = (space: SearchSpace): number =>
  space.tileRows.reduce<number>((sum, rows) => sum + space.choices(rows).reduce((n, c) => n + c.all.length, 0), 0);
