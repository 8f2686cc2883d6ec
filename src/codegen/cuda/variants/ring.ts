/**
 * Slices of an operand in shared memory, as tensor cores read them: a ring of `stages` slices of [rows][bk] 16-bit
 * elements, in chunks of 16 bytes. The chunks of a row are permuted by a pattern that repeats every 8 rows, so that
 * the 8 rows which one `ldmatrix` phase reads lie in different banks.
 */
import * as b from '../../../ir/kernel/build.ts';
import type { Buffer, Expr, Stmt, View } from '../../../ir/kernel/types.ts';
import { substitute } from '../../../ir/kernel/walk.ts';
import type { Fresh } from '../../../passes/kernel/fresh.ts';
import { type Hoisted, type RowAccess, readRow, rowAccess } from '../../../passes/kernel/view-access.ts';

/** Elements of a chunk. */
export const CHUNK = 8;

export interface Ring {
  readonly view: View;
  readonly rows: number;
  /** Chunks of a row of a slice. */
  readonly per: number;
  /** u32 x 4: one chunk an access. */
  readonly buf: Buffer;
  readonly copies: readonly Copy[];
}

/** One chunk that a thread copies in every slice. */
interface Copy {
  readonly access: RowAccess;
  /** Chunk within the row. */
  readonly chunk: Expr;
  /** Place within the slice. */
  readonly at: Expr;
  /** False where the thread has no such chunk. */
  readonly exists: Expr | undefined;
}

export type HalfElem = 'f16' | 'bf16';

export const isHalf = (elem: string): elem is HalfElem => elem === 'f16' || elem === 'bf16';

/** What a row adds to the number of a chunk (by exclusive or); `row8` is the row modulo 8. */
export const swizzleOf = (row8: Expr, per: number): Expr => b.mod(b.div(row8, b.u32(Math.max(1, 8 / per))), b.u32(Math.min(per, 8)));

/**
 * Lays out the ring and the copies of a thread; what does not change from slice to slice is hoisted. Rings of one `place`
 * lie in the same memory: the main loops of a kernel take turns.
 */
export function ring(view: View, place: string, rows: number, bk: number, stages: number, block: number, hoisted: Hoisted): Ring {
  const per = bk / CHUNK;
  const name = view.buf.name;
  const buf: Buffer = { ...b.buffer(`ring_${place}`, 'shared', 'u32', 4, stages * rows * per), managed: true };
  const total = rows * per;
  const copies = Array.from({ length: Math.ceil(total / block) }, (_, i): Copy => {
    const q = b.add(b.thread, b.u32(i * block));
    const row = hoisted.bind(b.div(q, b.u32(per)), undefined, `${name}_row`);
    const chunk = hoisted.bind(b.mod(q, b.u32(per)), undefined, `${name}_chunk`);
    const at = b.add(b.mul(row, b.u32(per)), b.bin('^', chunk, swizzleOf(b.mod(row, b.u32(8)), per)));
    const partial = (i + 1) * block > total;
    return {
      access: rowAccess(view, row, hoisted, name),
      chunk,
      at: hoisted.bind(at, undefined, `${name}_put`),
      exists: partial ? b.lt(q, b.u32(total)) : undefined,
    };
  });
  return { view, rows, per, buf, copies };
}

const and = (...conds: readonly (Expr | undefined)[]): Expr => {
  const [first, ...rest] = conds.filter((c) => c !== undefined);
  return first === undefined ? b.bool(true) : b.and(first, ...rest);
};

const sliceAt = (r: Ring, stage: Expr): Expr => b.mul(stage, b.u32(r.rows * r.per));

/** Whether a chunk that begins at column `col` lies within the depth; undefined where all do. */
const inDepth = (col: Expr, depth: number, bk: number): Expr | undefined => (depth % bk === 0 ? undefined : b.lt(col, b.u32(depth)));

/** Starts the copies of the slice whose first column is `k0` to place `stage`; rows and columns that are not there become zeros. */
export function copyAsync(r: Ring, stage: Expr, k0: Expr, depth: number, bk: number): readonly Stmt[] {
  return r.copies.flatMap(({ access, chunk, at, exists }) => {
    const col = b.add(k0, b.mul(chunk, b.u32(CHUNK)));
    const from = substitute(access.index, new Map([[r.view.col, col]]));
    const valid = and(access.guard, inDepth(col, depth, bk));
    const copy = b.machine('cp_async16', b.address(r.buf, b.add(sliceAt(r, stage), at)), b.address(r.view.buf, from), b.value(valid));
    return exists === undefined ? [copy] : [b.if_(exists, [copy])];
  });
}

/** The same for an operand of f32, in two halves: reads that can be under way for long, and the rounded values' stores. */
export function copyRounded(
  r: Ring, elem: HalfElem, stage: Expr, k0: Expr, present: Expr, depth: number, bk: number, fresh: Fresh, written: ReadonlySet<string>,
): { readonly reads: readonly Stmt[]; readonly stores: readonly Stmt[] } {
  const reads: Stmt[] = [];
  const stores: Stmt[] = [];
  const { lanes } = r.view.buf;
  for (const { access, chunk, at, exists } of r.copies) {
    const col = b.add(k0, b.mul(chunk, b.u32(CHUNK)));
    const guard = and(present, exists, access.guard, inDepth(col, depth, bk));
    const guarded: RowAccess = { ...access, guard: guard.k === 'const' ? undefined : guard };
    const values: Expr[] = [];
    for (let e = 0; e < CHUNK; e += lanes) {
      const name = fresh(`${r.view.buf.name}_next`);
      reads.push(...readRow(guarded, b.add(col, b.u32(e)), name, written));
      for (let l = 0; l < lanes; l++) values.push(b.lane(b.variable(name, b.ty('f32', lanes)), l));
    }
    const words = [0, 2, 4, 6].map((e) => b.packHalves(elem, values[e] ?? b.f32(0), values[e + 1] ?? b.f32(0)));
    const put = b.store(r.buf, b.add(sliceAt(r, stage), at), b.pack(words));
    stores.push(exists === undefined ? put : b.if_(exists, [put]));
  }
  return { reads, stores };
}

/** Address of the chunk `chunk` of row `row` (`row8`: modulo 8) of the slice at `stage`. */
export const chunkAddress = (r: Ring, stage: Expr, row: Expr, chunk: Expr, swizzle: Expr): ReturnType<typeof b.address> =>
  b.address(r.buf, b.add(sliceAt(r, stage), b.mul(row, b.u32(r.per)), b.bin('^', chunk, swizzle)));
