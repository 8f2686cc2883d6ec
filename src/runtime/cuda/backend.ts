/** The session's device over a CUDA library. */
import type { ManifestKernel } from '../core/abi.ts';
import type { Backend, BindingHandle, Command, DeviceBuffer, DeviceInfo, KernelHandle, ReadRequest, UniformRange } from '../core/backend.ts';
import { DeviceLostError, DisposedError, InternalError, PackageError } from '../core/errors.ts';
import { Serial } from '../core/serial.ts';
import { allocationFailure, isSticky, openFailure, workFailure } from './failure.ts';
import { type BoundKernel, type Memory, type Work, WordLists } from './graphs.ts';
import { type Address, CODE, type CudaInfo, type CudaLibrary } from './library.ts';

/** Generated indices are u32: what the compiler splits buffers by. */
const MAX_BINDING_BYTES = 2 ** 34;
/** Pointers that a kernel's parameters have room for. */
const MAX_BINDINGS = 64;

let nextId = 1;

class Buffer implements DeviceBuffer, Memory {
  readonly id = nextId++;
  readonly address: Address;
  readonly bytes: number;
  readonly label: string;
  live = true;

  constructor(address: Address, bytes: number, label: string) {
    this.address = address;
    this.bytes = bytes;
    this.label = label;
  }
}

class Kernel implements KernelHandle {
  readonly index: number;
  readonly label: string;
  readonly pointers: number;
  readonly scalars: boolean;

  constructor(index: number, label: string, kernel: ManifestKernel) {
    this.index = index;
    this.label = label;
    this.pointers = kernel.access.length;
    this.scalars = kernel.scalars.length > 0;
  }
}

class Binding implements BindingHandle, BoundKernel {
  readonly id = nextId++;
  readonly kernel: Kernel;
  readonly index: number;
  readonly arguments: readonly Address[];
  readonly buffers: readonly Buffer[];

  constructor(kernel: Kernel, args: readonly Address[], buffers: readonly Buffer[]) {
    this.kernel = kernel;
    this.index = kernel.index;
    this.arguments = args;
    this.buffers = buffers;
  }
}

const pad4 = (n: number): number => Math.ceil(n / 4) * 4;

function infoOf(info: CudaInfo): DeviceInfo {
  const features = [...(info.capability >= 80 ? ['sm_80'] : []), ...(info.capability === 90 ? ['sm_90a'] : [])];
  return {
    backend: 'cuda',
    name: info.name,
    adapter: `cuda / ${info.capability} / ${info.name}`,
    software: info.emulated,
    features,
    limits: {
      maxBindingBytes: Math.min(MAX_BINDING_BYTES, info.totalBytes),
      maxBufferBytes: info.totalBytes,
      maxBindings: MAX_BINDINGS,
      maxThreadsPerBlock: info.threadsPerBlock,
      maxSharedBytes: info.sharedBytes,
      maxGrid: info.maxGrid,
    },
  };
}

export class CudaBackend implements Backend {
  readonly info: DeviceInfo;
  /** More of the device than the session asks for. */
  readonly cuda: CudaInfo;
  readonly lost: Promise<DeviceLostError>;
  readonly uncapturedErrors = 0;
  allocatedBytes = 0;
  readonly #library: CudaLibrary;
  readonly #handle: Address;
  readonly #live = new Set<Buffer>();
  readonly #lists: WordLists;
  /** Runs in the order of asking: what a run reads must not be overwritten by the next one. */
  readonly #serial = new Serial();
  /** Calls that wait on other threads. */
  readonly #waiting = new Set<Promise<unknown>>();
  #lose: (error: DeviceLostError) => void = () => undefined;
  #lostError: DeviceLostError | undefined;
  #disposed = false;

  private constructor(library: CudaLibrary, handle: Address, info: CudaInfo) {
    this.#library = library;
    this.#handle = handle;
    this.cuda = info;
    this.info = infoOf(info);
    this.#lists = new WordLists((graph) => void library.dropGraph(handle, graph));
    this.lost = new Promise((resolve) => {
      this.#lose = resolve;
    });
  }

