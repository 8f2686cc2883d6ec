/** Kernels at the tile level that several tests share. */
import * as b from '../../../src/ir/kernel/build.ts';
import type { Buffer, Elem, Kernel, Lanes, FmaSchedule, Stmt } from '../../../src/ir/kernel/types.ts';

export const global = (name: string, elem: Elem = 'f32', lanes: Lanes = 1): Buffer => b.buffer(name, 'global', elem, lanes);

export const kernel = (params: readonly Buffer[], body: readonly Stmt[], extra: Partial<Kernel> = {}): Kernel => ({
  name: 'k', family: 'test', params, scalars: [], block: 8, body, schedule: {}, ...extra,
});

export interface MatmulShape {
  readonly m: number;
  readonly n: number;
  readonly k: number;
  readonly rows: number;
  readonly cols: number;
  readonly block: number;
  readonly aLanes: Lanes;
  readonly bLanes: Lanes;
  /** Operands b: 2 makes y = a·b0ᵀ · a·b1ᵀ with both halves in one buffer, as gated units have them. */
  readonly count: 1 | 2;
  readonly schedule: Omit<FmaSchedule, 'variant'>;
  /** Rows of a are read through this buffer of indices. */
  readonly gather?: boolean;
  readonly elem?: Elem;
}

/** y[T, n] = a[T, k] · b[n, k]ᵀ (T is the scalar, `m` the T of one launch), one block per tile of y; ragged edges guarded. Rows of k padded to whole accesses. */
export function matmul(s: MatmulShape): Kernel {
  const a = global('a', 'f32', s.aLanes);
  const w = global('w', s.elem ?? 'f32', s.bLanes);
  const rowsOf = global('rows', 'u32');
  const y = global('y');
  const perA = Math.ceil(s.k / s.aLanes);
  const perB = Math.ceil(s.k / s.bLanes);
  const row0 = b.mul(b.builtin('block.y'), b.u32(s.rows));
  const col0 = b.mul(b.builtin('block.x'), b.u32(s.cols));
  const tile = { name: 'acc', rows: s.rows, cols: s.cols, count: s.count };
  const source = (r: ReturnType<typeof b.u32>): ReturnType<typeof b.u32> => (s.gather === true ? b.load(rowsOf, b.add(row0, r)) : b.add(row0, r));
  const va = b.view(a, (r, c) => b.add(b.mul(source(r), b.u32(perA)), b.div(c, b.u32(s.aLanes))), (r) => b.lt(b.add(row0, r), b.scalar('T')));
  const vb = Array.from({ length: s.count }, (_, i) =>
    b.view(
      w,
      (r, c) => b.add(b.mul(b.add(b.u32(i * s.n), b.add(col0, r)), b.u32(perB)), b.div(c, b.u32(s.bLanes))),
      (r) => b.lt(b.add(col0, r), b.u32(s.n)),
    ));
  return kernel(s.gather === true ? [a, w, rowsOf, y] : [a, w, y], [
    b.tileAlloc(tile),
    b.mainloop(tile, va, vb, s.k, { variant: 'fma', ...s.schedule }),
    b.tileMap(tile, (r, c, v) => [
      b.let_('row', b.add(row0, r)),
      b.let_('col', b.add(col0, c)),
      b.if_(b.and(b.lt(b.variable('row'), b.scalar('T')), b.lt(b.variable('col'), b.u32(s.n))), [
        b.store(y, b.add(b.mul(b.variable('row'), b.u32(s.n)), b.variable('col')), b.mul(v[0] ?? b.f32(0), v[1] ?? b.f32(1))),
      ]),
    ]),
  ], { block: s.block, scalars: ['T'] });
}

/** Blocks of a `matmul`. */
export const matmulGrid = (s: MatmulShape): readonly [number, number, number] => [Math.ceil(s.n / s.cols), Math.ceil(s.m / s.rows), 1];
