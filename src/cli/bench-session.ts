/** A contestant on a device with procedural weights, ready to be timed. */
import { performance } from 'node:perf_hooks';
import { compileSpec } from '../driver/compile.ts';
import type { Contestant } from '../driver/variants.ts';
import type { Backend } from '../runtime/core/backend.ts';
import { proceduralIds, proceduralInput } from '../runtime/core/procedural.ts';
import { compileProgram } from '../runtime/core/program.ts';
import { proceduralProvider } from '../runtime/core/provider.ts';
import { Session } from '../runtime/core/session.ts';
import { nodeGpu } from '../runtime/node/gpu.ts';
import { acquireDevice } from '../runtime/webgpu/acquire.ts';
import { WebGpuBackend } from '../runtime/webgpu/backend.ts';

export interface Timed {
  readonly name: string;
  /** Milliseconds of one call, input upload and result read-back included. */
  time(tokens: number): Promise<number>;
  dispatches(): number;
  dispose(): Promise<void>;
}

/** One device for all contestants: they share its noise. */
export async function benchDevice(): Promise<WebGpuBackend> {
  const acquired = await acquireDevice({ gpu: await nodeGpu(), features: ['subgroups'] });
  return new WebGpuBackend(acquired, 'bench');
}

const SEED = 1;

export async function openContestant(c: Contestant, backend: Backend): Promise<Timed> {
  const { manifest, texts } = compileSpec(c.spec, c.options);
  const program = await compileProgram(manifest, (file) => texts.get(file), backend, {});
  const session = await Session.create(program, proceduralProvider(SEED, manifest.model.experts));
  const isModel = manifest.model.kind === 'model';
  const vocab = manifest.model.vocab ?? 1;
  return {
    name: c.name,
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
    dispose: () => session.dispose(),
  };
}
