/** A built CUDA library, called through koffi. */
import { existsSync } from 'node:fs';
import { NoCudaLibraryError, NoKoffiError, PackageError } from '../core/errors.ts';
import { type Address, CODE, CUDA_ABI, type CudaInfo, type CudaLibrary } from '../cuda/library.ts';
import { importOptional } from './import-optional.ts';

/** koffi must be one for the whole process: it takes its settings before it loads the first library. */
const KEY = Symbol.for('moec.koffi');
/** Bytes of stack for calls into the library; koffi's own for asynchronous calls are too small for a CUDA driver. */
const STACK_BYTES = 8 << 20;
const LEAST_STACK_BYTES = 1 << 20;
const ERROR_BYTES = 512;
const NAME_BYTES = 256;

interface NativeFunction {
  (...args: unknown[]): unknown;
  readonly async: (...args: unknown[]) => void;
}

interface Koffi {
  load(path: string): { func(definition: string): NativeFunction };
  config(): unknown;
  config(settings: { readonly async_stack_size: number; readonly sync_stack_size: number }): unknown;
}

const isKoffi = (value: unknown): value is Koffi =>
  typeof value === 'object' && value !== null && 'load' in value && typeof value.load === 'function' && 'config' in value && typeof value.config === 'function';

/** The default export, where there is one. */
const entryOf = (module: unknown): unknown => (typeof module === 'object' && module !== null && 'default' in module ? module.default : module);

function setStacks(koffi: Koffi): void {
  try {
    koffi.config({ async_stack_size: STACK_BYTES, sync_stack_size: STACK_BYTES });
  } catch (error) {
    // Too late: another part of the program has loaded a library. What it set may do.
    const current: unknown = koffi.config();
    const size: unknown = typeof current === 'object' && current !== null && 'async_stack_size' in current ? current.async_stack_size : 0;
    if (typeof size === 'number' && size >= LEAST_STACK_BYTES) return;
    throw new NoKoffiError(`koffi is in use already, with stacks of ${String(size)} bytes for asynchronous calls, which are too small for CUDA`, {
      details: { size, needed: LEAST_STACK_BYTES },
      fix: `load the model before the first koffi.load, or call koffi.config({ async_stack_size: ${STACK_BYTES} }) before it`,
      cause: error,
    });
  }
}

/** @param beside how the package is imported by name. @throws NoKoffiError */
export async function nodeKoffi(beside: () => Promise<unknown> = () => import('koffi')): Promise<Koffi> {
  const held: unknown = Reflect.get(globalThis, KEY);
  if (isKoffi(held)) return held;
  const module = await importOptional('koffi', beside).catch((error: unknown) => {
    throw new NoKoffiError('the package koffi, which calls the CUDA library, cannot be loaded', { fix: 'npm install koffi', cause: error });
  });
  const koffi = entryOf(module);
  if (!isKoffi(koffi)) throw new NoKoffiError('the package koffi is not the one of npm that calls C functions', { fix: 'npm install koffi@3.3' });
  setStacks(koffi);
  Reflect.set(globalThis, KEY, koffi);
  return koffi;
}

const textOf = (bytes: Uint8Array): string => new TextDecoder().decode(bytes.subarray(0, Math.max(0, bytes.indexOf(0))));

/** The functions of `host.cuh`; a handle and an address are 64-bit numbers here. */
const PROTOTYPES = {
  abi: 'int moec_abi(void)',
  open: 'int moec_open(int device, void *out, void *error, int error_size)',
  info: 'int moec_info(uint64_t handle, void *out, void *name, int name_size)',
  kernel: 'int moec_kernel(uint64_t handle, const char *name)',
  alloc: 'int moec_alloc(uint64_t handle, uint64_t bytes, void *out)',
  free: 'int moec_free(uint64_t handle, uint64_t address)',
  write: 'int moec_write(uint64_t handle, uint64_t address, uint64_t offset, const void *data, uint64_t bytes)',
  run: 'int moec_run(uint64_t handle, const void *words, uint64_t count, uint64_t graph)',
  dropGraph: 'int moec_drop_graph(uint64_t handle, uint64_t graph)',
  read: 'int moec_read(uint64_t handle, const void *requests, uint64_t n, void *out)',
  wait: 'int moec_wait(uint64_t handle)',
  time: 'int moec_time(uint64_t handle, const void *words, uint64_t count, uint32_t runs, void *ms)',
  error: 'const char *moec_error(uint64_t handle)',
  close: 'int moec_close(uint64_t handle)',
} as const;

type Name = keyof typeof PROTOTYPES;
type Functions = Readonly<Record<Name, NativeFunction>>;

