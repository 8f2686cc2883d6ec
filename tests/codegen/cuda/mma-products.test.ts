/** Products of blocks on mma.sync: the printed text under the emulator against the definition. */
import { describe, expect, it } from 'vitest';
import { finishCuda } from '../../../src/codegen/cuda/pipeline.ts';
import { mmaSync } from '../../../src/codegen/cuda/variants/mma-sync.ts';
import * as b from '../../../src/ir/kernel/build.ts';
import type { Block, Expr, Kernel, MainloopSchedule, Tile } from '../../../src/ir/kernel/types.ts';
import { finishKernel } from '../../../src/passes/kernel/pipeline.ts';
import { CUDA_SM80 } from '../../../src/target/cuda.ts';
import { chained, chainedGrid, chainedReference } from '../../ir/kernel/chained.ts';
import type { ChainedShape } from '../../ir/kernel/chained.ts';
import { global, kernel } from '../../ir/kernel/samples.ts';
import { random, stored } from '../../kernels/dense/harness.ts';
import { MODES, buildEmulated, hasCompiler, runEmulated } from './emulate.ts';

const mma = (warpsM: number, warpsN = 1): MainloopSchedule => ({ variant: 'mma-sync', warpsM, warpsN, bk: 16, stages: 1 });
const shape = (s: Partial<ChainedShape>, warps: number): ChainedShape => ({
  T: 37, k: 48, m: 41, n: 32, rows: 32, chunk: 16, lanes: 4, elem: 'bf16', block: 32 * warps, schedule: () => mma(warps), ...s,
});

function nmse(got: ArrayLike<number>, want: ArrayLike<number>): number {
  let [error, energy] = [0, 0];
  for (let i = 0; i < want.length; i++) {
    error += ((got[i] ?? NaN) - (want[i] ?? NaN)) ** 2;
    energy += (want[i] ?? NaN) ** 2;
  }
  return error / energy;
}

/** x · w0ᵀ times x · w1 (w1 [k, n]), element by element: two operands b, one of them transposed, over any warps. */
function paired(rows: number, k: number, n: number, warpsM: number, warpsN: number): Kernel {
  const [x, w0, w1, y] = [global('x', 'bf16', 4), global('w0', 'bf16', 4), global('w1', 'bf16', 4), global('y', 'f32', 2)];
  const block = (name: string, r: number, c: number): Block => ({ name, variant: 'mma-sync', elem: 'bf16', rows: r, cols: c });
  const [xs, first, second] = [block('xs', rows, k), block('first', n, k), block('second', k, n)];
  const tile: Tile = { name: 'acc', rows, cols: n, count: 2 };
  const plain = (buf: typeof x, width: number): ReturnType<typeof b.view> => b.view(buf, (r, c) => b.add(b.mul(r, b.u32(width / 4)), b.div(c, b.u32(4))));
  const one = (e: Expr | undefined): Expr => e ?? b.f32(0);
  return kernel([x, w0, w1, y], [
    b.stage(xs, plain(x, k)),
    b.stage(first, plain(w0, k)),
    b.stage(second, plain(w1, n)),
    b.tileAlloc(tile),
    b.product(tile, xs, [{ block: first, transposed: false }, { block: second, transposed: true }], mma(warpsM, warpsN)),
    b.update(tile, (_r, _c, [p, q]) => [b.mul(one(p), one(q)), one(p)]),
    b.tileMap(tile, (r, c, [p]) => [b.store(y, b.add(b.mul(r, b.u32(n / 2)), b.div(c, b.u32(2))), p ?? b.splat(2, b.f32(0)))], 2),
  ], { block: 32 * warpsM * warpsN });
}

describe.skipIf(!hasCompiler)('products of blocks on mma.sync', () => {
  it.each([
    ['two warps', shape({}, 2)],
    ['32 rows a warp, blocks ahead, f16', shape({ elem: 'f16', order: 'ahead', k: 80, n: 16, chunk: 32 }, 1)],
    ['rows of 12 chunks', shape({ k: 96, n: 96, order: 'ahead' }, 2)],
  ] as const)('%s', (_name, s) => {
    const [x, w, v] = [random(s.T * s.k, 1), random(s.m * s.k, 2), random(s.m * s.n, 3)].map((values) => stored(values, s.elem));
    if (x === undefined || w === undefined || v === undefined) return;
    const want = chainedReference(s, x.values, w.values, v.values);
    const finished = finishCuda(chained(s), CUDA_SM80);
    const program = buildEmulated(finished);
    const results = MODES.map((mode) => {
      const y = new Float32Array(want.length).fill(NaN);
      runEmulated(program, finished, { grid: chainedGrid(s), memory: { x: x.data, w: w.data, v: v.data, y }, scalars: { T: s.T } }, mode);
      return y;
    });
    // The result of the first product is rounded to the format of the second.
    expect(nmse(results[0] ?? [], want)).toBeLessThan(s.elem === 'f16' ? 1e-7 : 4e-6);
    for (const y of results) expect(y).toEqual(results[0]);
  });

  it('several operands b, some transposed, warps side by side', () => {
    const [rows, k, n] = [32, 32, 96];
    const [x, w0, w1] = [stored(random(rows * k, 1), 'bf16'), stored(random(n * k, 2), 'bf16'), stored(random(k * n, 3), 'bf16')];
    const want = Float64Array.from({ length: rows * n }, (_, at) => {
      const [r, c] = [Math.floor(at / n), at % n];
      let [p, q] = [0, 0];
      for (let i = 0; i < k; i++) {
        p += (x.values[r * k + i] ?? NaN) * (w0.values[c * k + i] ?? NaN);
        q += (x.values[r * k + i] ?? NaN) * (w1.values[i * n + c] ?? NaN);
      }
      return p * q;
    });
    for (const [warpsM, warpsN] of [[1, 3], [2, 2]] as const) {
      const finished = finishCuda(paired(rows, k, n, warpsM, warpsN), CUDA_SM80);
      const y = new Float32Array(want.length).fill(NaN);
      runEmulated(buildEmulated(finished), finished, { grid: [1, 1, 1], memory: { x: x.data, w0: w0.data, w1: w1.data, y } }, { order: 'rand', late: 1 });
      expect(nmse(y, want)).toBeLessThan(1e-10);
    }
  });
});

describe('products of blocks on mma.sync, refused', () => {
  const finish = (s: Partial<ChainedShape>, warps = 2): (() => Kernel) => () =>
    finishKernel(chained(shape(s, warps)), { subgroups: true, variants: [mmaSync] });

  it.each([
    ['a fold over warps side by side', finish({ chunk: 32, schedule: () => mma(1, 2) }), /whole rows in one warp/],
    ['f32', finish({ elem: 'f32' }), /16-bit numbers, not f32/],
    ['narrow accesses', finish({ lanes: 2 }), /need accesses of 4/],
    ['part pieces', finish({ k: 40 }), /not whole pieces/],
    ['one piece of 8 columns a warp', finish({ chunk: 8 }), /do not come in pairs/],
  ] as const)('%s', (_name, f, message) => expect(f).toThrow(message));

  it('where the target has no such blocks', () => {
    expect(() => finishKernel(chained(shape({}, 2)), { subgroups: false })).toThrow(/no blocks of variant mma-sync/);
  });
});
