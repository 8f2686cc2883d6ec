/** A device in memory whose kernels are JavaScript functions, and a small model made by hand for it. */
import type { Manifest, ManifestKernel, ManifestParam, ManifestStep, Size } from '../../src/runtime/core/abi.ts';
import type { Backend, BindingHandle, Command, DeviceBuffer, DeviceInfo, DeviceLimits, KernelHandle, ReadRequest, UniformRange } from '../../src/runtime/core/backend.ts';
import { DeviceLostError, OutOfMemoryError } from '../../src/runtime/core/errors.ts';

export class Memory implements DeviceBuffer {
  readonly data: Uint8Array;
  readonly label: string;
  freed = false;
  constructor(bytes: number, label: string) {
    this.data = new Uint8Array(bytes);
    this.label = label;
  }
  get bytes(): number {
    return this.data.length;
  }
  get f32(): Float32Array {
    if (this.freed) throw new Error(`${this.label} was freed`);
    return new Float32Array(this.data.buffer);
  }
  get u32(): Uint32Array {
    return new Uint32Array(this.data.buffer);
  }
}

export type Body = (buffers: readonly Memory[], scalars: Readonly<Record<string, number>>, grid: readonly number[]) => void;

interface Handle extends KernelHandle {
  readonly kernel: ManifestKernel;
}
interface Bound extends BindingHandle {
  readonly kernel: Handle;
  readonly buffers: readonly Memory[];
  readonly uniform: UniformRange | undefined;
}

const memory = (b: DeviceBuffer): Memory => {
  if (!(b instanceof Memory) || b.freed) throw new Error(`not a live buffer: ${b.label}`);
  return b;
};

export const ROOMY: DeviceLimits = { maxBindingBytes: 1 << 20, maxBufferBytes: 1 << 20, maxBindings: 8, maxThreadsPerBlock: 256, maxSharedBytes: 16384, maxGrid: 65535 };

export class FakeBackend implements Backend {
  readonly info: DeviceInfo;
  readonly lost: Promise<DeviceLostError>;
  readonly bodies: Readonly<Record<string, Body>>;
  uncapturedErrors = 0;
  allocatedBytes = 0;
  failAllocation = false;
  /** Every submission waits for this. */
  gate: Promise<unknown> = Promise.resolve();
  running = 0;
  overlapped = false;
  disposed = 0;
  readonly dispatched: string[] = [];
  readonly live = new Set<Memory>();
  #lose: (e: DeviceLostError) => void = () => undefined;

  constructor(bodies: Readonly<Record<string, Body>>, limits: DeviceLimits = ROOMY, features: readonly string[] = []) {
    this.bodies = bodies;
    this.info = { backend: 'fake', name: 'fake', adapter: 'fake', software: true, limits, features };
    this.lost = new Promise((resolve) => {
      this.#lose = resolve;
    });
  }

  lose(): void {
    this.#lose(new DeviceLostError('gone', { details: { reason: 'test' } }));
  }

  createBuffers(wanted: readonly { readonly bytes: number; readonly label: string }[]): Promise<readonly DeviceBuffer[]> {
    if (this.failAllocation) return Promise.reject(new OutOfMemoryError('full'));
    const made = wanted.map(({ bytes, label }) => {
      if (bytes === 0 || bytes % 16 !== 0) throw new Error(`${label} of ${bytes} bytes`);
      return new Memory(bytes, label);
    });
    for (const b of made) {
      this.live.add(b);
      this.allocatedBytes += b.bytes;
    }
    return Promise.resolve(made);
  }

  destroyBuffer(buffer: DeviceBuffer): void {
    const b = memory(buffer);
    b.freed = true;
    this.live.delete(b);
    this.allocatedBytes -= b.bytes;
  }

  write(buffer: DeviceBuffer, offset: number, data: Uint8Array): void {
    if (offset % 4 !== 0) throw new Error(`write at ${offset}`);
    memory(buffer).data.set(data, offset);
  }

  flush(): Promise<void> {
    return Promise.resolve();
  }

  compile(kernel: ManifestKernel, variant: ManifestKernel['variants'][number], code: string, label: string): Promise<KernelHandle> {
    if (code !== `text of ${variant.file}`) throw new Error(`wrong text for ${variant.file}`);
    const handle: Handle = { kernel, label };
    return Promise.resolve(handle);
  }

  bind(kernel: KernelHandle, buffers: readonly DeviceBuffer[], uniform: UniformRange | undefined): BindingHandle {
    const bound: Bound = { kernel: kernel as Handle, buffers: buffers.map(memory), uniform };
    return bound;
  }

