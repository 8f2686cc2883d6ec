/** Runs that are killed at any moment, and two at once: what is measured is kept, and the winner is the one of a run in peace. */
import { spawn } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { random } from '../../src/tuner/random.ts';
import { TuneStopped } from '../../src/tuner/runner.ts';
import { parseEntry } from '../../src/tuner/store/entry.ts';
import { TuneLog } from '../../src/tuner/store/log.ts';
import { DISK, type StoreFs, TuneStore } from '../../src/tuner/store/store.ts';
import { tuneAll } from '../../src/tuner/tune-all.ts';
import { EFFORTS } from '../../src/tuner/tune-unit.ts';
import { configText } from '../../src/tuner/unit.ts';
import { build, ROOT } from '../cli/moec.ts';
import { CAPS, DEVICE, FakeRunner, fakeUnit, valley } from './fakes.ts';

const HERE = mkdtempSync(join(tmpdir(), 'moec-kills-'));
const PROGRAM = join(HERE, 'victim.mjs');
/** Of real processes; of runs that die inside of a write, as a process does. */
const KILLS = 8;
const DEATHS = 50;
afterAll(() => rmSync(HERE, { recursive: true, force: true }));

const dist = (path: string): string => JSON.stringify(pathToFileURL(join(ROOT, 'dist', path)).href);

beforeAll(async () => {
  await build();
  // A unit of two kernels over a plan and one of one kernel, timed by a formula; every attempt is noted.
  writeFileSync(PROGRAM, `
import { appendFileSync } from 'node:fs';
import { tuneAll } from ${dist('tuner/tune-all.js')};
import { EFFORTS } from ${dist('tuner/tune-unit.js')};
import { TuneStore } from ${dist('tuner/store/store.js')};
import { TuneLog } from ${dist('tuner/store/log.js')};
import { configText } from ${dist('tuner/unit.js')};
import { hashText } from ${dist('runtime/core/random.js')};
import { WEBGPU_BASELINE } from ${dist('target/types.js')};
const [directory, delay] = process.argv.slice(2);
const warn = (w) => { throw new Error(w); };
const problem = (p) => ({ family: 'grouped-linear', problem: { experts: 8, slots: 2, mode: 'direct', tileRows: 1, gather: true, epilogue: { kind: 'none' }, n: 64, k: 128, weightElem: 'f32', routeWeights: false, combine: false, scale: 1, residual: false, ...p } });
const job = { kernels: [], steps: [], scratch: [] };
const unit = (name, more) => ({ id: name, name, tokens: 4, from: 4, exact: false, work: 1e6, bytes: 1, scenarios: [{ name: '', weight: 1 }], standardJob: () => job, job: () => job, data: async () => ({}), ...more });
const units = [
  unit('layer', { plan: { experts: 8, slots: 2, standard: 16 }, asked: (tileRows) => [problem({ mode: 'sorted', tileRows }), problem({ mode: 'sorted', tileRows, n: 128, k: 64, gather: false })] }),
  unit('rows', { asked: () => [problem({})] }),
];
const ms = (key) => key === 'standard' ? 10 : 4 + 12 * (hashText(key, 1) / 2 ** 32);
const runner = {
  load: async () => ({ ms: 1 }),
  async attempt({ candidate, beside, rule }) {
    await new Promise((r) => setTimeout(r, Number(delay)));
    appendFileSync(directory + '.attempts', candidate.key + ' ' + (rule?.batches ?? 0) + '\\n');
    return { ok: true, ms: ms(candidate.key), besideMs: ms(beside.key), ratio: ms(candidate.key) / ms(beside.key), noise: 0.01, batches: 5, rough: false };
  },
};
const device = { backend: 'webgpu', name: 'fake', adapter: 'fake', implementation: 'fake', software: true, subgroupSize: 8, timestamps: true, features: [], limits: {} };
const report = await tuneAll({
  units, runner, device, caps: { ...WEBGPU_BASELINE, subgroups: true, subgroupSize: 8 }, effort: EFFORTS.quick, seed: 1, generator: 'x', routing: '', resume: true,
  store: new TuneStore(directory, warn), log: new TuneLog(directory, warn, true), now: () => 0, onProgress() {}, onDone() {},
});
process.stdout.write(JSON.stringify(report.reports.map((r) => configText(r.config))));
`);
});

interface Ended {
  readonly killed: boolean;
  readonly winners: string;
  readonly ms: number;
}

function victim(directory: string, killAfter?: number): Promise<Ended> {
  const began = performance.now();
  const child = spawn(process.execPath, [PROGRAM, directory, '1'], { stdio: ['ignore', 'pipe', 'pipe'] });
  let [winners, errors] = ['', ''];
  child.stdout.setEncoding('utf8').on('data', (s: string) => void (winners += s));
  child.stderr.setEncoding('utf8').on('data', (s: string) => void (errors += s));
  const timer = killAfter === undefined ? undefined : setTimeout(() => child.kill('SIGKILL'), killAfter);
  return new Promise((resolve, reject) => {
    child.on('close', (code, signal) => {
      clearTimeout(timer);
      if (signal !== 'SIGKILL' && code !== 0) reject(new Error(errors));
      else resolve({ killed: signal === 'SIGKILL', winners, ms: performance.now() - began });
    });
  });
}

