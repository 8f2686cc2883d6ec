/** `node cuda/build.js` of a package: builds its library, and that of its golden vectors' twin. */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import type { Manifest } from '../core/abi.ts';
import { MoecError, PackageError } from '../core/errors.ts';
import { readManifest } from '../core/manifest.ts';
import { buildCudaLibrary, reportPath } from './cuda-builder.ts';

const USAGE = `node cuda/build.js [--emulate] [--nvcc PATH] [--jobs N]

Builds the kernels of this package into cuda/lib/, with nvcc of the CUDA toolkit.

  --emulate     build with g++ for an emulator instead: right, but slow; then load({ emulate: true })
  --nvcc PATH   the compiler; default: NVCC, CUDA_HOME, PATH, /usr/local/cuda/bin
  --jobs N      compilers at a time; default: one a core

Example: node cuda/build.js --nvcc /usr/local/cuda-13.0/bin/nvcc
`;

const EXIT = { ok: 0, usage: 2, failed: 5 } as const;

interface Arguments {
  readonly emulate: boolean;
  readonly nvcc: string | undefined;
  readonly jobs: number | undefined;
  readonly help: boolean;
}

/** @throws TypeError where an option is unknown */
function readArguments(args: readonly string[]): Arguments {
  const { values } = parseArgs({
    args: [...args],
    options: { emulate: { type: 'boolean' }, nvcc: { type: 'string' }, jobs: { type: 'string' }, help: { type: 'boolean' } },
  });
  const jobs = values.jobs === undefined ? undefined : Number(values.jobs);
  if (jobs !== undefined && !(Number.isInteger(jobs) && jobs > 0)) throw new TypeError(`--jobs ${values.jobs} is not a whole number from 1`);
  return { emulate: values.emulate === true, nvcc: values.nvcc, jobs, help: values.help === true };
}

async function manifestIn(directory: string): Promise<Manifest | undefined> {
  const text = await readFile(join(directory, 'manifest.json'), 'utf8').catch(() => undefined);
  if (text === undefined) return undefined;
  try {
    return readManifest(JSON.parse(text));
  } catch (error) {
    if (error instanceof MoecError) throw error;
    throw new PackageError(`${directory}/manifest.json is not JSON`, { fix: 'compile the package again', cause: error });
  }
}

async function buildAll(root: string, options: Arguments, say: (line: string) => void): Promise<string[]> {
  const paths: string[] = [];
  for (const directory of [root, join(root, 'golden')]) {
    const cuda = (await manifestIn(directory))?.cuda;
    if (cuda === undefined) continue;
    const what = directory === root ? 'kernels' : 'kernels of the golden vectors';
    const { path, built, milliseconds } = await buildCudaLibrary({ directory, cuda, ...options, onProgress: (done, total) => say(`${what}: ${done} of ${total}`) });
    say(built ? `${what}: built in ${(milliseconds / 1000).toFixed(1)} s` : `${what}: built already`);
    if (built && !options.emulate) say(`registers and spills: ${reportPath(path)}`);
    paths.push(path);
  }
  if (paths.length === 0) throw new PackageError(`${root} is no package for CUDA: it has no manifest.json with a member cuda`, { fix: 'compile with --target cuda' });
  return paths;
}

/**
 * What `cuda/build.js` runs. Prints the paths of the libraries; says on stderr how it goes, and what is wrong; sets the exit code.
 * @param root the package's folder
 */
export async function buildPackage(root: URL, args: readonly string[]): Promise<void> {
  const say = (line: string): void => void process.stderr.write(`${line}\n`);
  let options: Arguments;
  try {
    options = readArguments(args);
  } catch (error) {
    say(error instanceof Error ? error.message : String(error));
    process.stderr.write(USAGE);
    process.exitCode = EXIT.usage;
    return;
  }
  if (options.help) {
    process.stdout.write(USAGE);
    return;
  }
  try {
    for (const path of await buildAll(fileURLToPath(root), options, say)) process.stdout.write(`${path}\n`);
  } catch (error) {
    if (!(error instanceof MoecError)) throw error;
    say(`error[${error.code}]: ${error.message}`);
    if (error.fix !== '') say(`  fix: ${error.fix}`);
    process.exitCode = EXIT.failed;
  }
}
