/** The library of a CUDA package. */
import { existsSync } from 'node:fs';
import { dirname, join, resolve } from 'node:path';
import type { ManifestCuda } from '../core/abi.ts';
import { NoCudaLibraryError } from '../core/errors.ts';
import type { CudaLibrary } from '../cuda/library.ts';
import { libraryPath, wantsEmulation, wantsSanitizer } from './cuda-flags.ts';
import { loadCudaLibrary } from './cuda-library.ts';
import { toPath } from './paths.ts';

/** How to build it: by the package's own script, which for the twin of the golden vectors lies one folder up. */
function buildCommand(root: string): string {
  const scripts = [root, dirname(root)].map((d) => join(d, 'cuda', 'build.js'));
  return `node ${scripts.find((s) => existsSync(s)) ?? 'cuda/build.js'}`;
}

function missing(root: string, path: string, emulate: boolean, other: boolean): NoCudaLibraryError {
  const build = buildCommand(root);
  if (emulate) {
    return new NoCudaLibraryError(`emulation was asked for, and the library for it has not been built: ${path}`, {
      details: { path, emulate },
      fix: `${build} --emulate (it needs g++)`,
    });
  }
  const instead = other ? 'load({ emulate: true }) runs the emulated library that is there' : `without a GPU: ${build} --emulate, then load({ emulate: true })`;
  return new NoCudaLibraryError(`the CUDA library of this package has not been built: ${path}`, {
    details: { path, emulate },
    fix: `${build} (it needs nvcc, of the CUDA toolkit); ${instead}`,
  });
}

/** AddressSanitizer must be in the process from its beginning: loaded later it ends the process. */
function checkSanitizer(path: string): void {
  if (process.env['LD_PRELOAD']?.includes('asan') === true) return;
  throw new NoCudaLibraryError('MOEC_EMULATE_ASAN=1 asks for a library with AddressSanitizer, which this process was started without', {
    details: { path },
    fix: 'start it as: LD_PRELOAD=$(g++ -print-file-name=libasan.so) ASAN_OPTIONS=detect_leaks=0 node ...',
  });
}

/**
 * @param directory the folder that holds the manifest, as a path or a `file:` URL
 * @param emulate undefined: as the environment says; an emulated library is never taken where it was not asked for
 * @throws NoCudaLibraryError, NoKoffiError, PackageError
 */
export async function openPackageLibrary(directory: string, cuda: ManifestCuda, emulate: boolean | undefined): Promise<CudaLibrary> {
  const root = resolve(toPath(directory));
  const { arch } = cuda;
  const wanted = wantsEmulation(emulate);
  const emulated = libraryPath(root, cuda, { arch, emulate: true, sanitize: wantsSanitizer() });
  const path = wanted ? emulated : libraryPath(root, cuda, { arch, emulate: false });
  if (!existsSync(path)) throw missing(root, path, wanted, existsSync(emulated));
  if (wanted && wantsSanitizer()) checkSanitizer(path);
  return loadCudaLibrary(path);
}
