/**
 * Main loops on the tensor cores of one warp (sm_80 and up): `mma.sync` m16n8k16 on 16-bit operands, f32 accumulators in
 * registers. Slices of both operands stand in a ring that asynchronous copies fill `stages` − 1 slices ahead; one barrier a
 * slice. An operand `a` of f32 is rounded to the weights' format on its way in.
 */
import * as b from '../../../ir/kernel/build.ts';
import type { Buffer, Expr, MmaSyncSchedule, Stmt, StmtOf } from '../../../ir/kernel/types.ts';
import { instantiate } from '../../../ir/kernel/walk.ts';
import { rowBindings } from '../../../passes/kernel/expand-products.ts';
import type { Fresh } from '../../../passes/kernel/fresh.ts';
import type { MainloopVariant, RowValues, TileState } from '../../../passes/kernel/variant.ts';
import { Hoisted } from '../../../passes/kernel/view-access.ts';
import { type Fragments, WARP, heldRow, heldRows, pieceAt, unrolled } from './fragments.ts';
import { mmaBlocks, mmaProducts } from './mma-products.ts';
import { CHUNK, type HalfElem, type Ring, chunkAddress, copyAsync, copyRounded, isHalf, ring, swizzleOf } from './ring.ts';

const U = b.u32;

function wantMma(s: StmtOf<'tile.mainloop'>): { readonly schedule: MmaSyncSchedule; readonly elem: HalfElem } {
  const { schedule, a, b: weights, depth, tile } = s;
  const elem = weights[0]?.buf.elem ?? 'f32';
  if (schedule.variant !== 'mma-sync') throw new Error(`tile ${tile.name}: a main loop of variant ${schedule.variant} among those of mma-sync`);
  if (!isHalf(elem) || weights.some((w) => w.buf.elem !== elem)) throw new Error(`tile ${tile.name}: mma-sync multiplies 16-bit weights, not ${elem}`);
  if (a.buf.elem !== elem && a.buf.elem !== 'f32') throw new Error(`tile ${tile.name}: mma-sync cannot take rows of ${a.buf.elem} with weights of ${elem}`);
  const lanes = [a, ...weights].map((v) => v.buf.lanes);
  if (depth % CHUNK !== 0 || lanes.some((l) => l !== 4)) throw new Error(`tile ${tile.name}: mma-sync copies runs of ${CHUNK} elements; the depth is ${depth}`);
  if (schedule.bk % 16 !== 0 || schedule.stages < 2) throw new Error(`tile ${tile.name}: mma-sync needs slices of 16 and two stages`);
  return { schedule, elem };
}

/** The fragments of one slice of 16 columns, multiplied. */
function multiply(f: Fragments, stage: Expr, a: Ring, weights: readonly Ring[], elem: HalfElem, fresh: Fresh, k: Expr): readonly Stmt[] {
  const { lane } = f;
  const row8 = b.mod(lane, U(8));
  const aFrag = b.buffer(fresh('a_frag'), 'register', 'u32', 1, 4 * f.rowPieces);
  const aChunk = b.add(b.mul(k, U(2)), b.div(lane, U(16)));
  const stmts: Stmt[] = [b.alloc(aFrag)];
  stmts.push(...unrolled(fresh('ai'), f.rowPieces, (i) => {
    const row = b.add(f.row0, b.mul(i, U(16)), b.mod(lane, U(16)));
    return [b.machine('ldmatrix_x4', b.address(aFrag, b.mul(i, U(4))), chunkAddress(a, stage, row, aChunk, swizzleOf(row8, a.per)))];
  }));
  weights.forEach((w, c) => {
    const frag = b.buffer(fresh('b_frag'), 'register', 'u32', 1, 2 * f.colPieces);
    const chunk = b.add(b.mul(k, U(2)), b.mod(b.div(lane, U(8)), U(2)));
    const pairs = Math.floor(f.colPieces / 2);
    const swizzle = swizzleOf(row8, w.per);
    stmts.push(b.alloc(frag));
    if (pairs > 0) {
      stmts.push(...unrolled(fresh('bj'), pairs, (j) => {
        const row = b.add(f.col0, b.mul(j, U(16)), b.mul(b.div(lane, U(16)), U(8)), row8);
        return [b.machine('ldmatrix_x4', b.address(frag, b.mul(j, U(4))), chunkAddress(w, stage, row, chunk, swizzle))];
      }));
    }
    if (f.colPieces % 2 === 1) {
      const row = b.add(f.col0, U(16 * pairs), row8);
      stmts.push(b.machine('ldmatrix_x2', b.address(frag, U(4 * pairs)), chunkAddress(w, stage, row, chunk, swizzle)));
    }
    stmts.push(...unrolled(fresh('mi'), f.rowPieces, (i) =>
      unrolled(fresh('mj'), f.colPieces, (j) => [
        b.machine(
          `mma_m16n8k16_${elem}`,
          b.address(f.acc, pieceAt(f, c, i, j)), b.address(aFrag, b.mul(i, U(4))), b.address(frag, b.mul(j, U(2))),
        ),
      ])));
  });
  return stmts;
}

