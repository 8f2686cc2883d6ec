/** The measuring process's device: buffers, pipelines, and passes that tell how long they took. */
import { readFileSync } from 'node:fs';
import { performance } from 'node:perf_hooks';
import { nodeGpu } from '../../runtime/node/gpu.ts';
import { acquireDevice } from '../../runtime/webgpu/acquire.ts';
import { WebGpuBackend } from '../../runtime/webgpu/backend.ts';
import type { GpuBuffer, GpuComputePass, GpuDevice, GpuEncoder, GpuError } from '../../runtime/webgpu/gpu-types.ts';
import { resting } from '../../runtime/webgpu/rest.ts';
import type { JobKernel } from '../job.ts';
import { type FailureClass } from '../outcome.ts';
import type { DeviceFacts } from '../protocol.ts';

const STORAGE = 0x80 | 0x8 | 0x4;
const UNIFORM = 0x40 | 0x8;
const STAGING = 0x1 | 0x8;
const RESOLVE = 0x200 | 0x4;
const COMPUTE = 4;
const MAP_READ = 1;

/** A way to fail that is the candidate's. */
export class CandidateError extends Error {
  readonly failure: FailureClass;
  constructor(failure: FailureClass, message: string) {
    super(message);
    this.name = 'CandidateError';
    this.failure = failure;
  }
}

interface TimestampWrites {
  readonly querySet: object;
  readonly beginningOfPassWriteIndex: number;
  readonly endOfPassWriteIndex: number;
}

interface TimedEncoder extends GpuEncoder {
  beginComputePass(descriptor?: { label?: string; timestampWrites?: TimestampWrites }): GpuComputePass;
  resolveQuerySet(set: object, first: number, count: number, to: GpuBuffer, offset: number): void;
}

interface TimedDevice extends GpuDevice {
  createQuerySet(descriptor: { type: 'timestamp'; count: number }): object;
  createCommandEncoder(descriptor?: { label?: string }): TimedEncoder;
}

const isTimed = (device: GpuDevice): device is TimedDevice => device.features.has('timestamp-query') && 'createQuerySet' in device;

/** Timestamps of one submission: two a run. */
const QUERIES = 256;

interface Clock {
  readonly device: TimedDevice;
  readonly set: object;
  readonly resolve: GpuBuffer;
  readonly staging: GpuBuffer;
}

export interface Pipeline {
  readonly pipeline: object;
  readonly layout: object;
}

/** One dispatch, ready to be encoded. */
export interface BoundStep {
  readonly pipeline: object;
  readonly group: object;
  readonly grid: readonly [number, number, number];
}

/** Steps to run `times` times in a row. */
export interface Run {
  readonly steps: readonly BoundStep[];
  readonly times: number;
}

/** Version of the package that wraps Dawn; empty where it does not say. */
function dawnVersion(): string {
  try {
    const text = readFileSync(new URL('./package.json', import.meta.resolve('webgpu')), 'utf8');
    const parsed: unknown = JSON.parse(text);
    return typeof parsed === 'object' && parsed !== null && 'version' in parsed ? String(parsed.version) : '';
  } catch {
    return '';
  }
}

const pad4 = (n: number): number => Math.ceil(n / 4) * 4;

export class Gpu {
  readonly facts: DeviceFacts;
  readonly lost: Promise<string>;
  readonly #device: GpuDevice;
  readonly #timed: Clock | undefined;

  private constructor(device: GpuDevice, facts: DeviceFacts) {
    this.#device = device;
    this.facts = facts;
    this.lost = device.lost.then((info) => `${info.reason ?? 'unknown'}: ${info.message}`);
    this.#timed = isTimed(device)
      ? {
          device,
          set: device.createQuerySet({ type: 'timestamp', count: QUERIES }),
          resolve: device.createBuffer({ size: 8 * QUERIES, usage: RESOLVE }),
          staging: device.createBuffer({ size: 8 * QUERIES, usage: STAGING }),
        }
      : undefined;
  }

