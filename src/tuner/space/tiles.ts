/** Block tiles: what the main loops of grouped and dense products can be cut into. */
import { kernelSharedBytes, legalTile, tileThreads } from '../../kernels/schedule.ts';
import type { FmaTile, TileSchedule, TileShape } from '../../kernels/schedule.ts';
import type { Capabilities } from '../../target/types.ts';
import { legalOf, type Space } from './types.ts';

export const POWERS = [1, 2, 4, 8, 16, 32, 64, 128, 256] as const;
const THREAD_ROWS = [1, 2, 4, 8, 12, 16] as const;
const THREAD_COLUMNS = [1, 2, 4, 8] as const;
/** Sums a thread keeps; more of them spill wherever such a kernel has been seen. */
const MOST_SUMS = 64;
const FEWEST_THREADS = 8;
/** Slices in shared memory pay where threads share them. */
const FEWEST_SHARING = 32;
const SHARED_DEPTHS = [8, 16, 32] as const;

const STAGINGS: readonly FmaTile['staging'][] = ['register', 'broadcast', 'shared'];

export interface TileSpace {
  /** Rows that a block may have. */
  readonly rows: readonly number[];
  /** Columns of the widest result. */
  readonly n: number;
  /** Of all main loops of the kernel. */
  readonly loops: readonly TileShape[];
  /** The slice depth of stagings that have no slices: it changes nothing, and the default's keeps one name for one kernel. */
  readonly depth: number;
}

function fits(s: TileSchedule, { loops }: TileSpace, caps: Capabilities): boolean {
  return loops.every((shape) => legalTile(s, shape, caps).ok) && kernelSharedBytes(s, loops) <= caps.maxSharedBytes;
}

function* fmaTiles(space: TileSpace): Generator<FmaTile> {
  const widest = POWERS.find((p) => p >= space.n) ?? 256;
  const columns = POWERS.filter((bn) => bn >= Math.min(8, widest) && bn <= Math.min(256, widest));
  for (const bm of space.rows) {
    for (const bn of columns) {
      for (const tm of THREAD_ROWS) {
        for (const tn of THREAD_COLUMNS) {
          for (const staging of STAGINGS) {
            for (const bk of staging === 'shared' ? SHARED_DEPTHS : [space.depth]) yield { bm, bn, bk, tm, tn, staging };
          }
        }
      }
    }
  }
}

/** Legal tiles for all main loops of a kernel. */
export function tileSpace(space: TileSpace, caps: Capabilities): Space<FmaTile> {
  const deepest = Math.max(...space.loops.map((l) => l.k));
  const count = Math.max(...space.loops.map((l) => l.count));
  return legalOf([...fmaTiles(space)], (s) => {
    if (s.tm > s.bm || s.tn > s.bn || count * s.tm * s.tn > MOST_SUMS) return false;
    const threads = tileThreads(s);
    if (threads < (s.staging === 'shared' ? FEWEST_SHARING : FEWEST_THREADS) && s.bm * s.bn > threads) return false;
    return (s.staging !== 'shared' || s.bk <= Math.max(8, deepest)) && fits(s, space, caps);
  });
}
