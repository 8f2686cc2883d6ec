/**
 * Products of blocks and values of rows on mma.sync. Blocks lie in shared memory as they are stored, [rows][cols] in chunks of 16
 * bytes that are permuted within a row; asynchronous copies bring them there. A tile that is operand a of a product needs no
 * memory: the accumulators of m16n8 pieces lie in the lanes as the fragment a of m16k16 wants them (FlashAttention-2).
 */
import * as b from '../../../ir/kernel/build.ts';
import type { Block, Buffer, Expr, MachineArg, Stmt, StmtOf } from '../../../ir/kernel/types.ts';
import { substitute } from '../../../ir/kernel/walk.ts';
import { rowBindings } from '../../../passes/kernel/expand-products.ts';
import { combine } from '../../../passes/kernel/expand-reduce.ts';
import type { Fresh } from '../../../passes/kernel/fresh.ts';
import type { BlockMemory, RowValues, TileProducts, TileState } from '../../../passes/kernel/variant.ts';
import { Hoisted, rowAccess } from '../../../passes/kernel/view-access.ts';
import { type Fragments, heldAt, heldCol, heldCols, heldRow, heldRows, pieceAt, unrolled } from './fragments.ts';
import { CHUNK, type HalfElem, isHalf, swizzleOf } from './ring.ts';

const U = b.u32;
/** Copies that a thread starts in a row; of more, a loop is left, or their addresses fill the registers. */
const MAX_COPIES = 4;
/** Depth of one instruction, in elements and in chunks. */
const STEP = 16;
const STEP_CHUNKS = STEP / CHUNK;

const gcd = (x: number, y: number): number => (y === 0 ? x : gcd(y, x % y));

/** Chunks of a row. */
const perRow = (block: Block): number => block.cols / CHUNK;

/** Where a chunk of a row lies: the 8 rows that one phase of ldmatrix reads lie in different banks. */
function chunkOf(block: Block, row: Expr, chunk: Expr): Expr {
  const per = perRow(block);
  return b.add(b.mul(row, U(per)), b.bin('^', chunk, swizzleOf(b.mod(row, U(8)), gcd(per, 8))));
}

export const mmaBlocks: BlockMemory = {
  buffer(block, name) {
    if (!isHalf(block.elem)) throw new Error(`block ${block.name}: mma-sync multiplies 16-bit numbers, not ${block.elem}`);
    if (block.rows % 8 !== 0 || block.cols % STEP !== 0) {
      throw new Error(`block ${block.name}: ${block.rows} x ${block.cols} is not whole pieces of 8 x ${STEP}`);
    }
    return { ...b.buffer(name, 'shared', 'u32', 4, block.rows * perRow(block)), managed: true };
  },

  /** Neighbouring threads copy neighbouring chunks; a thread stays in its column of chunks, so that what it needs is computed once. */
  stage({ block, view }, memory, threads, fresh) {
    if (view.buf.lanes !== 4) throw new Error(`block ${block.name}: chunks of ${CHUNK} elements need accesses of 4`);
    const per = perRow(block);
    const across = gcd(per, threads);
    const down = threads / across;
    const rounds = Math.ceil(block.rows / down);
    const row0 = b.variable(fresh(`${block.name}_row`));
    const chunk0 = b.variable(fresh(`${block.name}_chunk`));
    const each = per / across;
    const round = (i: Expr): readonly Stmt[] => {
      const hoisted = new Hoisted(fresh);
      const row = hoisted.bind(b.add(row0, b.mul(i, U(down))), undefined, `${block.name}_to`);
      const access = rowAccess(view, row, hoisted, view.buf.name);
      const copy = unrolled(fresh('j'), each, (j) => {
        const chunk = b.add(chunk0, b.mul(j, U(across)));
        const from = substitute(access.index, new Map([[view.col, b.mul(chunk, U(CHUNK))]]));
        const to = b.address(memory, chunkOf(block, row, chunk));
        return [b.machine('cp_async16', to, b.address(view.buf, from), b.value(access.guard ?? b.bool(true)))];
      });
      const all = [...hoisted.stmts, ...copy];
      return block.rows % down === 0 ? all : [b.if_(b.lt(b.add(row0, b.mul(i, U(down))), U(block.rows)), all)];
    };
    const atOnce = Math.max(1, Math.floor(MAX_COPIES / 2 / each));
    const whole = rounds * each <= MAX_COPIES;
    const copies = whole ? unrolled(fresh('i'), rounds, round) : [b.for_(fresh('i'), U(0), U(rounds), 1, round, atOnce)];
    return [
      ...(row0.k === 'var' ? [b.let_(row0.name, b.div(b.thread, U(across)))] : []),
      ...(chunk0.k === 'var' ? [b.let_(chunk0.name, b.mod(b.thread, U(across)))] : []),
      ...copies,
      b.machine('cp_async_commit'),
    ];
  },

  wait: [b.machine('cp_async_wait', b.immediate(0)), b.barrier()],
};

