/** A product on the result of a product, in chunks: a kernel at the tile level that uses blocks, row values, folds and updates. */
import * as b from '../../../src/ir/kernel/build.ts';
import { fmaF32 } from '../../../src/ir/kernel/numerics.ts';
import type { Block, Expr, Kernel, Lanes, MainloopSchedule, Stmt, Tile } from '../../../src/ir/kernel/types.ts';
import { global, kernel } from './samples.ts';

export interface ChainedShape {
  readonly T: number;
  readonly k: number;
  /** Rows of w and of v. */
  readonly m: number;
  readonly n: number;
  /** Rows of a block of threads, and of w in a chunk. */
  readonly rows: number;
  readonly chunk: number;
  readonly lanes: Lanes;
  readonly elem: 'f32' | 'bf16' | 'f16';
  readonly block: number;
  /** Of the tile of so many columns. */
  readonly schedule: (cols: number) => MainloopSchedule;
  readonly order?: 'at once' | 'ahead';
}

/** h = relu(x · wᵀ), y = h · v / (1 + the largest of a row of h): x [T, k], w [m, k], v [m, n], y [T, n]. */
export function chained(s: ChainedShape): Kernel {
  const [x, w, v, y] = [...(['x', 'w', 'v'] as const).map((name) => global(name, s.elem, s.lanes)), global('y')] as const;
  if (x === undefined || w === undefined || v === undefined || y === undefined) throw new Error('four buffers');
  const { variant } = s.schedule(s.n);
  const elem = variant === 'fma' ? 'f32' : s.elem;
  const block = (name: string, rows: number, cols: number): Block => ({ name, variant, elem, rows, cols });
  const [xs, ws, vs] = [block('xs', s.rows, s.k), block('ws', s.chunk, s.k), block('vs', s.chunk, s.n)];
  const hidden: Tile = { name: 'hidden', rows: s.rows, cols: s.chunk, count: 1 };
  const out: Tile = { name: 'out', rows: s.rows, cols: s.n, count: 1 };
  const at = (row: Expr, width: number, col: Expr): Expr => b.add(b.mul(row, b.u32(width / s.lanes)), b.div(col, b.u32(s.lanes)));
  const row0 = b.mul(b.builtin('block.x'), b.u32(s.rows));
  const value = (name: string): Expr => b.variable(name, b.ty('f32'));
  const one = (values: readonly Expr[]): Expr => values[0] ?? b.f32(0);
  const stageW = (base: Expr): Stmt => b.stage(ws, b.view(w, (r, c) => at(b.add(base, r), s.k, c), (r) => b.lt(b.add(base, r), b.u32(s.m))));
  const stageV = (base: Expr): Stmt => b.stage(vs, b.view(v, (r, c) => at(b.add(base, r), s.n, c), (r) => b.lt(b.add(base, r), b.u32(s.m))));
  const ahead = s.order === 'ahead';
  return kernel([x, w, v, y], [
    b.stage(xs, b.view(x, (r, c) => at(b.add(row0, r), s.k, c), (r) => b.lt(b.add(row0, r), b.scalar('T')))),
    ...(ahead ? [stageW(b.u32(0))] : []),
    b.tileAlloc(out),
    b.row(out, 'largest', () => b.f32(0)),
    b.for_('base', b.u32(0), b.u32(s.m), s.chunk, (base) => [
      ...(ahead ? [] : [stageW(base)]),
      stageV(base),
      b.tileAlloc(hidden),
      b.product(hidden, xs, [{ block: ws, transposed: false }], s.schedule(s.chunk)),
      ...(ahead ? [stageW(b.add(base, b.u32(s.chunk)))] : []),
      b.update(hidden, (_r, _c, h) => [b.max(one(h), b.f32(0))]),
      b.fold(hidden, 'peak', 'max', (_r, _c, h) => one(h)),
      b.assignRow(out, 'largest', () => b.max(value('largest'), value('peak'))),
      b.product(out, hidden, [{ block: vs, transposed: true }], s.schedule(s.n)),
    ]),
    b.row(out, 'below', () => b.add(b.f32(1), value('largest'))),
    b.tileMap(out, (r, c, sums) => [
      b.if_(b.lt(b.add(row0, r), b.scalar('T')), [b.store(y, b.add(b.mul(b.add(row0, r), b.u32(s.n)), c), b.div(one(sums), value('below')))]),
    ]),
  ], { block: s.block, scalars: ['T'] });
}

export const chainedGrid = (s: ChainedShape): readonly [number, number, number] => [Math.ceil(s.T / s.rows), 1, 1];

/** The definition: ascending depth, one fma after the other. */
export function chainedReference(s: ChainedShape, x: ArrayLike<number>, w: ArrayLike<number>, v: ArrayLike<number>): Float32Array {
  const y = new Float32Array(s.T * s.n);
  for (let t = 0; t < s.T; t++) {
    const h = Array.from({ length: s.m }, (_, c) => {
      let sum = 0;
      for (let i = 0; i < s.k; i++) sum = fmaF32(x[t * s.k + i] ?? NaN, w[c * s.k + i] ?? NaN, sum);
      return Math.max(sum, 0);
    });
    const below = Math.fround(1 + Math.max(0, ...h));
    for (let j = 0; j < s.n; j++) {
      let sum = 0;
      h.forEach((value, c) => (sum = fmaF32(value, v[c * s.n + j] ?? NaN, sum)));
      y[t * s.n + j] = sum / below;
    }
  }
  return y;
}

