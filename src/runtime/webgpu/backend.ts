/** The session's device over WebGPU. */
import type { ManifestKernel } from '../core/abi.ts';
import { type Backend, type BindingHandle, type Command, type DeviceBuffer, type DeviceInfo, type KernelHandle, type ReadRequest, UNIFORM_ALIGN, type UniformRange } from '../core/backend.ts';
import { DeviceLostError, InternalError, OutOfMemoryError, ShaderCompileError, showBytes } from '../core/errors.ts';
import type { Acquired } from './acquire.ts';
import type { GpuBuffer, GpuDevice, GpuError } from './gpu-types.ts';
import { resting } from './rest.ts';

const STORAGE = 0x80 | 0x8 | 0x4;
const UNIFORM = 0x40 | 0x8;
const STAGING = 0x1 | 0x8;
const COMPUTE = 4;
const MAP_READ = 1;

class Buffer implements DeviceBuffer {
  readonly gpu: GpuBuffer;
  readonly bytes: number;
  readonly label: string;

  constructor(gpu: GpuBuffer, bytes: number, label: string) {
    this.gpu = gpu;
    this.bytes = bytes;
    this.label = label;
  }
}

class Kernel implements KernelHandle {
  readonly label: string;
  readonly pipeline: object;
  readonly layout: object;

  constructor(label: string, pipeline: object, layout: object) {
    this.label = label;
    this.pipeline = pipeline;
    this.layout = layout;
  }
}

class Binding implements BindingHandle {
  readonly kernel: Kernel;
  readonly group: object;

  constructor(kernel: Kernel, group: object) {
    this.kernel = kernel;
    this.group = group;
  }
}

const pad4 = (n: number): number => Math.ceil(n / 4) * 4;

function asBuffer(buffer: DeviceBuffer): Buffer {
  if (buffer instanceof Buffer) return buffer;
  throw new InternalError(`buffer ${buffer.label} belongs to another device`);
}

function asBinding(binding: BindingHandle): Binding {
  if (binding instanceof Binding) return binding;
  throw new InternalError('a binding of another device');
}

const errorOf = (event: object): string => {
  const error: unknown = Reflect.get(event, 'error');
  return typeof error === 'object' && error !== null && 'message' in error ? String(error.message) : 'unknown error';
};

/** @param model shown where the device reports an error that no call receives */
export class WebGpuBackend implements Backend {
  readonly info: DeviceInfo;
  readonly lost: Promise<DeviceLostError>;
  allocatedBytes = 0;
  uncapturedErrors = 0;
  readonly #device: GpuDevice;
  readonly #owned: boolean;
  readonly #live = new Set<Buffer>();
  readonly #onError: (event: object) => void;
  #staging: Buffer | undefined;
  #stagingBusy = false;
  #disposed = false;

  constructor(acquired: Acquired, model: string) {
    const { device } = acquired;
    this.#device = device;
    this.#owned = acquired.owned;
    const { limits } = device;
    this.info = {
      backend: 'webgpu',
      name: acquired.name,
      adapter: acquired.adapter,
      ...(acquired.subgroupSize === undefined ? {} : { subgroupSize: acquired.subgroupSize }),
      software: acquired.software,
      features: acquired.features,
      limits: {
        maxBindingBytes: limits.maxStorageBufferBindingSize,
        maxBufferBytes: limits.maxBufferSize,
        maxBindings: limits.maxStorageBuffersPerShaderStage,
        maxThreadsPerBlock: Math.min(limits.maxComputeInvocationsPerWorkgroup, limits.maxComputeWorkgroupSizeX),
        maxSharedBytes: limits.maxComputeWorkgroupStorageSize,
        maxGrid: limits.maxComputeWorkgroupsPerDimension,
      },
    };
    this.lost = new Promise((resolve) => {
      void device.lost.then((info) => {
        if (this.#disposed) return;
        const reason = info.reason ?? 'unknown';
        resolve(
          new DeviceLostError(`the device was lost (${reason}): ${info.message}`, {
            details: { reason, message: info.message },
            fix: 'load() the model again; if it happens again, run fewer tokens per call or update the driver',
          }),
        );
      });
    });
    this.#onError = (event) => {
      this.uncapturedErrors++;
      console.error(`moec: ${model}: ${errorOf(event)}`);
    };
    device.addEventListener('uncapturederror', this.#onError);
  }

  /** Waits for the device, whose work may need this thread's core. */
  #news<T>(news: Promise<T>): Promise<T> {
    return this.info.software ? resting(news) : news;
  }

