/**
 * Tiles for tensor cores: the default schedule of a product whose rows come in tiles of `bm`, or nothing where the device or
 * the operands allow none. Warpgroups where the rows fill them, else single warps.
 */
import type { Capabilities } from '../target/types.ts';
import { kernelSharedBytes, legalTile } from './schedule.ts';
import type { MmaTile, TileSchedule, TileShape, WgmmaTile } from './schedule.ts';

// ---------------------------------------------------------------- single warps: of the legal tiles the first that the list names, widest first

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

function warpTile(bm: number, n: number, shapes: readonly TileShape[], caps: Capabilities): MmaTile | undefined {
  if (bm % 16 !== 0) return undefined;
  const count = Math.max(...shapes.map((s) => s.count));
  const deepest = Math.max(...shapes.map((s) => s.k));
  const legal = [...candidates(bm, n, count)].filter(
    (s) => s.bk <= Math.max(32, deepest) && shapes.every((shape) => legalTile(s, shape, caps).ok),
  );
  const bytes = caps.maxSharedBytes / BLOCKS_A_PROCESSOR;
  return legal.find((s) => kernelSharedBytes(s, shapes) <= bytes) ?? legal.find((s) => kernelSharedBytes(s, shapes) <= caps.maxSharedBytes);
}

// ---------------------------------------------------------------- warpgroups: the width that keeps the processors busiest, stages as many as fit

const GROUP_ROWS = 64;
const GROUP_WIDTHS = [256, 192, 128, 96, 64, 32] as const;
const GROUP_STAGES = [8, 7, 6, 5, 4, 3, 2] as const;
/** Columns whose products take as long as what a tile does once. */
const TILE_COLUMNS = 32;
/** Columns of all products where a bias is added to them: its values take registers beside the sums. */
const BIASED_COLUMNS = 192;

function groupTile(bm: number, n: number, rowTiles: number, shapes: readonly TileShape[], caps: Capabilities): WgmmaTile | undefined {
  const { multiprocessors } = caps;
  if (!caps.matrix.includes('wgmma') || multiprocessors === undefined || bm % GROUP_ROWS !== 0) return undefined;
  const count = Math.max(...shapes.map((s) => s.count));
  // Every processor has one block: all of them are done when the one with most tiles is.
  const time = (bn: number): number => Math.ceil((rowTiles * Math.ceil(n / bn)) / multiprocessors) * (count * bn + TILE_COLUMNS);
  const fits = (s: WgmmaTile): boolean =>
    shapes.every((shape) => legalTile(s, shape, caps).ok) && kernelSharedBytes(s, shapes) <= caps.maxSharedBytes;
  const widest = shapes.some((s) => s.bias === true) ? BIASED_COLUMNS : Infinity;
  return GROUP_WIDTHS.filter((bn) => bn < n + 32 && count * bn <= widest)
    .toSorted((a, b) => time(a) - time(b))
    .flatMap((bn) => GROUP_STAGES.map((stages): WgmmaTile => ({ variant: 'wgmma', bm, bn, bk: 64, consumers: bm / GROUP_ROWS, stages })))
    .find(fits);
}

export interface MatrixShape {
  /** Rows of a tile, and how many tiles of rows a call is likely to have. */
  readonly bm: number;
  readonly rowTiles: number;
  /** Columns of the widest result. */
  readonly n: number;
  /** Of all main loops of the kernel. */
  readonly loops: readonly TileShape[];
}

export const matrixTile = ({ bm, rowTiles, n, loops }: MatrixShape, caps: Capabilities): TileSchedule | undefined =>
  caps.matrix.length === 0 ? undefined : (groupTile(bm, n, rowTiles, loops, caps) ?? warpTile(bm, n, loops, caps));
