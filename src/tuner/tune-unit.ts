/**
 * Tunes one unit: searches, measures the best again beside the default, with more batches, other inputs and the fewest tokens that the
 * winner would serve, and keeps the default unless something is better by more than the noise.
 */
import type { Failed, Measured, Outcome } from './outcome.ts';
import type { BatchRule, DeviceFacts, NamedJob } from './protocol.ts';
import { type Rank, rankByCounts } from './rank.ts';
import type { Runner } from './runner.ts';
import { listedChoices, makeConfig, type Scored, search, type SearchSpace } from './search/search.ts';
import { choicesOf, type Choices, withSameSums } from './space/index.ts';
import type { TuneLog } from './store/log.ts';
import { type Config, configText, type Unit } from './unit.ts';
import type { Capabilities } from '../target/types.ts';

export interface Effort {
  readonly name: 'quick' | 'full';
  /** Part of the listed choices that are measured, within limits. */
  readonly part: number;
  readonly least: number;
  readonly most: number;
  readonly search: BatchRule;
  readonly final: BatchRule;
  /** How many of the best are measured again. */
  readonly finalists: number;
}

/** Of candidates slower than the best by more than this the first look is enough. */
const GIVE_UP = 1.5;

export const EFFORTS: { readonly [E in Effort['name']]: Effort } = {
  quick: {
    name: 'quick', part: 0.15, least: 8, most: 32, finalists: 2,
    search: { batches: 5, batchMs: 2, most: { batches: 24, ms: 400 }, giveUp: GIVE_UP },
    final: { batches: 11, batchMs: 4, most: { batches: 64, ms: 3000 } },
  },
  full: {
    name: 'full', part: 0.4, least: 16, most: 240, finalists: 4,
    search: { batches: 7, batchMs: 4, most: { batches: 32, ms: 1000 }, giveUp: GIVE_UP },
    final: { batches: 21, batchMs: 8, most: { batches: 96, ms: 8000 } },
  },
};

/** Heights of the tiles of a sorted plan. */
const TILE_ROWS = [4, 8, 16, 32, 64] as const;

export interface TuneContext {
  readonly runner: Runner;
  readonly log: TuneLog;
  readonly device: DeviceFacts;
  /** What the candidates are compiled for. */
  readonly caps: Capabilities;
  readonly effort: Effort;
  readonly seed: number;
  /** Who says what to look at first; a learned model may. */
  readonly rank?: Rank;
  /** What to choose from, the default among it; absent: everything legal. */
  readonly space?: SearchSpace;
  /** Asked before each measurement: whether the time of this unit is over. */
  overtime(): boolean;
  onProgress(progress: Progress): void;
}

export interface Progress {
  readonly unit: Unit;
  readonly done: number;
  readonly planned: number;
  /** Milliseconds; of the default before anything better is found. */
  readonly bestMs: number;
  /** The default's time divided by the best one's. */
  readonly gain: number;
  readonly lastMs: number | undefined;
  readonly failures: Readonly<Partial<Record<Failed['failure'], number>>>;
  readonly stage: 'search' | 'final';
}

export interface FailureNote {
  readonly failure: Failed['failure'];
  readonly message: string;
  readonly config: Config;
}

export interface UnitResult {
  readonly unit: Unit;
  /** The default where nothing is better. */
  readonly config: Config;
  readonly isStandard: boolean;
  readonly standardMs: number;
  readonly ms: number;
  readonly noise: number;
  /** How much two measurements of the default beside itself may differ. */
  readonly unrest: number;
  readonly evaluations: number;
  /** Of those, found in the log of an earlier run. */
  readonly remembered: number;
  readonly failures: readonly FailureNote[];
  /** Why the default stays although the search had found something. */
  readonly rejected?: string;
}

/** The default itself does not run, or its results are wrong: there is nothing to compare with. */
export class UnitFailed extends Error {
  readonly failed: Failed;
  constructor(unit: Unit, failed: Failed) {
    super(`${unit.name} at ${unit.tokens} tokens: the default kernels fail (${failed.failure}): ${failed.message}`);
    this.name = 'UnitFailed';
    this.failed = failed;
  }
}

const STANDARD = 'standard';

