/** What a code of the library means to the caller. */
import {
  CudaArchitectureError, DeviceLostError, InternalError, type MoecError, NoCudaDeviceError, NoCudaDriverError, OutOfMemoryError, showBytes,
} from '../core/errors.ts';
import { CODE } from './library.ts';

/** Errors after which nothing runs in this process any more: faults of kernels, a watchdog, broken memory, a GPU that went away. */
const STICKY: ReadonlySet<number> = new Set([46, 214, 220, 226, 700, 702, 709, 710, 714, 715, 716, 717, 718, 719, 720, 721, 999]);

export const isSticky = (code: number): boolean => STICKY.has(code);

/** Why a device could not be opened. @param text what the library says */
export function openFailure(code: number, text: string, library: string): MoecError {
  const details = { code, library };
  switch (code) {
    case CODE.insufficientDriver:
      return new NoCudaDriverError(`there is no NVIDIA driver, or it is too old: ${text}`, {
        details,
        fix: 'install a driver for this GPU (nvidia-smi tells its version); without a GPU: node cuda/build.js --emulate, then load({ emulate: true })',
      });
    case CODE.noDevice:
    case CODE.invalidDevice:
      return new NoCudaDeviceError(`no CUDA device was found: ${text}`, { details, fix: 'see what nvidia-smi lists; CUDA_VISIBLE_DEVICES hides devices' });
    case CODE.badArgument:
      return new NoCudaDeviceError(text, { details, fix: 'see what nvidia-smi lists; devices count from 0' });
    case CODE.wrongArchitecture:
    case CODE.noKernelImage:
      return new CudaArchitectureError(text, { details, fix: 'compile the spec for this device: moec compile --target cuda --arch sm_80 runs on all from Ampere on, sm_90a on Hopper alone' });
    case CODE.outOfMemory:
      return new OutOfMemoryError(`the device has no memory left to open it: ${text}`, { details, fix: 'close other programs that use the GPU' });
    default:
      return new DeviceLostError(`the device cannot be opened: ${text}`, { details, fix: 'see whether nvidia-smi still answers; start the process again' });
  }
}

/** Why work on an open device failed. @param what was being done */
export function workFailure(code: number, text: string, what: string): MoecError {
  const details = { code };
  if (isSticky(code)) {
    return new DeviceLostError(`the device was lost in ${what}: ${text}`, {
      details,
      fix: 'start the process again: CUDA runs nothing more in this one; if it happens again, call with fewer tokens, or report it with the spec',
    });
  }
  if (code === CODE.outOfMemory) return new OutOfMemoryError(`the device ran out of memory in ${what}: ${text}`, { details, fix: 'call with fewer tokens' });
  return new InternalError(`the device refused ${what}: ${text}`, { details });
}

/** Why memory could not be allocated. Bytes. */
export function allocationFailure(needed: number, largest: number, inUse: number, free: number, text: string): OutOfMemoryError {
  return new OutOfMemoryError(
    `the device cannot allocate ${showBytes(needed)} (largest buffer ${showBytes(largest)}; ${showBytes(inUse)} are in use by this model, ${showBytes(free)} are free): ${text}`,
    {
      details: { needed, largest, inUse, free },
      fix: 'close other programs that use the GPU, call with fewer tokens, or store the weights as bf16 or f16',
    },
  );
}
