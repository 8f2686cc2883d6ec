/** Few rows times matrices: what the columns and the depth can be shared out to. */
import { bySubgroups, legalMatvec } from '../../kernels/schedule.ts';
import type { MatvecSchedule } from '../../kernels/schedule.ts';
import type { WeightElem } from '../../kernels/dense/common.ts';
import { type Capabilities, subgroupThreads } from '../../target/types.ts';
import { legalOf, type Space } from './types.ts';

const BLOCKS = [8, 16, 32, 64, 128, 256] as const;
const TEAMS = [1, 4, 8, 16, 32] as const;
const COLUMNS = [1, 2, 4, 8] as const;
const UNROLLS = [1, 2, 4, 8] as const;
const WAYS = [1, 2, 4] as const;
/** Sums a thread keeps. */
const MOST_SUMS = 16;

export interface MatvecSpace {
  /** Matrices read side by side. */
  readonly count: number;
  /** Columns of the widest result. */
  readonly n: number;
  /** Accesses of one weight row. */
  readonly depth: number;
  /** Slots that the teams of a block may share; 1 where the kernel has no ways. */
  readonly slots: number;
  readonly weightElem: WeightElem;
  /** Only teams that are subgroups. */
  readonly subgroupsOnly: boolean;
}

/** Records leave out what is 1, as defaults do: one kernel, one record. */
function* schedules({ slots }: MatvecSpace, caps: Capabilities): Generator<MatvecSchedule> {
  const own = subgroupThreads(caps);
  for (const block of BLOCKS) {
    for (const team of new Set([...TEAMS, ...(own === undefined ? [] : [own])])) {
      const joined = bySubgroups({ block, team, cols: 1 }, caps);
      for (const cols of COLUMNS) {
        for (const unroll of joined ? UNROLLS : [undefined]) {
          for (const ways of joined && slots > 1 ? WAYS : [1]) {
            const s: MatvecSchedule = { block, team, cols, ...(unroll === undefined ? {} : { unroll }), ...(ways > 1 && { ways }) };
            yield s;
            if (team === 1) yield { ...s, broadcast: 1 };
          }
        }
      }
    }
  }
}

export const matvecSpace = (space: MatvecSpace, caps: Capabilities): Space<MatvecSchedule> =>
  legalOf([...schedules(space, caps)], (s) => isUseful(s, space) && (!space.subgroupsOnly || bySubgroups(s, caps)) && legalMatvec(s, space.count, caps, space.weightElem).ok);

/** Neither more columns than twice those of the result, nor more accesses under way than there are, nor more ways than slots. */
function isUseful({ block, team, cols, unroll = 1, ways = 1 }: MatvecSchedule, { n, depth, slots, count }: MatvecSpace): boolean {
  if (team > block || team > depth || cols * count > MOST_SUMS) return false;
  const columns = (block / team / ways) * cols;
  return columns < 2 * Math.max(n, 8) && (unroll === 1 || unroll * team <= depth) && ways <= slots && block / team >= ways;
}
