/** The real process on the real device: right candidates are timed, wrong ones are told apart, and a run from the shell ships. */
import { existsSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type PlacedUnit, unitsOf } from '../../src/driver/tuning/units.ts';
import { DEFAULT_MIXES } from '../../src/driver/tuning/routing.ts';
import { WEBGPU_BASELINE } from '../../src/target/types.ts';
import { Supervisor } from '../../src/tuner/supervisor.ts';
import type { DeviceFacts } from '../../src/tuner/protocol.ts';
import { parseEntry } from '../../src/tuner/store/entry.ts';
import { spaceOf } from '../../src/tuner/tune-unit.ts';
import { makeConfig } from '../../src/tuner/search/search.ts';
import { build, jsonOf, moec, ROOT, scratch } from '../cli/moec.ts';
import { layer, moe, swiglu } from '../lower/specs.ts';
import { CAPS } from './fakes.ts';

const HERE = scratch();
afterAll(() => rmSync(HERE, { recursive: true, force: true }));
beforeAll(build);

const PROGRAM = pathToFileURL(join(ROOT, 'dist/tuner/child/main.js'));
const SPEC = layer('tiny', 32, moe(4, 2, swiglu(16)));

function unitAt(tokens: number, device: DeviceFacts): PlacedUnit['unit'] {
  const [placed] = unitsOf(SPEC, { caps: WEBGPU_BASELINE, device, disabled: new Set(), tokens: [tokens], mixes: DEFAULT_MIXES });
  if (placed === undefined) throw new Error('no unit');
  return placed.unit;
}

