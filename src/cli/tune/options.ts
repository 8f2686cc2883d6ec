/** What `moec tune` is told on the command line. */
import { DEFAULT_MIXES, parseMixes, type WeightedMix } from '../../driver/tuning/routing.ts';
import { type Effort, EFFORTS } from '../../tuner/tune-unit.ts';
import { CommandError, type CommonOptions, EXIT } from '../io.ts';
import { integerList } from '../numbers.ts';

export interface TuneCliOptions extends CommonOptions {
  readonly tokens: string;
  readonly effort: string;
  readonly budget?: string;
  readonly resume?: boolean;
  readonly dryRun?: boolean;
  readonly routing?: string;
  readonly seed: string;
  readonly device?: string;
  readonly store: string;
  readonly limits?: string;
  readonly unit?: string;
}

export interface TuneChoices {
  readonly tokens: readonly number[];
  readonly effort: Effort;
  readonly budgetMs: number | undefined;
  readonly mixes: readonly WeightedMix[];
  readonly seed: number;
  /** For the implementation of WebGPU. */
  readonly flags: readonly string[];
}

const UNITS: Readonly<Record<string, number>> = { ms: 1, s: 1000, m: 60_000, h: 3_600_000 };

/** `90s`, `10m`, `1h`, `1m30s` in milliseconds. */
export function duration(text: string, option: string): number {
  const parts = [...text.matchAll(/(\d+(?:\.\d+)?)(ms|s|m|h)/g)];
  const ms = parts.reduce((sum, [, n, unit]) => sum + Number(n) * (UNITS[unit ?? ''] ?? NaN), 0);
  if (parts.length === 0 || parts.map(([whole]) => whole).join('') !== text || !(ms > 0)) {
    throw new CommandError(EXIT.usage, `${option} takes a time such as 90s, 10m or 1h, not ${JSON.stringify(text)}`);
  }
  return ms;
}

function seedOf(text: string): number {
  const n = Number(text);
  if (!/^\d+$/.test(text) || !Number.isSafeInteger(n)) throw new CommandError(EXIT.usage, `--seed takes a whole number from 0 up, not ${JSON.stringify(text)}`);
  return n;
}

/** @throws CommandError */
export function tuneChoices(o: TuneCliOptions): TuneChoices {
  const effort = o.effort === 'full' ? EFFORTS.full : EFFORTS.quick;
  const mixes = o.routing === undefined ? DEFAULT_MIXES : parseMixes(o.routing);
  if (mixes === undefined) {
    throw new CommandError(EXIT.usage, `--routing does not take ${JSON.stringify(o.routing)}`, { fix: 'distributions with weights, such as uniform:1,zipf1.2:1,onehot:0.2' });
  }
  return {
    tokens: integerList(o.tokens, '--tokens'),
    effort,
    budgetMs: o.budget === undefined ? undefined : duration(o.budget, '--budget'),
    mixes,
    seed: seedOf(o.seed),
    flags: o.device === undefined ? [] : [`adapter=${o.device}`],
  };
}

const quoted = (word: string): string => (/^[\w./:,=@%+-]+$/.test(word) ? word : `'${word.replaceAll("'", `'\\''`)}'`);

/** The command that goes on where this one ended. */
export const resumeCommand = (argv: readonly string[] = process.argv.slice(2)): string => ['moec', ...argv.filter((a) => a !== '--resume'), '--resume'].map(quoted).join(' ');
