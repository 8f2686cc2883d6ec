/**
 * Tiles for tensor cores: the default schedule of a product whose rows come in tiles of `bm`, or nothing where the device or
 * the operands allow none. Of the legal ones, the first that the list names: widest first.
 */
import type { Capabilities } from '../target/types.ts';
import { kernelSharedBytes, legalTile } from './schedule.ts';
import type { MmaTile, TileSchedule, TileShape } from './schedule.ts';

const STAGES = [4, 3, 2] as const;
const DEPTHS = [64, 32] as const;
/** Two blocks a processor hide each other's barriers. */
const BLOCKS_A_PROCESSOR = 2;

/** Warps that share a tile of bm rows: 16 or 32 rows each, columns between 8 and 64. */
function warpsOf(bm: number, bn: number): Pick<MmaTile, 'warpsM' | 'warpsN'> {
  if (bm >= 128) return { warpsM: 4, warpsN: bn >= 64 ? 2 : 1 };
  if (bm >= 64) return { warpsM: 2, warpsN: bn >= 32 ? 2 : 1 };
  return { warpsM: 1, warpsN: Math.max(1, Math.min(4, bn / 16)) };
}

function* candidates(bm: number, n: number, count: number): Generator<MmaTile> {
  const widths = (count === 2 ? [64, 32, 16] : [128, 64, 32, 16]).filter((bn) => bn <= Math.max(16, 2 ** Math.ceil(Math.log2(n))));
  for (const bn of widths) {
    for (const stages of STAGES) for (const bk of DEPTHS) yield { variant: 'mma-sync', bm, bn, bk, stages, ...warpsOf(bm, bn) };
  }
}

/** @param n columns of the widest result @param shapes of all main loops of the kernel */
export function matrixTile(bm: number, n: number, shapes: readonly TileShape[], caps: Capabilities): TileSchedule | undefined {
  if (caps.matrix.length === 0 || bm % 16 !== 0) return undefined;
  const count = Math.max(...shapes.map((s) => s.count));
  const deepest = Math.max(...shapes.map((s) => s.k));
  const legal = [...candidates(bm, n, count)].filter(
    (s) => s.bk <= Math.max(32, deepest) && shapes.every((shape) => legalTile(s, shape, caps).ok),
  );
  const bytes = caps.maxSharedBytes / BLOCKS_A_PROCESSOR;
  return legal.find((s) => kernelSharedBytes(s, shapes) <= bytes) ?? legal.find((s) => kernelSharedBytes(s, shapes) <= caps.maxSharedBytes);
}