describe('the measuring process', () => {
  it('times what is right, and tells every fault by its class', async () => {
    const faults = 'hang@2,crash@3,lose@4,wrong@5,guard@6,memory@7,compile@8';
    const supervisor = new Supervisor({ program: PROGRAM, leastMs: 2500, graceMs: 300, env: { MOEC_TUNE_FAULTS: faults } });
    const device = await supervisor.open();
    expect(device.timestamps).toBe(true);
    const unit = unitAt(2, device);
    const standard = unit.standardJob(2);
    expect(await supervisor.load(await unit.data(2, 1), standard)).toMatchObject({ ms: expect.any(Number) });
    const beside = { key: 'standard', job: standard };
    const outcomes: string[] = [];
    for (let i = 1; i <= 9; i++) {
      const outcome = await supervisor.attempt({ candidate: { key: `c${i}`, job: standard }, beside, rule: { batches: 3, batchMs: 0.5 } });
      outcomes.push(outcome.ok ? `ok ${outcome.ratio > 0.01 && outcome.ratio < 100}` : outcome.failure);
    }
    expect(outcomes).toEqual(['ok true', 'timeout', 'crash', 'device-lost', 'incorrect', 'out-of-bounds', 'out-of-memory', 'compile', 'ok true']);
    await supervisor.close();
  }, 60_000);

  it('finds results that are off, whatever the kernels are', async () => {
    const supervisor = new Supervisor({ program: PROGRAM });
    const unit = unitAt(3, await supervisor.open());
    const data = await unit.data(3, 1);
    const standard = unit.standardJob(3);
    // A reference that says something else: then the default itself is wrong.
    const scenarios = data.scenarios.map((s) => ({ ...s, expected: s.expected.map((e) => ({ ...e, values: e.values.map((v, i) => (i === 5 ? v + 0.01 : v)) })) }));
    expect(await supervisor.load({ ...data, scenarios }, standard)).toMatchObject({ ok: false, failure: 'incorrect' });
    expect(await supervisor.load(data, standard)).toMatchObject({ ms: expect.any(Number) });
    // Another schedule gives the same; kernels that multiply by two, or do not compile, do not.
    const space = spaceOf(unit, CAPS);
    const other = makeConfig(undefined, space.choices(undefined).map((c) => c.all.find((x) => x.text !== c.standard.text) ?? c.standard));
    const beside = { key: 'standard', job: standard };
    expect(await supervisor.attempt({ candidate: { key: 'other', job: unit.job(other, 3) }, beside })).toMatchObject({ ok: true });
    const changed = (from: RegExp, to: string): typeof standard => {
      const kernels = standard.kernels.map((k) => ({ ...k, code: k.code.replace(from, to) }));
      expect(kernels).not.toEqual(standard.kernels);
      return { ...standard, kernels };
    };
    expect(await supervisor.attempt({ candidate: { key: 'twice', job: changed(/\bfma\(/, 'fma(2.0f * ') }, beside })).toMatchObject({ ok: false, failure: 'incorrect' });
    expect(await supervisor.attempt({ candidate: { key: 'no text', job: changed(/@compute/, '@compute @nonsense') }, beside })).toMatchObject({ ok: false, failure: 'compile' });
    await supervisor.close();
  }, 60_000);
});

describe('moec tune', () => {
  const file = join(HERE, 'tiny.moe');
  writeFileSync(file, 'layer tiny {\n  hidden 32\n  moe {\n    experts 4 of swiglu 16  active 2\n    router softmax top-k\n  }\n}\n');
  const store = (): readonly string[] => (existsSync(join(HERE, '.moec/tune')) ? readdirSync(join(HERE, '.moec/tune')).filter((f) => f.endsWith('.json')) : []);
  const tune = (...args: readonly string[]): ReturnType<typeof moec> => moec(['tune', file, ...args], { cwd: HERE });

  it('--dry-run says what it would do, and does nothing', async () => {
    const run = await tune('--tokens', '2,8', '--dry-run', '--json');
    expect(run.code).toBe(0);
    const { units } = jsonOf(run);
    expect(units).toMatchObject([{ kernel: 'experts', tokens: 2, from: 1 }, { kernel: 'experts', tokens: 8, from: 3 }]);
    expect(run.stdout).toContain('.moec/tune/');
    expect(store()).toEqual([]);
    const text = await tune('--tokens', '2', '--dry-run');
    expect(text.stdout).toMatch(/experts T=1\.\.2: \d+ configurations of \d+ schedules \(\d+ more are not legal here\), \d+ to measure -> .moec\/tune\/[0-9a-f]{32}\.json/);
  });

  it.each([
    [['--tokens', '0'], /--tokens takes a positive whole number/],
    [['--routing', 'zipf'], /--routing does not take/],
    [['--budget', 'soon'], /--budget takes a time/],
    [['--seed', '-1'], /--seed takes a whole number/],
    [['--effort', 'huge'], /--effort/],
    [['--no-such'], /there is no pass/],
    [['--wat'], /unknown option/],
  ] as const)('%j is a usage error', async (args, words) => {
    const run = await tune(...args);
    expect([run.code, run.stdout]).toEqual([2, '']);
    expect(run.stderr).toMatch(words);
  });

  it('interrupted, keeps what it measured, says how to go on, and exits with 130', async () => {
    const run = await moec(['tune', file, '--tokens', '2', '--effort', 'full'], { cwd: HERE, interruptAfter: 5000 });
    expect(run.code).toBe(130);
    expect(run.stderr).toContain('interrupted; everything measured is kept');
    expect(run.stderr).toMatch(/go on with: moec tune \S+tiny\.moe --tokens 2 --effort full --resume/);
    expect(store()).toEqual([]);
  }, 60_000);

  it('ends with a table, an entry, and a package that verifies with it', async () => {
    const run = await tune('--tokens', '2', '--budget', '3s', '--resume');
    expect(run.stderr).not.toContain('error');
    expect(run.code).toBe(0);
    expect(run.stdout).toMatch(/^kernel +T +default ms +best ms +gain +noise +config\nexperts +2 /);
    const [entry] = store();
    if (entry === undefined) throw new Error('no entry');
    expect(parseEntry(readFileSync(join(HERE, '.moec/tune', entry), 'utf8'))).toMatchObject({ name: 'experts', tokens: 2, from: 1, effort: 'quick' });
    const again = await tune('--tokens', '2', '--resume', '--json');
    expect([again.code, jsonOf(again)]).toMatchObject([0, { units: [{ kernel: 'experts', tokens: 2 }], failures: [], failed: [] }]);
    for (const out of ['a', 'b']) {
      const built = await moec(['compile', file, '--tuned', '--out', join(HERE, out)], { cwd: HERE });
      expect(built.stderr).toMatch(/tuned: [01] kernels/);
      expect(built.code).toBe(0);
    }
    expect(readFileSync(join(HERE, 'a/manifest.json'), 'utf8')).toBe(readFileSync(join(HERE, 'b/manifest.json'), 'utf8'));
    expect((await moec(['verify', join(HERE, 'a')], { cwd: HERE })).code).toBe(0);
  }, 120_000);

  it('compile --tuned without anything for the spec is an error with a next step', async () => {
    const other = join(HERE, 'other.moe');
    writeFileSync(other, 'layer other {\n  hidden 48\n  ffn swiglu 32\n}\n');
    const run = await moec(['compile', other, '--tuned', '--out', join(HERE, 'c')], { cwd: HERE });
    expect(run.code).toBe(5);
    expect(run.stderr).toMatch(/nothing for this spec/);
    expect(run.stderr).toContain('moec tune FILE');
    const swallowed = await moec(['compile', '--tuned', other, '--out', join(HERE, 'c')], { cwd: HERE });
    expect(swallowed.code).not.toBe(0);
    expect(existsSync(join(HERE, 'c'))).toBe(false);
  });
});