  /**
   * Opens a device for the kernels of a library.
   * @param device its number, from 0
   * @throws NoCudaDriverError, NoCudaDeviceError, CudaArchitectureError, OutOfMemoryError, DeviceLostError
   */
  static async open(library: CudaLibrary, device = 0): Promise<CudaBackend> {
    const { code, handle, error } = await library.open(device);
    if (code !== CODE.ok) throw openFailure(code, error, library.path);
    const { code: asked, info } = library.info(handle);
    if (asked === CODE.ok) return new CudaBackend(library, handle, info);
    const text = library.error(handle);
    library.close(handle);
    throw openFailure(asked, text, library.path);
  }

  #usable(): void {
    if (this.#disposed) throw new DisposedError();
    if (this.#lostError !== undefined) throw this.#lostError;
  }

  /** @throws what the code means, where it is not 0 */
  #check(code: number, what: string): void {
    if (code === CODE.ok) return;
    const error = workFailure(code, this.#library.error(this.#handle), what);
    if (error instanceof DeviceLostError && !this.#disposed) {
      this.#lostError = error;
      this.#lose(error);
    }
    throw error;
  }

  /** A call on another thread: the library stays open until it ends. */
  async #elsewhere(call: Promise<number>): Promise<number> {
    this.#waiting.add(call);
    try {
      return await call;
    } finally {
      this.#waiting.delete(call);
    }
  }

  #own(buffer: DeviceBuffer): Buffer {
    if (!(buffer instanceof Buffer)) throw new InternalError(`buffer ${buffer.label} belongs to another device`);
    if (!buffer.live) throw new InternalError(`buffer ${buffer.label} is used after it was destroyed`);
    if (!this.#live.has(buffer)) throw new InternalError(`buffer ${buffer.label} belongs to another device`);
    return buffer;
  }

  createBuffers(wanted: readonly { readonly bytes: number; readonly label: string }[]): Promise<readonly DeviceBuffer[]> {
    const create = async (): Promise<readonly DeviceBuffer[]> => {
      this.#usable();
      const made: Buffer[] = [];
      for (const { bytes, label } of wanted) {
        const { code, address } = this.#library.alloc(this.#handle, bytes);
        if (code !== CODE.ok) {
          const failure = this.#allocationFailure(code, wanted, made);
          for (const b of made) this.#library.free(this.#handle, b.address);
          throw failure;
        }
        made.push(new Buffer(address, bytes, label));
      }
      for (const b of made) {
        this.#live.add(b);
        this.allocatedBytes += b.bytes;
      }
      return made;
    };
    return create();
  }

