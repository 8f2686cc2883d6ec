/** Entries and the log: whole or absent, whatever writers, disks and strangers do. */
import { appendFileSync, existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { SPACE_VERSION } from '../../src/tuner/space/index.ts';
import { deviceOf, type Entry, keyOf, parseEntry, type Question } from '../../src/tuner/store/entry.ts';
import { TuneLog } from '../../src/tuner/store/log.ts';
import { DISK, type StoreFs, TuneStore } from '../../src/tuner/store/store.ts';
import { DEVICE } from './fakes.ts';

const ROOT = mkdtempSync(join(tmpdir(), 'moec-store-'));
afterAll(() => rmSync(ROOT, { recursive: true, force: true }));
let count = 0;
const fresh = (): string => join(ROOT, `s${count++}`);

const question: Question = { unit: 'u', tokens: 8, from: 2, routing: 'uniform:1', device: deviceOf(DEVICE), generator: 'moec x', space: SPACE_VERSION };
const entry = (q: Partial<Question> = {}): Entry => {
  const own = { ...question, ...q };
  return { version: 1, key: keyOf(own), name: 'fake', ...own, config: { schedules: [{ matvec: { block: 8, team: 1, cols: 1 } }] }, standardMs: 2, ms: 1, noise: 0.02, evaluations: 9, effort: 'quick' };
};

describe('keys', () => {
  it('differ with everything that decides about the answer', () => {
    const others: readonly Partial<Question>[] = [
      { unit: 'v' }, { tokens: 9 }, { from: 1 }, { routing: 'onehot:1' }, { generator: 'moec y' }, { space: SPACE_VERSION + 1 },
      ...(['adapter', 'backend', 'implementation'] as const).map((k) => ({ device: { ...question.device, [k]: 'another' } })),
      { device: { ...question.device, subgroupSize: 32 } }, { device: { ...question.device, software: false } }, { device: { ...question.device, features: [] } },
    ];
    const keys = [question, ...others.map((o) => ({ ...question, ...o }))].map(keyOf);
    expect(new Set(keys).size).toBe(keys.length);
    expect(keyOf({ ...question, device: { ...question.device } })).toBe(keyOf(question));
  });
});

describe('entries', () => {
  it('come back as they were written', () => {
    const store = new TuneStore(fresh(), () => expect.fail('no warning'));
    expect(store.read(entry().key)).toBeUndefined();
    for (const e of [entry(), entry({ unit: 'v' })]) expect(store.write(e)).toBe(true);
    expect(store.read(entry().key)).toEqual(entry());
    expect(store.list().map((e) => e.unit).sort()).toEqual(['u', 'v']);
    expect(readdirSync(store.directory).filter((f) => f.endsWith('.tmp'))).toEqual([]);
  });

  const good = JSON.stringify(entry());
  const changed = (change: Readonly<Record<string, unknown>>): string => JSON.stringify({ ...entry(), ...change });
  it.each([
    ['half a file', good.slice(0, good.length / 2)],
    ['nothing', ''],
    ['another kind of file', '<html>'],
    ['a list', '[1, 2]'],
    ['null', 'null'],
    ['another version', changed({ version: 2 })],
    ['a number for a text', changed({ unit: 7 })],
    ['a key of something else', changed({ tokens: 9 })],
    ['a range upside down', changed({ from: 99 })],
    ['no device', changed({ device: null })],
    ['a feature nobody asked for', changed({ device: { ...entry().device, features: ['x"; rm'] } })],
    ['times below zero', changed({ ms: -1 })],
    ['times without end', good.replace('"ms":1,', '"ms":1e999,')],
    ['schedules that are none', changed({ config: { schedules: 'all' } })],
    ['schedules with lists', changed({ config: { schedules: [{ block: [1] }] } })],
    ['schedules too many', changed({ config: { schedules: Array.from({ length: 1000 }, () => ({})) } })],
    ['a prototype', good.replace('"schedules":[{', '"schedules":[{"__proto__":{"polluted":[1]},')],
    ['depth without end', `${'{"config":'.repeat(5000)}1${'}'.repeat(5000)}`],
    ['another effort', changed({ effort: 'boundless' })],
  ])('%s is a miss with one warning', (_what, text) => {
    const directory = fresh();
    mkdirSync(directory);
    writeFileSync(join(directory, `${entry().key}.json`), text);
    const warnings: string[] = [];
    const store = new TuneStore(directory, (w) => warnings.push(w));
    expect(store.read(entry().key)).toBeUndefined();
    expect(store.list()).toEqual([]);
    expect(warnings.length).toBe(1);
    expect(warnings[0]).toContain(entry().key);
    expect(Object.hasOwn(Object.prototype, 'polluted')).toBe(false);
    // The next writer mends it.
    store.write(entry());
    expect(store.read(entry().key)).toEqual(entry());
  });

  it('under a name that is not theirs are passed over, and other files are left alone', () => {
    const directory = fresh();
    const warnings: string[] = [];
    const store = new TuneStore(directory, (w) => warnings.push(w));
    store.write(entry());
    writeFileSync(join(directory, `${'0'.repeat(32)}.json`), good);
    writeFileSync(join(directory, 'notes.json'), 'mine');
    writeFileSync(join(directory, `${entry().key}.json.1.tmp`), 'half');
    expect(store.list()).toEqual([entry()]);
    expect(warnings.length).toBe(1);
  });

  it('that are huge are not read', () => {
    const directory = fresh();
    const store = new TuneStore(directory, () => undefined);
    store.write(entry());
    appendFileSync(store.fileOf(entry().key), ' '.repeat(2 << 20));
    expect(store.read(entry().key)).toBeUndefined();
  });

  it('say what is wrong with them', () => {
    expect(parseEntry('{')).toBe('it is no JSON');
    expect(parseEntry(changed({ generator: 'moec y' }))).toMatch(/key/);
  });
});

describe('disks', () => {
  const failing = (code: string, at: keyof StoreFs): StoreFs => ({ ...DISK, [at]: () => { throw Object.assign(new Error(`${code}: no`), { code }); } });

  it.each([['ENOSPC', 'write'], ['EROFS', 'makeDirectory'], ['EACCES', 'rename']] as const)('%s is told once, and the run goes on', (code, at) => {
    const warnings: string[] = [];
    const store = new TuneStore(fresh(), (w) => warnings.push(w), failing(code, at));
    expect([store.write(entry()), store.write(entry({ unit: 'v' }))]).toEqual([false, false]);
    expect(warnings.length).toBe(1);
    expect(warnings[0]).toContain(code);
  });

  it('a log that cannot be written is told once', () => {
    const warnings: string[] = [];
    const log = new TuneLog(fresh(), (w) => warnings.push(w), false, failing('ENOSPC', 'append'));
    for (const stage of ['a', 'b']) log.add({ key: 'k', stage, config: 'c' }, { ok: false, failure: 'crash', message: 'x' });
    expect(warnings.length).toBe(1);
  });

  it('a file in the place of the directory is told', () => {
    const file = fresh();
    writeFileSync(file, 'mine');
    const warnings: string[] = [];
    expect(new TuneStore(file, (w) => warnings.push(w)).write(entry())).toBe(false);
    new TuneLog(file, (w) => warnings.push(w), true).add({ key: 'k', stage: 's', config: 'c' }, { ok: false, failure: 'crash', message: 'x' });
    expect(warnings.length).toBe(2);
    expect(readFileSync(file, 'utf8')).toBe('mine');
  });
});

describe('several writers', () => {
  it('of one key: the last whole entry wins', () => {
    const directory = fresh();
    const stores = Array.from({ length: 8 }, () => new TuneStore(directory, () => expect.fail('no warning')));
    for (let round = 0; round < 20; round++) {
      stores.forEach((s, i) => s.write({ ...entry(), evaluations: round * 8 + i }));
      for (const s of stores) expect(s.read(entry().key)?.evaluations).toBe(round * 8 + 7);
    }
  });

  it('of one log: no line is lost', () => {
    const directory = fresh();
    const logs = Array.from({ length: 4 }, () => new TuneLog(directory, () => expect.fail('no warning'), false));
    for (let i = 0; i < 50; i++) for (const [w, log] of logs.entries()) log.add({ key: `k${w}`, stage: `${i}`, config: 'c' }, { ok: false, failure: 'crash', message: 'x' });
    expect(new TuneLog(directory, () => undefined, true).known).toBe(200);
  });
});

describe('the log', () => {
  const ok = { ok: true, ms: 1, besideMs: 2, ratio: 0.5, noise: 0.01, batches: 5, rough: false } as const;

  it('knows what was measured, and only for the same question', () => {
    const directory = fresh();
    new TuneLog(directory, () => undefined, false).add({ key: 'k', stage: 's', config: 'c' }, ok);
    const log = new TuneLog(directory, () => undefined, true);
    expect(log.find({ key: 'k', stage: 's', config: 'c' })).toEqual(ok);
    for (const other of [{ key: 'l' }, { stage: 't' }, { config: 'd' }]) expect(log.find({ key: 'k', stage: 's', config: 'c', ...other })).toBeUndefined();
    expect(new TuneLog(directory, () => undefined, false).find({ key: 'k', stage: 's', config: 'c' })).toBeUndefined();
  });

  it('is whole up to the line that was being written, wherever its process ended', () => {
    const directory = fresh();
    const first = new TuneLog(directory, () => undefined, false);
    for (let i = 0; i < 3; i++) first.add({ key: 'k', stage: String(i), config: 'c' }, ok);
    const text = readFileSync(first.path, 'utf8');
    const lines = text.trimEnd().split('\n');
    const last = (lines[2] ?? '').length;
    for (const cut of [1, 2, Math.floor(last / 2), last]) {
      writeFileSync(first.path, text);
      truncateSync(first.path, text.length - cut);
      const log = new TuneLog(directory, () => undefined, true);
      expect(log.known).toBe(cut === 1 ? 3 : 2);
      log.add({ key: 'k', stage: 'new', config: 'c' }, ok);
      expect(new TuneLog(directory, () => undefined, true).known).toBe(cut === 1 ? 4 : 3);
    }
  });

  it('passes over lines of strangers', () => {
    const directory = fresh();
    const log = new TuneLog(directory, () => undefined, false);
    log.add({ key: 'k', stage: 's', config: 'c' }, ok);
    appendFileSync(log.path, `null\n7\n{"v":1,"id":"x","outcome":{"ok":true,"ms":"fast"}}\n{"v":9}\n${'['.repeat(1e5)}\n{"v":1,"id":"y","outcome":{"ok":false,"failure":"__proto__","message":""}}\n`);
    expect(new TuneLog(directory, () => undefined, true).known).toBe(1);
    expect(existsSync(log.path)).toBe(true);
  });
});
