/**
 * Products of few rows by teams: the threads of a subgroup stand side by side along the depth of a weight's row, so that each of
 * their loads takes neighbouring memory, and have many accesses under way at once. What bounds such a product is how fast memory
 * delivers the weights, each of which is read once.
 *
 * A thread sums its accesses in ascending order with fma; the sums of a team are joined by subgroup operations. The order depends
 * on the depth and the team alone: not on the number of rows, nor on how many accesses are under way.
 */
import * as b from '../ir/kernel/build.ts';
import type { Buffer, Expr, Stmt } from '../ir/kernel/types.ts';
import { subgroupThreads } from '../target/types.ts';
import type { Capabilities } from '../target/types.ts';
import { formatElem, loadPiece, pieceValues, piecesOf } from './weight-matrix.ts';
import type { Pieces, WeightMatrix } from './weight-matrix.ts';

/**
 * Fewest threads of a subgroup that work as a team. Software has smaller ones, gains nothing by neighbouring memory, and its
 * compiler takes ten seconds over what a team has under way.
 */
const LEAST_TEAM = 32;

/** Threads of a team where teams are subgroups; undefined where the device has none of a size that all kernels know, or small ones. */
export function teamSize(caps: Capabilities): number | undefined {
  const size = subgroupThreads(caps);
  return size !== undefined && size >= LEAST_TEAM ? size : undefined;
}

/**
 * Threads of a processor that run such a product side by side: 168 registers each hold what is under way, or, where weights and
 * rows are f32 and take twice the room, 255.
 */
const THREADS_A_PROCESSOR = 384;
const THREADS_A_PROCESSOR_F32 = 256;
export const residentBlocks = (block: number, weight: Buffer): number =>
  Math.max(1, Math.floor((weight.elem === 'f32' ? THREADS_A_PROCESSOR_F32 : THREADS_A_PROCESSOR) / block));

/** Bytes of weights that a thread should have under way: times the threads of a processor, well above what memory's latency asks for. */
const BYTES_UNDER_WAY = 128;

/** Accesses of each weight row to have under way, evened out over the rounds that a row takes. */
export function accessesUnderWay(depth: number, team: number, bytesOfAccess: number, weightRows: number): number {
  const own = Math.ceil(depth / team);
  const most = Math.max(1, Math.floor(BYTES_UNDER_WAY / (bytesOfAccess * weightRows)));
  return Math.ceil(own / Math.ceil(own / most));
}

export interface TeamProduct {
  /** Beginning of the names that are made. */
  readonly name: string;
  /** Where the thread stands along the depth, below `width`; threads beyond the depth find nothing to do. */
  readonly member: Expr;
  readonly width: number;
  /** Threads of a subgroup: what the size of a piece is chosen for, whoever shares the depth. */
  readonly team: number;
  /** Pieces of each weight row under way at once. */
  readonly unroll: number;
  readonly weight: WeightMatrix;
  /** First access of each weight row. */
  readonly weightRows: readonly Expr[];
  /** Rows of x; `x` gives one access of a row in f32. */
  readonly rows: number;
  x(row: Expr, i: Expr): Expr;
}

/** Place of the sum of a row of x and a weight row. */
export const sumAt = (p: Pick<TeamProduct, 'weightRows'>, row: Expr, j: number): Expr => b.add(b.mul(row, b.u32(p.weightRows.length)), b.u32(j));

/** Appends the loops; gives the thread's own sums, a register array [rows][weight rows]. Any control flow. */
export function teamSums(stmts: Stmt[], p: TeamProduct): Buffer {
  const count = p.weightRows.length;
  const acc = b.buffer(`${p.name}_sum`, 'register', 'f32', 1, p.rows * count);
  stmts.push(b.alloc(acc), b.for_(`${p.name}_zero`, b.u32(0), b.u32(acc.size), 1, (z) => [b.store(acc, z, b.f32(0))], true));
  const pieces = piecesOf(formatElem(p.weight), p.weight.k, p.team);
  stmts.push(...inRounds({ ...p, depth: pieces.count }, (part, first, n) => accesses(p, pieces, acc, part, first, n)));
  return acc;
}

/**
 * Runs `serve` for the thread's accesses member, member + width, member + 2 width, … below the depth, `unroll` of them at a time: n
 * accesses, the first of them at `first`. `part` tells the pieces of code apart.
 */
