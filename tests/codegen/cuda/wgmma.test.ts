/** Main loops of warpgroups (sm_90a): the printed text under the emulator, in every order, against f64. */
import { describe, expect, it } from 'vitest';
import { finishCuda } from '../../../src/codegen/cuda/pipeline.ts';
import * as b from '../../../src/ir/kernel/build.ts';
import type { Kernel, StmtOf } from '../../../src/ir/kernel/types.ts';
import { mapStmts } from '../../../src/ir/kernel/walk.ts';
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
  'rows of heads, each with a matrix of its own': () => dense({ T: 130, tile: tile(2, 32, 3), heads: 3, n: 40, k: 72 }, CAPS),
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

describe('a kernel in roles', () => {
  const { kernel } = grouped({ T: 8, tile: tile(2, 32, 4) }, CAPS).launch;
  const maps = (k: Kernel): unknown => finishCuda(k, CAPS).tensorMaps;

  it('has maps of the matrices that boxes are copied of', () => {
    expect(maps(kernel)).toMatchObject([{ param: 'weight', rows: 6 * 2 * 72, cols: 200, boxRows: 32 }]);
    const rows = grouped({ T: 8, tile: tile(2, 64, 4), gather: false, epilogue: none }, CAPS).launch.kernel;
    expect(maps(rows)).toMatchObject([{ param: 'x', cols: 200, boxRows: 128 }, { param: 'weight', rows: 6 * 72, boxRows: 64 }]);
    // How many rows of x there are, and how many the last segment of a split weight holds, only the host knows.
    const split = dense({ T: 8, n: 200, segmentRows: 128, tile: tile(2, 64, 4) }, CAPS).launch.kernel;
    for (const map of finishCuda(split, CAPS).tensorMaps ?? []) expect(map.rows).toBeUndefined();
  });

  it('is refused where roles cannot run it, with the reason', () => {
    const y = kernel.params.find((p) => p.name === 'y') ?? b.buffer('y', 'global', 'f32');
    const weight = kernel.params.find((p) => p.name === 'weight') ?? b.buffer('weight', 'global', 'bf16');
    const changed = (f: (s: StmtOf<'tile.mainloop'>) => Partial<StmtOf<'tile.mainloop'>>): Kernel => ({
      ...kernel,
      body: mapStmts(kernel.body, (s) => [s.k === 'tile.mainloop' ? { ...s, ...f(s) } : s]),
    });
    const refused = (k: Kernel): string => {
      try {
        finishCuda(k, CAPS);
        return 'taken';
      } catch (error) {
        return String(error);
      }
    };
    expect(refused(kernel)).toBe('taken');
    expect(refused({ ...kernel, block: 256 })).toMatch(/in a block of 256 threads/);
    expect(refused({ ...kernel, body: [b.barrier(), ...kernel.body] })).toMatch(/barrier beside a main loop of wgmma/);
    expect(refused({ ...kernel, body: [b.alloc(b.buffer('s', 'shared', 'f32', 1, 4)), ...kernel.body] })).toMatch(/alloc beside/);
    expect(refused({ ...kernel, body: [b.let_('old', b.load(y, b.u32(0))), ...kernel.body] })).toMatch(/cannot read/);
    expect(refused({ ...kernel, body: [...kernel.body, b.store(weight, b.u32(0), b.load(weight, b.u32(1)))] })).toMatch(/reads what the kernel writes/);
    expect(refused(changed((s) => ({ schedule: { variant: 'wgmma', consumers: 2, bk: 32, stages: s.tile.count } })))).toMatch(/slices of 64 columns/);
    expect(refused(changed((s) => ({ depth: s.depth - 4 })))).toMatch(/no multiple of 8/);
    expect(refused(changed((s) => ({ b: s.b.map(({ matrix: _, ...v }) => v) })))).toMatch(/no box of them/);
  });
});
