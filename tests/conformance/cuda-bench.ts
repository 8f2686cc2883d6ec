/**
 * Specs compiled for CUDA, their kernels built by g++ for the emulator, run through the runtime that CUDA packages carry. Stricter
 * than a device in two ways: every call runs in several orders of threads and of asynchronous copies, which must all give the same
 * bits; and what a call has not written yet is garbage, not zeros.
 */
import { expect } from 'vitest';
import type { CompileOptions, Compiled } from '../../src/driver/compile.ts';
import { cudaSources } from '../../src/driver/package.ts';
import { type Capabilities, CUDA_SM80 } from '../../src/driver/profiles.ts';
import type { Backend, DeviceBuffer } from '../../src/runtime/core/backend.ts';
import type { HALF_GATES } from '../../src/runtime/core/metrics.ts';
import { CudaBackend } from '../../src/runtime/cuda/backend.ts';
import { buildInCache } from '../../src/runtime/node/cuda-builder.ts';
import { openPackageLibrary } from '../../src/runtime/node/cuda-package.ts';
import { type Bench, INTERPRETER_GATE, type RunningLayer, type RunningModel, deviceBench } from './benches.ts';
import { CUDA_CACHE, sharedSources } from './cuda-sources.ts';

/** The device for a compiled spec, played by the emulator; builds its library where no earlier run did. */
export async function emulatedBackend(compiled: Compiled): Promise<CudaBackend> {
  const { manifest, kernels } = cudaSources(compiled, { cuda: sharedSources() });
  if (manifest.cuda === undefined) throw new Error('compiled for another target');
  const { directory } = await buildInCache(kernels, CUDA_CACHE, { cuda: manifest.cuda, emulate: true });
  return CudaBackend.open(await openPackageLibrary(directory, manifest.cuda, true));
}

/** NaN as f32 and as the first of two halves; as an index, far out of any range. */
const GARBAGE = 0x7fc0_7fc1;
const OUTLIVES_NO_CALL = /^moec:(scratch|hidden|out|logits)/;
const STARTS_CALL = /^moec:(ids|hidden)/;

/** The backend, with garbage where a program may rely on nothing. */
function spoiling(backend: CudaBackend): Backend {
  const spoilt = new Set<DeviceBuffer>();
  const spoil = (buffer: DeviceBuffer): void => backend.write(buffer, 0, new Uint8Array(new Uint32Array(buffer.bytes / 4).fill(GARBAGE).buffer));
  return {
    info: backend.info,
    lost: backend.lost,
    uncapturedErrors: 0,
    get allocatedBytes() {
      return backend.allocatedBytes;
    },
    async createBuffers(wanted) {
      const made = await backend.createBuffers(wanted);
      for (const b of made) {
        if (OUTLIVES_NO_CALL.test(b.label)) spoilt.add(b);
        if (OUTLIVES_NO_CALL.test(b.label) || b.label.startsWith('moec:cache/')) spoil(b);
      }
      return made;
    },
    destroyBuffer(buffer) {
      spoilt.delete(buffer);
      backend.destroyBuffer(buffer);
    },
    write(buffer, offset, data) {
      // A call begins by writing its input.
      if (STARTS_CALL.test(buffer.label)) for (const b of spoilt) spoil(b);
      backend.write(buffer, offset, data);
    },
    flush: () => backend.flush(),
    compile: (kernel, variant, code, label) => backend.compile(kernel, variant, code, label),
    bind: (kernel, buffers, uniform) => backend.bind(kernel, buffers, uniform),
    run: (label, commands, reads) => backend.run(label, commands, reads),
    dispose: () => backend.dispose(),
  };
}

/** The device, and kernels that round rows however narrow they are: small layers then run what wide ones do. */
export const rounding = (caps: Capabilities): Capabilities => ({ ...caps, roundedWidth: 1 });

/** Gates where that is done: the errors of 16 to 40 columns average out less, so single rows may be twice as far off. */
export const ROUNDING_GATES: typeof HALF_GATES = {
  f16: { nmse: 5e-7, rowNmse: 4e-6 },
  bf16: { nmse: 3e-5, rowNmse: 1.2e-4 },
};

/** How the emulator orders threads, and whether asynchronous copies happen late or at once. */
interface Order {
  readonly MOEC_EMULATE_ORDER: string;
  readonly MOEC_EMULATE_LATE: '0' | '1';
}

export const ORDERS: readonly Order[] = ['fwd', 'rev', 'rand:7'].flatMap((order) =>
  (['1', '0'] as const).map((late) => ({ MOEC_EMULATE_ORDER: order, MOEC_EMULATE_LATE: late })),
);

/** The result of the first order, when all others have given the same. */
async function inAllOrders<T>(orders: readonly Order[], run: () => Promise<T>): Promise<T> {
  const results: T[] = [];
  try {
    for (const order of orders) {
      // Node hands these to the C library, where the emulator reads them at every launch.
      Object.assign(process.env, order);
      results.push(await run());
    }
  } finally {
    delete process.env['MOEC_EMULATE_ORDER'];
    delete process.env['MOEC_EMULATE_LATE'];
  }
  const [first] = results;
  if (first === undefined) throw new Error('no order');
  for (const [i, r] of results.entries()) expect(r, JSON.stringify(orders[i])).toEqual(first);
  return first;
}

const orderedLayer = (layer: RunningLayer, orders: readonly Order[]): RunningLayer => ({ ...layer, run: (input) => inAllOrders(orders, () => layer.run(input)) });

const orderedModel = (model: RunningModel, orders: readonly Order[]): RunningModel => ({
  ...model,
  forward: (ids, lengths) => inAllOrders(orders, () => model.forward(ids, lengths)),
});

export function cudaBench(options: CompileOptions = {}, orders: readonly Order[] = ORDERS): Bench {
  const caps = options.caps ?? CUDA_SM80;
  const bench = deviceBench(`emulated CUDA, ${caps.profile}`, INTERPRETER_GATE, 1e-6, async (c) => spoiling(await emulatedBackend(c)), { ...options, caps });
  return {
    ...bench,
    layer: async (spec, weights) => orderedLayer(await bench.layer(spec, weights), orders),
    model: async (spec, weights) => orderedModel(await bench.model(spec, weights), orders),
  };
}