function expandLoop(
  s: StmtOf<'tile.mainloop'>, f: Fragments, block: number, fresh: Fresh, written: ReadonlySet<string>,
): { readonly shared: readonly Buffer[]; readonly body: readonly Stmt[] } {
  const { schedule: { bk, stages }, elem } = wantMma(s);
  const { depth } = s;
  const hoisted = new Hoisted(fresh);
  const a = ring(s.a, 'a', s.tile.rows, bk, stages, block, hoisted);
  const weights = s.b.map((view, c) => ring(view, `b${c}`, s.tile.cols, bk, stages, block, hoisted));
  const rounded = s.a.buf.elem === 'f32';
  const slices = Math.ceil(depth / bk);
  const async = rounded ? weights : [a, ...weights];
  const start = (stage: Expr, k0: Expr): readonly Stmt[] => async.flatMap((r) => copyAsync(r, stage, k0, depth, bk));
  const commit = b.machine('cp_async_commit');

  // Another main loop of the kernel may just have read the ring.
  const body: Stmt[] = [...hoisted.stmts, b.barrier()];
  for (let slice = 0; slice < stages - 1; slice++) {
    if (slice < slices) {
      body.push(...start(U(slice), U(slice * bk)));
      if (rounded) {
        const { reads, stores } = copyRounded(a, elem, U(slice), U(slice * bk), b.bool(true), depth, bk, fresh, written);
        body.push(...reads, ...stores);
      }
    }
    body.push(commit);
  }
  body.push(b.for_(fresh('slice'), U(0), U(slices), 1, (slice) => {
    const next = b.variable(fresh('next_slice'));
    const ahead = b.lt(next, U(slices));
    const place = b.mod(next, U(stages));
    const k0 = b.mul(next, U(bk));
    const late = rounded ? copyRounded(a, elem, place, k0, ahead, depth, bk, fresh, written) : { reads: [], stores: [] };
    const stage = b.variable(fresh('stage'));
    return [
      b.machine('cp_async_wait', b.immediate(stages - 2)),
      b.barrier(),
      b.let_(next.k === 'var' ? next.name : '', b.add(slice, U(stages - 1))),
      b.if_(ahead, start(place, k0)),
      commit,
      ...late.reads,
      b.let_(stage.k === 'var' ? stage.name : '', b.mod(slice, U(stages))),
      ...unrolled(fresh('k'), bk / 16, (k) => multiply(f, stage, a, weights, elem, fresh, k)),
      ...(late.stores.length === 0 ? [] : [b.if_(ahead, late.stores)]),
    ];
  }));
  return { shared: [a.buf, ...weights.map((w) => w.buf)], body };
}