  #allocationFailure(code: number, wanted: readonly { readonly bytes: number }[], made: readonly Buffer[]): Error {
    const text = this.#library.error(this.#handle);
    if (isSticky(code)) {
      try {
        this.#check(code, 'an allocation');
      } catch (error) {
        if (error instanceof Error) return error;
      }
    }
    const { info } = this.#library.info(this.#handle);
    const needed = wanted.reduce((sum, w) => sum + w.bytes, 0);
    const own = made.reduce((sum, b) => sum + b.bytes, 0);
    return allocationFailure(needed, Math.max(...wanted.map((w) => w.bytes)), this.allocatedBytes, info.freeBytes + own, text);
  }

  destroyBuffer(buffer: DeviceBuffer): void {
    if (!(buffer instanceof Buffer) || !this.#live.delete(buffer)) return;
    buffer.live = false;
    this.allocatedBytes -= buffer.bytes;
    this.#lists.forget(buffer);
    // A lost device frees nothing, and needs to free nothing.
    if (this.#lostError === undefined) this.#library.free(this.#handle, buffer.address);
  }

  write(buffer: DeviceBuffer, offset: number, data: Uint8Array): void {
    this.#usable();
    this.#check(this.#library.write(this.#handle, this.#own(buffer).address, offset, data), `a write to ${buffer.label}`);
  }

  async flush(): Promise<void> {
    this.#usable();
    this.#check(await this.#elsewhere(this.#library.wait(this.#handle)), 'what was submitted');
  }

  /** Finds the kernel in the library; its text is of no use here. */
  compile(kernel: ManifestKernel, variant: ManifestKernel['variants'][number], _code: string, label: string): Promise<KernelHandle> {
    const index = this.#library.kernel(this.#handle, variant.entry);
    if (index >= 0) return Promise.resolve(new Kernel(index, label, kernel));
    return Promise.reject(
      new PackageError(`${this.#library.path} has no kernel ${variant.entry}: it was built from other sources`, {
        details: { kernel: variant.entry, library: this.#library.path },
        fix: 'run cuda/build.js of the package again',
      }),
    );
  }

  bind(kernel: KernelHandle, buffers: readonly DeviceBuffer[], uniform: UniformRange | undefined): BindingHandle {
    if (!(kernel instanceof Kernel)) throw new InternalError('a kernel of another device');
    if (buffers.length !== kernel.pointers || (uniform !== undefined) !== kernel.scalars) {
      throw new InternalError(`${kernel.label} takes ${kernel.pointers} buffers and ${kernel.scalars ? '' : 'no '}scalars, not ${buffers.length} and ${uniform === undefined ? 'none' : 'some'}`);
    }
    const own = buffers.map((b) => this.#own(b));
    if (uniform === undefined) return new Binding(kernel, own.map((b) => b.address), own);
    const scalars = this.#own(uniform.buffer);
    return new Binding(kernel, [...own.map((b) => b.address), scalars.address + BigInt(uniform.offset)], [...own, scalars]);
  }

  #work(command: Command): Work {
    if (command.k === 'copy') return { ...command, from: this.#own(command.from), to: this.#own(command.to) };
    if (!(command.binding instanceof Binding)) throw new InternalError('a binding of another device');
    const { binding, grid } = command;
    // Its memory may be somebody else's by now.
    const gone = binding.buffers.find((b) => !b.live);
    if (gone !== undefined) throw new InternalError(`${binding.kernel.label} is bound to ${gone.label}, which was destroyed`);
    return { k: 'dispatch', bound: binding, grid };
  }

  /** Enqueues; on a device that a CPU plays, computes on another thread, so that the event loop goes on. */
  async #submit(label: string, commands: readonly Command[]): Promise<void> {
    if (commands.length === 0) return;
    const { words, graph } = this.#lists.of(commands.map((c) => this.#work(c)));
    const code = this.info.software
      ? await this.#elsewhere(this.#library.runElsewhere(this.#handle, words, graph))
      : this.#library.run(this.#handle, words, graph);
    this.#check(code, label);
  }

  async #read(label: string, reads: readonly ReadRequest[]): Promise<readonly Uint8Array[]> {
    // Every result begins at a whole word, as those who view it as numbers need.
    const sizes = reads.map((r) => Math.min(pad4(r.bytes), Math.max(r.bytes, r.buffer.bytes - r.offset)));
    const requests = BigUint64Array.from(reads.flatMap((r, i) => [this.#own(r.buffer).address, BigInt(r.offset), BigInt(sizes[i] ?? 0)]));
    const out = new Uint8Array(sizes.reduce((sum, n) => sum + n, 0));
    this.#check(await this.#elsewhere(this.#library.read(this.#handle, requests, out)), label);
    let at = 0;
    return reads.map((r, i) => {
      const part = out.subarray(at, at + r.bytes);
      at += sizes[i] ?? 0;
      return part;
    });
  }

  /** A run without reads ends when it is enqueued; one with reads when its results are here. */
  run(label: string, commands: readonly Command[], reads: readonly ReadRequest[]): Promise<readonly Uint8Array[]> {
    return this.#serial.run(async () => {
      this.#usable();
      await this.#submit(label, commands);
      return reads.length === 0 ? [] : this.#read(label, reads);
    });
  }

  /**
   * Milliseconds of the device for each of `runs` runs of the commands, one after another.
   * @param flush a buffer larger than the L2 cache, cleared before each run, so that each begins with a cold cache
   */
  time(commands: readonly Command[], runs: number, flush?: DeviceBuffer): Promise<Float32Array> {
    return this.#serial.run(async () => {
      this.#usable();
      const clear: Work[] = flush === undefined ? [] : [{ k: 'clear', memory: this.#own(flush), bytes: flush.bytes }];
      const { words } = new WordLists(() => undefined).of([...clear, ...commands.map((c) => this.#work(c))]);
      const milliseconds = new Float32Array(runs);
      this.#check(await this.#elsewhere(this.#library.time(this.#handle, words, milliseconds)), 'a measurement');
      return milliseconds;
    });
  }

  dispose(): void {
    if (this.#disposed) return;
    this.#disposed = true;
    for (const b of this.#live) b.live = false;
    this.#live.clear();
    this.allocatedBytes = 0;
    const close = (): void => void this.#library.close(this.#handle);
    if (this.#waiting.size === 0) close();
    else void Promise.allSettled(this.#waiting).then(close);
  }
}
