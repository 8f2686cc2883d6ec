/** Contestants on a device with procedural weights, ready to be timed. */
import { performance } from 'node:perf_hooks';
import { type CompileOptions, compileSpec } from '../driver/compile.ts';
import type { Contestant } from '../driver/variants.ts';
import type { Backend, DeviceInfo } from '../runtime/core/backend.ts';
import { proceduralIds, proceduralInput } from '../runtime/core/procedural.ts';
import { compileProgram, type Program } from '../runtime/core/program.ts';
import { proceduralProvider } from '../runtime/core/provider.ts';
import { Session } from '../runtime/core/session.ts';
import { openCudaBackend } from '../runtime/cuda/load.ts';
import { nodeGpu } from '../runtime/node/gpu.ts';
import { acquireDevice } from '../runtime/webgpu/acquire.ts';
import { WebGpuBackend } from '../runtime/webgpu/backend.ts';
import { buildProgram, type EmulateOption } from './cuda-program.ts';
import type { Io } from './io.ts';

export interface Timed {
  readonly name: string;
  readonly device: DeviceInfo;
  /** Milliseconds of one call, input upload and result read-back included. */
  time(tokens: number): Promise<number>;
  dispatches(): number;
  dispose(): Promise<void>;
}

/** Where contestants run: all on the same device, whose noise they share. */
export interface Bench {
  open(c: Contestant): Promise<Timed>;
  dispose(): void;
}

const SEED = 1;

async function timed(name: string, program: Program, release: () => void): Promise<Timed> {
  const { manifest, backend } = program;
  const session = await Session.create(program, proceduralProvider(SEED, manifest.model.experts));
  const isModel = manifest.model.kind === 'model';
  const vocab = manifest.model.vocab ?? 1;
  return {
    name,
    device: backend.info,
    async time(tokens) {
      const ids = isModel || manifest.model.needsTokenIds ? proceduralIds(SEED, tokens, vocab) : undefined;
      const x = isModel ? undefined : proceduralInput(SEED, tokens, manifest.model.hidden);
      const context = isModel ? session.acquire() : undefined;
      const start = performance.now();
      await session.call({ tokens, past: 0, ids, x, context, rows: isModel ? 'last' : 'all' });
      const ms = performance.now() - start;
      if (context !== undefined) session.release(context);
      return ms;
    },
    dispatches: () => session.stats().dispatches.last,
    dispose: () => session.dispose().finally(release),
  };
}

export async function webgpuBench(compile: CompileOptions): Promise<Bench> {
  const acquired = await acquireDevice({ gpu: await nodeGpu(), features: ['subgroups'] });
  const backend: Backend = new WebGpuBackend(acquired, 'bench');
  return {
    async open({ name, spec, options }) {
      const { manifest, texts } = compileSpec(spec, { ...compile, ...options });
      return timed(name, await compileProgram(manifest, (file) => texts.get(file), backend, {}), () => undefined);
    },
    dispose: () => backend.dispose(),
  };
}

/** Each contestant has a library of its own, and with it a stream of the device. */
export function cudaBench(io: Io, compile: CompileOptions & EmulateOption): Bench {
  return {
    async open({ name, spec, options }) {
      const program = await buildProgram(io, compileSpec(spec, { ...compile, ...options }), compile);
      const backend = await openCudaBackend({ ...program, onWarning: io.say });
      try {
        return await timed(name, await compileProgram(program.manifest, () => '', backend, {}), () => backend.dispose());
      } catch (error) {
        backend.dispose();
        throw error;
      }
    },
    dispose: () => undefined,
  };
}
