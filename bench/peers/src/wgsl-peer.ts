/** Runs hand-written kernels as a peer: buffers by name, one pass, one read-back. */
import { resting } from '../../../src/runtime/webgpu/rest.ts';
import { sharedDevice } from './device.ts';
import { type DenseWeights, type LayerWeights, SHAPE, type Shape } from './numbers.ts';
import type { Peer } from './peer.ts';
import { type Kernel, naiveMixture, tiledDense } from './wgsl.ts';

const STORAGE = 0x80;
const COPY_SOURCE = 0x4;
const COPY_TARGET = 0x8;
const MAP_READ = 0x1;

async function wgslPeer(name: string, kernels: readonly Kernel[], weights: ReadonlyMap<string, Float32Array>, elements: (buffer: string, tokens: number) => number, hidden: number): Promise<Peer> {
  const { device, acquired } = await sharedDevice();
  const made = (bytes: number, usage: number): GPUBuffer => device.createBuffer({ size: bytes, usage });
  const fixed = new Map<string, GPUBuffer>();
  for (const [key, values] of weights) {
    const buffer = made(values.byteLength, STORAGE | COPY_TARGET);
    device.queue.writeBuffer(buffer, 0, values.slice());
    fixed.set(key, buffer);
  }
  const pipelines = await Promise.all(
    kernels.map(async ({ code }) => device.createComputePipelineAsync({ layout: 'auto', compute: { module: device.createShaderModule({ code }), entryPoint: 'main' } })),
  );
  interface Call {
    readonly x: GPUBuffer;
    readonly y: GPUBuffer;
    readonly staging: GPUBuffer;
    readonly groups: readonly GPUBindGroup[];
  }
  const calls = new Map<number, Call>();
  const callOf = (tokens: number): Call => {
    const known = calls.get(tokens);
    if (known !== undefined) return known;
    const own = new Map(fixed);
    for (const key of new Set(kernels.flatMap((k) => k.buffers))) {
      if (!own.has(key)) own.set(key, made(4 * elements(key, tokens), STORAGE | COPY_TARGET | COPY_SOURCE));
    }
    const at = (key: string): GPUBuffer => {
      const found = own.get(key);
      if (found === undefined) throw new Error(`no buffer ${key}`);
      return found;
    };
    const groups = kernels.map(({ buffers }, i) => {
      const pipeline = pipelines[i];
      if (pipeline === undefined) throw new Error('no pipeline');
      return device.createBindGroup({ layout: pipeline.getBindGroupLayout(0), entries: buffers.map((key, binding) => ({ binding, resource: { buffer: at(key) } })) });
    });
    const call = { x: at('x'), y: at('y'), staging: made(4 * tokens * hidden, MAP_READ | COPY_TARGET), groups };
    calls.set(tokens, call);
    return call;
  };
  return {
    name,
    storage: 'f32',
    detail: 'WGSL by hand',
    async run(input) {
      const tokens = input.length / hidden;
      const { x, y, staging, groups } = callOf(tokens);
      device.queue.writeBuffer(x, 0, input.slice());
      const encoder = device.createCommandEncoder();
      const pass = encoder.beginComputePass();
      kernels.forEach(({ grid }, i) => {
        const [pipeline, group] = [pipelines[i], groups[i]];
        if (pipeline === undefined || group === undefined) return;
        pass.setPipeline(pipeline);
        pass.setBindGroup(0, group);
        pass.dispatchWorkgroups(...grid(tokens));
      });
      pass.end();
      encoder.copyBufferToBuffer(y, 0, staging, 0, input.byteLength);
      device.queue.submit([encoder.finish()]);
      await (acquired.software ? resting(staging.mapAsync(MAP_READ)) : staging.mapAsync(MAP_READ));
      const out = new Float32Array(staging.getMappedRange().slice(0));
      staging.unmap();
      return out;
    },
    dispose() {
      for (const b of fixed.values()) b.destroy();
    },
  };
}

export function naivePeer(weights: LayerWeights, shape: Shape = SHAPE): Promise<Peer> {
  const { active, hidden, width } = shape;
  const per: Readonly<Record<string, number>> = { x: hidden, y: hidden, ids: active, weights: active, both: active * 2 * width, h: active * width };
  return wgslPeer('naive WGSL, a thread an output', naiveMixture(shape), new Map(Object.entries(weights)), (key, tokens) => (per[key] ?? 1) * tokens, hidden);
}

export function tiledPeer(weights: DenseWeights): Promise<Peer> {
  const { hidden, width, gate, up, down } = weights;
  const per: Readonly<Record<string, number>> = { x: hidden, y: hidden, g: width, u: width, h: width };
  return wgslPeer('plain WGSL, 16 x 16 tiles', tiledDense(weights), new Map(Object.entries({ gate, up, down })), (key, tokens) => (per[key] ?? 1) * tokens, hidden);
}
