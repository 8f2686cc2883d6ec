/** y[t] = table[ids[t]] · scale: the embedding of the call's tokens, from a table that may be split over its rows. */
import * as b from '../../ir/kernel/build.ts';
import type { Stmt } from '../../ir/kernel/types.ts';
import type { Capabilities } from '../../target/types.ts';
import type { Launch } from '../launch.ts';
import {
  define, elementwise, elementwiseSchedule, globalBuffer, lanesFor, segmentOf, segmentScalars, wantIndexable, wantWhole,
} from './common.ts';
import type { ElementwiseSchedule, Segmented, StorageElem } from './common.ts';

export interface EmbedProblem extends Segmented {
  readonly vocab: number;
  readonly dim: number;
  readonly scale: number;
  readonly tableElem: StorageElem;
}

/** Counter of `faults` that counts token ids outside the vocabulary. */
export const FAULT_TOKEN_ID = 1;

/**
 * ids i32 [T], table [vocab, dim], y f32 [T, dim], faults u32. Ids outside the vocabulary are clamped
 * to it and counted once a token. With a split table only the tokens of the bound segment are written.
 */
export function embed(p: EmbedProblem, schedule: ElementwiseSchedule | undefined, caps: Capabilities): Launch {
  wantWhole('embed', { vocab: p.vocab, dim: p.dim, segmentRows: p.segmentRows });
  const lanes = lanesFor(p.dim);
  const perRow = p.dim / lanes;
  const segment = segmentOf(p, p.vocab);
  wantIndexable('embed', 'the table', segment.most * perRow);
  const ids = globalBuffer('ids', 'i32');
  const table = globalBuffer('table', p.tableElem, lanes);
  const y = globalBuffer('y', 'f32', lanes);
  const faults = { ...globalBuffer('faults', 'u32'), atomic: true };
  return elementwise({
    name: `embed_${p.vocab}x${p.dim}`,
    family: 'embed',
    params: [['ids', ids], ['table', table], ['y', y], ['faults', faults]],
    scalars: segmentScalars(p),
    perRow,
    rows: {},
    body(item) {
      const stmts: Stmt[] = [];
      const id = define(stmts, 'id', b.load(ids, b.div(item, b.u32(perRow))));
      const col = define(stmts, 'col', b.mod(item, b.u32(perRow)));
      const row = define(stmts, 'table_row', b.min(b.cast('u32', b.max(id, b.i32(0))), b.u32(p.vocab - 1)));
      const local = define(stmts, 'local_row', b.sub(row, segment.first));
      const value = b.loadF32(table, b.add(b.mul(local, b.u32(perRow)), col));
      const outside = b.ge(b.bitcast('u32', id), b.u32(p.vocab));
      const found: readonly Stmt[] = [
        b.if_(b.and(outside, b.eq(col, b.u32(0))), [b.atomic('add', faults, b.u32(FAULT_TOKEN_ID), b.u32(1))]),
        b.store(y, item, p.scale === 1 ? value : b.mul(value, b.splat(lanes, b.f32(p.scale)))),
      ];
      // Below the segment `local` wraps to a number above every count.
      return [...stmts, ...(p.segmentRows === undefined ? found : [b.if_(b.lt(local, segment.count), found)])];
    },
  }, schedule ?? elementwiseSchedule(caps), caps);
}
