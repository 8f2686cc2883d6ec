/** The supervisor against processes that hang, die, lose their device and refuse to go. */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import type { UnitData } from '../../src/tuner/job.ts';
import { TuneStopped } from '../../src/tuner/runner.ts';
import { Supervisor, type SupervisorOptions } from '../../src/tuner/supervisor.ts';

const ROOT = mkdtempSync(join(tmpdir(), 'moec-supervisor-'));
afterAll(() => rmSync(ROOT, { recursive: true, force: true }));

/** A process that does what the key of a candidate says, and notes what it is asked for. */
const PROGRAM = join(ROOT, 'child.mjs');
writeFileSync(PROGRAM, `
import { appendFileSync } from 'node:fs';
const note = (text) => appendFileSync(process.env.NOTES, text + '\\n');
process.on('SIGINT', () => {});
process.on('disconnect', () => process.exit());
if (process.env.STUBBORN) process.on('SIGTERM', () => note('SIGTERM'));
note('start');
process.on('message', ({ id, body }) => {
  const answer = (b) => process.send({ k: 'answer', id, body: b });
  note(body.k + (body.candidate ? ' ' + body.candidate.key : ''));
  if (body.k === 'open') {
    if (process.env.NO_DEVICE) return process.send({ k: 'refused', id, name: 'NoAdapterError', code: 'MOE5002', message: 'no adapter', fix: 'get one' });
    if (process.env.DIES) return process.exit(9);
    return answer({ k: 'opened', device: { name: 'x' } });
  }
  if (body.k === 'load') return answer({ k: 'loaded', loaded: { ms: 1 } });
  const outcome = { ok: true, ms: 1, besideMs: 1, ratio: 1, noise: 0.01, batches: 1, rough: false };
  process.send({ k: 'phase', id, phase: 'check' });
  switch (body.candidate.key) {
    case 'hang': return;
    case 'busy': for (;;) {}
    case 'exit': return process.exit(3);
    case 'abort': return process.abort();
    case 'lose': return process.send({ k: 'lost', message: 'gone' }, () => process.kill(process.pid, 'SIGKILL'));
    case 'slow': {
      let n = 0;
      const timer = setInterval(() => { if (++n < 6) return process.send({ k: 'phase', id, phase: 'time' }); clearInterval(timer); answer({ k: 'attempted', outcome }); }, 100);
      return;
    }
    case 'wrong': return answer({ k: 'attempted', outcome: { ok: false, failure: 'incorrect', message: 'off' } });
    case 'odd': process.send('hello'); process.send({ k: 'phase', id: 999, phase: 'x' }); return answer({ k: 'attempted', outcome });
    default: return answer({ k: 'attempted', outcome });
  }
});
`);

let count = 0;
interface Bench {
  readonly supervisor: Supervisor;
  attempt(key: string): ReturnType<Supervisor['attempt']>;
  notes(): readonly string[];
}

async function bench(env: Readonly<Record<string, string>> = {}, options: SupervisorOptions = {}): Promise<Bench> {
  const file = join(ROOT, `notes${count++}`);
  writeFileSync(file, '');
  const supervisor = new Supervisor({ program: PROGRAM, env: { NOTES: file, ...env }, leastMs: 300, graceMs: 200, ...options });
  const data: UnitData = { seed: 1, experts: 0, params: [], inputs: [], outputs: [], scenarios: [], gate: { nmse: 0, rowNmse: 0 } };
  const job = { kernels: [], steps: [], scratch: [] };
  if (env['NO_DEVICE'] === undefined && env['DIES'] === undefined) {
    await supervisor.open();
    await supervisor.load(data, job);
  }
  return {
    supervisor,
    attempt: (key) => supervisor.attempt({ candidate: { key, job }, beside: { key: 'standard', job } }),
    notes: () => readFileSync(file, 'utf8').trim().split('\n'),
  };
}

describe('candidates that go wrong', () => {
  it.each([
    ['hang', 'timeout', /silent for 0\.3 s \(check\)/],
    ['busy', 'timeout', /silent/],
    ['exit', 'crash', /ended with code 3 \(check\)/],
    ['abort', 'crash', /SIGABRT/],
    ['lose', 'device-lost', /gone/],
    ['wrong', 'incorrect', /off/],
  ] as const)('%s: %s, and the next one runs on the same unit', async (key, failure, message) => {
    const { supervisor, attempt, notes } = await bench();
    const outcome = await attempt(key);
    expect(outcome).toMatchObject({ ok: false, failure });
    expect(outcome.ok ? '' : outcome.message).toMatch(message);
    expect(await attempt('good')).toMatchObject({ ok: true });
    const again = key === 'wrong' ? [] : ['start', 'open', 'load'];
    expect(notes()).toEqual(['start', 'open', 'load', `attempt ${key}`, ...again, 'attempt good']);
    await supervisor.close();
  });

  it('one that will not go is killed', async () => {
    const { supervisor, attempt, notes } = await bench({ STUBBORN: '1' });
    expect(await attempt('hang')).toMatchObject({ failure: 'timeout' });
    expect(notes()).toContain('SIGTERM');
    expect(await attempt('good')).toMatchObject({ ok: true });
    await supervisor.close();
  });

  it('one that takes long but lives is waited for', async () => {
    const { supervisor, attempt } = await bench();
    expect(await attempt('slow')).toMatchObject({ ok: true });
    await supervisor.close();
  });

  it('messages of others are passed over', async () => {
    const { supervisor, attempt } = await bench();
    expect(await attempt('odd')).toMatchObject({ ok: true });
    await supervisor.close();
  });
});

describe('devices that go', () => {
  it('three times in a row end the run, with an explanation', async () => {
    const { supervisor, attempt } = await bench();
    for (let i = 0; i < 2; i++) expect(await attempt('lose')).toMatchObject({ failure: 'device-lost' });
    const error = await attempt('lose').catch((e: unknown) => e);
    expect(error).toBeInstanceOf(TuneStopped);
    expect(error).toMatchObject({ why: 'device', message: 'the device was lost 3 times in a row, last: gone' });
    await supervisor.close();
  });

  it('now and then do not', async () => {
    const { supervisor, attempt } = await bench();
    for (let i = 0; i < 4; i++) {
      expect(await attempt('lose')).toMatchObject({ failure: 'device-lost' });
      expect(await attempt('good')).toMatchObject({ ok: true });
    }
    await supervisor.close();
  });

  it('that are not there are told as they tell it themselves', async () => {
    const { supervisor } = await bench({ NO_DEVICE: '1' });
    await expect(supervisor.open()).rejects.toMatchObject({ name: 'NoAdapterError', code: 'MOE5002', message: 'no adapter', fix: 'get one' });
    await supervisor.close();
  });

  it('whose process dies as it opens them end the run', async () => {
    const { supervisor } = await bench({ DIES: '1' });
    await expect(supervisor.open()).rejects.toMatchObject({ name: 'TuneStopped', why: 'device' });
    await supervisor.close();
  });
});

describe('interruptions', () => {
  it('end what runs at once, and whatever comes after', async () => {
    const stop = new AbortController();
    const { supervisor, attempt } = await bench({}, { signal: stop.signal, leastMs: 20_000 });
    const began = performance.now();
    setTimeout(() => stop.abort(), 50);
    await expect(attempt('hang')).rejects.toMatchObject({ why: 'interrupted' });
    await expect(attempt('good')).rejects.toMatchObject({ why: 'interrupted' });
    expect(performance.now() - began).toBeLessThan(5000);
    await supervisor.close();
  });
});
