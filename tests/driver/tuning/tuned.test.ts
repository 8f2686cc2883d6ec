/** Entries of a store as buckets of packages: for the device they are of, with the schedules they name, and nothing else changed. */
import { describe, expect, it } from 'vitest';
import { compileSpec, GENERATOR } from '../../../src/driver/compile.ts';
import { DEFAULT_MIXES, mixesText } from '../../../src/driver/tuning/routing.ts';
import { tunedFrom } from '../../../src/driver/tuning/tuned.ts';
import { type PlacedUnit, unitsOf } from '../../../src/driver/tuning/units.ts';
import { readme } from '../../../src/codegen/package/readme.ts';
import type { Spec } from '../../../src/model/types.ts';
import { forDevice } from '../../../src/runtime/core/for-device.ts';
import { readManifest } from '../../../src/runtime/core/manifest.ts';
import { WEBGPU_BASELINE } from '../../../src/target/types.ts';
import { deviceOf, type Entry, ENTRY_VERSION, keyOf, parseEntry, questionOf } from '../../../src/tuner/store/entry.ts';
import { makeConfig } from '../../../src/tuner/search/search.ts';
import { spaceOf, standardConfig } from '../../../src/tuner/tune-unit.ts';
import { type Config, plainConfig } from '../../../src/tuner/unit.ts';
import { layer, moe, swiglu } from '../../lower/specs.ts';
import { CAPS, DEVICE } from '../../tuner/fakes.ts';

const DISABLED: ReadonlySet<string> = new Set();
const SPEC = layer('t', 64, moe(8, 2, swiglu(32)));
const ROUTING = mixesText(DEFAULT_MIXES);
const options = { caps: WEBGPU_BASELINE, disabled: DISABLED };

const unitsAt = (spec: Spec, tokens: readonly number[], device: { readonly features: readonly string[]; readonly subgroupSize?: number } = DEVICE): readonly PlacedUnit[] =>
  unitsOf(spec, { ...options, device: { features: device.features, ...(device.subgroupSize === undefined ? {} : { subgroupSize: device.subgroupSize }) }, tokens, mixes: DEFAULT_MIXES });

/** Another configuration than the default. */
function otherConfig({ unit }: PlacedUnit): Config {
  const space = spaceOf(unit, CAPS);
  const standard = standardConfig(unit, space);
  const rows = unit.plan === undefined ? undefined : space.tileRows.find((r) => r !== standard.tileRows);
  return makeConfig(rows, space.choices(rows).map((c) => c.all.find((x) => x.text !== c.standard.text && x.params['staging'] !== 'shared') ?? c.standard));
}

function entryOf(placed: PlacedUnit, config: Config | null, more: Partial<Entry> = {}): Entry {
  const { unit } = placed;
  const question = { ...questionOf({ unit: unit.id, tokens: unit.tokens, from: unit.from, routing: unit.scenarios.length > 1 ? ROUTING : '', device: deviceOf(DEVICE), generator: GENERATOR }), ...more };
  return {
    version: ENTRY_VERSION, name: unit.name, ...question, config: config === null ? null : plainConfig(config),
    standardMs: 2, ms: config === null ? 2 : 1, noise: 0.02, evaluations: 9, effort: 'quick', ...more, key: keyOf(question),
  };
}

/** As they come back from disk. */
const stored = (e: Entry): Entry => {
  const found = parseEntry(JSON.stringify(e));
  if (typeof found === 'string') throw new Error(found);
  return found;
};

interface BucketFacts {
  readonly maxTokens: number | undefined;
  readonly adapter: string | undefined;
  readonly steps: readonly string[];
}

const schedules = (spec: Spec, entries: readonly Entry[]): readonly BucketFacts[] => {
  const { plans, evidence } = tunedFrom(spec, entries, options);
  const { program } = compileSpec(spec, { caps: WEBGPU_BASELINE, tuned: { plans, evidence } });
  return (program.sections[0]?.buckets ?? []).map((b) => ({
    maxTokens: b.maxTokens, adapter: b.device?.adapter, steps: b.steps.map((s) => JSON.stringify([s.kernel.family, s.kernel.schedule])),
  }));
};
const untunedFor = (tokens: number): BucketFacts | undefined => schedules(SPEC, []).find((b) => b.maxTokens === undefined || b.maxTokens >= tokens);

