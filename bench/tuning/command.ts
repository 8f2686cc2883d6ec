/** `moec tune` as a real process on a small spec, and what it leaves in its store. */
import { type ChildProcess, spawn } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { isObject } from '../../src/base/is-object.ts';
import { type Entry, parseEntry } from '../../src/tuner/store/entry.ts';

export interface Tuning {
  /** The built command line. */
  readonly moec: string;
  readonly spec: string;
  readonly tokens: string;
  readonly store: string;
  readonly resume?: boolean;
  readonly env?: Readonly<Record<string, string>>;
  /** What runs the command, such as a shell that prepares a disk; it runs the words behind its own. */
  readonly through?: readonly string[];
}

export interface Ended {
  readonly code: number | null;
  readonly killed: boolean;
  readonly stdout: string;
  readonly stderr: string;
  readonly ms: number;
}

function killGroup({ pid }: ChildProcess): void {
  try {
    if (pid !== undefined) process.kill(-pid, 'SIGKILL');
  } catch {
    // It ended by itself in the meantime.
  }
}

/** Runs it to its end, or kills it with all of its processes after some milliseconds. */
export function tune({ moec, spec, tokens, store, resume = false, env = {}, through = [] }: Tuning, killAfter?: number): Promise<Ended> {
  const words = [...through, process.execPath, moec, 'tune', spec, '--tokens', tokens, '--store', store, '--json', ...(resume ? ['--resume'] : [])];
  const [program = '', ...args] = words;
  const began = performance.now();
  // A process group of its own.
  const child = spawn(program, args, { detached: true, stdio: ['ignore', 'pipe', 'pipe'], env: { ...process.env, ...env } });
  const onExit = (): void => killGroup(child);
  process.once('exit', onExit);
  let [stdout, stderr] = ['', ''];
  child.stdout.setEncoding('utf8').on('data', (s: string) => void (stdout += s));
  child.stderr.setEncoding('utf8').on('data', (s: string) => void (stderr += s));
  const timer = killAfter === undefined ? undefined : setTimeout(() => killGroup(child), killAfter);
  return new Promise((resolve, reject) => {
    child.once('error', reject);
    child.once('close', (code, signal) => {
      clearTimeout(timer);
      process.off('exit', onExit);
      resolve({ code, killed: signal === 'SIGKILL', stdout, stderr, ms: performance.now() - began });
    });
  });
}

export interface StoreState {
  readonly entries: readonly Entry[];
  /** Files that a reader would take for entries and that are none. */
  readonly corrupt: readonly string[];
  /** Temporary files that a process did not live to rename. */
  readonly left: number;
  /** Whole lines of the log, and others. */
  readonly lines: number;
  readonly torn: number;
}

function isLine(text: string): boolean {
  try {
    const x: unknown = JSON.parse(text);
    return isObject(x) && typeof x['id'] === 'string' && isObject(x['outcome']);
  } catch {
    return false;
  }
}

export function stateOf(store: string): StoreState {
  let files: readonly string[] = [];
  try {
    files = readdirSync(store);
  } catch {
    // Killed before it was made.
  }
  const parsed = files.filter((f) => f.endsWith('.json')).map((file) => ({ file, entry: parseEntry(readFileSync(join(store, file), 'utf8')) }));
  const log = files.includes('log.jsonl') ? readFileSync(join(store, 'log.jsonl'), 'utf8').split('\n').filter((l) => l !== '') : [];
  const whole = log.filter(isLine).length;
  return {
    entries: parsed.flatMap(({ file, entry }) => (typeof entry !== 'string' && `${entry.key}.json` === file ? [entry] : [])),
    corrupt: parsed.filter(({ file, entry }) => typeof entry === 'string' || `${entry.key}.json` !== file).map((p) => p.file),
    left: files.filter((f) => f.endsWith('.tmp')).length,
    lines: whole,
    torn: log.length - whole,
  };
}

/** Winners by key, as text that is equal for equal ones. */
export const winnersOf = ({ entries }: StoreState): string => JSON.stringify(entries.map((e) => [e.key, e.config]).sort(([a], [b]) => (String(a) < String(b) ? -1 : 1)));