function bindFunctions(library: { func(definition: string): NativeFunction }, path: string): Functions {
  const bind = (name: Name): NativeFunction => {
    try {
      return library.func(PROTOTYPES[name]);
    } catch (error) {
      throw new PackageError(`${path} has no function moec_${name}: it is no CUDA library of moec, or of another version`, {
        details: { path },
        fix: 'compile the package again, then run its cuda/build.js',
        cause: error,
      });
    }
  };
  return {
    abi: bind('abi'), open: bind('open'), info: bind('info'), kernel: bind('kernel'), alloc: bind('alloc'), free: bind('free'), write: bind('write'),
    run: bind('run'), dropGraph: bind('dropGraph'), read: bind('read'), wait: bind('wait'), time: bind('time'), error: bind('error'), close: bind('close'),
  };
}

const code = (value: unknown): number => (typeof value === 'number' ? value : CODE.internal);

function readInfo(functions: Functions, handle: Address): { code: number; info: CudaInfo } {
  const out = new BigInt64Array(12);
  const name = new Uint8Array(NAME_BYTES);
  const result = code(functions.info(handle, out, name, name.length));
  const [major = 0, minor = 0, multiprocessors = 0, sharedBytes = 0, totalBytes = 0, freeBytes = 0, threadsPerBlock = 0, x = 0, y = 0, z = 0, l2Bytes = 0, emulated = 0] =
    Array.from(out, Number);
  return {
    code: result,
    info: {
      name: textOf(name),
      capability: 10 * major + minor,
      multiprocessors,
      sharedBytes,
      totalBytes,
      freeBytes,
      threadsPerBlock,
      maxGrid: Math.min(x, y, z),
      l2Bytes,
      emulated: emulated === 1,
    },
  };
}

/**
 * Loads a library. Opens no device.
 * @param path absolute
 * @throws NoKoffiError, NoCudaLibraryError, PackageError
 */
export async function loadCudaLibrary(path: string): Promise<CudaLibrary> {
  if (!existsSync(path)) {
    throw new NoCudaLibraryError(`${path} has not been built`, { details: { path }, fix: 'node cuda/build.js in the package' });
  }
  const koffi = await nodeKoffi();
  let library: { func(definition: string): NativeFunction };
  try {
    library = koffi.load(path);
  } catch (error) {
    throw new NoCudaLibraryError(`${path} cannot be loaded: ${error instanceof Error ? error.message : String(error)}`, {
      details: { path },
      fix: 'build it again on this machine: node cuda/build.js in the package',
      cause: error,
    });
  }
  const functions = bindFunctions(library, path);
  const abi = functions.abi();
  if (abi !== CUDA_ABI) {
    throw new PackageError(`${path} speaks version ${String(abi)} of the interface, the runtime version ${CUDA_ABI}`, {
      details: { path, found: abi, expected: CUDA_ABI },
      fix: 'compile the package again, then run its cuda/build.js',
    });
  }
  const elsewhere = (name: Name) => (...args: unknown[]): Promise<number> =>
    new Promise((resolve, reject) => {
      functions[name].async(...args, (error: unknown, result: unknown) => (error instanceof Error ? reject(error) : resolve(code(result))));
    });
  const [open, run, read, wait, time] = [elsewhere('open'), elsewhere('run'), elsewhere('read'), elsewhere('wait'), elsewhere('time')];
  return {
    path,
    async open(device) {
      const out = new BigUint64Array(1);
      const error = new Uint8Array(ERROR_BYTES);
      const result = await open(device, out, error, error.length);
      return { code: result, handle: out[0] ?? 0n, error: textOf(error) };
    },
    info: (handle) => readInfo(functions, handle),
    kernel: (handle, name) => code(functions.kernel(handle, name)),
    alloc(handle, bytes) {
      const out = new BigUint64Array(1);
      const result = code(functions.alloc(handle, bytes, out));
      return { code: result, address: out[0] ?? 0n };
    },
    free: (handle, address) => code(functions.free(handle, address)),
    write: (handle, address, offset, data) => code(functions.write(handle, address, offset, data, data.length)),
    run: (handle, words, graph) => code(functions.run(handle, words, words.length, graph)),
    runElsewhere: (handle, words, graph) => run(handle, words, words.length, graph),
    dropGraph: (handle, graph) => code(functions.dropGraph(handle, graph)),
    read: (handle, requests, out) => read(handle, requests, requests.length / 3, out),
    wait: (handle) => wait(handle),
    time: (handle, words, milliseconds) => time(handle, words, words.length, milliseconds.length, milliseconds),
    error: (handle) => String(functions.error(handle)),
    close: (handle) => code(functions.close(handle)),
  };
}
