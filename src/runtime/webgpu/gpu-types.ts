/**
 * The part of WebGPU that is used, as structural types: packages type-check without @webgpu/types or the
 * DOM library. Users hand in a `LentDevice`, which the `GPUDevice` of every such library is.
 */
export interface LentDevice {
  readonly queue: object;
  readonly limits: object;
  readonly features: object;
  destroy(): unknown;
}

/** `navigator.gpu`, or what `create([])` of npm's `webgpu` gives. */
export interface LentGpu {
  requestAdapter(...options: never[]): unknown;
}

export const isDevice = (value: object): value is GpuDevice => 'createComputePipelineAsync' in value && 'queue' in value;
export const isGpu = (value: unknown): value is GpuEntry =>
  typeof value === 'object' && value !== null && 'requestAdapter' in value && typeof value.requestAdapter === 'function';

export interface GpuBuffer {
  readonly size: number;
  destroy(): void;
  mapAsync(mode: number, offset?: number, size?: number): Promise<unknown>;
  getMappedRange(offset?: number, size?: number): ArrayBuffer;
  unmap(): void;
}

export interface GpuError {
  readonly message: string;
}

export interface GpuComputePass {
  setPipeline(pipeline: object): void;
  setBindGroup(index: number, group: object): void;
  dispatchWorkgroups(x: number, y?: number, z?: number): void;
  end(): void;
}

export interface GpuEncoder {
  beginComputePass(descriptor?: { label?: string }): GpuComputePass;
  copyBufferToBuffer(from: GpuBuffer, fromOffset: number, to: GpuBuffer, toOffset: number, size: number): void;
  finish(): object;
}

export interface GpuQueue {
  submit(buffers: object[]): void;
  writeBuffer(buffer: GpuBuffer, offset: number, data: Uint8Array<ArrayBuffer>, dataOffset?: number, size?: number): void;
  onSubmittedWorkDone(): Promise<unknown>;
}

export interface GpuShaderModule {
  getCompilationInfo(): Promise<{ readonly messages: readonly { readonly type: string; readonly message: string; readonly lineNum: number; readonly linePos: number }[] }>;
}

export interface GpuLimits {
  readonly maxStorageBufferBindingSize: number;
  readonly maxBufferSize: number;
  readonly maxStorageBuffersPerShaderStage: number;
  readonly maxComputeInvocationsPerWorkgroup: number;
  readonly maxComputeWorkgroupSizeX: number;
  readonly maxComputeWorkgroupStorageSize: number;
  readonly maxComputeWorkgroupsPerDimension: number;
}

export interface GpuAdapterInfo {
  readonly vendor?: string;
  readonly architecture?: string;
  readonly device?: string;
  readonly description?: string;
  readonly isFallbackAdapter?: boolean;
  readonly subgroupMinSize?: number;
  readonly subgroupMaxSize?: number;
}

export interface GpuDevice {
  readonly limits: GpuLimits;
  readonly features: { has(name: string): boolean };
  readonly queue: GpuQueue;
  readonly lost: Promise<{ readonly reason?: string; readonly message: string }>;
  readonly adapterInfo?: GpuAdapterInfo;
  createBuffer(descriptor: { size: number; usage: number; label?: string }): GpuBuffer;
  createShaderModule(descriptor: { code: string; label?: string }): GpuShaderModule;
  createBindGroupLayout(descriptor: { entries: object[]; label?: string }): object;
  createPipelineLayout(descriptor: { bindGroupLayouts: Iterable<object | null | undefined>; label?: string }): object;
  createComputePipelineAsync(descriptor: object): Promise<object>;
  createBindGroup(descriptor: object): object;
  createCommandEncoder(descriptor?: { label?: string }): GpuEncoder;
  pushErrorScope(filter: 'validation' | 'out-of-memory' | 'internal'): void;
  popErrorScope(): Promise<GpuError | null>;
  addEventListener(type: string, listener: (event: object) => void): void;
  removeEventListener(type: string, listener: (event: object) => void): void;
  destroy(): void;
}

export interface GpuAdapter {
  readonly limits: GpuLimits;
  readonly features: { has(name: string): boolean };
  readonly info?: GpuAdapterInfo;
  requestDevice(descriptor: { requiredLimits: Record<string, number>; requiredFeatures: string[]; label?: string }): Promise<GpuDevice>;
}

export interface GpuEntry {
  requestAdapter(options?: { powerPreference?: 'high-performance' | 'low-power' }): Promise<GpuAdapter | null>;
}
