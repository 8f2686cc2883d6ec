/** How CUDA sources become a library: compiler flags, and the name of the file, which tells what it was built of and how. */
import { createHash } from 'node:crypto';
import { join } from 'node:path';
import type { ManifestCuda } from '../core/abi.ts';

export type CudaArch = ManifestCuda['arch'];

/** What a library is built for. */
export interface CudaFlavour {
  readonly arch: CudaArch;
  /** By g++ for the emulator, not by nvcc for a device. */
  readonly emulate: boolean;
  /** Emulation with AddressSanitizer; the process that loads the library needs LD_PRELOAD of libasan. */
  readonly sanitize?: boolean;
}

/** `sm_80` also carries PTX, which later drivers compile for later devices; `sm_90a` is for one generation alone. */
const GENERATED_CODE: Readonly<Record<CudaArch, readonly string[]>> = {
  sm_80: ['arch=compute_80,code=sm_80', 'arch=compute_90,code=sm_90', 'arch=compute_80,code=compute_80'],
  sm_90a: ['arch=compute_90a,code=sm_90a'],
};

const defines = (arch: CudaArch): string[] => (arch === 'sm_80' ? ['-DMOEC_ARCH=80'] : ['-DMOEC_ARCH=90', '-DMOEC_HOPPER']);

/** A language other than the file's ending says, no vector ABI remarks, and arithmetic as the kernels spell it. */
const EMULATOR_FLAGS = ['-x', 'c++', '-std=c++17', '-O1', '-ffp-contract=off', '-fno-strict-aliasing', '-fPIC', '-fvisibility=hidden', '-Wno-psabi'];
const SANITIZER_FLAGS = ['-fsanitize=address', '-fno-omit-frame-pointer', '-g'];

/**
 * `--fmad=false`: where a product and a sum are to be one operation, the kernels say so. `-prec-div=false`: quotients within 2 units
 * in the last place and without a branch, which would keep the independent ones of an epilogue from overlapping.
 */
const DEVICE_FLAGS = ['-std=c++17', '-O3', '--fmad=false', '-prec-div=false', '-Xptxas', '-v', '-Xcompiler', '-fPIC,-fvisibility=hidden'];

/** Of one translation unit, without its names. */
export function compileFlags({ arch, emulate, sanitize }: CudaFlavour): readonly string[] {
  if (emulate) return [...EMULATOR_FLAGS, ...(sanitize === true ? SANITIZER_FLAGS : []), ...defines(arch)];
  return [...DEVICE_FLAGS, ...GENERATED_CODE[arch].flatMap((g) => ['-gencode', g]), ...defines(arch)];
}

/** Of the library, without its names. The CUDA runtime goes into it, so that the user needs a driver only. */
export function linkFlags({ arch, emulate, sanitize }: CudaFlavour): readonly string[] {
  if (emulate) return ['-shared', ...(sanitize === true ? SANITIZER_FLAGS : [])];
  return ['-shared', '-cudart', 'static', ...GENERATED_CODE[arch].flatMap((g) => ['-gencode', g])];
}

/** Where the library of these sources lies. @param directory the folder that holds the manifest */
export function libraryPath(directory: string, cuda: ManifestCuda, flavour: CudaFlavour): string {
  const what = [cuda.sources, ...compileFlags(flavour), ...linkFlags(flavour)].join('\n');
  const hash = createHash('sha256').update(what).digest('hex').slice(0, 12);
  return join(directory, cuda.directory, 'lib', `moec-${hash}-${flavour.emulate ? 'emulated' : flavour.arch}.so`);
}

/** Whether emulation was asked for: by the caller, or by the environment. */
export const wantsEmulation = (option: boolean | undefined): boolean => option ?? process.env['MOEC_CUDA_EMULATE'] === '1';

export const wantsSanitizer = (): boolean => process.env['MOEC_EMULATE_ASAN'] === '1';