  #popError(): Promise<GpuError | null> {
    // A lost device rejects instead of answering; `lost` tells what happened.
    return this.#device.popErrorScope().catch(() => null);
  }

  async createBuffers(wanted: readonly { readonly bytes: number; readonly label: string; readonly uniform?: boolean }[]): Promise<readonly DeviceBuffer[]> {
    const device = this.#device;
    device.pushErrorScope('validation');
    device.pushErrorScope('out-of-memory');
    const made: Buffer[] = [];
    let thrown: unknown;
    try {
      for (const { bytes, label, uniform } of wanted) {
        made.push(new Buffer(device.createBuffer({ size: bytes, usage: uniform === true ? UNIFORM : STORAGE, label }), bytes, label));
      }
    } catch (error) {
      thrown = error;
    }
    const [memory, validation] = await Promise.all([this.#popError(), this.#popError()]);
    const failure = thrown ?? memory ?? validation;
    if (failure !== null && failure !== undefined) {
      for (const b of made) b.gpu.destroy();
      const needed = wanted.reduce((sum, w) => sum + w.bytes, 0);
      const largest = Math.max(...wanted.map((w) => w.bytes));
      throw new OutOfMemoryError(`the device cannot allocate ${showBytes(needed)} (largest buffer ${showBytes(largest)}; ${showBytes(this.allocatedBytes)} are in use)`, {
        details: { needed, largest, inUse: this.allocatedBytes },
        fix: 'close other programs that use the GPU, call with fewer tokens, or store the weights as bf16 or f16',
        cause: failure,
      });
    }
    for (const b of made) {
      this.#live.add(b);
      this.allocatedBytes += b.bytes;
    }
    return made;
  }

  destroyBuffer(buffer: DeviceBuffer): void {
    const own = asBuffer(buffer);
    if (!this.#live.delete(own)) return;
    this.allocatedBytes -= own.bytes;
    own.gpu.destroy();
  }

  write(buffer: DeviceBuffer, offset: number, data: Uint8Array): void {
    const { queue } = this.#device;
    const { gpu } = asBuffer(buffer);
    if (data.length === 0) return;
    const { buffer: memory, byteOffset, length } = data;
    if (length % 4 === 0 && memory instanceof ArrayBuffer) return queue.writeBuffer(gpu, offset, new Uint8Array(memory, byteOffset, length));
    // A word is the smallest unit, and some implementations refuse views of shared memory.
    const copy = new Uint8Array(pad4(length));
    copy.set(data);
    queue.writeBuffer(gpu, offset, copy);
  }

  async flush(): Promise<void> {
    this.#device.queue.submit([]);
    await this.#news(this.#device.queue.onSubmittedWorkDone());
  }

  async compile(kernel: ManifestKernel, variant: ManifestKernel['variants'][number], code: string, label: string): Promise<KernelHandle> {
    const device = this.#device;
    device.pushErrorScope('validation');
    const module = device.createShaderModule({ code, label });
    const layout = device.createBindGroupLayout({
      label,
      entries: [
        ...kernel.access.map((access, binding) => ({ binding, visibility: COMPUTE, buffer: { type: access === 'read' ? 'read-only-storage' : 'storage' } })),
        ...(kernel.scalars.length === 0 ? [] : [{ binding: kernel.access.length, visibility: COMPUTE, buffer: { type: 'uniform' } }]),
      ],
    });
    const created = device.createComputePipelineAsync({
      label,
      layout: device.createPipelineLayout({ label, bindGroupLayouts: [layout] }),
      compute: { module, entryPoint: variant.entry },
    });
    // The pipeline's own rejection tells what the scope would.
    void this.#popError();
    try {
      const pipeline = await this.#news(created);
      return new Kernel(label, pipeline, layout);
    } catch (error) {
      const info = await module.getCompilationInfo().catch(() => ({ messages: [] }));
      const messages = info.messages.filter((m) => m.type === 'error').map((m) => `${variant.file}:${m.lineNum}:${m.linePos} ${m.message}`);
      const told = messages.length > 0 ? messages.join('\n') : error instanceof Error ? error.message : String(error);
      throw new ShaderCompileError(`kernel ${kernel.name} does not compile on this device: ${told}`, {
        details: { kernel: kernel.name, file: variant.file, messages },
        fix: 'please report it with the name of the device; a newer driver or browser may help',
        cause: error,
      });
    }
  }

  bind(kernel: KernelHandle, buffers: readonly DeviceBuffer[], uniform: UniformRange | undefined): BindingHandle {
    if (!(kernel instanceof Kernel)) throw new InternalError('a kernel of another device');
    const entries = buffers.map((b, binding): object => ({ binding, resource: { buffer: asBuffer(b).gpu } }));
    if (uniform !== undefined) {
      const size = Math.min(UNIFORM_ALIGN, uniform.bytes);
      entries.push({ binding: buffers.length, resource: { buffer: asBuffer(uniform.buffer).gpu, offset: uniform.offset, size } });
    }
    return new Binding(kernel, this.#device.createBindGroup({ label: kernel.label, layout: kernel.layout, entries }));
  }

  async run(label: string, commands: readonly Command[], reads: readonly ReadRequest[]): Promise<readonly Uint8Array[]> {
    const device = this.#device;
    const total = reads.reduce((sum, r) => sum + pad4(r.bytes), 0);
    const staging = total === 0 ? undefined : await this.#takeStaging(total);
    device.pushErrorScope('validation');
    device.pushErrorScope('out-of-memory');
    const encoder = device.createCommandEncoder({ label });
    let pass: ReturnType<typeof encoder.beginComputePass> | undefined;
    for (const c of commands) {
      if (c.k === 'dispatch') {
        pass ??= encoder.beginComputePass({ label });
        const { kernel, group } = asBinding(c.binding);
        pass.setPipeline(kernel.pipeline);
        pass.setBindGroup(0, group);
        pass.dispatchWorkgroups(...c.grid);
      } else {
        pass?.end();
        pass = undefined;
        encoder.copyBufferToBuffer(asBuffer(c.from).gpu, c.fromOffset, asBuffer(c.to).gpu, c.toOffset, c.bytes);
      }
    }
    pass?.end();
    let at = 0;
    for (const r of reads) {
      if (staging !== undefined) encoder.copyBufferToBuffer(asBuffer(r.buffer).gpu, r.offset, staging.gpu, at, pad4(r.bytes));
      at += pad4(r.bytes);
    }
    device.queue.submit([encoder.finish()]);
    const errors = Promise.all([this.#popError(), this.#popError()]);
    const results: Uint8Array[] = [];
    try {
      if (staging !== undefined) {
        // A refused command leaves nothing to map: tell the first cause, not the second.
        const mapped = await this.#news(staging.gpu.mapAsync(MAP_READ, 0, total)).then(() => undefined, (error: unknown) => error ?? 'mapAsync');
        this.#check(label, await errors, mapped);
        const bytes = new Uint8Array(staging.gpu.getMappedRange(0, total).slice(0));
        staging.gpu.unmap();
        at = 0;
        for (const r of reads) {
          results.push(bytes.subarray(at, at + r.bytes));
          at += pad4(r.bytes);
        }
      } else {
        this.#check(label, await errors, undefined);
      }
    } finally {
      if (staging !== undefined) this.#returnStaging(staging);
    }
    return results;
  }

  #check(label: string, [memory, validation]: readonly (GpuError | null)[], mapped: unknown): void {
    if (memory !== null && memory !== undefined) {
      throw new OutOfMemoryError(`the device ran out of memory in ${label}: ${memory.message}`, { fix: 'call with fewer tokens', cause: memory });
    }
    if (validation !== null && validation !== undefined) throw new InternalError(`the device refused ${label}: ${validation.message}`, { cause: validation });
    if (mapped !== undefined) throw new DeviceLostError(`the results of ${label} cannot be read`, { cause: mapped, fix: 'load() the model again' });
  }

  async #takeStaging(bytes: number): Promise<Buffer> {
    const held = this.#staging;
    if (!this.#stagingBusy && held !== undefined && held.bytes >= bytes) {
      this.#stagingBusy = true;
      return held;
    }
    const device = this.#device;
    device.pushErrorScope('out-of-memory');
    const size = Math.max(4096, bytes);
    const buffer = new Buffer(device.createBuffer({ size, usage: STAGING, label: 'moec:staging' }), size, 'moec:staging');
    const error = await this.#popError();
    if (error !== null) {
      buffer.gpu.destroy();
      throw new OutOfMemoryError(`the device cannot allocate ${showBytes(size)} to read results`, { details: { needed: size }, fix: 'call with fewer tokens', cause: error });
    }
    this.#live.add(buffer);
    this.allocatedBytes += size;
    if (!this.#stagingBusy) {
      if (held !== undefined) this.destroyBuffer(held);
      this.#staging = buffer;
      this.#stagingBusy = true;
    }
    return buffer;
  }

  #returnStaging(buffer: Buffer): void {
    if (buffer === this.#staging) this.#stagingBusy = false;
    else this.destroyBuffer(buffer);
  }

  dispose(): void {
    if (this.#disposed) return;
    this.#disposed = true;
    this.#device.removeEventListener('uncapturederror', this.#onError);
    for (const b of this.#live) this.destroyBuffer(b);
    this.#staging = undefined;
    if (this.#owned) this.#device.destroy();
  }
}
