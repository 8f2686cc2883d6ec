/** A compiled package on a CUDA device, through the runtime that it ships, with the commands of its last call at hand to be timed. */
import { readFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { pathToFileURL } from 'node:url';
import type { Manifest } from '../../src/runtime/core/abi.ts';
import type { Command, DeviceBuffer } from '../../src/runtime/core/backend.ts';
import type { WeightProvider } from '../../src/runtime/core/provider.ts';
import type { ModelCall, Session } from '../../src/runtime/core/session.ts';

/** The modules of a package's own runtime. */
export interface Runtime {
  readonly half: typeof import('../../src/runtime/core/f16.ts');
  readonly manifest: typeof import('../../src/runtime/core/manifest.ts');
  readonly program: typeof import('../../src/runtime/core/program.ts');
  readonly provider: typeof import('../../src/runtime/core/provider.ts');
  readonly procedural: typeof import('../../src/runtime/core/procedural.ts');
  readonly safetensors: typeof import('../../src/runtime/core/safetensors.ts');
  readonly session: typeof import('../../src/runtime/core/session.ts');
  readonly tensors: typeof import('../../src/runtime/core/tensors.ts');
  readonly files: typeof import('../../src/runtime/node/files.ts');
  readonly cuda: typeof import('../../src/runtime/cuda/load.ts');
}

export async function runtimeOf(directory: string): Promise<Runtime> {
  const load = (path: string): Promise<unknown> => import(pathToFileURL(join(resolve(directory), 'runtime', path)).href);
  const [half, manifest, program, provider, procedural, safetensors, session, tensors, files, cuda] = await Promise.all([
    load('core/f16.js'), load('core/manifest.js'), load('core/program.js'), load('core/provider.js'), load('core/procedural.js'), load('core/safetensors.js'),
    load('core/session.js'), load('core/tensors.js'), load('node/files.js'), load('cuda/load.js'),
  ]);
  return { half, manifest, program, provider, procedural, safetensors, session, tensors, files, cuda } as Runtime;
}

export interface OpenPackage {
  readonly manifest: Manifest;
  readonly session: Session;
  /** One call, waited for. Its commands are what `time` times. */
  call(call: ModelCall): ReturnType<Session['call']>;
  /** Milliseconds of replays of the last call's commands. @param flush whether the L2 is overwritten before each */
  time(runs: number, flush: boolean): Promise<Float32Array>;
  dispose(): Promise<void>;
}

/** Overwritten before a call that shall begin with a cold L2: several times the L2 of any device. */
const FLUSH_BYTES = 256 << 20;

/** @param weights makes the provider of the weights */
export async function openPackage(directory: string, runtime: Runtime, weights: (manifest: Manifest) => Promise<WeightProvider>): Promise<OpenPackage> {
  const root = resolve(directory);
  const manifest = runtime.manifest.readManifest(JSON.parse(readFileSync(join(root, 'manifest.json'), 'utf8')));
  // Emulated where MOEC_CUDA_EMULATE=1 says so.
  const backend = await runtime.cuda.openCudaBackend({ directory: root, manifest });
  try {
    // The kernels are in the library.
    const program = await runtime.program.compileProgram(manifest, () => '', backend);
    const session = await runtime.session.Session.create(program, await weights(manifest));
    let commands: Command[] = [];
    const run = backend.run.bind(backend);
    backend.run = (label, list, reads) => {
      commands.push(...list);
      return run(label, list, reads);
    };
    let flushed: DeviceBuffer | undefined;
    return {
      manifest,
      session,
      call(call) {
        commands = [];
        return session.call(call);
      },
      async time(runs, flush) {
        if (flush) flushed ??= (await backend.createBuffers([{ bytes: backend.info.software ? 16 : FLUSH_BYTES, label: 'bench:flush' }]))[0];
        return backend.time(commands, runs, flush ? flushed : undefined);
      },
      async dispose() {
        await session.dispose();
        backend.dispose();
      },
    };
  } catch (error) {
    backend.dispose();
    throw error;
  }
}
