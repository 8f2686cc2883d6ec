/** Tunes units one after another and keeps what is found: as entries of the store, unit by unit. */
import type { Capabilities } from '../target/types.ts';
import type { DeviceFacts } from './protocol.ts';
import type { Rank } from './rank.ts';
import { type Runner, TuneStopped } from './runner.ts';
import { findChoice } from './space/index.ts';
import { deviceOf, type Entry, ENTRY_VERSION, keyOf, type Question, questionOf, type StoredConfig } from './store/entry.ts';
import type { TuneLog } from './store/log.ts';
import type { TuneStore } from './store/store.ts';
import { type Effort, plannedEvaluations, type Progress, spaceOf, standardConfig, tuneUnit, UnitFailed, type UnitResult } from './tune-unit.ts';
import { makeConfig } from './search/search.ts';
import { type Config, plainConfig, type Unit } from './unit.ts';

export interface TuneOptions {
  readonly units: readonly Unit[];
  readonly runner: Runner;
  readonly store: TuneStore;
  readonly log: TuneLog;
  readonly device: DeviceFacts;
  readonly caps: Capabilities;
  readonly effort: Effort;
  readonly seed: number;
  readonly generator: string;
  /** The mix of distributions as text; a part of what is asked. */
  readonly routing: string;
  readonly rank?: Rank;
  /** Milliseconds for everything; absent: as long as it takes. */
  readonly budgetMs?: number;
  /** Entries of the store are not tuned again. */
  readonly resume: boolean;
  now(): number;
  onProgress(progress: Progress): void;
  onDone(report: UnitReport): void;
}

export interface UnitReport {
  readonly unit: Unit;
  readonly key: string;
  /** `known`: an earlier run had found it. */
  readonly status: 'tuned' | 'default' | 'known' | 'failed';
  readonly entry?: Entry;
  readonly config?: Config;
  readonly result?: UnitResult;
  /** False where the disk did not take the entry. */
  readonly kept?: boolean;
  /** Why it failed, or why the default stays. */
  readonly why?: string;
}

export interface TuneReport {
  readonly reports: readonly UnitReport[];
  /** What ended the run before its end, and where the unit at hand was. */
  readonly stopped?: TuneStopped;
  readonly unfinished?: Progress;
}

export const questionFor = (unit: Unit, o: Pick<TuneOptions, 'device' | 'generator' | 'routing'>): Question =>
  questionOf({
    unit: unit.id, tokens: unit.tokens, from: unit.from, routing: unit.scenarios.length > 1 ? o.routing : '',
    device: deviceOf(o.device), generator: o.generator,
  });

/** The configuration that an entry names; undefined where the unit's space has none such. */
export function configOf(unit: Unit, stored: StoredConfig, caps: Capabilities): Config | undefined {
  if ((stored.tileRows === undefined) !== (unit.plan === undefined)) return undefined;
  const space = spaceOf(unit, caps);
  if (!space.tileRows.includes(stored.tileRows)) return undefined;
  const asked = unit.asked(stored.tileRows);
  const choices = asked.flatMap((a, i) => findChoice(a, stored.schedules[i], caps) ?? []);
  return choices.length === asked.length && stored.schedules.length === asked.length ? makeConfig(stored.tileRows, choices) : undefined;
}

function entryOf(question: Question, { unit, config, isStandard, standardMs, ms, noise, evaluations }: UnitResult, effort: Effort): Entry {
  return {
    version: ENTRY_VERSION, key: keyOf(question), name: unit.name, ...question,
    config: isStandard ? null : plainConfig(config), standardMs, ms, noise, evaluations, effort: effort.name,
  };
}

/** An entry that answers the question, from at least as much effort. */
function known(unit: Unit, key: string, o: TuneOptions): UnitReport | undefined {
  const entry = o.resume ? o.store.read(key) : undefined;
  if (entry === undefined || (o.effort.name === 'full' && entry.effort === 'quick')) return undefined;
  const config = entry.config === null ? standardConfig(unit, spaceOf(unit, o.caps)) : configOf(unit, entry.config, o.caps);
  return config === undefined ? undefined : { unit, key, status: 'known', entry, config };
}

/** Never throws for what a device does: what was found before is in the report. */
export async function tuneAll(o: TuneOptions): Promise<TuneReport> {
  const reports: UnitReport[] = [];
  const planned = o.units.map((unit) => plannedEvaluations(spaceOf(unit, o.caps), o.effort) * Math.max(1, unit.work));
  const began = o.now();
  let unfinished: Progress | undefined;
  const finish = (report: UnitReport): void => {
    reports.push(report);
    o.onDone(report);
  };
  for (const [i, unit] of o.units.entries()) {
    const question = questionFor(unit, o);
    const key = keyOf(question);
    const before = known(unit, key, o);
    if (before !== undefined) {
      finish(before);
      continue;
    }
    const left = o.budgetMs === undefined ? Infinity : Math.max(0, o.budgetMs - (o.now() - began));
    // A unit may take its part of the time that is left, by what it has to measure.
    const rest = planned.slice(i).reduce((a, b) => a + Math.sqrt(b), 0);
    const until = o.now() + (rest === 0 ? left : (left * Math.sqrt(planned[i] ?? 0)) / rest);
    unfinished = undefined;
    try {
      const { runner, log, device, caps, effort, seed } = o;
      const result = await tuneUnit(unit, key, {
        runner, log, device, caps, effort, seed, ...(o.rank === undefined ? {} : { rank: o.rank }),
        overtime: () => o.now() >= until,
        onProgress: (p) => {
          unfinished = p;
          o.onProgress(p);
        },
      });
      const entry = entryOf(question, result, effort);
      const kept = o.store.write(entry);
      finish({ unit, key, status: result.isStandard ? 'default' : 'tuned', entry, config: result.config, result, kept, ...(result.rejected === undefined ? {} : { why: result.rejected }) });
    } catch (error) {
      if (error instanceof TuneStopped) return { reports, stopped: error, ...(unfinished === undefined ? {} : { unfinished }) };
      if (!(error instanceof UnitFailed)) throw error;
      finish({ unit, key, status: 'failed', why: error.message });
    }
  }
  return { reports };
}
