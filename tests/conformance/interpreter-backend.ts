/**
 * The runtime's device, played by the kernel interpreter: the executor, its plan, its buffers and caches run as they
 * do on a GPU, and every dispatch is judged (races, bounds, barriers). Stricter than a device in four ways:
 * views have the logical size of what they hold; what a call has not written yet is garbage, not zeros;
 * cache rows that no token filled are garbage; and a buffer that a kernel writes may not be bound twice.
 */
import type { Compiled } from '../../src/driver/compile.ts';
import { interpret } from '../../src/ir/kernel/interpret.ts';
import type { TypedArray } from '../../src/ir/kernel/interpret.ts';
import type { Elem, Kernel, ScalarName } from '../../src/ir/kernel/types.ts';
import type { Manifest, ManifestKernel } from '../../src/runtime/core/abi.ts';
import type {
  Backend,
  BindingHandle,
  Command,
  DeviceBuffer,
  DeviceInfo,
  KernelHandle,
  ReadRequest,
  UniformRange,
} from '../../src/runtime/core/backend.ts';
import type { DeviceLostError } from '../../src/runtime/core/errors.ts';
import { forDevice } from '../../src/runtime/core/for-device.ts';
import { type Place, exactElements, placesOf } from './exact-sizes.ts';

export interface InterpreterOptions {
  /** Which texts the runtime is led to choose. */
  readonly variant: 'portable' | 'subgroups';
  readonly subgroupSize?: number;
  /** Of one binding. */
  readonly maxBindingBytes?: number;
}

/** NaN as f32 and as the first of two halves; as an index, far out of any range. */
const GARBAGE = 0x7fc0_7fc1;
/** Buffers whose contents do not outlive a call. */
const CALL_BUFFER = /^moec:(scratch|hidden|out|logits)/;

class Memory implements DeviceBuffer {
  readonly data: ArrayBuffer;
  readonly bytes: number;
  readonly label: string;
  live = true;

  constructor(bytes: number, label: string) {
    this.data = new ArrayBuffer(bytes);
    this.bytes = bytes;
    this.label = label;
  }

  spoil(): void {
    new Uint32Array(this.data).fill(GARBAGE);
  }
}

class LoadedKernel implements KernelHandle {
  readonly label: string;
  readonly index: number;
  readonly kernel: Kernel;

  constructor(label: string, index: number, kernel: Kernel) {
    this.label = label;
    this.index = index;
    this.kernel = kernel;
  }
}

class Binding implements BindingHandle {
  readonly kernel: LoadedKernel;
  readonly buffers: readonly Memory[];
  readonly uniform: UniformRange | undefined;
  readonly places: readonly Place[];

  constructor(kernel: LoadedKernel, buffers: readonly Memory[], uniform: UniformRange | undefined, places: readonly Place[]) {
    this.kernel = kernel;
    this.buffers = buffers;
    this.uniform = uniform;
    this.places = places;
  }
}

function own(buffer: DeviceBuffer): Memory {
  if (!(buffer instanceof Memory)) throw new Error(`${buffer.label} is of another device`);
  if (!buffer.live) throw new Error(`${buffer.label} is used after it was destroyed`);
  return buffer;
}

function view(elem: Elem, data: ArrayBuffer, elements: number, label: string): TypedArray {
  const bytes = elements * (elem === 'f16' || elem === 'bf16' ? 2 : 4);
  if (bytes > data.byteLength) throw new Error(`${label} has ${data.byteLength} bytes where ${bytes} are needed`);
  switch (elem) {
    case 'f32':
      return new Float32Array(data, 0, elements);
    case 'i32':
      return new Int32Array(data, 0, elements);
    case 'f16':
    case 'bf16':
      return new Uint16Array(data, 0, elements);
    default:
      return new Uint32Array(data, 0, elements);
  }
}

const SCALARS: ReadonlySet<string> = new Set(['T', 'past', 'seq', 'segment.first', 'segment.count']);
const isScalar = (name: string): name is ScalarName => SCALARS.has(name);

export class InterpreterBackend implements Backend {
  readonly info: DeviceInfo;
  readonly lost: Promise<DeviceLostError> = new Promise(() => undefined);
  readonly uncapturedErrors = 0;
  allocatedBytes = 0;
  /** Kernels that ran, by name: how often. */
  readonly dispatched = new Map<string, number>();
  readonly #compiled: Compiled;
  /** What of it serves this device. */
  readonly #manifest: Manifest;
  readonly #subgroupSize: number;
  readonly #live = new Set<Memory>();

