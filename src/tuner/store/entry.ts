/**
 * What a tuning run leaves behind for a unit: the winner and the evidence for it. An entry is read back field by field; whatever
 * does not fit is a miss, and schedules are only ever looked up in the space.
 */
import { stableHash } from '../../base/hash.ts';
import { SPACE_VERSION } from '../space/types.ts';
import type { DeviceFacts } from '../protocol.ts';

export const ENTRY_VERSION = 1;

/** What an entry is about: equal for equal questions. */
export interface Question {
  /** `Unit.id` */
  readonly unit: string;
  readonly tokens: number;
  readonly from: number;
  /** The mix of scenarios as it is written on the command line; empty where a unit has but one. */
  readonly routing: string;
  readonly device: EntryDevice;
  /** The compiler that printed the kernels. */
  readonly generator: string;
  readonly space: number;
}

export interface EntryDevice {
  /** `DeviceInfo.adapter`: vendor, architecture, device and driver. */
  readonly adapter: string;
  readonly backend: string;
  readonly implementation: string;
  readonly subgroupSize: number | null;
  readonly software: boolean;
  /** Those that kernels may use. */
  readonly features: readonly string[];
}

export interface Entry extends Question {
  readonly version: typeof ENTRY_VERSION;
  readonly key: string;
  /** For people. */
  readonly name: string;
  /** null: nothing was better than the default by more than the noise. */
  readonly config: StoredConfig | null;
  /** Milliseconds of the default and of the winner (or again the default), measured in turns. */
  readonly standardMs: number;
  readonly ms: number;
  /** Of the ratio of the two, relative. */
  readonly noise: number;
  readonly evaluations: number;
  readonly effort: 'quick' | 'full';
}

/** As it lies on disk: schedules are unknown until the space has them. */
export interface StoredConfig {
  readonly tileRows?: number;
  readonly schedules: readonly unknown[];
}

/** What kernels use; measuring uses more. */
const KERNEL_FEATURES: ReadonlySet<string> = new Set(['subgroups', 'shader-f16']);

export const deviceOf = ({ adapter, backend, implementation, subgroupSize, software, features }: DeviceFacts): EntryDevice => ({
  adapter, backend, implementation, subgroupSize: subgroupSize ?? null, software, features: features.filter((f) => KERNEL_FEATURES.has(f)).sort(),
});

export const keyOf = ({ unit, tokens, from, routing, device, generator, space }: Question): string =>
  stableHash({ unit, tokens, from, routing, device, generator, space }).slice(0, 32);

export const questionOf = (q: Omit<Question, 'space'>): Question => ({ ...q, space: SPACE_VERSION });

type Fields = Readonly<Record<string, unknown>>;

const MOST_SCHEDULES = 64;
const MOST_FIELDS = 32;

const isFields = (x: unknown): x is Fields => typeof x === 'object' && x !== null && !Array.isArray(x);
const isText = (x: unknown): x is string => typeof x === 'string' && x.length <= 1000;
const isWhole = (x: unknown): x is number => typeof x === 'number' && Number.isSafeInteger(x) && x > 0;
const isPositive = (x: unknown): x is number => typeof x === 'number' && Number.isFinite(x) && x > 0;

/** Own fields alone: `__proto__` in a file is a field like any other, and no schedule has one. */
function isSchedule(x: unknown, depth = 0): boolean {
  if (!isFields(x) || depth > 1) return false;
  const entries = Object.entries(x);
  return entries.length <= MOST_FIELDS && entries.every(([, v]) => typeof v === 'number' || isText(v) || isSchedule(v, depth + 1));
}

function configOf(x: unknown): StoredConfig | null | undefined {
  if (x === null) return null;
  if (!isFields(x)) return undefined;
  const { tileRows, schedules } = x;
  if (!Array.isArray(schedules) || schedules.length > MOST_SCHEDULES || !schedules.every((s) => isSchedule(s))) return undefined;
  if (tileRows !== undefined && !isWhole(tileRows)) return undefined;
  return { ...(tileRows === undefined ? {} : { tileRows }), schedules };
}

function deviceFrom(x: unknown): EntryDevice | undefined {
  if (!isFields(x)) return undefined;
  const { adapter, backend, implementation, subgroupSize, software, features } = x;
  if (!isText(adapter) || !isText(backend) || !isText(implementation) || typeof software !== 'boolean') return undefined;
  if (subgroupSize !== null && !isWhole(subgroupSize)) return undefined;
  if (!Array.isArray(features) || !features.every((f) => typeof f === 'string' && KERNEL_FEATURES.has(f))) return undefined;
  return { adapter, backend, implementation, subgroupSize, software, features };
}

/** An entry, or why it is none. */
export function parseEntry(text: string): Entry | string {
  let x: unknown;
  try {
    x = JSON.parse(text);
  } catch {
    return 'it is no JSON';
  }
  if (!isFields(x)) return 'it is no object';
  const { version, key, name, unit, tokens, from, routing, generator, space, standardMs, ms, noise, evaluations, effort } = x;
  if (version !== ENTRY_VERSION) return `it is of version ${String(version).slice(0, 20)}`;
  const device = deviceFrom(x['device']);
  const config = configOf(x['config']);
  if (device === undefined) return 'its device is malformed';
  if (config === undefined) return 'its configuration is malformed';
  if (!isText(key) || !isText(name) || !isText(unit) || !isText(routing) || !isText(generator)) return 'a text is missing';
  if (!isWhole(tokens) || !isWhole(from) || from > tokens || !isWhole(space)) return 'a number is missing';
  if (!isPositive(standardMs) || !isPositive(ms) || !isPositive(noise) || typeof evaluations !== 'number' || (effort !== 'quick' && effort !== 'full')) return 'its evidence is malformed';
  const question: Question = { unit, tokens, from, routing, device, generator, space };
  if (keyOf(question) !== key) return 'its key is of something else';
  return { version, ...question, key, name, config, standardMs, ms, noise, evaluations, effort };
}
