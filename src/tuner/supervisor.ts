/**
 * Runs jobs in a process of its own and outlives whatever they do: a candidate that hangs is killed with its process, one that
 * takes the process or the device along is told apart, and a new process goes on with the same unit.
 */
import { type ChildProcess, fork } from 'node:child_process';
import { performance } from 'node:perf_hooks';
import type { Job, UnitData } from './job.ts';
import type { Failed, Outcome } from './outcome.ts';
import { type Answer, type DeviceFacts, isFromChild, type Loaded, type Phase, type Request } from './protocol.ts';
import { type AttemptRequest, type Runner, TuneStopped } from './runner.ts';

export interface SupervisorOptions {
  /** Flags for the implementation, such as `adapter=NAME`. */
  readonly flags?: readonly string[];
  /** The program of the process; tests bring their own. */
  readonly program?: string | URL;
  readonly env?: Readonly<Record<string, string>>;
  /** A candidate may be silent for so long whatever the best one takes. */
  readonly leastMs?: number;
  /** After SIGTERM, before SIGKILL. */
  readonly graceMs?: number;
  readonly signal?: AbortSignal;
}

const LEAST_MS = 5000;
const GRACE_MS = 2000;
/** Beside what the same phase of a job that went well took. */
const TIMES_BEST = 20;
/** The same where a driver compiles: that is not what is measured, and what it took last time a cache may have cut short. */
const TIMES_COMPILING = 5;
/** Times the least, where a driver compiles. */
const COMPILING = 3;
/** Opening a device and filling its memory wait for the driver, not for a candidate. */
const SETUP_MS = 120_000;
const MOST_LOSSES = 3;

type Reply =
  | { readonly k: 'answer'; readonly body: Answer }
  | { readonly k: 'refused'; readonly error: RefusedError }
  | { readonly k: 'failed'; readonly failed: Failed };

/** The process could not serve a request, and no candidate is to blame. */
export class RefusedError extends Error {
  readonly code: string;
  readonly fix: string | undefined;
  constructor(name: string, message: string, code: string, fix: string | undefined) {
    super(message);
    // The class it had there: exit codes go by it.
    this.name = name;
    this.code = code;
    this.fix = fix;
  }
}

const seconds = (ms: number): string => `${(ms / 1000).toFixed(ms < 10_000 ? 1 : 0)} s`;

/** One process and its conversation. */
class Child {
  readonly #process: ChildProcess;
  readonly #exited: Promise<string>;
  #lost: string | undefined;
  #next = 1;
  gone = false;

  constructor(options: SupervisorOptions) {
    const program = options.program ?? new URL(import.meta.url.endsWith('.ts') ? './child/main.ts' : './child/main.js', import.meta.url);
    this.#process = fork(program, [], { serialization: 'advanced', stdio: ['ignore', 'ignore', 'ignore', 'ipc'], env: { ...process.env, ...options.env }, execArgv: [] });
    this.#exited = new Promise((resolve) => {
      const end = (how: string): void => {
        this.gone = true;
        resolve(how);
      };
      this.#process.once('exit', (code, signal) => end(signal === null ? `ended with code ${code ?? '?'}` : `was ended by ${signal}`));
      this.#process.once('error', (error) => end(error.message));
    });
  }

  /** @param limit milliseconds that the process may be silent in a phase; @param heard told the phases and how long each took */
  async ask(body: Request, limit: (phase: Phase) => number, heard: (phase: Phase, ms: number) => void, graceMs: number, signal: AbortSignal | undefined): Promise<Reply> {
    const id = this.#next++;
    let phase: Phase = body.k === 'open' ? 'open' : body.k === 'load' ? 'load' : 'compile';
    let since = performance.now();
    let timer: NodeJS.Timeout | undefined;
    let onMessage: (message: unknown) => void = () => undefined;
    let onAbort: () => void = () => undefined;
    const reply = new Promise<Reply>((resolve) => {
      const watch = (): void => {
        clearTimeout(timer);
        const allowed = limit(phase);
        timer = setTimeout(() => resolve({ k: 'failed', failed: { ok: false, failure: 'timeout', message: `silent for ${seconds(allowed)} (${phase})` } }), allowed);
      };
      onMessage = (message) => {
        if (!isFromChild(message)) return;
        if (message.k === 'lost') {
          this.#lost = message.message;
          return resolve({ k: 'failed', failed: { ok: false, failure: 'device-lost', message: message.message } });
        }
        if (message.id !== id) return;
        const now = performance.now();
        heard(phase, now - since);
        since = now;
        if (message.k === 'answer') return resolve({ k: 'answer', body: message.body });
        if (message.k === 'refused') return resolve({ k: 'refused', error: new RefusedError(message.name, message.message, message.code, message.fix) });
        phase = message.phase;
        watch();
      };
      onAbort = () => resolve({ k: 'failed', failed: { ok: false, failure: 'crash', message: 'interrupted' } });
      this.#process.on('message', onMessage);
      signal?.addEventListener('abort', onAbort, { once: true });
      void this.#exited.then((how) => resolve({ k: 'failed', failed: { ok: false, failure: this.#lost === undefined ? 'crash' : 'device-lost', message: this.#lost ?? `the process ${how} (${phase})` } }));
      watch();
      if (signal?.aborted === true) return onAbort();
      this.#process.send({ id, body }, (error) => {
        if (error !== null) resolve({ k: 'failed', failed: { ok: false, failure: 'crash', message: error.message } });
      });
    });
    const found = await reply;
    clearTimeout(timer);
    this.#process.off('message', onMessage);
    signal?.removeEventListener('abort', onAbort);
    if (found.k === 'failed') await this.end(graceMs);
    return found;
  }

  /** SIGTERM, then SIGKILL: a device that hangs holds on to its process. */
  async end(graceMs: number): Promise<void> {
    if (this.gone) return;
    this.#process.kill('SIGTERM');
    const timer = setTimeout(() => this.#process.kill('SIGKILL'), graceMs);
    await this.#exited;
    clearTimeout(timer);
  }

  /** Without waiting. */
  kill(): void {
    if (!this.gone) this.#process.kill('SIGKILL');
  }
}

