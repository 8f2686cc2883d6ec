/** `node cuda/build.js [--emulate] [--nvcc PATH]`: builds the libraries of the package that it lies in. */
import { existsSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { MoecError, PackageError, type Signal } from '../core/errors.ts';
import { readManifest } from '../core/manifest.ts';
import { type BuiltLibrary, buildCudaLibrary } from './cuda-build.ts';
import { toPath } from './paths.ts';

export interface PackageBuildOptions {
  /** For the emulator, by g++; default false. */
  readonly emulate?: boolean;
  readonly nvcc?: string | undefined;
  readonly signal?: Signal | undefined;
}

/**
 * The library of a package and, where it has one, that of its twin.
 * @param directory of the package
 * @throws CudaBuildError, PackageError, AbortError
 */
export async function buildPackageLibraries(directory: string, options: PackageBuildOptions = {}): Promise<readonly BuiltLibrary[]> {
  const libraries: BuiltLibrary[] = [];
  for (const folder of [directory, join(directory, 'golden')]) {
    const path = join(folder, 'manifest.json');
    if (folder !== directory && !existsSync(path)) continue;
    const { cuda } = readManifest(JSON.parse(await readFile(path, 'utf8')));
    if (cuda === undefined) throw new PackageError(`${directory} is no package for CUDA`, { fix: 'compile the spec with --target cuda' });
    libraries.push(await buildCudaLibrary({ ...options, directory: folder, cuda }));
  }
  return libraries;
}

const USAGE = 'usage: node cuda/build.js [--emulate] [--nvcc PATH]';

function optionsOf(args: readonly string[]): PackageBuildOptions | undefined {
  let options: PackageBuildOptions = {};
  const rest = [...args];
  for (let arg = rest.shift(); arg !== undefined; arg = rest.shift()) {
    const value = arg.startsWith('--nvcc=') ? arg.slice('--nvcc='.length) : arg === '--nvcc' ? rest.shift() : undefined;
    if (value !== undefined && value !== '') options = { ...options, nvcc: value };
    else if (arg === '--emulate') options = { ...options, emulate: true };
    else return undefined;
  }
  return options;
}

/**
 * @param root the package, as a `file:` URL
 * @returns an exit code: 0 built, 2 wrong arguments, 5 not built
 */
export async function main(root: string, args: readonly string[]): Promise<number> {
  const options = optionsOf(args);
  if (options === undefined) {
    console.error(USAGE);
    return 2;
  }
  try {
    for (const { path, built, milliseconds } of await buildPackageLibraries(toPath(root), options)) {
      console.log(`${path}: ${built ? `built in ${(milliseconds / 1000).toFixed(1)} s` : 'there already'}`);
    }
    return 0;
  } catch (error) {
    if (!(error instanceof MoecError)) throw error;
    console.error(`error[${error.code}]: ${error.message}`);
    if (error.fix !== '') console.error(`  fix: ${error.fix}`);
    return 5;
  }
}
