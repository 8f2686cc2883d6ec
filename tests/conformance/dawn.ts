/** Runs single kernels on Dawn, for tests: the same call as the interpreter's, on the adapter at hand. */
import { create, globals } from 'webgpu';
import { emitWgsl } from '../../src/codegen/wgsl/emit.ts';
import type { Kernel, ScalarName } from '../../src/ir/kernel/types.ts';

export type Memory = Record<string, Float32Array | Uint32Array | Int32Array | Uint16Array>;

export interface DawnRun {
  readonly grid: readonly [number, number, number];
  /** By parameter name; written buffers are updated in place. */
  readonly memory: Memory;
  readonly scalars?: Partial<Record<ScalarName, number>>;
}

declare global {
  var moecTestGpu: GPU | undefined;
}

let devicePromise: Promise<GPUDevice> | undefined;

/** A device with what the adapter offers; the instance stays on globalThis, or the process crashes. */
export function dawnDevice(): Promise<GPUDevice> {
  devicePromise ??= (async () => {
    Object.assign(globalThis, globals);
    globalThis.moecTestGpu ??= create([]);
    const adapter = await globalThis.moecTestGpu.requestAdapter();
    if (adapter === null) throw new Error('no WebGPU adapter: run `npm run setup` to fetch the software driver');
    const requiredFeatures = (['subgroups', 'timestamp-query'] as GPUFeatureName[]).filter((f) => adapter.features.has(f));
    return adapter.requestDevice({
      requiredFeatures,
      requiredLimits: {
        maxStorageBuffersPerShaderStage: adapter.limits.maxStorageBuffersPerShaderStage,
        maxStorageBufferBindingSize: adapter.limits.maxStorageBufferBindingSize,
      },
    });
  })();
  return devicePromise;
}

/** Threads of every subgroup of the device; undefined where they differ, or there are none. */
export async function subgroupSize(): Promise<number | undefined> {
  const device = await dawnDevice();
  const { subgroupMinSize, subgroupMaxSize } = device.adapterInfo;
  return device.features.has('subgroups') && subgroupMinSize === subgroupMaxSize ? subgroupMaxSize : undefined;
}

const bytesOf = (a: Memory[string]): Uint8Array => new Uint8Array(a.buffer, a.byteOffset, a.byteLength);
const pad4 = (n: number): number => Math.max(4, Math.ceil(n / 4) * 4);

/** Runs a finished (simt-level) kernel. Throws what Dawn says of its text, or of the run. */
export async function runOnDawn(kernel: Kernel, run: DawnRun): Promise<void> {
  const device = await dawnDevice();
  const code = emitWgsl(kernel);
  device.pushErrorScope('validation');
  const module = device.createShaderModule({ code, label: kernel.name });
  const info = await module.getCompilationInfo();
  const errors = info.messages.filter((m) => m.type === 'error');
  if (errors.length > 0) {
    const text = errors.map((m) => `${m.lineNum}:${m.linePos} ${m.message}`).join('\n');
    throw new Error(`${kernel.name}: ${text}\n${code}`);
  }
  const layout = device.createBindGroupLayout({
    entries: [
      ...kernel.params.map((p, binding) => ({
        binding,
        visibility: 4,
        buffer: { type: p.access === 'read' ? ('read-only-storage' as const) : ('storage' as const) },
      })),
      ...(kernel.scalars.length > 0
        ? [{ binding: kernel.params.length, visibility: 4, buffer: { type: 'uniform' as const } }]
        : []),
    ],
  });
  const pipeline = device.createComputePipeline({
    layout: device.createPipelineLayout({ bindGroupLayouts: [layout] }),
    compute: { module, entryPoint: kernel.name },
  });
  const owned: GPUBuffer[] = [];
  const make = (size: number, usage: number, data?: Uint8Array): GPUBuffer => {
    const buffer = device.createBuffer({ size, usage });
    owned.push(buffer);
    if (data !== undefined && data.byteLength > 0) {
      const padded = new Uint8Array(pad4(data.byteLength));
      padded.set(data);
      device.queue.writeBuffer(buffer, 0, padded);
    }
    return buffer;
  };
  const STORAGE = 0x80 | 0x8 | 0x4;
  const buffers = kernel.params.map((p) => {
    const data = run.memory[p.name];
    if (data === undefined) throw new Error(`no memory for ${p.name}`);
    return make(pad4(data.byteLength), STORAGE, bytesOf(data));
  });
  const entries: GPUBindGroupEntry[] = buffers.map((buffer, binding) => ({ binding, resource: { buffer } }));
  if (kernel.scalars.length > 0) {
    const values = Uint32Array.from(kernel.scalars, (s) => run.scalars?.[s] ?? 0);
    const uniform = make(Math.ceil(values.byteLength / 16) * 16, 0x40 | 0x8, bytesOf(values));
    entries.push({ binding: kernel.params.length, resource: { buffer: uniform } });
  }
  const encoder = device.createCommandEncoder();
  const pass = encoder.beginComputePass();
  pass.setPipeline(pipeline);
  pass.setBindGroup(0, device.createBindGroup({ layout, entries }));
  pass.dispatchWorkgroups(...run.grid);
  pass.end();
  const reads = kernel.params.flatMap((p, i) => {
    const source = buffers[i];
    const target = run.memory[p.name];
    if (p.access === 'read' || source === undefined || target === undefined || target.byteLength === 0) return [];
    const staging = make(source.size, 0x1 | 0x8);
    encoder.copyBufferToBuffer(source, 0, staging, 0, source.size);
    return [{ staging, target }];
  });
  device.queue.submit([encoder.finish()]);
  for (const { staging, target } of reads) {
    await staging.mapAsync(1);
    bytesOf(target).set(new Uint8Array(staging.getMappedRange(), 0, target.byteLength));
    staging.unmap();
  }
  const error = await device.popErrorScope();
  for (const b of owned) b.destroy();
  if (error !== null) throw new Error(`${kernel.name}: ${error.message}\n${code}`);
}