describe('winners', () => {
  const [one, many] = unitsAt(SPEC, [4, 24]);
  if (one === undefined || many === undefined) throw new Error('no units');
  const [few, lots] = [otherConfig(one), otherConfig(many)];
  const entries = [entryOf(one, few), entryOf(many, lots)].map(stored);

  it('have buckets of their device, before all others', () => {
    const all = schedules(SPEC, entries);
    const untuned = schedules(SPEC, []);
    expect(all.slice(0, 3).map((b) => [b.adapter, b.maxTokens])).toEqual([[DEVICE.adapter, 4], [DEVICE.adapter, 8], [DEVICE.adapter, 24]]);
    expect(all.slice(3)).toEqual(untuned);
    expect(untuned.every((b) => b.adapter === undefined)).toBe(true);
  });

  it('run by the schedules that were measured, everything else as untuned', () => {
    const [tuned4, plain8, tuned24] = schedules(SPEC, entries);
    const route = (b: BucketFacts | undefined): readonly string[] => b?.steps.filter((s) => s.startsWith('["route')) ?? [];
    expect(tuned4?.steps).not.toEqual(untunedFor(8)?.steps);
    expect(route(tuned4)).toEqual(route(untunedFor(8)));
    // Calls of 5 to 8 tokens were not measured: they stay with the untuned form.
    expect(plain8?.steps).toEqual(untunedFor(8)?.steps);
    expect(route(tuned24)).toEqual(route(untunedFor(24)));
    expect(tuned24?.steps.some((s) => s.includes(`"bm":${lots.tileRows}`))).toBe(true);
    for (const c of lots.choices) expect(tuned24?.steps.some((s) => Object.entries(c.params).every(([k, v]) => s.includes(`"${k}":${JSON.stringify(v)}`)))).toBe(true);
  });

  it('are the same for the same store, and reach the manifest and the README with their evidence', () => {
    const make = (list: readonly Entry[]): string => {
      const { plans, evidence } = tunedFrom(SPEC, list, options);
      return JSON.stringify(compileSpec(SPEC, { caps: WEBGPU_BASELINE, tuned: { plans, evidence } }).manifest);
    };
    expect(make(entries.toReversed().map(stored))).toBe(make(entries));
    const manifest = readManifest(JSON.parse(make(entries)));
    expect(manifest.tuned?.map((t) => [t.kernel, t.above, t.tokens, t.defaultMs, t.tunedMs, t.noise])).toEqual([['experts', 0, 4, 2, 1, 0.02], ['experts', 8, 24, 2, 1, 0.02]]);
    const text = readme(manifest, false);
    expect(text).toContain('## Tuned kernels');
    expect(text).toContain('| experts | 9 to 24 | 2.00 | 1.00 | 2.00x | 2.0 % |');
    expect(readme(compileSpec(SPEC).manifest, false)).not.toContain('Tuned');
  });

  it('serve that device alone', () => {
    const { plans, evidence } = tunedFrom(SPEC, entries, options);
    const { manifest } = compileSpec(SPEC, { caps: WEBGPU_BASELINE, tuned: { plans, evidence } });
    const tokens = (adapter: string): readonly (number | null)[] => forDevice(manifest, { ...DEVICE, adapter }).sections[0]?.buckets.map((b) => b.maxTokens) ?? [];
    expect(tokens(DEVICE.adapter).slice(0, 3)).toEqual([4, 8, 24]);
    expect(tokens('another')).toEqual(tokens(DEVICE.adapter).slice(3));
  });

  it('of a smaller range are not stretched, and larger ones serve a part', () => {
    // Tuned for 9 … 24 beside a later run for 16: 17 … 24 is within what was measured.
    const [, at16, at24] = unitsAt(SPEC, [4, 16, 24]);
    if (at16 === undefined || at24 === undefined) throw new Error('no units');
    expect(at24.unit.from).toBe(17);
    const both = tunedFrom(SPEC, [...entries, stored(entryOf(at16, null))], options);
    expect([both.used, both.evidence.map((t) => [t.above, t.tokens])]).toEqual([3, [[0, 4], [16, 24]]]);
    const narrow = schedules(SPEC, [stored(entryOf(at24, lots))]).filter((b) => b.adapter !== undefined);
    expect(narrow.map((b) => b.maxTokens)).toEqual([8, 16, 24]);
    expect(narrow[1]?.steps).toEqual(untunedFor(16)?.steps);
  });
});