/** What a unit can be. */
export function spaceOf(unit: Unit, caps: Capabilities): SearchSpace {
  const known = new Map<number | undefined, readonly Choices[]>();
  const narrowed = (c: Choices): Choices => (unit.exact ? withSameSums(c) : c);
  const choices = (tileRows: number | undefined): readonly Choices[] => {
    const found = known.get(tileRows) ?? unit.asked(tileRows).map((asked) => narrowed(choicesOf(asked, caps)));
    known.set(tileRows, found);
    return found;
  };
  const { plan } = unit;
  const tileRows = plan === undefined ? [undefined] : [...new Set([...TILE_ROWS, plan.standard])].sort((a, b) => a - b).filter((rows) => choices(rows).every((c) => c.all.length > 0));
  return { tileRows, choices };
}

/** As an untuned package has it. */
export const standardConfig = (unit: Unit, space: SearchSpace): Config => {
  const tileRows = unit.plan?.standard;
  return makeConfig(tileRows, space.choices(tileRows).map((c) => c.standard));
};

export function plannedEvaluations(space: SearchSpace, { part, least, most }: Effort): number {
  const listed = listedChoices(space);
  return Math.min(Math.max(0, listed - 1), most, Math.max(least, Math.ceil(part * listed)));
}

interface Finalist {
  readonly config: Config;
  /** Beside the default. */
  readonly final: Measured;
}

class UnitTuning {
  readonly #unit: Unit;
  readonly #key: string;
  readonly #ctx: TuneContext;
  readonly #space: SearchSpace;
  readonly #standard: Config;
  readonly #planned: number;
  readonly #failures: FailureNote[] = [];
  /** Tokens and seed of what is loaded, or would be if measurements were not remembered. */
  #wanted: { readonly tokens: number; readonly seed: number };
  #loaded: string | undefined;
  #remembered = 0;
  #done = 0;
  #standardMs = NaN;
  #lastMs: number | undefined;

  constructor(unit: Unit, key: string, ctx: TuneContext) {
    this.#unit = unit;
    this.#key = key;
    this.#ctx = ctx;
    this.#space = ctx.space ?? spaceOf(unit, ctx.caps);
    this.#standard = standardConfig(unit, this.#space);
    this.#planned = plannedEvaluations(this.#space, ctx.effort);
    this.#wanted = { tokens: unit.tokens, seed: ctx.seed };
  }

