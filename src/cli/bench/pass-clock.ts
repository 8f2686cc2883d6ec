/** Device time of compute passes: a device that lets its passes note when they begin and end, where it has timestamp queries. */
import type { GpuBuffer, GpuDevice, GpuEncoder } from '../../runtime/webgpu/gpu-types.ts';

export const TIMESTAMPS = 'timestamp-query';

/** Passes of one call; the standard allows 4096 timestamps in a set. */
const MOST_PASSES = 2048;
const QUERY_RESOLVE = 0x200;
const COPY_SOURCE = 0x4;
const COPY_TARGET = 0x8;
const MAP_READ = 0x1;
const READ = 1;

/** What timestamps need of a device, beside what the runtime uses. */
interface TimedDevice extends GpuDevice {
  createQuerySet(descriptor: { type: 'timestamp'; count: number }): object;
}

interface TimedEncoder extends GpuEncoder {
  resolveQuerySet(set: object, first: number, count: number, buffer: GpuBuffer, offset: number): void;
}

export interface PassClock {
  /** The device to give to a backend instead of the one underneath. */
  readonly device: GpuDevice;
  /** Milliseconds that the device spent in the passes since the last call; undefined where there were more passes than can be noted. */
  take(): Promise<number | undefined>;
  /** Frees what it made on the device, which stays. */
  dispose(): void;
}

const isTimed = (device: GpuDevice): device is TimedDevice => device.features.has(TIMESTAMPS) && 'createQuerySet' in device;
const isTimedEncoder = (encoder: GpuEncoder): encoder is TimedEncoder => 'resolveQuerySet' in encoder;

/** Undefined for a device without timestamp queries. */
export function passClock(real: GpuDevice): PassClock | undefined {
  if (!isTimed(real)) return undefined;
  const set = real.createQuerySet({ type: 'timestamp', count: 2 * MOST_PASSES });
  const bytes = 16 * MOST_PASSES;
  const resolved = real.createBuffer({ size: bytes, usage: QUERY_RESOLVE | COPY_SOURCE, label: 'clock' });
  const staging = real.createBuffer({ size: bytes, usage: MAP_READ | COPY_TARGET, label: 'clock' });
  let passes = 0;
  const next = (): { readonly querySet: object; readonly beginningOfPassWriteIndex: number; readonly endOfPassWriteIndex: number } | undefined => {
    const at = passes++;
    return at < MOST_PASSES ? { querySet: set, beginningOfPassWriteIndex: 2 * at, endOfPassWriteIndex: 2 * at + 1 } : undefined;
  };
  const clocked = (encoder: GpuEncoder): GpuEncoder => ({
    beginComputePass: (descriptor) => {
      const timestampWrites = next();
      return encoder.beginComputePass(timestampWrites === undefined ? descriptor : Object.assign({ timestampWrites }, descriptor));
    },
    copyBufferToBuffer: (...all) => encoder.copyBufferToBuffer(...all),
    finish: () => encoder.finish(),
  });
  const device: GpuDevice = {
    limits: real.limits,
    features: real.features,
    queue: real.queue,
    lost: real.lost,
    ...(real.adapterInfo === undefined ? {} : { adapterInfo: real.adapterInfo }),
    createBuffer: (d) => real.createBuffer(d),
    createShaderModule: (d) => real.createShaderModule(d),
    createBindGroupLayout: (d) => real.createBindGroupLayout(d),
    createPipelineLayout: (d) => real.createPipelineLayout(d),
    createComputePipelineAsync: (d) => real.createComputePipelineAsync(d),
    createBindGroup: (d) => real.createBindGroup(d),
    createCommandEncoder: (d) => clocked(real.createCommandEncoder(d)),
    pushErrorScope: (filter) => real.pushErrorScope(filter),
    popErrorScope: () => real.popErrorScope(),
    addEventListener: (...all) => real.addEventListener(...all),
    removeEventListener: (...all) => real.removeEventListener(...all),
    destroy: () => real.destroy(),
  };
  return {
    device,
    async take() {
      const count = passes;
      passes = 0;
      if (count === 0) return 0;
      if (count > MOST_PASSES) return undefined;
      const encoder = real.createCommandEncoder({ label: 'clock' });
      if (!isTimedEncoder(encoder)) return undefined;
      encoder.resolveQuerySet(set, 0, 2 * count, resolved, 0);
      encoder.copyBufferToBuffer(resolved, 0, staging, 0, 16 * count);
      real.queue.submit([encoder.finish()]);
      await staging.mapAsync(READ, 0, 16 * count);
      const times = new BigUint64Array(staging.getMappedRange(0, 16 * count).slice(0));
      staging.unmap();
      let ns = 0n;
      for (let i = 0; i < count; i++) {
        const [begin, end] = [times[2 * i] ?? 0n, times[2 * i + 1] ?? 0n];
        // Clocks of some devices run backwards across a reset: such a pass counts as nothing.
        if (end > begin) ns += end - begin;
      }
      return Number(ns) / 1e6;
    },
    dispose() {
      resolved.destroy();
      staging.destroy();
    },
  };
}
