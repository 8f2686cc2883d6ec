/** What this machine offers of CUDA, asked without building anything. */
import { spawnSync } from 'node:child_process';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { NoCudaDeviceError, NoCudaDriverError, NoKoffiError } from '../runtime/core/errors.ts';

export interface CudaDevice {
  readonly name: string;
  /** `9.0` */
  readonly capability: string;
  readonly memoryBytes: number;
}

export interface CudaFacts {
  /** What is wrong with koffi, where it cannot be loaded: then nothing else is known. */
  readonly koffi?: string;
  /** NVIDIA's driver, and the newest CUDA that it runs; or what is wrong with it. */
  readonly driver?: { readonly ok: boolean; readonly text: string };
  readonly devices: readonly CudaDevice[];
}

/** Asked in a child process: a broken driver must not take this one down. */
export function describeCuda(): CudaFacts {
  const here = fileURLToPath(import.meta.url);
  const script = join(dirname(here), 'probe-cuda.js');
  const run = spawnSync(process.execPath, [script], { encoding: 'utf8', timeout: 60_000 });
  if (run.status !== 0) return { driver: { ok: false, text: run.stderr.trim().split('\n').pop() ?? 'the probe failed' }, devices: [] };
  const facts: CudaFacts = JSON.parse(run.stdout);
  return facts;
}

const EMULATE = 'to run without a GPU, add --emulate: a CPU plays the device, right, but slow';

/** Before minutes go into building for it. @throws NoKoffiError, NoCudaDriverError, NoCudaDeviceError */
export function requireCudaDevice(): void {
  const { koffi, driver, devices } = describeCuda();
  if (koffi !== undefined) throw new NoKoffiError(koffi, { fix: 'npm install koffi' });
  if (driver?.ok !== true) throw new NoCudaDriverError(`NVIDIA's driver is not usable: ${driver?.text ?? ''}`, { fix: `install the driver of the GPU; ${EMULATE}` });
  if (devices.length === 0) throw new NoCudaDeviceError("NVIDIA's driver finds no GPU", { fix: EMULATE });
}