export class Supervisor implements Runner {
  readonly #options: SupervisorOptions;
  /** Shortest time that each phase of an attempt took when all went well. */
  readonly #best = new Map<Phase, number>();
  #child: Child | undefined;
  #unit: { readonly data: UnitData; readonly standard: Job } | undefined;
  /** Whether the process at hand has the unit. */
  #loaded = false;
  #losses = 0;
  #ordinal = 0;

  constructor(options: SupervisorOptions = {}) {
    this.#options = options;
  }

  #limit(phase: Phase): number {
    const { leastMs = LEAST_MS } = this.#options;
    if (phase === 'open' || phase === 'load') return SETUP_MS;
    const best = this.#best.get(phase) ?? 0;
    return phase === 'compile' || phase === 'first' ? Math.max(COMPILING * leastMs, TIMES_COMPILING * best) : Math.max(leastMs, TIMES_BEST * best);
  }

  async #ask(body: Request): Promise<Reply> {
    const { graceMs = GRACE_MS, signal } = this.#options;
    const child = (this.#child ??= new Child(this.#options));
    // The longest of a phase's rounds: a driver may compile in the first one.
    const took = new Map<Phase, number>();
    // What the standard job takes is not known before it has run.
    const limit = (phase: Phase): number => (body.k === 'attempt' ? this.#limit(phase) : SETUP_MS);
    const reply = await child.ask(body, limit, (phase, ms) => void took.set(phase, Math.max(ms, took.get(phase) ?? 0)), graceMs, signal);
    if (reply.k === 'failed') {
      this.#child = undefined;
      this.#loaded = false;
    }
    if (signal?.aborted === true) throw new TuneStopped('interrupted', 'interrupted');
    const isGood = reply.k === 'answer' && ((reply.body.k === 'attempted' && reply.body.outcome.ok) || reply.body.k === 'loaded');
    if (isGood) for (const [phase, ms] of took) this.#best.set(phase, Math.min(this.#best.get(phase) ?? Infinity, ms));
    this.#count(reply);
    return reply;
  }

  #count(reply: Reply): void {
    if (reply.k === 'failed' && reply.failed.failure === 'device-lost') this.#losses++;
    else if (reply.k === 'answer' && reply.body.k === 'attempted') this.#losses = 0;
    if (this.#losses < MOST_LOSSES) return;
    throw new TuneStopped('device', `the device was lost ${MOST_LOSSES} times in a row, last: ${reply.k === 'failed' ? reply.failed.message : ''}`, 'update the driver, close other programs that use the GPU, and go on with --resume');
  }

  async open(): Promise<DeviceFacts> {
    const reply = await this.#ask({ k: 'open', flags: this.#options.flags ?? [] });
    if (reply.k === 'answer' && reply.body.k === 'opened') return reply.body.device;
    if (reply.k === 'refused') throw reply.error;
    throw new TuneStopped('device', `the device cannot be opened: ${reply.k === 'failed' ? reply.failed.message : 'an odd answer'}`, '`moec doctor` looks closer');
  }

  async load(data: UnitData, standard: Job): Promise<Loaded | Failed> {
    this.#unit = { data, standard };
    this.#loaded = false;
    this.#best.clear();
    return this.#reload();
  }

  /** The unit to the process at hand, which is started where there is none. */
  async #reload(): Promise<Loaded | Failed> {
    if (this.#unit === undefined) throw new Error('no unit was loaded');
    if (this.#child === undefined || this.#child.gone) {
      this.#child = undefined;
      await this.open();
    }
    const reply = await this.#ask({ k: 'load', ...this.#unit });
    if (reply.k === 'failed') return reply.failed;
    if (reply.k === 'refused') throw reply.error;
    if (reply.body.k !== 'loaded') throw new Error('an odd answer');
    this.#loaded = !('ok' in reply.body.loaded);
    return reply.body.loaded;
  }

  async attempt({ candidate, beside, rule }: AttemptRequest): Promise<Outcome> {
    if (!this.#loaded || this.#child?.gone === true) {
      const again = await this.#reload();
      if ('ok' in again) return again;
    }
    this.#ordinal++;
    const reply = await this.#ask({ k: 'attempt', ordinal: this.#ordinal, candidate, beside, ...(rule === undefined ? {} : { rule }) });
    if (reply.k === 'failed') return reply.failed;
    if (reply.k === 'refused') throw reply.error;
    if (reply.body.k !== 'attempted') throw new Error('an odd answer');
    return reply.body.outcome;
  }

  async close(): Promise<void> {
    await this.#child?.end(this.#options.graceMs ?? GRACE_MS);
    this.#child = undefined;
  }

  /** At once, when the process of the tuner itself ends. */
  kill(): void {
    this.#child?.kill();
  }
}
