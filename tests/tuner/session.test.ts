/** Runs of the tuner on a device that is a formula: winners are right, faster than the default, and kept; everything else is told. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import type { FailureClass } from '../../src/tuner/outcome.ts';
import { FAILURES } from '../../src/tuner/outcome.ts';
import { TuneStopped } from '../../src/tuner/runner.ts';
import { TuneLog } from '../../src/tuner/store/log.ts';
import { DISK, type StoreFs, TuneStore } from '../../src/tuner/store/store.ts';
import { configOf, tuneAll, type TuneOptions, type TuneReport, type UnitReport } from '../../src/tuner/tune-all.ts';
import { EFFORTS, spaceOf, standardConfig, UnitFailed } from '../../src/tuner/tune-unit.ts';
import { configText, plainConfig } from '../../src/tuner/unit.ts';
import { CAPS, DEVICE, FakeRunner, fakeUnit, stopAt, valley } from './fakes.ts';

const ROOT = mkdtempSync(join(tmpdir(), 'moec-session-'));
afterAll(() => rmSync(ROOT, { recursive: true, force: true }));
let count = 0;
const fresh = (): string => join(ROOT, `s${count++}`);

interface Setup extends Partial<Omit<TuneOptions, 'log'>> {
  readonly directory?: string;
}

function tune({ directory = fresh(), ...o }: Setup = {}): Promise<TuneReport> {
  const resume = o.resume ?? false;
  let time = 0;
  return tuneAll({
    units: [fakeUnit()], runner: new FakeRunner(), device: DEVICE, caps: CAPS, effort: EFFORTS.quick, seed: 1, generator: 'moec x', routing: 'uniform:1,onehot:0.2',
    resume, now: () => time++, onProgress: () => undefined, onDone: () => undefined,
    store: new TuneStore(directory, (w) => expect.fail(w)), log: new TuneLog(directory, (w) => expect.fail(w), resume),
    ...o,
  });
}

const only = (r: TuneReport): UnitReport => {
  const [report] = r.reports;
  if (report === undefined) throw new Error('no report');
  return report;
};
const textOf = (r: UnitReport): string => (r.config === undefined ? '' : configText(r.config));

describe('a run', () => {
  it('finds something better, measures it again beside the default, and keeps it', async () => {
    const directory = fresh();
    const runner = new FakeRunner({ landscape: valley(5) });
    const report = only(await tune({ directory, runner }));
    expect(report.status).toBe('tuned');
    const { entry, config, unit } = report;
    if (entry === undefined || config === undefined || entry.config === null) throw new Error('no winner');
    expect(entry.ms).toBeLessThan(entry.standardMs);
    expect(new TuneStore(directory, (w) => expect.fail(w)).read(report.key)).toEqual(entry);
    expect(configOf(unit, entry.config, CAPS)).toEqual(config);
    const last = runner.attempts.filter((a) => a.key === configText(config));
    // Searched, measured again beside the default, and checked once more with other inputs.
    expect(last.map((a) => a.timed)).toEqual([true, true, false]);
    expect(last[1]?.beside).toBe('standard');
    expect(new Set(last.map((a) => a.seed))).toEqual(new Set([1, 2]));
  });

  it('measures each candidate beside the best one so far', async () => {
    const runner = new FakeRunner({ landscape: valley(5) });
    await tune({ runner });
    const besides = runner.attempts.map((a) => a.beside);
    expect(besides[0]).toBe('standard');
    expect(new Set(besides).size).toBeGreaterThan(1);
  });

  it.each([1, 2, 3, 4, 5])('never ends with something slower than the default (%d)', async (seed) => {
    for (const kind of ['rows', 'layer'] as const) {
      const { entry } = only(await tune({ units: [fakeUnit({ kind })], runner: new FakeRunner({ landscape: valley(seed, 0.2) }), seed }));
      if (entry === undefined) throw new Error('no entry');
      expect(entry.config === null ? entry.ms === entry.standardMs : entry.ms < entry.standardMs).toBe(true);
    }
  });

  it('keeps the default where the gain is within the noise', async () => {
    const runner = new FakeRunner({ landscape: () => 9.7, noise: 0.05 });
    const report = only(await tune({ runner }));
    expect(report).toMatchObject({ status: 'default', entry: { config: null } });
    expect(report.why).toMatch(/noise/);
  });

  it('does not choose what was fast by chance', async () => {
    const seen = new Set<string>();
    // The first time everything is twice as fast as the default, ever after slower.
    const landscape = (key: string): number => {
      const ms = seen.has(key) ? 11 : 5;
      seen.add(key);
      return ms;
    };
    expect(only(await tune({ runner: new FakeRunner({ landscape }) })).status).toBe('default');
  });

  it('does not choose what is slower with the fewest tokens that it would serve', async () => {
    const units = [fakeUnit({ tokens: 64, from: 9 })];
    const runner = new FakeRunner({ landscape: (key, at) => (at.tokens === 9 ? 11 : valley(5)(key, at)) });
    const report = only(await tune({ units, runner }));
    expect(report.status).toBe('default');
    expect(report.why).toMatch(/with 9 tokens/);
    expect(only(await tune({ units: [fakeUnit({ tokens: 64 })], runner: new FakeRunner({ landscape: valley(5) }) })).status).toBe('tuned');
  });

  it('does not choose what is wrong with other inputs', async () => {
    const wrong = new Set<string>();
    const runner = new FakeRunner({
      landscape: valley(5),
      fails: (key, at) => {
        if (!at.checkOnly || wrong.size > 0) return undefined;
        wrong.add(key);
        return 'incorrect';
      },
    });
    const report = only(await tune({ runner }));
    expect(report.status).toBe('tuned');
    expect(wrong.has(textOf(report))).toBe(false);
    expect(report.result?.failures.at(-1)?.failure).toBe('incorrect');
  });

  it.each(FAILURES.map((f) => [f] as const))('goes on after: %s', async (failure: FailureClass) => {
    let n = 0;
    const failed = new Set<string>();
    const runner = new FakeRunner({
      landscape: (key) => (failed.has(key) ? 0.001 : valley(5)(key, { tokens: 4, seed: 1 })),
      fails: (key) => {
        if (key === 'standard' || (!failed.has(key) && ++n % 3 !== 0)) return undefined;
        failed.add(key);
        return failure;
      },
    });
    const report = only(await tune({ runner }));
    expect(failed.size).toBeGreaterThan(3);
    expect(report.result?.failures.map((f) => f.failure)).toContain(failure);
    expect(failed.has(textOf(report))).toBe(false);
    expect(['tuned', 'default']).toContain(report.status);
  });

  it('leaves a unit out whose default fails, and goes on with the next', async () => {
    const runner = new FakeRunner({ landscape: valley(5), fails: (key, at) => (key === 'standard' && at.tokens === 7 ? 'incorrect' : undefined) });
    const { reports } = await tune({ units: [fakeUnit({ name: 'bad', tokens: 7 }), fakeUnit({ name: 'good' })], runner });
    expect(reports.map((r) => r.status)).toEqual(['failed', 'tuned']);
    expect(reports[0]?.why).toMatch(/bad at 7 tokens: the default kernels fail \(incorrect\)/);
    expect(new UnitFailed(fakeUnit(), { ok: false, failure: 'crash', message: 'x' }).message).toMatch(/crash/);
  });

  it('asks the rank that is plugged in', async () => {
    const order = (rank?: TuneOptions['rank']): Promise<readonly string[]> => {
      const runner = new FakeRunner({ landscape: () => 20 });
      return tune({ runner, ...(rank === undefined ? {} : { rank }) }).then(() => runner.attempts.map((a) => a.key));
    };
    const backwards = await order((c) => 1 / (1 + JSON.stringify(c.schedule).length));
    expect(await order()).not.toEqual(backwards);
  });
});

describe('budgets', () => {
  it('end the search, not the checks', async () => {
    const few = new FakeRunner({ landscape: valley(5) });
    const report = only(await tune({ runner: few, budgetMs: 5 }));
    const all = new FakeRunner({ landscape: valley(5) });
    await tune({ runner: all });
    expect(few.attempts.length).toBeLessThan(all.attempts.length);
    expect(report.entry).toBeDefined();
  });

  it('are shared out: later units have their part', async () => {
    const runner = new FakeRunner({ landscape: valley(5) });
    const { reports } = await tune({ units: [fakeUnit({ name: 'a' }), fakeUnit({ name: 'b' })], runner, budgetMs: 30 });
    expect(reports.every((r) => (r.result?.evaluations ?? 0) > 2)).toBe(true);
  });
});

describe('interrupted runs', () => {
  it('say where they were, and go on without measuring again', async () => {
    const directory = fresh();
    const units = [fakeUnit({ name: 'a', kind: 'layer' }), fakeUnit({ name: 'b' })];
    const whole = new FakeRunner({ landscape: valley(9) });
    const expected = (await tune({ units, runner: whole })).reports.map(textOf);
    for (const at of [3, 40, 41, 60]) {
      const report = await tune({ directory, units, runner: new FakeRunner({ landscape: valley(9), before: stopAt(at) }), resume: true });
      if (report.stopped === undefined) break;
      expect(report.stopped).toBeInstanceOf(TuneStopped);
    }
    const last = new FakeRunner({ landscape: valley(9) });
    const { reports } = await tune({ directory, units, runner: last, resume: true });
    expect(reports.map(textOf)).toEqual(expected);
    expect(last.attempts.length).toBeLessThan(whole.attempts.length);
  });

  it('once finished are known, and nothing is loaded', async () => {
    const directory = fresh();
    const first = await tune({ directory, runner: new FakeRunner({ landscape: valley(5) }) });
    const runner = new FakeRunner({ landscape: valley(5) });
    const second = await tune({ directory, runner, resume: true });
    expect(second.reports.map((r) => r.status)).toEqual(['known']);
    expect(second.reports.map(textOf)).toEqual(first.reports.map(textOf));
    expect([runner.loads, runner.attempts.length]).toEqual([0, 0]);
    // More effort asks again.
    const full = await tune({ directory, runner: new FakeRunner({ landscape: valley(5) }), resume: true, effort: EFFORTS.full });
    expect(only(full).status).not.toBe('known');
  });

  it('replay from the log alone to the same winner', async () => {
    const directory = fresh();
    const first = only(await tune({ directory, units: [fakeUnit({ kind: 'layer' })], runner: new FakeRunner({ landscape: valley(4) }) }));
    rmSync(join(directory, `${first.key}.json`));
    const runner = new FakeRunner({ landscape: () => expect.fail('measured again') });
    const again = only(await tune({ directory, units: [fakeUnit({ kind: 'layer' })], runner, resume: true }));
    expect(textOf(again)).toBe(textOf(first));
    expect(runner.loads).toBe(0);
    expect(again.result?.remembered).toBeGreaterThan(10);
  });

  it('do not take what another device measured', async () => {
    const directory = fresh();
    await tune({ directory, runner: new FakeRunner({ landscape: valley(5) }) });
    const runner = new FakeRunner({ landscape: valley(6) });
    const report = only(await tune({ directory, runner, resume: true, device: { ...DEVICE, adapter: 'another' } }));
    expect(report.status).not.toBe('known');
    expect(runner.attempts.length).toBeGreaterThan(5);
  });

  it('refuse entries whose schedules the space has not', async () => {
    const directory = fresh();
    const { key, entry } = only(await tune({ directory, runner: new FakeRunner({ landscape: valley(5) }) }));
    if (entry === undefined) throw new Error('no entry');
    for (const config of [{ schedules: [{ matvec: { block: 1e9, team: 1, cols: 1 } }] }, { schedules: [] }, { tileRows: 8, schedules: [{ matvec: { block: 64, team: 1, cols: 1 } }] }]) {
      new TuneStore(directory, () => undefined).write({ ...entry, key, config });
      const report = only(await tune({ directory, runner: new FakeRunner({ landscape: valley(5) }), resume: true }));
      expect(report.status).toBe('tuned');
    }
  });
});

describe('disks that take nothing', () => {
  it('do not end the run, and reports say that nothing was kept', async () => {
    const warnings: string[] = [];
    const full: StoreFs = { ...DISK, write: () => { throw new Error('ENOSPC'); } };
    const directory = fresh();
    const units = [fakeUnit({ name: 'a' }), fakeUnit({ name: 'b' })];
    const report = await tune({ directory, units, runner: new FakeRunner({ landscape: valley(5) }), store: new TuneStore(directory, (w) => warnings.push(w), full) });
    expect(report.reports.map((r) => [r.status, r.kept])).toEqual([['tuned', false], ['tuned', false]]);
    expect(warnings).toHaveLength(1);
    expect(only(await tune({ directory, runner: new FakeRunner({ landscape: valley(5) }) })).kept).toBe(true);
  });
});

describe('devices that go', () => {
  it('end the run with what was found', async () => {
    const units = [fakeUnit({ name: 'a' }), fakeUnit({ name: 'b' })];
    const runner = new FakeRunner({ landscape: valley(5), before: (n) => { if (n === 40) throw new TuneStopped('device', 'the device was lost 3 times in a row'); } });
    const report = await tune({ units, runner });
    expect(report.reports.map((r) => r.unit.name)).toEqual(['a']);
    expect(report.stopped?.why).toBe('device');
    expect(report.unfinished?.unit.name).toBe('b');
  });
});

describe('plans', () => {
  it('are chosen with their products: heights of tiles and schedules agree', async () => {
    const unit = fakeUnit({ kind: 'layer' });
    const { config } = only(await tune({ units: [unit], runner: new FakeRunner({ landscape: valley(2) }) }));
    if (config === undefined) throw new Error('no config');
    for (const c of config.choices) expect(c.params['bm']).toBe(config.tileRows);
    expect(configOf(unit, plainConfig(config), CAPS)).toEqual(config);
    expect(standardConfig(unit, spaceOf(unit, CAPS)).tileRows).toBe(16);
  });
});
