/**
 * Schedules for devices with small subgroups: CPUs that play a GPU. There a load costs as much as some twenty multiplications,
 * wherever it goes to, and barriers cost more: threads keep tall pieces, hand rows round instead of loading them each, and use no
 * shared memory. Blocks are single subgroups, or a few that multiply the same columns.
 */
import { isQuantName, quantFormat } from '../base/quant.ts';
import { smallSubgroup } from '../target/types.ts';
import type { Capabilities } from '../target/types.ts';
import type { WeightElem } from './dense/common.ts';
import type { FmaTile, MatvecSchedule } from './schedule.ts';

/** Most rows of a piece by matrices that are read side by side: more of them take a compiler long and are no faster. */
const MOST_ROWS = { 1: 12, 2: 16 } as const;
const PACKED_ROWS = { 8: 12, 4: 8 } as const;

/**
 * A tile of `bm` rows whose subgroups hand rows round; nothing where subgroups are not small.
 * @param count matrices that are read side by side
 */
export function softwareTile(bm: number, count: 1 | 2, weightElem: WeightElem, caps: Capabilities): FmaTile | undefined {
  const size = smallSubgroup(caps);
  if (size === undefined) return undefined;
  // One load brings several quantised weights: rows are the dearer operand there, and more columns share them.
  const packed = isQuantName(weightElem);
  const most = packed ? PACKED_ROWS[quantFormat(weightElem).bits] : MOST_ROWS[count];
  const tm = [16, 12, 8, 4, 2, 1].find((rows) => rows <= most && bm % rows === 0) ?? 1;
  const tn = ((packed ? 2 : 1) * (tm > 4 ? 2 : 4)) / count;
  return (size * bm) / tm > caps.maxThreadsPerBlock ? undefined : { bm, bn: size * tn, bk: size, tm, tn, staging: 'broadcast' };
}

/** Rows one by one, a few columns a thread; nothing where subgroups are not small. */
export function softwareRows(count: 1 | 2, caps: Capabilities): MatvecSchedule | undefined {
  const size = smallSubgroup(caps);
  return size === undefined ? undefined : { block: size, team: 1, cols: 4 / count, broadcast: 1 };
}
