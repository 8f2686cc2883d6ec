/** Builds the .cu files beside this one into programs, for the emulator and for devices, and runs them in processes of their own. */
import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, readdirSync, renameSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { sha256 } from '../../../src/base/hash.ts';

const HERE = import.meta.dirname;
export const CUDA_FOLDER: string = join(HERE, '..', '..', '..', 'src', 'codegen', 'cuda');
const CACHE = join(tmpdir(), 'moec-cuda-programs');

const answers = (program: string): boolean => spawnSync(program, ['--version']).status === 0;
export const hasGcc: boolean = answers('g++');
export const hasNvcc: boolean = answers('nvcc');
/** Of tests that build a program: seconds where the machine is idle. */
export const BUILDS = { timeout: 300_000 } as const;
/** What a skipped group says of itself. */
export const NEEDS_GCC = hasGcc ? '' : ' (skipped: no g++ on the PATH)';
export const NEEDS_NVCC = hasNvcc ? '' : ' (skipped: no nvcc on the PATH)';

const GCC = ['-x', 'c++', '-std=c++17', '-Wall', '-Wextra', '-Werror', '-Wno-psabi', '-Wno-unused-function', '-ffp-contract=off', '-fno-strict-aliasing'];

/** All texts that a program may be made of. */
function texts(): string {
  const read = (dir: string): string[] => readdirSync(dir).filter((f) => /\.(cu|cuh|h)$/.test(f)).sort().map((f) => readFileSync(join(dir, f), 'utf8'));
  return [...read(CUDA_FOLDER), ...read(HERE)].join('\n');
}

/**
 * The program of a source file for the emulator; built once for the same texts and flags.
 * @throws Error with the compiler's messages
 */
export function build(source: string, flags: readonly string[]): string {
  const all = [...GCC, ...flags];
  const path = join(CACHE, sha256([source, ...all, texts()].join('\n')).slice(0, 24));
  if (existsSync(path)) return path;
  mkdirSync(CACHE, { recursive: true });
  const own = `${path}.${process.pid}`;
  const made = spawnSync('g++', [...all, '-o', own, join(HERE, source)]);
  if (made.status !== 0) {
    rmSync(own, { force: true });
    throw new Error(`${source} does not compile:\n${made.stderr.toString().slice(0, 4000)}`);
  }
  renameSync(own, path);
  return path;
}

/** What nvcc says of a source file, which it compiles and throws away: '' where nothing is to be said. */
export function compileForDevices(source: string): string {
  const code = ['arch=compute_80,code=sm_80', 'arch=compute_90a,code=sm_90a'].flatMap((c) => ['-gencode', c]);
  mkdirSync(CACHE, { recursive: true });
  const object = join(CACHE, `${source}.${process.pid}.o`);
  const made = spawnSync('nvcc', ['-std=c++17', '-O3', '--fmad=false', ...code, '-c', '-o', object, join(HERE, source)]);
  rmSync(object, { force: true });
  return `${made.stdout.toString()}${made.stderr.toString()}${made.status === 0 ? '' : `status ${made.status}`}`;
}

export interface Ran {
  /** null where a signal ended it, as faults of the emulator do. */
  readonly status: number | null;
  readonly out: string;
  readonly err: string;
}

export function run(program: string, args: readonly string[], environment: Setting = {}): Ran {
  // Settings of the caller's shell do not count.
  const inherited = Object.fromEntries(Object.entries(process.env).filter(([name]) => !name.startsWith('MOEC_')));
  const done = spawnSync(program, args, { env: { ...inherited, ...environment }, timeout: 60_000 });
  return { status: done.status, out: done.stdout.toString(), err: done.stderr.toString() };
}

export type Setting = Readonly<Record<string, string>>;

/** Orders of threads, each with asynchronous work done at once and as late as may be. */
export const SETTINGS: readonly Setting[] = ['fwd', 'rev', 'rand'].flatMap((order) =>
  ['0', '1'].map((late) => ({ MOEC_EMULATE_ORDER: order, MOEC_EMULATE_LATE: late })),
);
