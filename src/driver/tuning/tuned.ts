/**
 * Entries of a store as buckets of a package: for every device in it, the untuned buckets that serve it with winners in place of
 * default schedules. What no entry speaks of stays as it is, and calls between two tuned numbers of tokens run what was measured
 * at both ends of their range.
 */
import { stableJson } from '../../base/hash.ts';
import type { Spec } from '../../model/types.ts';
import type { ManifestTuned } from '../../runtime/core/abi.ts';
import type { Capabilities } from '../../target/types.ts';
import { configOf } from '../../tuner/tune-all.ts';
import { showConfig } from '../../tuner/unit.ts';
import { SPACE_VERSION } from '../../tuner/space/types.ts';
import type { Config } from '../../tuner/unit.ts';
import type { Entry, EntryDevice } from '../../tuner/store/entry.ts';
import { GENERATOR, type Tuned } from '../compile.ts';
import { bucketTokens, type DevicePlan, type PlanBucket } from '../lower-program.ts';
import type { JobDevice } from './job.ts';
import { DEFAULT_MIXES, mixesText } from './routing.ts';
import { sourceOf } from './schedules.ts';
import { deviceCaps, type PlacedUnit, unitsOf } from './units.ts';

export interface TunedReport extends Tuned {
  /** Entries that a bucket was made of, or that say that the default stays. */
  readonly used: number;
  /** Why others were not: `kernels of another compiler` … with how many. */
  readonly passedOver: ReadonlyMap<string, number>;
}

export interface TunedOptions {
  readonly caps: Capabilities;
  readonly disabled: ReadonlySet<string>;
}

interface Winner {
  readonly placed: PlacedUnit;
  readonly config: Config;
  readonly entry: Entry;
}

const jobDevice = ({ features, subgroupSize }: EntryDevice): JobDevice => ({ features, ...(subgroupSize === null ? {} : { subgroupSize }) });

/** The entry for a unit: with the usual mix where there are several, else the first by its text. */
function entryFor({ unit }: PlacedUnit, entries: readonly Entry[]): Entry | undefined {
  const own = entries.filter((e) => e.unit === unit.id && e.tokens === unit.tokens && e.from <= unit.from);
  const usual = mixesText(DEFAULT_MIXES);
  const rank = (e: Entry): string => `${e.routing === usual ? 0 : 1} ${e.routing} ${String(e.from).padStart(12, '0')}`;
  return [...own].sort((a, b) => (rank(a) < rank(b) ? -1 : 1))[0];
}

function evidenceOf({ placed, config, entry }: Winner): ManifestTuned {
  const { unit } = placed;
  return {
    adapter: entry.device.adapter, kernel: unit.name, tokens: unit.tokens, above: unit.from - 1,
    defaultMs: entry.standardMs, tunedMs: entry.ms, noise: entry.noise, schedule: showConfig(config),
  };
}

function bucketFor(section: string, winners: readonly Winner[]): ReturnType<NonNullable<PlanBucket['schedules']>> {
  const own = winners.filter((w) => w.placed.sections.includes(section));
  const chosen = own.flatMap((w) => w.config.choices.map((c) => c.chosen));
  const plans = own.flatMap(({ placed: { unit }, config }) => (unit.plan === undefined || config.tileRows === undefined ? [] : [{ plan: unit.plan, rows: config.tileRows }]));
  return own.length === 0 ? undefined : sourceOf(chosen, plans);
}

interface DeviceResult {
  readonly plan: DevicePlan | undefined;
  readonly winners: readonly Winner[];
  readonly used: ReadonlySet<Entry>;
}

/** Of untuned buckets of one form side by side the last one serves for all. */
const withoutRepeats = (buckets: readonly PlanBucket[]): readonly PlanBucket[] =>
  buckets.filter((b, i) => {
    const next = buckets[i + 1];
    const form = (x: PlanBucket): number | undefined => (x.like ?? x).maxTokens;
    return next === undefined || b.schedules !== undefined || next.schedules !== undefined || form(b) !== form(next);
  });

