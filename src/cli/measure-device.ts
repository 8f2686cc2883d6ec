/** Measures what a WebGPU device reaches, with the micro-kernels of `driver/bench`. */
import { performance } from 'node:perf_hooks';
import { microKernel, type MicroName } from '../driver/bench/micro-kernels.ts';
import type { Backend, Command, DeviceInfo } from '../runtime/core/backend.ts';
import { nodeGpu } from '../runtime/node/gpu.ts';
import { acquireDevice } from '../runtime/webgpu/acquire.ts';
import { WebGpuBackend } from '../runtime/webgpu/backend.ts';
import { median } from '../tuner/stats.ts';
import type { DevicePeaks } from './device-facts.ts';

/** A measurement is made longer until it takes so many milliseconds, which hides what surrounds it. */
const LONG_MS = 30;
/** Memory that was never touched is slow for a while: a peak is the best of many runs. */
const REPEATS = 12;
/** Bytes of one buffer of the copy: more than caches hold, less than the smallest limit. */
const COPY_BYTES = 64 * 2 ** 20;
const MOST_BLOCKS = 32_768;
const DISPATCHES = 256;

interface Ready {
  readonly perBlock: number;
  /** Best milliseconds of so many dispatches of so many blocks each. */
  run(blocks: number, dispatches: number, repeats: number): Promise<readonly number[]>;
}

async function ready(backend: Backend, name: MicroName): Promise<Ready> {
  const { kernel, text, perBlock, buffers } = microKernel(name);
  const [variant] = kernel.variants;
  if (variant === undefined) throw new Error(`${kernel.name} has no variant`);
  const handle = await backend.compile(kernel, variant, text, kernel.name);
  return {
    perBlock,
    async run(blocks, dispatches, repeats) {
      const made = await backend.createBuffers(buffers(blocks).map((bytes, i) => ({ bytes, label: `${kernel.name} ${i}` })));
      try {
        const command: Command = { k: 'dispatch', binding: backend.bind(handle, made, undefined), grid: [blocks, 1, 1] };
        const commands = Array.from({ length: dispatches }, () => command);
        const times: number[] = [];
        // The first run warms up.
        for (let i = 0; i <= repeats; i++) {
          const start = performance.now();
          await backend.run(kernel.name, commands, []);
          await backend.flush();
          if (i > 0) times.push(performance.now() - start);
        }
        return times;
      } finally {
        for (const b of made) backend.destroyBuffer(b);
      }
    },
  };
}

/** What a kernel does in a second, at its best. Grids grow until they are long, then dispatches are repeated. */
async function rate(backend: Backend, name: MicroName, blocks: number, most: number): Promise<number> {
  const { run, perBlock } = await ready(backend, name);
  let [grid, dispatches] = [blocks, 1];
  for (;;) {
    const ms = Math.min(...(await run(grid, dispatches, 1)));
    if (ms >= LONG_MS || dispatches >= 1024) break;
    const factor = Math.max(2, Math.ceil(LONG_MS / Math.max(ms, 0.1)));
    if (grid < most) grid = Math.min(most, grid * factor);
    else dispatches *= Math.min(factor, 16);
  }
  const best = Math.min(...(await run(grid, dispatches, REPEATS)));
  return (perBlock * grid * dispatches * 1000) / best;
}

async function dispatchCosts(backend: Backend): Promise<Pick<DevicePeaks, 'dispatchUs' | 'submitUs'>> {
  const { run } = await ready(backend, 'empty');
  const one = median(await run(1, 1, 4 * REPEATS));
  const many = median(await run(1, 1 + DISPATCHES, REPEATS));
  return { dispatchUs: Math.max(1e-3, (1000 * (many - one)) / DISPATCHES), submitUs: 1000 * one };
}

/**
 * Takes some seconds; on a software device the numbers are those of its processor.
 * @throws NoWebGPUError, NoAdapterError, ShaderCompileError
 */
export async function measureDevice(say: (what: string) => void): Promise<{ readonly info: DeviceInfo; readonly peaks: DevicePeaks }> {
  const backend = new WebGpuBackend(await acquireDevice({ gpu: await nodeGpu(), features: [] }), 'doctor');
  try {
    const giga = async (what: string, name: MicroName, blocks: number, most: number): Promise<number> => {
      say(`measuring ${what}`);
      return (await rate(backend, name, blocks, most)) / 1e9;
    };
    const copyBlocks = COPY_BYTES / (microKernel('copy').perBlock / 2);
    const peaks: DevicePeaks = {
      copyGBs: await giga('copies', 'copy', copyBlocks, copyBlocks),
      fmaGflops: await giga('multiply-adds', 'fma', 64, MOST_BLOCKS),
      loadG: await giga('loads', 'load', 64, MOST_BLOCKS),
      load4G: await giga('loads of four', 'load4', 64, MOST_BLOCKS),
      sharedGBs: await giga('shared memory', 'shared', 64, MOST_BLOCKS),
      ...(await dispatchCosts(backend)),
    };
    return { info: backend.info, peaks };
  } finally {
    backend.dispose();
  }
}
