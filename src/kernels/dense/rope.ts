/**
 * Rotary position embedding (RoFormer, eq. 34): the first `dim` columns of every head are rotated by the
 * angles of position past + t, pairwise; the columns behind them are copied.
 */
import * as b from '../../ir/kernel/build.ts';
import type { Stmt } from '../../ir/kernel/types.ts';
import type { Capabilities } from '../../target/types.ts';
import type { Launch } from '../launch.ts';
import { copy, define, elementwise, elementwiseSchedule, globalBuffer, wantWhole } from './common.ts';
import type { ElementwiseSchedule, StorageElem } from './common.ts';

export interface RopeProblem {
  readonly heads: number;
  readonly headDim: number;
  /** Columns that are rotated; even, at most headDim. */
  readonly dim: number;
  /** Pairs are columns (i, i + dim/2) or (2i, 2i + 1). */
  readonly style: 'half' | 'interleaved';
  /** Storage of x and y; f32 where not said. */
  readonly xElem?: StorageElem;
  readonly yElem?: StorageElem;
}

/**
 * x and y [T, heads · headDim]; table f32 [cap, dim]: a row holds dim/2 cosines, then the sines.
 * One thread turns one pair, or copies one column.
 */
export function rope(p: RopeProblem, schedule: ElementwiseSchedule | undefined, caps: Capabilities): Launch {
  wantWhole('rope', { heads: p.heads, headDim: p.headDim, dim: p.dim });
  if (p.dim % 2 !== 0 || p.dim > p.headDim) throw new Error(`rope: dim ${p.dim} is odd or above the head's ${p.headDim}`);
  const half = p.dim / 2;
  const units = p.headDim - half;
  const { xElem = 'f32', yElem = 'f32' } = p;
  const x = globalBuffer('x', xElem);
  const table = globalBuffer('table', 'f32');
  const y = globalBuffer('y', yElem);
  return elementwise({
    name: `rope_${p.heads}x${p.headDim}`,
    family: 'rope',
    params: [['x', x], ['table', table], ['y', y]],
    scalars: ['past'],
    perRow: p.heads * units,
    rows: {},
    body(item) {
      const stmts: Stmt[] = [];
      const head = define(stmts, 'head', b.div(item, b.u32(units)));
      const unit = define(stmts, 'unit', b.mod(item, b.u32(units)));
      const base = define(stmts, 'base', b.mul(head, b.u32(p.headDim)));
      const pair: Stmt[] = [];
      const position = b.add(b.scalar('past'), b.div(head, b.u32(p.heads)));
      const angle = define(pair, 'angle', b.add(b.mul(position, b.u32(p.dim)), unit));
      const cos = define(pair, 'cos', b.load(table, angle));
      const sin = define(pair, 'sin', b.load(table, b.add(angle, b.u32(half))));
      const i0 = define(pair, 'i0', b.add(base, p.style === 'half' ? unit : b.mul(unit, b.u32(2))));
      const i1 = define(pair, 'i1', b.add(i0, b.u32(p.style === 'half' ? half : 1)));
      const x0 = define(pair, 'x0', b.loadF32(x, i0));
      const x1 = define(pair, 'x1', b.loadF32(x, i1));
      pair.push(
        b.store(y, i0, b.cast(yElem, b.sub(b.mul(x0, cos), b.mul(x1, sin)))),
        b.store(y, i1, b.cast(yElem, b.add(b.mul(x1, cos), b.mul(x0, sin)))),
      );
      if (units === half) return [...stmts, ...pair];
      const rest = b.add(base, unit, b.u32(half));
      return [...stmts, b.if_(b.lt(unit, b.u32(half)), pair, [copy(y, rest, x, rest)])];
    },
  }, schedule ?? elementwiseSchedule(caps), caps);
}