  /** @throws NoWebGPUError, NoAdapterError */
  static async open(flags: readonly string[]): Promise<Gpu> {
    // Dawn rounds timestamps to 65 microseconds unless it is told not to.
    const gpu = await nodeGpu(['disable-dawn-features=timestamp_quantization', ...flags]);
    const acquired = await acquireDevice({ gpu, features: ['subgroups', 'timestamp-query'] });
    const { info } = new WebGpuBackend(acquired, 'tune');
    return new Gpu(acquired.device, { ...info, timestamps: isTimed(acquired.device), implementation: `dawn ${dawnVersion()}` });
  }

  /** Takes the device away, as a driver would. */
  destroy(): void {
    this.#device.destroy();
  }

  async buffer(bytes: number, label: string, kind: 'storage' | 'uniform' = 'storage'): Promise<GpuBuffer> {
    const { maxBindingBytes, maxBufferBytes } = this.facts.limits;
    if (bytes > Math.min(maxBindingBytes, maxBufferBytes)) throw new CandidateError('out-of-memory', `${label} takes ${bytes} bytes, one binding of the device ${maxBindingBytes}`);
    const device = this.#device;
    device.pushErrorScope('out-of-memory');
    const buffer = device.createBuffer({ size: bytes, usage: kind === 'uniform' ? UNIFORM : STORAGE, label });
    const error = await this.#pop();
    if (error !== null) throw new CandidateError('out-of-memory', `${label}: ${error.message}`);
    return buffer;
  }

