/** Main loops of warpgroups (sm_90a): the printed text under the emulator, in every order, against f64. */
import { describe, expect, it } from 'vitest';
import { finishCuda } from '../../../src/codegen/cuda/pipeline.ts';
import type { WgmmaTile } from '../../../src/kernels/index.ts';
import { CUDA_SM90A } from '../../../src/target/cuda.ts';
import type { Capabilities } from '../../../src/target/types.ts';
import { MODES, type Mode, buildEmulated, hasCompiler, runEmulated } from './emulate.ts';
import { type Errors, type Product, dense, errorsOf, grouped } from './products.ts';

/** So few processors that each block runs several tiles. */
const CAPS: Capabilities = { ...CUDA_SM90A, multiprocessors: 3 };

const tile = (consumers: number, bn: number, stages: number): WgmmaTile => ({ variant: 'wgmma', bm: 64 * consumers, bn, bk: 64, consumers, stages });

const none = { kind: 'none' } as const;
const CASES: Readonly<Record<string, () => Product>> = {
  'gathered gated rows, tails everywhere, an expert without rows': () => grouped({ T: 150, tile: tile(2, 32, 4) }, CAPS),
  'rows of a plan, one product, a bias, 16-bit results': () =>
    grouped({ T: 150, tile: tile(2, 64, 3), gather: false, epilogue: none, biasElem: 'bf16', yElem: 'bf16' }, CAPS),
  'f16, one consumer, weighted rows': () =>
    grouped({ T: 90, tile: tile(1, 32, 5), elem: 'f16', epilogue: none, routeWeights: true, k: 64 }, CAPS),
  'shared experts in the same grid, with their own rows and depth': () =>
    grouped({
      T: 140, tile: tile(2, 32, 4), gather: false, epilogue: none,
      shared: { n: 104, k: 264, weightElem: 'bf16', ownX: true, xElem: 'bf16', gate: false },
    }, CAPS),
  'shared experts on the gathered rows, gated, narrower than the routed': () =>
    grouped({ T: 70, tile: tile(1, 16, 4), shared: { n: 24, k: 200, weightElem: 'bf16', biasElem: 'bf16', ownX: false, gate: false } }, CAPS),
  'a ring of two stages, odd columns': () => grouped({ T: 60, tile: tile(1, 8, 2), epilogue: none, n: 21, k: 136 }, CAPS),
  'wide products over a short depth': () => grouped({ T: 40, tile: tile(1, 128, 3), n: 136, k: 40, experts: 3, slots: 1 }, CAPS),
  'dense rows with bias, scale and residual': () =>
    dense({ T: 150, tile: tile(2, 32, 4), biasElem: 'bf16', scale: 0.5, residual: true }, CAPS),
  'dense rows, many columns, one consumer': () => dense({ T: 70, tile: tile(1, 16, 6), n: 333, k: 72 }, CAPS),
};

function run(p: Product, program: string, mode: Mode): Errors {
  const memory = p.memory();
  runEmulated(program, finishCuda(p.launch.kernel, CAPS), { grid: p.grid, memory, scalars: { T: p.T } }, mode);
  return errorsOf(p, memory);
}

describe.skipIf(!hasCompiler)('wgmma', () => {
  it.each(Object.entries(CASES))('%s', (_name, make) => {
    const p = make();
    const program = buildEmulated(finishCuda(p.launch.kernel, CAPS));
    const half = p.wanted.some((w) => w.elem !== 'f32');
    for (const mode of MODES) {
      const { nmse, rowNmse, strayRows } = run(p, program, mode);
      expect(nmse, JSON.stringify(mode)).toBeLessThan(half ? 3e-5 : 1e-12);
      expect(rowNmse, JSON.stringify(mode)).toBeLessThan(half ? 6e-5 : 1e-12);
      expect(strayRows, JSON.stringify(mode)).toBe(0);
    }
  });
});
