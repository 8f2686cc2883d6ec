/**
 * What the session needs of a device, and nothing more: buffers, kernels, and lists of commands.
 * Implemented over WebGPU in `../webgpu`, and by a fake in the tests.
 */
import type { ManifestKernel } from './abi.ts';
import type { DeviceLostError } from './errors.ts';

export interface DeviceLimits {
  /** Bytes that one binding may cover, and one buffer may have. */
  readonly maxBindingBytes: number;
  readonly maxBufferBytes: number;
  /** Storage buffers of one kernel. */
  readonly maxBindings: number;
  readonly maxThreadsPerBlock: number;
  readonly maxSharedBytes: number;
  /** Blocks per grid dimension. */
  readonly maxGrid: number;
}

export interface DeviceInfo {
  readonly backend: string;
  /** As the driver calls it. */
  readonly name: string;
  /** All that tells it from other devices: vendor, architecture, device and driver, as far as the platform says. */
  readonly adapter: string;
  /** Lanes of every subgroup, where they all have the same. */
  readonly subgroupSize?: number;
  /** Whether a CPU plays the device. */
  readonly software: boolean;
  readonly limits: DeviceLimits;
  readonly features: readonly string[];
}

export interface DeviceBuffer {
  readonly bytes: number;
  readonly label: string;
}

/** A compiled kernel. */
export interface KernelHandle {
  readonly label: string;
}

/** A kernel with its buffers. */
export interface BindingHandle {
  readonly kernel: KernelHandle;
}

export interface UniformRange {
  readonly buffer: DeviceBuffer;
  readonly offset: number;
  readonly bytes: number;
}

export type Command =
  | { readonly k: 'dispatch'; readonly binding: BindingHandle; readonly grid: readonly [number, number, number] }
  | { readonly k: 'copy'; readonly from: DeviceBuffer; readonly fromOffset: number; readonly to: DeviceBuffer; readonly toOffset: number; readonly bytes: number };

export interface ReadRequest {
  readonly buffer: DeviceBuffer;
  readonly offset: number;
  readonly bytes: number;
}

/** Offsets of uniform ranges are multiples of this. */
export const UNIFORM_ALIGN = 256;

export interface Backend {
  readonly info: DeviceInfo;
  /** Bytes of all live buffers. */
  readonly allocatedBytes: number;
  /** Errors that no call was there to receive. */
  readonly uncapturedErrors: number;
  /** Resolves when the device is gone, and not because of `dispose`. */
  readonly lost: Promise<DeviceLostError>;
  /**
   * Creates buffers of zeros, all or none.
   * @throws OutOfMemoryError
   */
  createBuffers(wanted: readonly { readonly bytes: number; readonly label: string; readonly uniform?: boolean }[]): Promise<readonly DeviceBuffer[]>;
  destroyBuffer(buffer: DeviceBuffer): void;
  /** Offset and length are multiples of 4, or the data reaches the last word of the buffer. */
  write(buffer: DeviceBuffer, offset: number, data: Uint8Array): void;
  /** Waits until everything written and submitted so far is done. */
  flush(): Promise<void>;
  /** @throws ShaderCompileError */
  compile(kernel: ManifestKernel, variant: ManifestKernel['variants'][number], code: string, label: string): Promise<KernelHandle>;
  bind(kernel: KernelHandle, buffers: readonly DeviceBuffer[], uniform: UniformRange | undefined): BindingHandle;
  /** Runs commands in order, then reads; one array per request. */
  run(label: string, commands: readonly Command[], reads: readonly ReadRequest[]): Promise<readonly Uint8Array[]>;
  /** Frees what was created here; a device that was lent stays. Any number of times. */
  dispose(): void;
}
