/** What `moec tune` measured, as the best time so far over its evaluations: read from the log and the entries that it keeps. */
import { isObject } from '../../base/is-object.ts';
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { parseEntry } from '../../tuner/store/entry.ts';
import { CommandError, EXIT } from '../io.ts';

/** One evaluation of a search, and the best until then as a part of the default's time, at most 1. */
export interface SearchStep {
  readonly unit: string;
  readonly evaluation: number;
  readonly best: number;
}

interface Line {
  readonly key: string;
  /** Of the candidate's time and the default's, measured in turns; undefined where the candidate failed. */
  readonly ratio: number | undefined;
}

/** A line of a search; undefined for other measurements, and for lines that are not whole. */
function lineOf(text: string): Line | undefined {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    return undefined;
  }
  if (!isObject(value) || value['v'] !== 1 || typeof value['id'] !== 'string' || !isObject(value['outcome'])) return undefined;
  const [key = '', stage] = value['id'].split(' ');
  const { ok, ratio } = value['outcome'];
  return stage === 'search' ? { key, ratio: ok === true && typeof ratio === 'number' && ratio > 0 ? ratio : undefined } : undefined;
}

/** @param nameOf a unit by its key */
export function searchSteps(log: string, nameOf: (key: string) => string): readonly SearchStep[] {
  const state = new Map<string, { evaluation: number; best: number }>();
  const steps: SearchStep[] = [];
  for (const text of log.split('\n')) {
    const line = lineOf(text);
    if (line === undefined) continue;
    const unit = nameOf(line.key);
    const now = state.get(line.key) ?? { evaluation: 0, best: 1 };
    if (now.evaluation === 0) steps.push({ unit, ...now });
    state.set(line.key, now);
    now.evaluation += 1;
    now.best = Math.min(now.best, line.ratio ?? 1);
    steps.push({ unit, ...now });
  }
  return steps;
}

function entryName(directory: string, key: string): string {
  const path = join(directory, `${key}.json`);
  const entry = /^[0-9a-f]+$/.test(key) && existsSync(path) ? parseEntry(readFileSync(path, 'utf8')) : '';
  return typeof entry === 'string' ? key.slice(0, 8) : `${entry.name}, ${entry.tokens} tokens`;
}

/** @throws CommandError where nothing was tuned there */
export function readSearch(directory: string): readonly SearchStep[] {
  const path = join(directory, 'log.jsonl');
  const steps = existsSync(path) ? searchSteps(readFileSync(path, 'utf8'), (key) => entryName(directory, key)) : [];
  if (steps.length === 0) throw new CommandError(EXIT.usage, `--tuning: ${path} holds no search`, { fix: 'run `moec tune FILE` first, or leave --tuning out' });
  return steps;
}