function attemptsOf(directory: string): number {
  try {
    return readFileSync(`${directory}.attempts`, 'utf8').trim().split('\n').length;
  } catch {
    // Killed before its first one.
    return 0;
  }
}

const wantWholeEntries = (directory: string): void => {
  for (const file of readdirSync(directory).filter((f) => f.endsWith('.json'))) expect(typeof parseEntry(readFileSync(join(directory, file), 'utf8'))).toBe('object');
};

/** A file system whose process ends in the n-th change, half of it done: nothing that comes after happens. */
function dying(n: number, cut: number): { readonly fs: StoreFs; isDead(): boolean } {
  let left = n;
  let dead = false;
  const step = (whole: () => void, half: () => void): void => {
    if (dead) throw new Error('dead');
    if (left-- > 0) return whole();
    dead = true;
    half();
    throw new Error('dead');
  };
  const part = (text: string): string => text.slice(0, Math.floor(cut * text.length));
  return {
    isDead: () => dead,
    fs: {
      write: (path, text) => step(() => DISK.write(path, text), () => DISK.write(path, part(text))),
      append: (path, text) => step(() => DISK.append(path, text), () => DISK.append(path, part(text))),
      rename: (from, to) => step(() => DISK.rename(from, to), () => (cut > 0.5 ? DISK.rename(from, to) : undefined)),
      makeDirectory: DISK.makeDirectory,
    },
  };
}

describe('runs that die', () => {
  const units = [fakeUnit({ name: 'a', kind: 'layer' }), fakeUnit({ name: 'b' })];

  async function life(directory: string, death?: ReturnType<typeof dying>): Promise<{ readonly winners: readonly string[] | undefined; readonly attempts: number }> {
    const before = (): void => {
      if (death?.isDead() === true) throw new TuneStopped('interrupted', 'dead');
    };
    const runner = new FakeRunner({ landscape: valley(11), before });
    const fs = death?.fs ?? DISK;
    const quiet = (): void => undefined;
    const report = await tuneAll({
      units, runner, device: DEVICE, caps: CAPS, effort: EFFORTS.quick, seed: 1, generator: 'x', routing: '', resume: true, now: () => 0, onProgress: quiet, onDone: quiet,
      store: new TuneStore(directory, quiet, fs), log: new TuneLog(directory, quiet, true, fs),
    });
    const isWhole = report.stopped === undefined && death?.isDead() !== true;
    return { winners: isWhole ? report.reports.map((r) => (r.config === undefined ? '' : configText(r.config))) : undefined, attempts: runner.attempts.length };
  }

  it(`in the middle of ${DEATHS} writes end with the same winners, and measure again only what was not written`, async () => {
    const expected = await life(join(HERE, 'whole'));
    const r = random(3, 'deaths');
    let deaths = 0;
    for (let round = 0; deaths < DEATHS; round++) {
      const directory = join(HERE, `dying${round}`);
      let [attempts, own] = [0, 0];
      for (;;) {
        const { winners, attempts: n } = await life(directory, deaths < DEATHS ? dying(r.below(30), r.next()) : undefined);
        attempts += n;
        if (winners !== undefined) {
          expect(winners).toEqual(expected.winners);
          break;
        }
        deaths++;
        own++;
      }
      expect(attempts).toBeLessThanOrEqual(expected.attempts + own);
      wantWholeEntries(directory);
    }
    expect(deaths).toBe(DEATHS);
  });
});

describe('killed processes', () => {
  it(`${KILLS} times, resumed, end with the same winners and measure nothing twice but what they were at`, async () => {
    const peaceful = join(HERE, 'peace');
    const expected = await victim(peaceful);
    const whole = attemptsOf(peaceful);
    const r = random(7, 'kills');
    let kills = 0;
    for (let round = 0; kills < KILLS; round++) {
      const directory = join(HERE, `killed${round}`);
      let own = 0;
      // Starting up is a part of each life: most of them end while something is measured or written.
      for (;;) {
        const ended = await victim(directory, kills < KILLS ? expected.ms * (0.4 + 0.5 * r.next()) : undefined);
        if (!ended.killed) {
          expect(ended.winners).toBe(expected.winners);
          break;
        }
        kills++;
        own++;
      }
      expect(attemptsOf(directory)).toBeLessThanOrEqual(whole + own);
      wantWholeEntries(directory);
    }
    expect(kills).toBe(KILLS);
  }, 110_000);

  it('two at once on one store end with the same winners, and the store is whole', async () => {
    const directory = join(HERE, 'shared');
    const [a, b] = await Promise.all([victim(directory), victim(directory)]);
    expect(a.winners).toBe(b.winners);
    expect((await victim(directory)).winners).toBe(a.winners);
    wantWholeEntries(directory);
    const lines = readFileSync(join(directory, 'log.jsonl'), 'utf8').trim().split('\n');
    for (const line of lines) expect(() => void JSON.parse(line)).not.toThrow();
  });
});
