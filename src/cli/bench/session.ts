/** Contestants on a device with procedural weights, ready to be timed. */
import { performance } from 'node:perf_hooks';
import { type Compiled, type CompileOptions, compileSpec } from '../../driver/compile.ts';
import type { Contestant } from '../../driver/variants.ts';
import type { DeviceInfo } from '../../runtime/core/backend.ts';
import type { Manifest } from '../../runtime/core/abi.ts';
import { compileProgram, type Program } from '../../runtime/core/program.ts';
import { proceduralProvider } from '../../runtime/core/provider.ts';
import { Session } from '../../runtime/core/session.ts';
import { openCudaBackend } from '../../runtime/cuda/load.ts';
import { nodeGpu } from '../../runtime/node/gpu.ts';
import { acquireDevice } from '../../runtime/webgpu/acquire.ts';
import { WebGpuBackend } from '../../runtime/webgpu/backend.ts';
import { buildProgram, type EmulateOption } from '../cuda-program.ts';
import type { Io } from '../io.ts';
import { type PassClock, passClock, TIMESTAMPS } from './pass-clock.ts';

/** Seed of weights and inputs. */
export const SEED = 1;

/** What a call starts from: hidden states of a layer, token ids of a model and of routers that read them. */
export interface CallInput {
  readonly tokens: number;
  readonly x: Float32Array | undefined;
  readonly ids: Int32Array | undefined;
}

/** Milliseconds of one call. */
export interface Sample {
  /** By the host's clock: upload of the input and read-back of the result included. */
  readonly host: number;
  /** By the device's clock, of its passes alone; undefined where it has none. */
  readonly device: number | undefined;
}

/** A contestant compiled, not yet on the device. */
export interface Prepared {
  readonly contestant: Contestant;
  readonly compiled: Compiled;
  readonly compileMs: number;
}

/** What it took to get ready, in milliseconds. */
export interface StageTimes {
  /** From the spec to kernel texts and manifest, on the host. */
  readonly compile: number;
  /** The texts through the device's compiler. */
  readonly kernels: number;
  /** Weights made and uploaded. */
  readonly weights: number;
}

export interface Timed {
  readonly name: string;
  readonly device: DeviceInfo;
  /** With the buckets and kernels of this device. */
  readonly served: Manifest;
  readonly prepared: Prepared;
  readonly stages: StageTimes;
  readonly weightBytes: number;
  time(input: CallInput): Promise<Sample>;
  /** Experts of each token and slot of a call; undefined where the layer has no router, and for models. */
  chosen(input: CallInput): Promise<Uint32Array | undefined>;
  /** Of the last call. */
  dispatches(): number;
  dispose(): Promise<void>;
}

/** Where contestants run: all on the same device, whose noise they share. */
export interface Bench {
  open(prepared: Prepared): Promise<Timed>;
  dispose(): void;
}

/** @throws Error where the spec without one of its passes cannot be lowered */
export function prepare(contestant: Contestant, compile: CompileOptions): Prepared {
  const start = performance.now();
  const compiled = compileSpec(contestant.spec, { ...compile, ...contestant.options });
  return { contestant, compiled, compileMs: performance.now() - start };
}

async function timed(prepared: Prepared, program: Program, clock: PassClock | undefined, release: () => void): Promise<Timed> {
  const { manifest, backend } = program;
  const session = await Session.create(program, proceduralProvider(SEED, manifest.model.experts));
  const isModel = manifest.model.kind === 'model';
  const call = async (input: CallInput, trace: readonly string[]): Promise<{ readonly ms: number; readonly traced: ReadonlyMap<string, Uint8Array> }> => {
    const { tokens } = input;
    const ids = isModel || manifest.model.needsTokenIds ? input.ids : undefined;
    const context = isModel ? session.acquire() : undefined;
    const start = performance.now();
    const { traced } = await session.call({ tokens, past: 0, ids, x: isModel ? undefined : input.x, context, rows: isModel ? 'last' : 'all', trace });
    const ms = performance.now() - start;
    if (context !== undefined) session.release(context);
    return { ms, traced };
  };
  return {
    name: prepared.contestant.name,
    device: backend.info,
    served: manifest,
    prepared,
    stages: { compile: prepared.compileMs, kernels: program.compileMs, weights: session.stats().times.upload },
    weightBytes: session.stats().memory.weights,
    async time(input) {
      const { ms } = await call(input, []);
      return { host: ms, device: await clock?.take() };
    },
    async chosen(input) {
      const name = 'topk_indices';
      if (isModel || !manifest.sections.some((s) => s.outputs.some((o) => o.name === name))) return undefined;
      const bytes = (await call(input, [name])).traced.get(name);
      await clock?.take();
      return bytes === undefined ? undefined : new Uint32Array(bytes.slice().buffer);
    },
    dispatches: () => session.stats().dispatches.last,
    dispose: () => session.dispose().finally(release),
  };
}

/** Bare timestamps, not those that browsers round to hide. */
const DAWN_FLAGS = ['disable-dawn-features=timestamp_quantization'];

export async function webgpuBench(): Promise<Bench> {
  const acquired = await acquireDevice({ gpu: await nodeGpu(DAWN_FLAGS), features: ['subgroups', TIMESTAMPS] });
  const clock = passClock(acquired.device);
  const backend = new WebGpuBackend(clock === undefined ? acquired : { ...acquired, device: clock.device }, 'bench');
  return {
    async open(prepared) {
      const { manifest, texts } = prepared.compiled;
      return timed(prepared, await compileProgram(manifest, (file) => texts.get(file), backend, {}), clock, () => undefined);
    },
    dispose() {
      clock?.dispose();
      backend.dispose();
    },
  };
}

/** Each contestant has a library of its own, and with it a stream of the device. */
export function cudaBench(io: Io, options: CompileOptions & EmulateOption): Bench {
  return {
    async open(prepared) {
      const program = await buildProgram(io, prepared.compiled, options);
      const backend = await openCudaBackend({ ...program, onWarning: io.say });
      try {
        return await timed(prepared, await compileProgram(program.manifest, () => '', backend, {}), undefined, () => backend.dispose());
      } catch (error) {
        backend.dispose();
        throw error;
      }
    },
    dispose: () => undefined,
  };
}
