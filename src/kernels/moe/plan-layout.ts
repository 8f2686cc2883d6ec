/**
 * The plan buffer of sorted routed rows, u32, over P = T · slots:
 *
 *   [0]        tiles: one more than the last tile's number
 *   [1]        rows in use; rows beyond belong to no slot
 *   [4 …)      slot of each row: token · slots + slot            P words
 *   [4 + P …)  row of each slot, DROPPED where it has none       P words
 *   [4 + 2P …) tiles {expert, first row, rows}                   3 · (⌈P / tileRows⌉ + experts) words
 *
 * Rows stand by expert, then token, then slot. The tiles of expert e begin at number ⌊base(e) / tileRows⌋ + e,
 * base(e) being its first row: every expert finds them without knowing the others' tiles. In between stand
 * tiles of 0 rows, at most one an expert.
 */
import { addSize, ceilDivSize, mulSize } from '../../base/size.ts';
import type { Size } from '../../base/size.ts';
import * as b from '../../ir/kernel/build.ts';
import type { Buffer, Expr } from '../../ir/kernel/types.ts';
import { globalBuffer, routedRows, routedSize } from './common.ts';

const HEADER = 4;
const TILE_WORDS = 3;

export interface PlanShape {
  readonly experts: number;
  readonly slots: number;
  readonly tileRows: number;
}

export const planBuffer = (): Buffer => globalBuffer('plan', 'u32');

/** Tiles a plan can have at most, on the host and on the device. */
export const maxTilesSize = (p: PlanShape): Size => addSize(ceilDivSize(routedSize(p.slots), p.tileRows), p.experts);
export const maxTiles = (p: PlanShape): Expr => b.add(b.ceilDiv(routedRows(p.slots), b.u32(p.tileRows)), b.u32(p.experts));

/** Words of the buffer. */
export const planSize = (p: PlanShape): Size =>
  addSize(addSize(mulSize(routedSize(p.slots), 2), mulSize(maxTilesSize(p), TILE_WORDS)), HEADER);

export const tileCountAt: Expr = b.u32(0);
export const usedRowsAt: Expr = b.u32(1);
export const slotOfRowAt = (row: Expr): Expr => b.add(row, b.u32(HEADER));
export const rowOfSlotAt = (p: PlanShape, slot: Expr): Expr => b.add(slot, routedRows(p.slots), b.u32(HEADER));
/** Where the tile's expert stands; its first row and its rows follow. */
export const tileAt = (p: PlanShape, tile: Expr): Expr =>
  b.add(b.mul(tile, b.u32(TILE_WORDS)), b.mul(routedRows(p.slots), b.u32(2)), b.u32(HEADER));