export function inRounds(
  p: Pick<TeamProduct, 'name' | 'member' | 'width' | 'unroll'> & { readonly depth: number }, serve: (part: string, first: Expr, n: number) => readonly Stmt[],
): readonly Stmt[] {
  const round = p.width * p.unroll;
  const whole = Math.floor(p.depth / round) * round;
  const rest = Math.floor((p.depth - whole) / p.width);
  const tail = p.depth % p.width;
  const from = (part: string, first: Expr, n: number): readonly Stmt[] => {
    const name = `${p.name}_${part}`;
    return [b.let_(`${name}_at`, b.add(first, p.member)), ...serve(name, b.variable(`${name}_at`), n)];
  };
  return [
    ...(whole > 0 ? [b.for_(`${p.name}_i`, b.u32(0), b.u32(whole), round, (i) => from('round', i, p.unroll))] : []),
    ...(rest > 0 ? from('rest', b.u32(whole), rest) : []),
    ...(tail > 0 ? [b.if_(b.lt(p.member, b.u32(tail)), from('tail', b.u32(whole + rest * p.width), 1))] : []),
  ];
}

/** Loads `n` pieces of every weight row, then multiplies them: the first are under way while the last are asked for. */
function accesses(p: TeamProduct, pieces: Pieces, acc: Buffer, name: string, first: Expr, n: number): readonly Stmt[] {
  const { weight, weightRows, rows } = p;
  const count = weightRows.length;
  const { buf, packed } = weight;
  const { words, span } = pieces;
  const w = b.buffer(`${name}_w`, 'register', packed === undefined ? 'f32' : 'u32', packed === undefined ? buf.lanes : 1, n * count * words);
  const scales = packed === undefined ? undefined : b.buffer(`${name}_s`, 'register', 'u32', 1, n * count);
  const at = (u: Expr): Expr => b.add(first, b.mul(u, b.u32(p.width)));
  const pieceAt = (u: Expr, j: number): Expr => b.add(b.mul(u, b.u32(count)), b.u32(j));
  const wordAt = (u: Expr, j: number, i: number): Expr => b.add(b.mul(pieceAt(u, j), b.u32(words)), b.u32(i));
  const load = (u: Expr): readonly Stmt[] =>
    weightRows.flatMap((row, j) => {
      const loaded = loadPiece(weight, pieces, row, at(u));
      const { scale } = loaded;
      return [
        ...loaded.words.map((word, i) => b.store(w, wordAt(u, j, i), word)),
        ...(scales === undefined || scale === undefined ? [] : [b.store(scales, pieceAt(u, j), scale)]),
      ];
    });
  const term = (j: number, row: Expr, value: Expr, x: Expr): Stmt => {
    const sum = sumAt(p, row, j);
    const lanes = Array.from({ length: x.ty.lanes }, (_, l) => l);
    return b.store(acc, sum, lanes.reduce((total, l) => b.fma(b.lane(x, l), b.lane(value, l), total), b.load(acc, sum)));
  };
  const use = (u: Expr): readonly Stmt[] => {
    const values = weightRows.map((_, j) => {
      const loaded = { words: Array.from({ length: words }, (_word, i) => b.load(w, wordAt(u, j, i))), scale: scales && b.load(scales, pieceAt(u, j)) };
      return pieceValues(weight, pieces, `${name}_v${j}`, loaded, at(u));
    });
    const perWord = span / words;
    return [
      ...values.flatMap((v) => v.begin),
      ...Array.from({ length: words }, (_, i) => {
        const word = values.map((v) => v.word(i));
        const suffix = words === 1 ? '' : String(i);
        return [
          ...word.flatMap((v) => v.stmts),
          b.for_(`${name}_row${suffix}`, b.u32(0), b.u32(rows), 1, (row) =>
            Array.from({ length: perWord }, (_access, v) => {
              const x = p.x(row, b.add(b.mul(at(u), b.u32(span)), b.u32(i * perWord + v)));
              const held = `${name}_x${perWord === 1 ? '' : v}`;
              return [b.let_(held, x), ...word.map(({ values: of }, j) => term(j, row, of[v] ?? x, b.variable(held, x.ty)))];
            }).flat(), true),
        ];
      }).flat(),
    ];
  };
  return [
    b.alloc(w),
    ...(scales === undefined ? [] : [b.alloc(scales)]),
    b.for_(`${name}_load`, b.u32(0), b.u32(n), 1, load, true),
    b.for_(`${name}_use`, b.u32(0), b.u32(n), 1, use, true),
  ];
}

/** Replaces every thread's sums by those of its team, a subgroup. Uniform control flow only. */
export const joinSums = (acc: Buffer, name: string): Stmt =>
  b.for_(`${name}_join`, b.u32(0), b.u32(acc.size), 1, (z) => [b.store(acc, z, b.subgroup('add', b.load(acc, z)))], true);
