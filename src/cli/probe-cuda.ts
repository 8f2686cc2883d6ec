/**
 * Run as a process of its own: prints what NVIDIA's driver tells of this machine, as JSON. Asks the driver itself, through koffi:
 * nothing has to be built for it, and a broken driver takes this process only.
 */
import { nodeKoffi } from '../runtime/node/cuda-library.ts';
import type { CudaDevice, CudaFacts } from './cuda-facts.ts';

const COMPUTE_CAPABILITY_MAJOR = 75;
const COMPUTE_CAPABILITY_MINOR = 76;
const NAME_BYTES = 256;

const messageOf = (error: unknown): string => (error instanceof Error ? (error.message.split('\n')[0] ?? '') : String(error));

async function facts(): Promise<CudaFacts> {
  let koffi: Awaited<ReturnType<typeof nodeKoffi>>;
  try {
    koffi = await nodeKoffi();
  } catch (error) {
    return { koffi: messageOf(error), devices: [] };
  }
  let cuda: ReturnType<typeof koffi.load>;
  try {
    cuda = koffi.load('libcuda.so.1');
  } catch (error) {
    return { driver: { ok: false, text: `no libcuda.so.1 (${messageOf(error)})` }, devices: [] };
  }
  const call = (definition: string, ...args: unknown[]): number => {
    const code = cuda.func(definition)(...args);
    return typeof code === 'number' ? code : -1;
  };
  const version = new Int32Array(1);
  call('int cuDriverGetVersion(void *version)', version);
  const text = `CUDA ${Math.floor((version[0] ?? 0) / 1000)}.${Math.floor(((version[0] ?? 0) % 1000) / 10)}`;
  const init = call('int cuInit(unsigned int flags)', 0);
  if (init !== 0) return { driver: { ok: false, text: `${text}; cuInit says ${init}` }, devices: [] };
  const count = new Int32Array(1);
  call('int cuDeviceGetCount(void *count)', count);
  const devices = Array.from({ length: count[0] ?? 0 }, (_, i): CudaDevice => {
    const device = new Int32Array(1);
    call('int cuDeviceGet(void *device, int ordinal)', device, i);
    const name = new Uint8Array(NAME_BYTES);
    call('int cuDeviceGetName(void *name, int size, int device)', name, NAME_BYTES, device[0]);
    const attribute = (which: number): number => {
      const value = new Int32Array(1);
      call('int cuDeviceGetAttribute(void *value, int attribute, int device)', value, which, device[0]);
      return value[0] ?? 0;
    };
    const bytes = new BigUint64Array(1);
    call('int cuDeviceTotalMem_v2(void *bytes, int device)', bytes, device[0]);
    return {
      name: new TextDecoder().decode(name.subarray(0, Math.max(0, name.indexOf(0)))),
      capability: `${attribute(COMPUTE_CAPABILITY_MAJOR)}.${attribute(COMPUTE_CAPABILITY_MINOR)}`,
      memoryBytes: Number(bytes[0] ?? 0n),
    };
  });
  return { driver: { ok: true, text }, devices };
}

process.stdout.write(`${JSON.stringify(await facts())}\n`);
