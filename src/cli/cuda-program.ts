/** CUDA programs on this machine: compiled, built in the user's cache, and found there the next time. */
import { homedir } from 'node:os';
import { join } from 'node:path';
import type { Compiled } from '../driver/compile.ts';
import { cudaSources } from '../driver/package.ts';
import type { Manifest } from '../runtime/core/abi.ts';
import { buildInCache } from '../runtime/node/cuda-builder.ts';
import { wantsEmulation } from '../runtime/node/cuda-flags.ts';
import { requireCudaDevice } from './cuda-facts.ts';
import type { Io } from './io.ts';
import { cudaFiles } from './runtime-files.ts';

/** `$XDG_CACHE_HOME/moec/cuda` */
export const cudaCache = (): string => join(process.env['XDG_CACHE_HOME'] ?? join(homedir(), '.cache'), 'moec', 'cuda');

export interface EmulateOption {
  /** `--emulate`; where it is not given, MOEC_CUDA_EMULATE decides. */
  readonly emulate?: boolean;
}

export interface CachedProgram {
  readonly manifest: Manifest;
  /** Holds the sources and the library. */
  readonly directory: string;
  readonly emulate: boolean;
}

/** @throws NoCudaDriverError and its like before anything is built for a device that is not there; CudaBuildError */
export async function buildProgram(io: Io, compiled: Compiled, options: EmulateOption): Promise<CachedProgram> {
  const emulate = wantsEmulation(options.emulate);
  if (!emulate) requireCudaDevice();
  const { manifest, kernels } = cudaSources(compiled, { cuda: cudaFiles() });
  if (manifest.cuda === undefined) throw new Error('a program for CUDA without its sources');
  const { directory, built, milliseconds } = await buildInCache(kernels, cudaCache(), { cuda: manifest.cuda, emulate });
  if (built) io.say(`${emulate ? 'emulated library' : 'library'} built in ${(milliseconds / 1000).toFixed(1)} s; kept in ${directory}`);
  return { manifest, directory, emulate };
}