/** Once per run of columns a lane holds: loops that unroll, so that the text stays short. */
function expandMap(s: StmtOf<'tile.map'>, f: Fragments, fresh: Fresh, rowValues: RowValues): readonly Stmt[] {
  const per = 2 / s.lanes;
  return unrolled(fresh('i'), heldRows(f), (i) =>
    unrolled(fresh('j'), f.colPieces * per, (j) => {
      const piece = b.div(j, U(per));
      const inPiece = per === 1 ? U(0) : b.mod(j, U(2));
      const col = b.add(f.col0, b.mul(piece, U(8)), b.mul(b.mod(f.lane, U(4)), U(2)), inPiece);
      const stmts: Stmt[] = [];
      const bind = (name: string, value: Expr): Expr => {
        const v = b.variable(fresh(name), value.ty);
        if (v.k === 'var') stmts.push(b.let_(v.name, value));
        return v;
      };
      const bindings = rowBindings(rowValues, i).set(s.row, bind(s.row, heldRow(f, i))).set(s.col, bind(s.col, col));
      s.values.forEach((name, c) => {
        const at = b.add(pieceAt(f, c, b.div(i, U(2)), piece), b.mul(b.mod(i, U(2)), U(2)), inPiece);
        const values = Array.from({ length: s.lanes }, (_, l) => b.load(f.acc, b.add(at, U(l))));
        bindings.set(name, bind(name, b.pack(values)));
      });
      return [...stmts, ...instantiate(s.body, bindings, fresh)];
    }));
}

/** Of the tiles of kernels under way. */
const fragments = new WeakMap<TileState, Fragments>();

export const mmaSync: MainloopVariant = {
  name: 'mma-sync',
  start(tile, schedule, block, fresh) {
    if (schedule.variant !== 'mma-sync') throw new Error(`tile ${tile.name}: not a schedule of mma-sync`);
    const { warpsM, warpsN } = schedule;
    if (block !== WARP * warpsM * warpsN) throw new Error(`tile ${tile.name}: ${warpsM} x ${warpsN} warps in a block of ${block} threads`);
    if (tile.rows % (16 * warpsM) !== 0 || tile.cols % (8 * warpsN) !== 0) {
      throw new Error(`tile ${tile.name}: ${tile.rows} x ${tile.cols} does not divide into pieces of 16 x 8 for ${warpsM} x ${warpsN} warps`);
    }
    const rows = tile.rows / warpsM;
    const cols = tile.cols / warpsN;
    const name = (what: string): string => fresh(`${tile.name}_${what}`);
    const [lane, row0, col0] = [name('lane'), name('row'), name('col')];
    const pieces = { rowPieces: rows / 16, colPieces: cols / 8 };
    const acc = b.buffer(fresh(tile.name), 'register', 'f32', 1, tile.count * pieces.rowPieces * pieces.colPieces * 4);
    const f: Fragments = { tile, schedule, ...pieces, acc, lane: b.variable(lane), row0: b.variable(row0), col0: b.variable(col0) };
    const warp = b.div(b.thread, U(WARP));
    const state: TileState = {
      declare: [
        b.let_(lane, b.mod(b.thread, U(WARP))),
        b.let_(row0, b.mul(b.div(warp, U(warpsN)), U(rows))),
        b.let_(col0, b.mul(b.mod(warp, U(warpsN)), U(cols))),
        b.alloc(acc),
        ...unrolled(fresh('z'), acc.size, (i) => [b.store(acc, i, b.f32(0))]),
      ],
      mainloop: (s, written) => expandLoop(s, f, block, fresh, written),
      map: (s, rowValues) => expandMap(s, f, fresh, rowValues),
      products: mmaProducts(f, fresh, (other) => fragments.get(other)),
    };
    fragments.set(state, f);
    return state;
  },
  blocks: mmaBlocks,
};
