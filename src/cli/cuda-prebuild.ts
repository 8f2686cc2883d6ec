/** Builds the libraries of a CUDA package that was just written, where a compiler is there. */
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { CudaBuildError } from '../runtime/core/errors.ts';
import { readManifest } from '../runtime/core/manifest.ts';
import { buildCudaLibrary } from '../runtime/node/cuda-builder.ts';
import { findNvcc } from '../runtime/node/cuda-compilers.ts';
import type { Io } from './io.ts';

export interface BuiltLibraries {
  readonly built: readonly { readonly path: string; readonly emulated: boolean; readonly milliseconds: number }[];
  readonly emulated: boolean;
  /** For people. */
  readonly lines: readonly string[];
}

function hasNvcc(): boolean {
  try {
    findNvcc(undefined);
    return true;
  } catch (error) {
    if (error instanceof CudaBuildError) return false;
    throw error;
  }
}

/**
 * The library of a package and, where it has one, that of its twin; nothing where there is no nvcc, which is said plainly.
 * @param emulate by g++ for the emulator, instead of nvcc for a device
 * @throws CudaBuildError where a compiler refuses the sources, or there is none for the emulator
 */
export async function prebuild(io: Io, directory: string, emulate: boolean): Promise<BuiltLibraries> {
  const how = `node ${join(directory, 'cuda', 'build.js')}`;
  if (!emulate && !hasNvcc()) {
    return { built: [], emulated: false, lines: [`not built: there is no nvcc here. On a machine with the CUDA toolkit: ${how}`, `without a GPU: ${how} --emulate`] };
  }
  io.say(`building with ${emulate ? 'the C++ compiler, for the emulator' : 'nvcc'}`);
  const built: BuiltLibraries['built'][number][] = [];
  for (const folder of [directory, join(directory, 'golden')]) {
    const path = join(folder, 'manifest.json');
    if (!existsSync(path)) continue;
    const { cuda } = readManifest(JSON.parse(readFileSync(path, 'utf8')));
    if (cuda === undefined) throw new Error(`${path} has no member cuda`);
    const library = await buildCudaLibrary({ directory: folder, cuda, emulate });
    built.push({ path: library.path, emulated: emulate, milliseconds: Math.round(library.milliseconds) });
  }
  return { built, emulated: emulate, lines: built.map((b) => `${b.path}: built in ${(b.milliseconds / 1000).toFixed(1)} s`) };
}