  async run(_label: string, commands: readonly Command[], reads: readonly ReadRequest[]): Promise<readonly Uint8Array[]> {
    this.running++;
    if (this.running > 1) this.overlapped = true;
    await this.gate;
    for (const c of commands) {
      if (c.k === 'copy') {
        memory(c.to).data.set(memory(c.from).data.subarray(c.fromOffset, c.fromOffset + c.bytes), c.toOffset);
        continue;
      }
      const { kernel, buffers, uniform } = c.binding as Bound;
      const words = uniform === undefined ? new Uint32Array(0) : memory(uniform.buffer).u32.subarray(uniform.offset / 4);
      const scalars = Object.fromEntries(kernel.kernel.scalars.map((s, i) => [s, words[i] ?? NaN]));
      this.dispatched.push(kernel.kernel.name);
      this.bodies[kernel.kernel.name]?.(buffers.map(memory), scalars, c.grid);
    }
    const out = reads.map((r) => memory(r.buffer).data.slice(r.offset, r.offset + r.bytes));
    this.running--;
    return out;
  }

  dispose(): void {
    this.disposed++;
    for (const b of this.live) this.destroyBuffer(b);
  }
}

// ---------------------------------------------------------------- a model by hand

const D = 4;
export const VOCAB = 6;
const CONTEXT = 200;

const kernel = (name: string, access: ManifestKernel['access'], scalars: readonly string[]): ManifestKernel => ({
  name, family: name, block: 64, sharedBytes: 0, scalars, access,
  variants: [
    { file: `kernels/${name}.fast.wgsl`, entry: name, requires: { features: ['speed'] } },
    { file: `kernels/${name}.wgsl`, entry: name, requires: { features: [] } },
  ],
});
const weight = (name: string, shape: readonly number[], source: string): ManifestParam => ({
  name, shape, elem: 'f32',
  role: { kind: 'weight', parts: [{ rows: shape[0] ?? 0, sources: [{ name: source, shape, n: { axis: 0, start: 0, step: 1 }, k: { start: 0, step: 1 } }] }] },
});
const times = (a: Size, b: Size): Size => ({ op: '*', a, b });
const step = (k: number, args: ManifestStep['args'], more: Partial<ManifestStep> = {}): ManifestStep => ({
  kernel: k, args, grid: ['T', 1, 1], constants: {}, op: 'test', group: 'dense', ...more,
});
const io = (name: string): ManifestStep['args'][number] => ({ kind: 'io', name });
const param = (name: string): ManifestStep['args'][number] => ({ kind: 'param', name });
const bucket = (steps: readonly ManifestStep[], scratch: Manifest['sections'][number]['buckets'][number]['scratch'] = []): Manifest['sections'][number]['buckets'] => [
  { maxTokens: 2, steps, scratch },
  { maxTokens: null, steps, scratch },
];
const x = { name: 'x', elem: 'f32', size: times('T', D), perToken: D } as const;
const y = { name: 'y', elem: 'f32', size: times('T', D), perToken: D } as const;

/** embed; two layers y = (sum of all cached rows) · w_l, by way of a scratch; a head whose weight is split into segments of 4 and 2 rows. */
export const MANIFEST: Manifest = {
  abi: 2, generator: 'moec test', target: 'webgpu', spec: '0', passes: [], files: {},
  model: { name: 'by hand', kind: 'model', hidden: D, vocab: VOCAB, context: CONTEXT, layers: 2, params: { total: 0, active: 0 }, needsTokenIds: false, hasRouter: false, slots: 0, experts: 0 },
  kernels: [
    kernel('embed', ['read', 'read', 'write'], ['T']),
    kernel('append', ['read', 'read_write'], ['T', 'past']),
    kernel('sum', ['read', 'read', 'write', 'read_write'], ['T', 'past']),
    kernel('scale', ['read', 'read', 'read', 'write'], ['past', 'T']),
    kernel('head', ['read', 'read', 'write'], ['T', 'segment.first', 'segment.count']),
  ],
  sections: [
    { name: 'embed', params: [weight('embed', [VOCAB, D], 'tok')], inputs: [{ name: 'ids', elem: 'u32', size: 'T', perToken: 1 }], outputs: [y], buckets: bucket([step(0, [io('ids'), param('embed'), io('y')])]) },
    {
      name: 'layer.0',
      params: [
        weight('layers.{l}.w', [D, D], 'l{l}.w'),
        { name: 'layers.{l}.cache', shape: ['cap', D], elem: 'f32', role: { kind: 'state' } },
        { name: 'rope.1', shape: ['cap', 2], elem: 'f32', role: { kind: 'rope', inverseFrequencies: [0.5], scale: 2 } },
      ],
      inputs: [x], outputs: [y],
      buckets: bucket(
        [
          step(1, [io('x'), param('layers.{l}.cache')]),
          step(2, [io('x'), param('layers.{l}.cache'), { kind: 'scratch', slot: 0 }, { kind: 'faults' }]),
          step(3, [{ kind: 'scratch', slot: 0 }, param('layers.{l}.w'), param('rope.1'), io('y')]),
          // A grid of nothing is left out.
          step(3, [{ kind: 'scratch', slot: 0 }, param('layers.{l}.w'), param('rope.1'), io('y')], { grid: [0, 1, 1] }),
        ],
        [{ elem: 'f32', size: times('T', D) }, { elem: 'f32', size: 0 }],
      ),
    },
    {
      name: 'head', params: [{ ...weight('head', [VOCAB, D], 'out'), segmentRows: 4 }], inputs: [x], outputs: [{ name: 'y', elem: 'f32', size: times('T', VOCAB), perToken: VOCAB }],
      buckets: bucket([0, 1].map((index) =>
        step(4, [io('x'), param('head'), io('y')], { constants: { 'segment.first': index * 4, 'segment.count': index === 0 ? 4 : 2 }, segment: { param: 'head', index } }))),
    },
  ],
  sequence: [{ section: 0, layer: null }, { section: 1, layer: 0 }, { section: 1, layer: 1 }, { section: 2, layer: null }],
  limits: { profile: 'baseline', maxBindingBytes: 1 << 20, maxBindings: 4, maxThreadsPerBlock: 64, maxSharedBytes: 0, weightBytes: 0 },
};

