/** Finds the compilers of CUDA sources, and runs them. */
import { spawn } from 'node:child_process';
import { accessSync, constants, statSync } from 'node:fs';
import { delimiter, join } from 'node:path';
import { AbortError, CudaBuildError, type Signal } from '../core/errors.ts';

/** Bytes of a compiler's output that an error shows, and those that are kept at all. */
const SHOWN = 4000;
const KEPT = 1 << 20;

function isProgram(path: string): boolean {
  try {
    accessSync(path, constants.X_OK);
    return statSync(path).isFile();
  } catch {
    return false;
  }
}

function onPath(name: string): string | undefined {
  const directories = (process.env['PATH'] ?? '').split(delimiter).filter((d) => d !== '');
  return directories.map((d) => join(d, name)).find(isProgram);
}

/** A program named by the user, as a path or by name. @param by who named it */
function named(name: string, by: string): string {
  const found = /[/\\]/.test(name) ? (isProgram(name) ? name : undefined) : onPath(name);
  if (found !== undefined) return found;
  throw new CudaBuildError(`${name}, which ${by} names, is no program that can be run`, { details: { name, by }, fix: 'correct the path' });
}

/** @param option path of nvcc, where the caller gave one. @throws CudaBuildError */
export function findNvcc(option: string | undefined): string {
  if (option !== undefined) return named(option, '--nvcc');
  const { NVCC, CUDA_HOME } = process.env;
  if (NVCC !== undefined && NVCC !== '') return named(NVCC, 'the environment variable NVCC');
  const usual = [...(CUDA_HOME === undefined || CUDA_HOME === '' ? [] : [join(CUDA_HOME, 'bin', 'nvcc')]), onPath('nvcc'), '/usr/local/cuda/bin/nvcc'];
  const found = usual.find((p) => p !== undefined && isProgram(p));
  if (found !== undefined) return found;
  throw new CudaBuildError('nvcc was not found: not by NVCC or CUDA_HOME, not on PATH, not in /usr/local/cuda/bin', {
    details: { searched: usual.filter((p) => p !== undefined) },
    fix: 'install the CUDA toolkit (12 or newer) or name its compiler with --nvcc PATH; to run without a GPU, build with --emulate, which needs g++ only',
  });
}

/** A C++ compiler for the emulated library. @throws CudaBuildError */
export function findCxx(): string {
  const { CXX } = process.env;
  if (CXX !== undefined && CXX !== '') return named(CXX, 'the environment variable CXX');
  const found = onPath('g++') ?? onPath('clang++');
  if (found !== undefined) return found;
  throw new CudaBuildError('no C++ compiler was found: neither g++ nor clang++ is on PATH', { fix: 'install g++ (on Debian: apt-get install g++), or name a compiler in CXX' });
}

const quoted = (word: string): string => (/^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`);
const tail = (text: string): string => (text.length <= SHOWN ? text : `${text.slice(0, SHOWN)}\n... (${text.length - SHOWN} more characters)`);

export interface Compilation {
  readonly program: string;
  readonly args: readonly string[];
  readonly cwd: string;
  /** What is compiled, for the message. */
  readonly what: string;
}

/** Runs a compiler; resolves to all that it said. @throws CudaBuildError, AbortError */
export function runCompiler({ program, args, cwd, what }: Compilation, signal: Signal | undefined): Promise<string> {
  const command = [program, ...args].map(quoted).join(' ');
  return new Promise((resolve, reject) => {
    if (signal?.aborted === true) return reject(new AbortError(undefined, { cause: signal.reason }));
    const child = spawn(program, args, { cwd, stdio: ['ignore', 'pipe', 'pipe'], env: { ...process.env, LC_ALL: 'C' } });
    const stop = (): void => void child.kill();
    signal?.addEventListener('abort', stop, { once: true });
    let output = '';
    const hear = (data: Buffer): void => {
      if (output.length < KEPT) output += data.toString();
    };
    child.stdout.on('data', hear);
    child.stderr.on('data', hear);
    child.on('error', (cause) => reject(new CudaBuildError(`${program} cannot be run: ${cause.message}`, { details: { command }, cause })));
    child.on('close', (code, killedBy) => {
      signal?.removeEventListener('abort', stop);
      if (code === 0) return resolve(output);
      if (signal?.aborted === true) return reject(new AbortError(undefined, { cause: signal.reason }));
      const how = code === null ? `was ended by ${String(killedBy)}` : `ended with code ${code}`;
      reject(
        new CudaBuildError(`${what} does not compile: the compiler ${how}\n$ ${command}\n${tail(output.trim())}`, {
          details: { command, output, directory: cwd },
          fix: 'where the compiler is at fault, use another (nvcc of CUDA 12 or newer, g++ 10 or newer); else please report this text with the spec',
        }),
      );
    });
  });
}