describe('entries that say nothing here', () => {
  const [one] = unitsAt(SPEC, [4]);
  if (one === undefined) throw new Error('no unit');

  it.each([
    ['of another compiler', { generator: 'moec 0.0.0' }, 'of another version of the compiler'],
    ['of other spaces', { space: 999 }, 'of other spaces'],
    ['of other kernels', { unit: 'x' }, 'for other kernels'],
  ] as const)('%s are passed over, which is told', (_what, more, why) => {
    const found = tunedFrom(SPEC, [entryOf(one, otherConfig(one), more)], options);
    expect([found.used, found.plans.length, [...found.passedOver]]).toEqual([0, 0, [[why, 1]]]);
  });

  it('whose schedules the space has not are passed over', () => {
    const hostile = { ...entryOf(one, otherConfig(one)), config: { schedules: [{ matvec: { block: 1e9, team: 1, cols: 1 } }, {}] } };
    expect(tunedFrom(SPEC, [hostile], options)).toMatchObject({ used: 0, plans: [] });
  });

  it('that the default stays are used, and change nothing', () => {
    const found = tunedFrom(SPEC, [stored(entryOf(one, null))], options);
    expect([found.used, found.plans.length, found.evidence.length]).toEqual([1, 0, 0]);
  });

  it('with another mix yield to the usual one', () => {
    const usual = stored(entryOf(one, otherConfig(one)));
    const skewed = stored(entryOf(one, null, { routing: 'onehot:1' }));
    for (const list of [[usual, skewed], [skewed, usual]]) expect(tunedFrom(SPEC, list, options).evidence.length).toBe(1);
    expect(tunedFrom(SPEC, [skewed], options).used).toBe(1);
  });
});

describe('several devices', () => {
  const [one] = unitsAt(SPEC, [4]);
  if (one === undefined) throw new Error('no unit');
  const own = deviceOf(DEVICE);

  it('have buckets each; two implementations on one adapter have one set', () => {
    const other = entryOf(one, otherConfig(one), { device: { ...own, adapter: 'b' } });
    const twice = entryOf(one, otherConfig(one), { device: { ...own, implementation: 'fake 2' } });
    const found = tunedFrom(SPEC, [entryOf(one, otherConfig(one)), other, twice].map(stored), options);
    expect(found.plans.map((p) => p.device.adapter).sort()).toEqual([own.adapter, 'b'].sort());
    expect([...found.passedOver.values()]).toEqual([1]);
  });

  it('without a known subgroup size get kernels without subgroups', () => {
    const { subgroupSize: _size, ...plain } = { ...DEVICE, adapter: 'plain', features: [], software: false };
    const [unit] = unitsAt(SPEC, [4], plain);
    if (unit === undefined) throw new Error('no unit');
    const space = spaceOf(unit.unit, WEBGPU_BASELINE);
    const config = makeConfig(undefined, space.choices(undefined).map((c) => c.all[3] ?? c.standard));
    const entry = stored(entryOf(unit, config, { device: deviceOf(plain) }));
    const { plans } = tunedFrom(SPEC, [entry], options);
    expect(plans.map((p) => [p.device, p.caps.subgroups])).toEqual([[{ adapter: 'plain' }, false]]);
  });
});

describe('specs that promise bits', () => {
  it('have tuned buckets of the one form', () => {
    const spec: Spec = { ...SPEC, deterministic: 'batch' };
    const [, b] = unitsAt(spec, [4, 64]);
    if (b === undefined) throw new Error('no units');
    const own = schedules(spec, [stored(entryOf(b, otherConfig(b)))]);
    expect(own.map((x) => [x.adapter, x.maxTokens])).toEqual([[DEVICE.adapter, 4], [DEVICE.adapter, 64], [undefined, undefined], [undefined, undefined]]);
    expect(own[0]?.steps).toEqual(own[2]?.steps);
  });
});