const at = (b: Memory | undefined, i: number): number => b?.f32[i] ?? NaN;

export const BODIES: Readonly<Record<string, Body>> = {
  embed: ([ids, table, out], { T = 0 }) => {
    for (let t = 0; t < T; t++) for (let d = 0; d < D; d++) out?.f32.set([at(table, (ids?.u32[t] ?? 0) * D + d)], t * D + d);
  },
  append: ([input, cache], { T = 0, past = 0 }) => cache?.f32.set(input?.f32.subarray(0, T * D) ?? [], past * D),
  sum: ([, cache, out, faults], { T = 0, past = 0 }) => {
    if (faults !== undefined) faults.u32[0] = (faults.u32[0] ?? 0) + T;
    for (let t = 0; t < T; t++) {
      for (let d = 0; d < D; d++) {
        let s = 0;
        for (let p = 0; p <= past + t; p++) s += at(cache, p * D + d);
        out?.f32.set([s], t * D + d);
      }
    }
  },
  scale: ([input, w, rope, out], { T = 0, past = 0 }) => {
    for (let t = 0; t < T; t++) {
      for (let n = 0; n < D; n++) {
        let s = 0;
        for (let k = 0; k < D; k++) s += at(input, t * D + k) * at(w, n * D + k);
        out?.f32.set([s + at(rope, (past + t) * 2)], t * D + n);
      }
    }
  },
  head: ([input, w, out], { T = 0, 'segment.first': first = 0, 'segment.count': count = 0 }) => {
    for (let t = 0; t < T; t++) {
      for (let n = 0; n < count; n++) {
        let s = 0;
        for (let k = 0; k < D; k++) s += at(input, t * D + k) * at(w, n * D + k);
        out?.f32.set([s], t * VOCAB + first + n);
      }
    }
  },
};

const small = (n: number, seed: number): Float32Array => Float32Array.from({ length: n }, (_, i) => (((i * 7 + seed * 13) % 11) - 5) / 16);
export const WEIGHTS: Readonly<Record<string, { readonly data: Float32Array; readonly shape: readonly number[] }>> = {
  tok: { data: small(VOCAB * D, 1), shape: [VOCAB, D] },
  'l0.w': { data: small(D * D, 2), shape: [D, D] },
  'l1.w': { data: small(D * D, 3), shape: [D, D] },
  out: { data: small(VOCAB * D, 4), shape: [VOCAB, D] },
  spare: { data: small(1, 5), shape: [1] },
};

/** The model of `MANIFEST`, straight. */
export function expectedLogits(ids: readonly number[]): number[] {
  const w = (name: string): Float32Array => WEIGHTS[name]?.data ?? new Float32Array(0);
  let h = ids.map((id) => Array.from({ length: D }, (_, d) => w('tok')[id * D + d] ?? 0));
  for (const l of [0, 1]) {
    const sums = h.map((_, t) => Array.from({ length: D }, (_v, d) => h.slice(0, t + 1).reduce((s, row) => Math.fround(s + (row[d] ?? 0)), 0)));
    h = sums.map((row, t) => Array.from({ length: D }, (_, n) => Math.fround(row.reduce((s, v, k) => s + v * (w(`l${l}.w`)[n * D + k] ?? 0), 0) + Math.fround(Math.cos(t * 0.5) * 2))));
  }
  return h.flatMap((row) => Array.from({ length: VOCAB }, (_, n) => row.reduce((s, v, k) => s + v * (w('out')[n * D + k] ?? 0), 0)));
}
