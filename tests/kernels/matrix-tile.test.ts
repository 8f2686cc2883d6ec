import { describe, expect, it } from 'vitest';
import { legalTile } from '../../src/kernels/index.ts';
import type { MmaTile, TileShape, WgmmaTile } from '../../src/kernels/index.ts';
import { type MatrixShape, matrixTile } from '../../src/kernels/matrix-tile.ts';
import { groupColumns } from '../../src/kernels/persistent.ts';
import { kernelSharedBytes } from '../../src/kernels/schedule.ts';
import { CUDA_SM80, CUDA_SM90A } from '../../src/target/cuda.ts';
import { WEBGPU_BASELINE } from '../../src/target/types.ts';
import type { Verdict } from '../../src/target/types.ts';

const loop = (k: number, count: number, form: Partial<TileShape> = {}): TileShape => ({
  k, lanes: 4, count, weightElem: 'bf16', xElem: 'bf16', ...form,
});
const why = (v: Verdict): string => (v.ok ? 'legal' : v.why);

describe('tiles for tensor cores', () => {
  it('give warpgroups rows enough, and other rows to single warps', () => {
    const shape = (bm: number, form: Partial<MatrixShape> = {}): MatrixShape => ({ bm, rowTiles: 64, n: 1408, loops: [loop(2048, 2)], ...form });
    expect(matrixTile(shape(128), CUDA_SM90A)).toMatchObject({ variant: 'wgmma', bm: 128, bn: 128, consumers: 2, stages: 4 });
    expect(matrixTile(shape(64), CUDA_SM90A)).toMatchObject({ variant: 'wgmma', bm: 64, consumers: 1 });
    expect(matrixTile(shape(128, { n: 2048, loops: [loop(1408, 1), loop(2816, 1)] }), CUDA_SM90A)).toMatchObject({ bn: 256, stages: 4 });
    expect(matrixTile(shape(32), CUDA_SM90A)).toMatchObject({ variant: 'mma-sync' });
    expect(matrixTile(shape(128), CUDA_SM80)).toMatchObject({ variant: 'mma-sync' });
    expect(matrixTile(shape(128, { loops: [loop(2048, 2, { xElem: 'f32' })] }), CUDA_SM90A)).toMatchObject({ variant: 'mma-sync' });
    expect(matrixTile(shape(128, { loops: [loop(2044, 2)] }), CUDA_SM90A)).toBeUndefined();
    expect(matrixTile(shape(128), WEBGPU_BASELINE)).toBeUndefined();
  });

  it('grow narrower where wide ones would leave processors idle', () => {
    const of = (rowTiles: number): unknown => matrixTile({ bm: 128, rowTiles, n: 2048, loops: [loop(2048, 1)] }, CUDA_SM90A);
    expect(of(32)).toMatchObject({ bn: 256 });
    expect(of(4)).toMatchObject({ bn: 64 });
  });

  it('are legal for every size', () => {
    for (const bm of [16, 32, 64, 128, 256]) {
      for (const n of [1, 8, 33, 72, 768, 14336]) {
        for (const count of [1, 2]) {
          for (const k of [8, 40, 2048]) {
            for (const caps of [CUDA_SM80, CUDA_SM90A]) {
              const loops = [loop(k, count), loop(2 * k, count)];
              const tile = matrixTile({ bm, rowTiles: 8, n, loops }, caps);
              if (tile === undefined) {
                expect(bm).toBe(256);
                continue;
              }
              expect(tile.bm).toBe(bm);
              for (const l of loops) expect(why(legalTile(tile, l, caps))).toBe('legal');
              expect(kernelSharedBytes(tile, loops)).toBeLessThanOrEqual(caps.maxSharedBytes);
            }
          }
        }
      }
    }
  });

  it('of warpgroups are refused with the reason', () => {
    const good: WgmmaTile = { variant: 'wgmma', bm: 128, bn: 128, bk: 64, consumers: 2, stages: 4 };
    const check = (s: Partial<WgmmaTile>, shape = loop(2048, 2), caps = CUDA_SM90A): string => why(legalTile({ ...good, ...s }, shape, caps));
    expect(check({})).toBe('legal');
    expect(check({ bk: 32 })).toMatch(/128 bytes/);
    expect(check({ stages: 1 })).toMatch(/one stage/);
    expect(check({ consumers: 1 })).toMatch(/bm 128 is not 64 rows/);
    expect(check({ bm: 192, consumers: 3 })).toMatch(/at most 2/);
    expect(check({ bn: 72 })).toMatch(/no width of wgmma/);
    expect(check({ bn: 256 })).toMatch(/no width of wgmma/);
    expect(check({ stages: 5 })).toMatch(/bytes of shared memory/);
    expect(check({}, loop(2044, 2))).toMatch(/multiple of 8/);
    expect(check({}, loop(2048, 2, { xElem: 'f32' }))).toMatch(/no rows of f32/);
    expect(check({}, loop(2048, 2), CUDA_SM80)).toMatch(/sm_80 has no wgmma/);
  });

  it('round rows of f32 only where products are wide', () => {
    const tile: MmaTile = { variant: 'mma-sync', bm: 32, bn: 32, bk: 32, warpsM: 1, warpsN: 2, stages: 3 };
    const check = (shape: TileShape, caps = CUDA_SM80): string => why(legalTile(tile, shape, caps));
    expect(check(loop(256, 1, { xElem: 'f32' }))).toBe('legal');
    expect(check(loop(248, 1, { xElem: 'f32' }))).toMatch(/takes a product of 256 columns, not of 248/);
    expect(check(loop(512, 2, { xElem: 'f32', width: 64 }))).toMatch(/not of 64/);
    expect(check(loop(128, 1, { xElem: 'f32', width: 512 }))).toBe('legal');
    expect(check(loop(64, 1, { xElem: 'f32' }), { ...CUDA_SM80, roundedWidth: 1 })).toBe('legal');
    // Rows that are in 16 bits already are not rounded.
    expect(check(loop(16, 1))).toBe('legal');
  });
});

describe('groups of columns', () => {
  it('are as wide as they may be with the last one full', () => {
    expect([1, 8, 11, 16, 22, 32, 56, 112].map(groupColumns)).toEqual([1, 8, 11, 16, 11, 16, 14, 16]);
    for (let columns = 1; columns < 200; columns++) {
      const size = groupColumns(columns);
      expect(size).toBeLessThanOrEqual(16);
      expect(2 * size).toBeGreaterThan(Math.min(16, columns));
      expect(Math.ceil(columns / size) * size).toBeLessThan(columns + 16);
    }
  });
});