function wantWholeRows({ tile, schedule: { warpsN } }: Fragments, who: string): void {
  if (warpsN !== 1) throw new Error(`tile ${tile.name}: ${who} needs whole rows in one warp, not ${warpsN} warps across`);
}

/** @param fragmentsOf another tile of this variant */
export function mmaProducts(f: Fragments, fresh: Fresh, fragmentsOf: (tile: TileState) => Fragments | undefined): TileProducts {
  const { tile, schedule, lane } = f;
  const eachElement = (s: StmtOf<'tile.update' | 'tile.fold'>, rows: RowValues, i: Expr, j: Expr): Map<string, Expr> => {
    const names = rowBindings(rows, i).set(s.row, heldRow(f, i)).set(s.col, heldCol(f, j));
    s.values.forEach((v, c) => names.set(v, b.load(f.acc, heldAt(f, c, i, j))));
    return names;
  };
  return {
    owners: `mma-sync, ${tile.rows} rows over ${schedule.warpsM} x ${schedule.warpsN} warps`,

    holder(name) {
      const buf = b.buffer(fresh(`${name}_rows`), 'register', 'f32', 1, heldRows(f));
      return { declare: [b.alloc(buf)], at: (i) => b.load(buf, i), set: (i, value) => b.store(buf, i, value) };
    },

    eachRow: (body) => unrolled(fresh('i'), heldRows(f), (i) => body(i, heldRow(f, i))),

    product(s, memory, source) {
      return { shared: [], body: multiply(s, f, memory, source === undefined ? undefined : fragmentsOf(source), fresh) };
    },

    /** Column by column: what depends on the column alone is needed for a moment only. */
    update: (s, rows) =>
      unrolled(fresh('j'), heldCols(f), (j) =>
        unrolled(fresh('i'), heldRows(f), (i) => {
          const names = eachElement(s, rows, i, j);
          const made = s.to.map((e) => substitute(e, names));
          const bound = made.length === 1 ? made : made.map((e, c) => b.variable(fresh(`${tile.name}${c}_new`), e.ty));
          const lets = bound.flatMap((v, c) => (v.k === 'var' && v !== made[c] ? [b.let_(v.name, made[c] ?? v)] : []));
          return [...lets, ...bound.map((e, c) => b.store(f.acc, heldAt(f, c, i, j), e))];
        })),

    /** A lane's own columns ascending, then the four lanes of a row. */
    fold(s, into, rows) {
      wantWholeRows(f, 'a fold');
      return unrolled(fresh('i'), heldRows(f), (i) => {
        const value = (j: Expr): Expr => substitute(s.value, eachElement(s, rows, i, j));
        const register = into.at(i);
        if (register.k !== 'load') throw new Error(`row value ${s.name} is not in registers`);
        return [
          into.set(i, value(U(0))),
          b.for_(fresh('j'), U(1), U(heldCols(f)), 1, (j) => [into.set(i, combine(s.op, register, value(j)))], true),
          b.machine(`quad_${s.op}`, b.address(register.buf, register.index)),
        ];
      });
    },
  };

  /** Fragments of 16 columns of depth: of all rows of a, then of b in pairs of pieces, each multiplied as soon as it is there. */
  function multiply(
    s: StmtOf<'tile.product'>, to: Fragments, memory: (block: Block) => Buffer, source: Fragments | undefined, names: Fresh,
  ): readonly Stmt[] {
    const elem = s.b[0]?.block.elem ?? 'f32';
    if (!isHalf(elem) || s.b.some((x) => x.block.elem !== elem)) {
      throw new Error(`tile ${tile.name}: mma-sync multiplies 16-bit numbers of one kind`);
    }
    if (to.colPieces % 2 !== 0) throw new Error(`tile ${tile.name}: ${to.colPieces} pieces of 8 columns a warp do not come in pairs`);
    const depth = s.a.k === 'block' ? s.a.block.cols : s.a.tile.cols;
    const a = b.buffer(names('a_frag'), 'register', 'u32', 1, 4 * to.rowPieces);
    const places = new Hoisted(names);
    const rows = s.a.k === 'block' ? loadRows(s.a.block, memory(s.a.block), a, places) : packRows(source, elem, a);
    const columns = s.b.map(({ block, transposed }) => pairAddress(block, transposed, memory(block), places));
    const loop = unrolled(names('k'), depth / STEP, (k) => [
      b.alloc(a),
      ...rows(k),
      ...s.b.flatMap((x, c) => {
        const frag = b.buffer(names('b_frag'), 'register', 'u32', 1, 4);
        return unrolled(names('j'), to.colPieces / 2, (j) => [
          b.alloc(frag),
          b.machine(x.transposed ? 'ldmatrix_x4_trans' : 'ldmatrix_x4', b.address(frag, U(0)), columns[c]?.(k, j) ?? b.immediate(0)),
          ...unrolled(names('i'), to.rowPieces, (i) =>
            [0, 1].map((half) =>
              b.machine(
                `mma_m16n8k16_${elem}`,
                b.address(to.acc, pieceAt(to, c, i, b.add(b.mul(j, U(2)), U(half)))), b.address(a, b.mul(i, U(4))), b.address(frag, U(2 * half)),
              ))),
        ]);
      }),
    ]);
    return [...places.stmts, ...loop];
  }

  /** Fragments of a from a block: lane l names row l mod 16 of chunk l / 16. */
  function loadRows(block: Block, memory: Buffer, a: Buffer, places: Hoisted): (k: Expr) => readonly Stmt[] {
    const at = laneChunk(block, b.add(f.row0, b.mod(lane, U(16))), b.div(lane, U(16)), places);
    return (k) =>
      unrolled(fresh('i'), f.rowPieces, (i) => [
        b.machine('ldmatrix_x4', b.address(a, b.mul(i, U(4))), b.address(memory, at(b.mul(i, U(16)), b.mul(k, U(STEP_CHUNKS))))),
      ]);
  }

  /** Fragments of a from accumulators: the pieces 2 k and 2 k + 1 are its halves. */
  function packRows(source: Fragments | undefined, elem: HalfElem, a: Buffer): (k: Expr) => readonly Stmt[] {
    if (source === undefined) throw new Error(`tile ${tile.name}: its operand is no tile of mma-sync`);
    wantWholeRows(source, 'an operand');
    return (k) =>
      unrolled(fresh('i'), f.rowPieces, (i) =>
        unrolled(fresh('p'), 4, (p) => {
          const at = b.add(pieceAt(source, 0, i, b.add(b.mul(k, U(2)), b.div(p, U(2)))), b.mul(b.mod(p, U(2)), U(2)));
          return [b.store(a, b.add(b.mul(i, U(4)), p), b.packHalves(elem, b.load(source.acc, at), b.load(source.acc, b.add(at, U(1)))))];
        }));
  }

  /**
   * Where a lane's row of the fragments of two pieces of b lies. As stored, the lanes' rows are columns of the tile and the chunks
   * its depth; transposed, rows are depth and chunks are columns.
   */
  function pairAddress(block: Block, transposed: boolean, memory: Buffer, places: Hoisted): (k: Expr, j: Expr) => MachineArg {
    const high = b.div(lane, U(16));
    if (transposed) {
      const at = laneChunk(block, b.mod(lane, U(16)), high, places);
      return (k, j) => b.address(memory, at(b.mul(k, U(STEP)), b.add(b.div(f.col0, U(CHUNK)), b.mul(j, U(2)))));
    }
    const at = laneChunk(block, b.add(f.col0, b.mul(high, U(8)), b.mod(lane, U(8))), b.mod(b.div(lane, U(8)), U(2)), places);
    return (k, j) => b.address(memory, at(b.mul(j, U(16)), b.mul(k, U(STEP_CHUNKS))));
  }

  /**
   * Where the chunk `even` + `odd` (0 or 1) of row `row` + `more` (a multiple of 8) lies. What depends on the lane alone is computed
   * once, and the lanes' part of the permutation meets a constant: few addresses stay in registers.
   */
  function laneChunk(block: Block, row: Expr, odd: Expr, places: Hoisted): (more: Expr, even: Expr) => Expr {
    const per = perRow(block);
    const period = gcd(per, 8);
    const first = places.bind(b.mul(row, U(per)), undefined, `${block.name}_lane`);
    const own = places.bind(b.bin('^', odd, swizzleOf(b.mod(row, U(8)), period)), undefined, `${block.name}_swizzle`);
    return (more, even) => {
      const inPeriod = b.mod(even, U(period));
      return b.add(first, b.mul(more, U(per)), b.sub(even, inPeriod), b.bin('^', inPeriod, own));
    };
  }
}
