import { describe, expect, it } from 'vitest';
import { legalMatvec, legalTile, tileSharedBytes, tileThreads } from '../../src/kernels/index.ts';
import type { FmaTile } from '../../src/kernels/index.ts';
import { groupedSchedule } from '../../src/kernels/moe/grouped.ts';
import { WEBGPU_BASELINE } from '../../src/target/types.ts';
import type { Capabilities, Verdict } from '../../src/target/types.ts';

const good: FmaTile = { bm: 8, bn: 64, bk: 16, tm: 4, tn: 4, staging: 'shared' };
const shape = { k: 128, lanes: 4, count: 2 } as const;
/** The targets, and devices whose subgroups have one size. */
const DEVICES: readonly Partial<Capabilities>[] = [
  { target: 'webgpu' }, { target: 'cuda' }, ...[4, 8, 16, 32, 64].map((subgroupSize) => ({ subgroups: true, subgroupSize })),
];
const why = (v: Verdict): string => (v.ok ? 'legal' : v.why);

describe('schedules', () => {
  it('are refused with the reason', () => {
    const check = (s: Partial<FmaTile>): string => why(legalTile({ ...good, ...s }, shape, WEBGPU_BASELINE));
    expect(check({})).toBe('legal');
    expect(check({ tm: 3 })).toMatch(/tm 3 does not divide bm 8/);
    expect(check({ tn: 5 })).toMatch(/tn 5 does not divide bn 64/);
    expect(check({ bn: 0 })).toMatch(/bn is 0/);
    expect(check({ bn: 1024, tn: 2 })).toMatch(/1024 threads/);
    expect(check({ bk: 6 })).toMatch(/multiple of 4 lanes/);
    expect(check({ bk: 64 })).toMatch(/bytes of shared memory/);
    expect(check({ bm: 16, tm: 16, tn: 8, staging: 'register' })).toMatch(/values a thread/);
    const eights: Capabilities = { ...WEBGPU_BASELINE, subgroups: true, subgroupSize: 8 };
    const shares = (s: Partial<FmaTile>, caps = eights): string => why(legalTile({ ...good, staging: 'broadcast', ...s }, shape, caps));
    expect(shares({})).toBe('legal');
    expect(shares({ bn: 48 })).toMatch(/12 threads share rows, subgroups have 8/);
    expect(shares({}, { ...eights, subgroups: false })).toMatch(/no known size/);
    expect(shares({}, { ...WEBGPU_BASELINE, subgroups: true })).toMatch(/no known size/);
    expect(why(legalMatvec({ block: 32, team: 3, cols: 1 }, 1, WEBGPU_BASELINE))).toMatch(/does not divide/);
    expect(why(legalMatvec({ block: 256, team: 2, cols: 9 }, 2, WEBGPU_BASELINE))).toMatch(/shared memory/);
    expect(why(legalMatvec({ block: 512, team: 1, cols: 1 }, 1, WEBGPU_BASELINE))).toMatch(/512 threads/);
    expect(why(legalMatvec({ block: 64, team: 8, cols: 2 }, 2, WEBGPU_BASELINE))).toBe('legal');
  });

  it('count threads and staged bytes as the expansion lays them out', () => {
    expect(tileThreads(good)).toBe(32);
    expect(tileSharedBytes(good, shape)).toBe(4 * 16 * (9 + 2 * 65));
    expect(tileSharedBytes({ ...good, staging: 'register' }, shape)).toBe(0);
  });

  it('come with legal defaults for every size', () => {
    for (const tileRows of [1, 2, 3, 4, 6, 8, 16, 32]) {
      for (const n of [1, 3, 10, 33, 1408]) {
        for (const kind of ['none', 'glu'] as const) {
          for (const device of DEVICES) {
            const epilogue = kind === 'none' ? ({ kind } as const) : ({ kind, activation: 'silu' } as const);
            const p = {
              experts: 4,
              slots: 2,
              mode: 'sorted',
              tileRows,
              n,
              k: 2048,
              gather: true,
              epilogue,
              weightElem: 'f32',
              routeWeights: false,
              combine: false,
              scale: 1,
              residual: false,
            } as const;
            const caps = { ...WEBGPU_BASELINE, ...device };
            const { tile } = groupedSchedule(p, caps);
            if (tile === undefined) throw new Error('no tile schedule');
            expect(tile.bm).toBe(tileRows);
            expect(why(legalTile(tile, { k: 2048, lanes: 4, count: kind === 'glu' ? 2 : 1 }, caps))).toBe('legal');
            const { matvec } = groupedSchedule({ ...p, mode: 'direct' }, caps);
            if (matvec === undefined) throw new Error('no matvec schedule');
            expect(why(legalMatvec(matvec, 2, caps))).toBe('legal');
          }
        }
      }
    }
  });
});