function forOneDevice(spec: Spec, device: EntryDevice, entries: readonly Entry[], { caps, disabled }: TunedOptions): DeviceResult {
  const target = { caps, device: jobDevice(device), disabled };
  const both = deviceCaps(target);
  const used = new Set<Entry>();
  // A range ends where the one before it ended, whether that one has an entry or not.
  const tokens = [...new Set(entries.flatMap((e) => (e.from > 1 ? [e.from - 1, e.tokens] : [e.tokens])))];
  const placed = unitsOf(spec, { ...target, tokens, mixes: DEFAULT_MIXES });
  const winners = placed.flatMap((p): Winner[] => {
    const entry = entryFor(p, entries);
    if (entry === undefined) return [];
    const config = entry.config === null ? undefined : configOf(p.unit, entry.config, both.tuned);
    if (config !== undefined || entry.config === null) used.add(entry);
    return config === undefined ? [] : [{ placed: p, config, entry }];
  });
  if (winners.length === 0) return { plan: undefined, winners, used };
  const last = Math.max(...winners.map((w) => w.placed.point.tokens));
  const points = [...new Map(placed.map((p) => [p.point.tokens, p.point])).values()].filter((p) => p.tokens <= last).sort((a, b) => a.tokens - b.tokens);
  const buckets = new Map<number, PlanBucket>();
  // Where an untuned bucket ends between two points, calls up to there stay with it.
  for (const end of bucketTokens(spec.deterministic === 'batch', both.standard)) if (end !== undefined && end < last) buckets.set(end, { maxTokens: end });
  for (const point of points) {
    const own = winners.filter((w) => w.placed.point.tokens === point.tokens);
    buckets.set(point.tokens, { maxTokens: point.tokens, like: { maxTokens: point.maxTokens }, ...(own.length === 0 ? {} : { schedules: (section: string) => bucketFor(section, own) }) });
  }
  const plan: DevicePlan = {
    device: { adapter: device.adapter, ...(device.subgroupSize === null || both.tuned.subgroupSize === undefined ? {} : { subgroupSize: device.subgroupSize }) },
    caps: both.tuned,
    buckets: withoutRepeats([...buckets.values()].sort((a, b) => Number(a.maxTokens) - Number(b.maxTokens))),
  };
  return { plan, winners, used };
}

/** Buckets for all devices that entries speak of; the same entries give the same buckets. */
export function tunedFrom(spec: Spec, entries: readonly Entry[], options: TunedOptions): TunedReport {
  const passedOver = new Map<string, number>();
  const skip = (why: string, n = 1): void => void passedOver.set(why, (passedOver.get(why) ?? 0) + n);
  const current = entries.filter((e) => {
    const why = e.generator !== GENERATOR ? 'of another version of the compiler' : e.space !== SPACE_VERSION ? 'of other spaces' : undefined;
    if (why !== undefined) skip(why);
    return why === undefined;
  });
  const devices = new Map<string, { readonly device: EntryDevice; readonly entries: Entry[] }>();
  for (const entry of current) {
    const key = stableJson(entry.device);
    const known = devices.get(key) ?? { device: entry.device, entries: [] };
    devices.set(key, known);
    known.entries.push(entry);
  }
  const results = [...devices].sort(([a], [b]) => (a < b ? -1 : 1)).map(([, d]) => ({ ...d, result: forOneDevice(spec, d.device, d.entries, options) }));
  for (const { entries: own, result } of results) if (own.length > result.used.size) skip('for other kernels', own.length - result.used.size);
  // Devices are told apart by their adapters alone: of two implementations on one, that with more winners speaks for it.
  const kept = results.filter(({ device, result }) => {
    const rivals = results.filter((r) => r.device.adapter === device.adapter);
    const most = Math.max(...rivals.map((r) => r.result.winners.length));
    const isKept = rivals.find((r) => r.result.winners.length === most)?.result === result;
    if (!isKept) skip('of another implementation on the same device', result.used.size);
    return isKept;
  });
  return {
    plans: kept.flatMap(({ result }) => result.plan ?? []),
    evidence: kept.flatMap(({ result }) => result.winners.map(evidenceOf)),
    used: kept.reduce((n, { result }) => n + result.used.size, 0),
    passedOver,
  };
}