  /** The job of a configuration; the default is what an untuned package runs. */
  #job(config: Config): NamedJob | Failed {
    const { tokens } = this.#wanted;
    if (config === this.#standard) return { key: STANDARD, job: this.#unit.standardJob(tokens) };
    try {
      return { key: configText(config), job: this.#unit.job(config, tokens) };
    } catch (error) {
      return { ok: false, failure: 'compile', message: error instanceof Error ? error.message : String(error) };
    }
  }

  /** @throws UnitFailed */
  async #ensureLoaded(): Promise<void> {
    const { tokens, seed } = this.#wanted;
    const name = `${tokens} ${seed}`;
    if (this.#loaded === name) return;
    const loaded = await this.#ctx.runner.load(await this.#unit.data(tokens, seed), this.#unit.standardJob(tokens));
    if ('ok' in loaded) throw new UnitFailed(this.#unit, loaded);
    this.#loaded = name;
  }

  async #measure(stage: string, config: Config, beside: Config, rule: BatchRule | undefined): Promise<Outcome> {
    const measurement = { key: this.#key, stage: `${stage} ${this.#wanted.tokens} ${this.#wanted.seed}`, config: `${configText(config)} / ${configText(beside)}` };
    const known = this.#ctx.log.find(measurement);
    if (known !== undefined) {
      this.#remembered++;
      return known;
    }
    const candidate = this.#job(config);
    const other = this.#job(beside);
    let outcome: Outcome;
    if ('ok' in candidate) outcome = candidate;
    else if ('ok' in other) outcome = other;
    else {
      await this.#ensureLoaded();
      outcome = await this.#ctx.runner.attempt({ candidate, beside: other, ...(rule === undefined ? {} : { rule }) });
    }
    this.#ctx.log.add(measurement, outcome);
    return outcome;
  }

  #note(config: Config, failed: Failed): void {
    this.#failures.push({ failure: failed.failure, message: failed.message, config });
  }

  #tell(best: Scored, stage: Progress['stage']): void {
    const failures: Partial<Record<Failed['failure'], number>> = {};
    for (const f of this.#failures) failures[f.failure] = (failures[f.failure] ?? 0) + 1;
    this.#ctx.onProgress({
      unit: this.#unit, done: this.#done, planned: this.#planned, stage, failures,
      bestMs: this.#standardMs * best.score, gain: 1 / best.score, lastMs: this.#lastMs,
    });
  }

  async #search(): Promise<readonly Scored[]> {
    const { effort, device, seed, rank = rankByCounts } = this.#ctx;
    const at = { tokens: this.#unit.tokens, software: device.software, subgroupSize: device.subgroupSize ?? 32 };
    const evaluate = async (config: Config, best: Scored): Promise<number | undefined> => {
      const outcome = await this.#measure('search', config, best.config, effort.search);
      this.#done++;
      this.#lastMs = outcome.ok ? outcome.ms : undefined;
      if (!outcome.ok) this.#note(config, outcome);
      else if (best.config === this.#standard && !outcome.rough) this.#standardMs = outcome.besideMs;
      const score = outcome.ok ? best.score * outcome.ratio : undefined;
      this.#tell(score !== undefined && score < best.score ? { config, score } : best, 'search');
      return score;
    };
    return search(this.#space, this.#standard, evaluate, {
      seed,
      evaluations: this.#planned,
      estimate: (c) => rank(c.chosen, at),
      stop: () => this.#ctx.overtime(),
    });
  }

  /** The default beside itself: what it takes, and how much two of the same differ. */
  async #yardstick(): Promise<Measured> {
    const outcome = await this.#measure('standard', this.#standard, this.#standard, this.#ctx.effort.search);
    if (!outcome.ok) throw new UnitFailed(this.#unit, outcome);
    this.#standardMs = outcome.ms;
    return outcome;
  }

  #refused(config: Config, outcome: Failed, what: string): string {
    this.#note(config, outcome);
    return `${what}: ${outcome.failure}`;
  }

  /** The finalists once more beside the default, best first; or why none is better. */
  async #finals(finalists: readonly Scored[]): Promise<{ readonly better: readonly Finalist[]; readonly rejected: string | undefined }> {
    const { effort } = this.#ctx;
    const better: Finalist[] = [];
    let rejected: string | undefined;
    for (const { config, score } of finalists) {
      const final = await this.#measure('final', config, this.#standard, effort.final);
      this.#tell({ config, score }, 'final');
      if (!final.ok) rejected ??= this.#refused(config, final, 'measured again');
      else if (1 / final.ratio > 1 + final.noise) better.push({ config, final });
      else rejected ??= `measured again, it is ${showGain(final)}; the noise is ${percent(final.noise)}`;
    }
    return { better: better.sort((a, b) => a.final.ratio - b.final.ratio), rejected };
  }

  /** Why a finalist must not serve the whole range, or with other inputs; undefined where it may. */
  async #objection({ config }: Finalist): Promise<string | undefined> {
    const { effort, seed } = this.#ctx;
    const { tokens, from } = this.#unit;
    if (from < tokens) {
      this.#wanted = { tokens: from, seed };
      const edge = await this.#measure('edge', config, this.#standard, effort.final);
      if (!edge.ok) return this.#refused(config, edge, `at ${from} tokens`);
      if (edge.ratio > 1 + edge.noise) return `with ${from} tokens, which it would serve too, it is ${showGain(edge)}`;
    }
    this.#wanted = { tokens, seed: seed + 1 };
    const again = await this.#measure('again', config, this.#standard, undefined);
    return again.ok ? undefined : this.#refused(config, again, 'with other inputs');
  }

  async run(): Promise<UnitResult> {
    const yardstick = await this.#yardstick();
    const scored = await this.#search();
    const found = await this.#finals(scored.filter((s) => s.score < 1).slice(0, this.#ctx.effort.finalists));
    let { rejected } = found;
    let winner: Finalist | undefined;
    for (const finalist of found.better) {
      const objection = await this.#objection(finalist);
      if (objection === undefined) {
        winner = finalist;
        break;
      }
      rejected ??= objection;
    }
    const common = { unit: this.#unit, unrest: yardstick.noise, evaluations: this.#done, remembered: this.#remembered, failures: this.#failures };
    if (winner === undefined) {
      const { ms, noise } = yardstick;
      return { ...common, config: this.#standard, isStandard: true, standardMs: ms, ms, noise, ...(rejected === undefined ? {} : { rejected }) };
    }
    const { config, final } = winner;
    return { ...common, config, isStandard: false, standardMs: final.besideMs, ms: final.ms, noise: final.noise };
  }
}

const percent = (x: number): string => `${(100 * x).toFixed(1)} %`;
const showGain = (m: Measured): string => (m.ratio <= 1 ? `${percent(1 / m.ratio - 1)} faster` : `${percent(m.ratio - 1)} slower`);

/** @throws UnitFailed, TuneStopped */
export const tuneUnit = (unit: Unit, key: string, ctx: TuneContext): Promise<UnitResult> => new UnitTuning(unit, key, ctx).run();
