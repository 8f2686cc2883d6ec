/** Moving columns of heads, rows of the cache, and a row's gate: element-wise steps that compute next to nothing. */
import * as b from '../../ir/kernel/build.ts';
import type { Stmt } from '../../ir/kernel/types.ts';
import type { Capabilities } from '../../target/types.ts';
import type { Launch } from '../launch.ts';
import { copy, define, elementwise, elementwiseSchedule, globalBuffer, lanesFor, wantWhole } from './common.ts';
import type { ElementwiseSchedule, Rows, StorageElem } from './common.ts';

export interface SliceHeadsProblem extends Rows {
  readonly heads: number;
  readonly stride: number;
  readonly start: number;
  readonly length: number;
  /** Storage of x and y; f32 where not said. */
  readonly xElem?: StorageElem;
  readonly yElem?: StorageElem;
}

/** x [rows, heads · stride], y [rows, heads · length]: per head, columns [start, start + length). */
export function sliceHeads(p: SliceHeadsProblem, schedule: ElementwiseSchedule | undefined, caps: Capabilities): Launch {
  wantWhole('slice_heads', { heads: p.heads, stride: p.stride, length: p.length, rowsPerToken: p.rowsPerToken });
  wantWhole('slice_heads', { start: p.start }, 0);
  const end = p.start + p.length;
  if (end > p.stride) throw new Error(`slice_heads: columns ${p.start} to ${end} leave a head of ${p.stride}`);
  const lanes = lanesFor(p.stride, p.start, p.length);
  const length = p.length / lanes;
  const x = globalBuffer('x', p.xElem ?? 'f32', lanes);
  const y = globalBuffer('y', p.yElem ?? 'f32', lanes);
  return elementwise({
    name: `slice_heads_${p.heads}x${p.length}`,
    family: 'slice_heads',
    params: [['x', x], ['y', y]],
    perRow: p.heads * length,
    rows: p,
    body: (item) => {
      const head = b.mul(b.div(item, b.u32(length)), b.u32(p.stride / lanes));
      return [copy(y, item, x, b.add(head, b.mod(item, b.u32(length)), b.u32(p.start / lanes)))];
    },
  }, schedule ?? elementwiseSchedule(caps), caps);
}

export interface ConcatHeadsProblem extends Rows {
  readonly heads: number;
  /** Columns of a head in `a` and in `b`. */
  readonly aDim: number;
  readonly bDim: number;
  /** Storage of a, b and y; f32 where not said. */
  readonly aElem?: StorageElem;
  readonly bElem?: StorageElem;
  readonly yElem?: StorageElem;
}

/** a [rows, heads · aDim], b [rows, heads · bDim], y [rows, heads · (aDim + bDim)]: per head, a then b. */
export function concatHeads(p: ConcatHeadsProblem, schedule: ElementwiseSchedule | undefined, caps: Capabilities): Launch {
  wantWhole('concat_heads', { heads: p.heads, aDim: p.aDim, bDim: p.bDim, rowsPerToken: p.rowsPerToken });
  const lanes = lanesFor(p.aDim, p.bDim);
  const [aDim, bDim] = [b.u32(p.aDim / lanes), b.u32(p.bDim / lanes)];
  const a = globalBuffer('a', p.aElem ?? 'f32', lanes);
  const bb = globalBuffer('b', p.bElem ?? 'f32', lanes);
  const y = globalBuffer('y', p.yElem ?? 'f32', lanes);
  return elementwise({
    name: `concat_heads_${p.heads}x${p.aDim + p.bDim}`,
    family: 'concat_heads',
    params: [['a', a], ['b', bb], ['y', y]],
    perRow: (p.heads * (p.aDim + p.bDim)) / lanes,
    rows: p,
    body: (item) => {
      const stmts: Stmt[] = [];
      const head = define(stmts, 'head', b.div(item, b.add(aDim, bDim)));
      const col = define(stmts, 'col', b.mod(item, b.add(aDim, bDim)));
      return [
        ...stmts,
        b.if_(
          b.lt(col, aDim),
          [copy(y, item, a, b.add(b.mul(head, aDim), col))],
          [copy(y, item, bb, b.add(b.mul(head, bDim), b.sub(col, aDim)))],
        ),
      ];
    },
  }, schedule ?? elementwiseSchedule(caps), caps);
}

export interface CacheAppendProblem {
  /** Columns of the cache. */
  readonly width: number;
  /** Storage of x and of the cache; f32 where not said. */
  readonly xElem?: StorageElem;
  readonly cacheElem?: StorageElem;
}

/** x [T, width], cache [cap, width]: rows past … past + T − 1 of the cache become x. */
export function cacheAppend(p: CacheAppendProblem, schedule: ElementwiseSchedule | undefined, caps: Capabilities): Launch {
  wantWhole('cache_append', { width: p.width });
  const lanes = lanesFor(p.width);
  const perRow = p.width / lanes;
  const x = globalBuffer('x', p.xElem ?? 'f32', lanes);
  const cache = globalBuffer('cache', p.cacheElem ?? 'f32', lanes);
  return elementwise({
    name: `cache_append_${p.width}`,
    family: 'cache_append',
    params: [['x', x], ['cache', cache]],
    scalars: ['past'],
    perRow,
    rows: {},
    body: (item) => [copy(cache, b.add(b.mul(b.scalar('past'), b.u32(perRow)), item), x, item)],
  }, schedule ?? elementwiseSchedule(caps), caps);
}