  constructor(compiled: Compiled, options: InterpreterOptions) {
    const { limits } = compiled.manifest;
    const maxBindingBytes = options.maxBindingBytes ?? 1 << 27;
    this.#compiled = compiled;
    this.#subgroupSize = options.subgroupSize ?? 32;
    this.info = {
      backend: 'interpreter',
      name: `interpreter, ${options.variant} kernels`,
      adapter: 'interpreter',
      ...(options.variant === 'subgroups' ? { subgroupSize: this.#subgroupSize } : {}),
      software: true,
      features: options.variant === 'subgroups' ? ['subgroups'] : [],
      limits: {
        maxBindingBytes,
        maxBufferBytes: 1 << 28,
        maxBindings: 8,
        maxThreadsPerBlock: limits.maxThreadsPerBlock,
        maxSharedBytes: limits.maxSharedBytes,
        maxGrid: 65_535,
      },
    };
    this.#manifest = forDevice(compiled.manifest, this.info);
  }

  createBuffers(wanted: readonly { readonly bytes: number; readonly label: string }[]): Promise<readonly DeviceBuffer[]> {
    const made = wanted.map(({ bytes, label }) => {
      const buffer = new Memory(bytes, label);
      if (label.startsWith('moec:cache/') || CALL_BUFFER.test(label)) buffer.spoil();
      this.#live.add(buffer);
      this.allocatedBytes += bytes;
      return buffer;
    });
    return Promise.resolve(made);
  }

  destroyBuffer(buffer: DeviceBuffer): void {
    const memory = own(buffer);
    memory.live = false;
    this.#live.delete(memory);
    this.allocatedBytes -= memory.bytes;
  }

  write(buffer: DeviceBuffer, offset: number, data: Uint8Array): void {
    const memory = own(buffer);
    if (offset % 4 !== 0) throw new Error(`${buffer.label}: a write at ${offset}`);
    if (data.length % 4 !== 0 && offset + data.length < memory.bytes - 15)
      throw new Error(`${buffer.label}: ${data.length} bytes in the middle`);
    // A call begins by writing its input: nothing of the call before may be relied on.
    if (memory.label === 'moec:ids' || memory.label.startsWith('moec:hidden/'))
      for (const b of this.#live) if (CALL_BUFFER.test(b.label)) b.spoil();
    new Uint8Array(memory.data).set(data, offset);
  }

  flush(): Promise<void> {
    return Promise.resolve();
  }

  compile(kernel: ManifestKernel, variant: ManifestKernel['variants'][number], code: string, label: string): Promise<KernelHandle> {
    const { manifest, kernels, texts } = this.#compiled;
    const indexIn = (m: Manifest): number => m.kernels.findIndex((k) => k.variants.some((v) => v.file === variant.file));
    const index = indexIn(this.#manifest);
    const at = kernel.variants.findIndex((v) => v.file === variant.file);
    const found = kernels.kernels[indexIn(manifest)]?.variants[at];
    if (found === undefined) throw new Error(`no kernel of ${variant.file}`);
    if (texts.get(variant.file) !== code || found.text !== code) throw new Error(`${variant.file} is the text of another kernel`);
    return Promise.resolve(new LoadedKernel(label, index, found.kernel));
  }

  bind(handle: KernelHandle, buffers: readonly DeviceBuffer[], uniform: UniformRange | undefined): BindingHandle {
    if (!(handle instanceof LoadedKernel)) throw new Error('a kernel of another device');
    const { kernel, index } = handle;
    const memories = buffers.map(own);
    kernel.params.forEach((p, i) => {
      const alias = memories.findIndex((m, j) => j !== i && m === memories[i]);
      if (alias >= 0 && p.access !== 'read') throw new Error(`${kernel.name}: ${p.name} and ${kernel.params[alias]?.name} are one buffer`);
    });
    const places = placesOf(this.#manifest, index, memories);
    if (places.length === 0) throw new Error(`${handle.label}: no step binds ${memories.map((m) => m.label).join(', ')}`);
    if ((uniform === undefined) !== (kernel.scalars.length === 0))
      throw new Error(`${kernel.name}: scalars without a range, or the other way round`);
    return new Binding(handle, memories, uniform, places);
  }

  #scalars({ kernel, uniform }: Binding): Partial<Record<ScalarName, number>> {
    if (uniform === undefined) return {};
    const words = new Uint32Array(own(uniform.buffer).data, uniform.offset, uniform.bytes / 4);
    const values: Partial<Record<ScalarName, number>> = {};
    kernel.kernel.scalars.forEach((name, i) => {
      if (isScalar(name)) values[name] = words[i] ?? 0;
    });
    return values;
  }

  #dispatch(binding: Binding, grid: readonly [number, number, number]): void {
    const { kernel } = binding.kernel;
    const scalars = this.#scalars(binding);
    const { T } = scalars;
    // A kernel that knows nothing of the tokens has no buffer whose size depends on them.
    const env = { T: T ?? 1, past: scalars.past ?? 0, seq: scalars.seq ?? T ?? 1, cap: 0 };
    const elements = exactElements(binding.places, binding.buffers, env);
    const memory = new Map<string, TypedArray>();
    kernel.params.forEach((p, i) => {
      const buffer = binding.buffers[i];
      if (buffer === undefined) throw new Error(`${kernel.name}: nothing is bound to ${p.name}`);
      memory.set(p.name, view(p.elem, own(buffer).data, elements[i] ?? 0, buffer.label));
    });
    interpret(kernel, { grid, memory, scalars, subgroupSize: this.#subgroupSize });
    this.dispatched.set(kernel.name, (this.dispatched.get(kernel.name) ?? 0) + 1);
  }

  run(_label: string, commands: readonly Command[], reads: readonly ReadRequest[]): Promise<readonly Uint8Array[]> {
    for (const c of commands) {
      if (c.k === 'copy') {
        new Uint8Array(own(c.to).data, c.toOffset, c.bytes).set(new Uint8Array(own(c.from).data, c.fromOffset, c.bytes));
      } else {
        if (!(c.binding instanceof Binding)) throw new Error('a binding of another device');
        this.#dispatch(c.binding, c.grid);
      }
    }
    return Promise.resolve(reads.map((r) => new Uint8Array(own(r.buffer).data.slice(r.offset, r.offset + r.bytes))));
  }

  dispose(): void {
    for (const b of this.#live) b.live = false;
    this.#live.clear();
    this.allocatedBytes = 0;
  }
}