  /** Waits for the device, whose work may need this thread's core. */
  #news<T>(news: Promise<T>): Promise<T> {
    return this.facts.software ? resting(news) : news;
  }

  #pop(): Promise<GpuError | null> {
    // A lost device rejects instead of answering; `lost` tells what happened.
    return this.#device.popErrorScope().catch(() => null);
  }

  write(buffer: GpuBuffer, offset: number, data: Uint8Array): void {
    const copy = new Uint8Array(pad4(data.length));
    copy.set(data);
    if (copy.length > 0) this.#device.queue.writeBuffer(buffer, offset, copy);
  }

  async finished(): Promise<void> {
    this.#device.queue.submit([]);
    await this.#news(this.#device.queue.onSubmittedWorkDone());
  }

  /** @throws CandidateError with what the device's compiler says */
  async compile(kernel: JobKernel): Promise<Pipeline> {
    const device = this.#device;
    device.pushErrorScope('validation');
    const module = device.createShaderModule({ code: kernel.code, label: kernel.name });
    const layout = device.createBindGroupLayout({
      label: kernel.name,
      entries: [
        ...kernel.access.map((access, binding) => ({ binding, visibility: COMPUTE, buffer: { type: access === 'read' ? 'read-only-storage' : 'storage' } })),
        ...(kernel.hasScalars ? [{ binding: kernel.access.length, visibility: COMPUTE, buffer: { type: 'uniform' } }] : []),
      ],
    });
    const made = device.createComputePipelineAsync({
      label: kernel.name,
      layout: device.createPipelineLayout({ bindGroupLayouts: [layout] }),
      compute: { module, entryPoint: kernel.entry },
    });
    const validation = this.#pop();
    try {
      return { pipeline: await this.#news(made), layout };
    } catch (error) {
      const told = (await validation)?.message ?? (error instanceof Error ? error.message : String(error));
      throw new CandidateError('compile', told.split('\n').slice(0, 3).join(' '));
    }
  }

  bind({ layout, pipeline }: Pipeline, buffers: readonly GpuBuffer[], uniform: GpuBuffer | undefined, grid: BoundStep['grid']): BoundStep {
    const entries = [...buffers, ...(uniform === undefined ? [] : [uniform])].map((buffer, binding) => ({ binding, resource: { buffer } }));
    return { pipeline, grid, group: this.#device.createBindGroup({ layout, entries }) };
  }

  static #encode(pass: GpuComputePass, { steps, times }: Run): void {
    for (let i = 0; i < times; i++) {
      for (const { pipeline, group, grid } of steps) {
        pass.setPipeline(pipeline);
        pass.setBindGroup(0, group);
        pass.dispatchWorkgroups(...grid);
      }
    }
  }

  /** Runs steps once, and reads what is asked for. */
  async run(steps: readonly BoundStep[], reads: readonly { readonly buffer: GpuBuffer; readonly offset: number; readonly bytes: number }[]): Promise<readonly Uint8Array[]> {
    const device = this.#device;
    const total = Math.max(4, reads.reduce((sum, r) => sum + pad4(r.bytes), 0));
    device.pushErrorScope('validation');
    device.pushErrorScope('out-of-memory');
    const staging = device.createBuffer({ size: total, usage: STAGING });
    const encoder = device.createCommandEncoder();
    const pass = encoder.beginComputePass();
    Gpu.#encode(pass, { steps, times: 1 });
    pass.end();
    let at = 0;
    for (const r of reads) {
      encoder.copyBufferToBuffer(r.buffer, r.offset, staging, at, pad4(r.bytes));
      at += pad4(r.bytes);
    }
    device.queue.submit([encoder.finish()]);
    const errors = Promise.all([this.#pop(), this.#pop()]);
    try {
      await this.#news(staging.mapAsync(MAP_READ)).catch(() => undefined);
      const [memory, validation] = await errors;
      if (memory !== null) throw new CandidateError('out-of-memory', memory.message);
      if (validation !== null) throw new CandidateError('compile', validation.message.split('\n')[0] ?? '');
      const bytes = new Uint8Array(staging.getMappedRange().slice(0));
      at = 0;
      return reads.map((r) => {
        const part = bytes.slice(at, at + r.bytes);
        at += pad4(r.bytes);
        return part;
      });
    } finally {
      staging.destroy();
    }
  }

  /** Milliseconds of one time of each run, in order, one pass each. */
  async time(runs: readonly Run[]): Promise<readonly number[]> {
    const timed = this.#timed;
    return timed === undefined ? this.#byHost(runs) : this.#byDevice(runs, timed);
  }

  async #byDevice(runs: readonly Run[], { device, set, resolve, staging }: Clock): Promise<readonly number[]> {
    const encoder = device.createCommandEncoder();
    runs.forEach((run, i) => {
      const pass = encoder.beginComputePass({ timestampWrites: { querySet: set, beginningOfPassWriteIndex: 2 * i, endOfPassWriteIndex: 2 * i + 1 } });
      Gpu.#encode(pass, run);
      pass.end();
    });
    const bytes = 16 * runs.length;
    encoder.resolveQuerySet(set, 0, 2 * runs.length, resolve, 0);
    encoder.copyBufferToBuffer(resolve, 0, staging, 0, bytes);
    device.queue.submit([encoder.finish()]);
    await this.#news(staging.mapAsync(MAP_READ, 0, bytes));
    const stamps = new BigUint64Array(staging.getMappedRange(0, bytes).slice(0));
    staging.unmap();
    return runs.map(({ times }, i) => Number((stamps[2 * i + 1] ?? 0n) - (stamps[2 * i] ?? 0n)) / 1e6 / times);
  }

  async #byHost(runs: readonly Run[]): Promise<readonly number[]> {
    const times: number[] = [];
    for (const run of runs) {
      await this.finished();
      const began = performance.now();
      const encoder = this.#device.createCommandEncoder();
      const pass = encoder.beginComputePass();
      Gpu.#encode(pass, run);
      pass.end();
      this.#device.queue.submit([encoder.finish()]);
      await this.#news(this.#device.queue.onSubmittedWorkDone());
      times.push((performance.now() - began) / run.times);
    }
    return times;
  }
}
