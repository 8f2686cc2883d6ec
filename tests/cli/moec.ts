/** Runs the built command line as a user's shell would. `dist` is built first where a source is newer. */
import { spawn, spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readdirSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';

export const ROOT: string = join(import.meta.dirname, '../..');
export const GOLDEN: string = join(ROOT, 'tests/golden');
export const SPECS: string = join(ROOT, 'tests/golden-specs');
export const EXAMPLES: string = join(ROOT, 'examples');
const MAIN = join(ROOT, 'dist/cli/main.js');
const TSC = join(ROOT, 'node_modules/typescript/bin/tsc');

const modified = (path: string): number => statSync(path, { throwIfNoEntry: false })?.mtimeMs ?? 0;

const isBuilt = (): boolean => {
  const sources = readdirSync(join(ROOT, 'src'), { withFileTypes: true, recursive: true });
  const newest = Math.max(...sources.filter((e) => e.isFile()).map((e) => modified(join(e.parentPath, e.name))));
  return modified(MAIN) >= newest;
};

/** Builds `dist` unless it is newer than every source; test files running at the same time build it once. */
export async function build(): Promise<void> {
  if (isBuilt()) return;
  const lock = join(ROOT, 'node_modules/.moec-build-lock');
  for (;;) {
    try {
      mkdirSync(lock);
      break;
    } catch {
      if (Date.now() - modified(lock) > 110_000) rmSync(lock, { recursive: true, force: true });
      await sleep(200);
    }
  }
  try {
    if (isBuilt()) return;
    const { status, stdout } = spawnSync(process.execPath, [TSC, '-p', ROOT], { encoding: 'utf8' });
    if (status !== 0 && !isBuilt()) throw new Error(`the build fails:\n${stdout}`);
  } finally {
    rmSync(lock, { recursive: true, force: true });
  }
}

export interface Outcome {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
  readonly stdout: string;
  readonly stderr: string;
}

export interface RunOptions {
  readonly cwd?: string;
  /** What stdin holds (default: nothing); `open` never ends it. */
  readonly input?: Uint8Array | 'open';
  readonly env?: Readonly<Record<string, string>>;
  /** Sends a signal after so many milliseconds. */
  readonly interruptAfter?: number;
}

/** Runs `moec ARGS` to its end. */
export function moec(args: readonly string[], options: RunOptions = {}): Promise<Outcome> {
  const { NO_COLOR: _n, FORCE_COLOR: _f, ...env } = process.env;
  const child = spawn(process.execPath, [MAIN, ...args], { cwd: options.cwd ?? ROOT, env: { ...env, ...options.env } });
  const text = { stdout: '', stderr: '' };
  for (const stream of ['stdout', 'stderr'] as const) child[stream].setEncoding('utf8').on('data', (s: string) => void (text[stream] += s));
  // A command that fails before it reads stdin closes it.
  child.stdin.on('error', () => undefined);
  if (options.input !== 'open') child.stdin.end(options.input ?? '');
  const timer = options.interruptAfter === undefined ? undefined : setTimeout(() => child.kill('SIGINT'), options.interruptAfter);
  return new Promise((resolve, reject) => {
    child.on('error', reject);
    child.on('close', (code, signal) => {
      clearTimeout(timer);
      resolve({ code, signal, ...text });
    });
  });
}

/** A directory of its own under the system's temporary one. */
export const scratch = (): string => mkdtempSync(join(tmpdir(), 'moec-cli-'));

/** The one JSON document of stdout. */
export const jsonOf = (o: Outcome): Record<string, unknown> => {
  const value: unknown = JSON.parse(o.stdout);
  if (typeof value !== 'object' || value === null) throw new Error(`not an object: ${o.stdout}`);
  return { ...value };
};

/** The message of a failed command's JSON. */
export function errorOf(o: Outcome): { readonly exitCode: unknown; readonly message: string; readonly fix: string } {
  const { error } = jsonOf(o);
  if (typeof error !== 'object' || error === null || !('message' in error) || !('exitCode' in error)) throw new Error(`no error in ${o.stdout}`);
  return { exitCode: error.exitCode, message: String(error.message), fix: 'fix' in error ? String(error.fix) : '' };
}
