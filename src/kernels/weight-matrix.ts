/**
 * Matrices of weights as kernels see them: rows of floating-point numbers, or quantised rows of words. Few-row kernels read them
 * in pieces: one access, or words of one group with their scale.
 */
import { QUANT_GROUP, type QuantFormat, isQuantName, quantFormat, quantRowWords } from '../base/quant.ts';
import * as b from '../ir/kernel/build.ts';
import { ELEM_BYTES } from '../ir/kernel/cost.ts';
import { bindScale, bindWord, scaleWordOf, valuesPerWord, valueWordOf, wordsPerGroup } from '../ir/kernel/packed.ts';
import type { Buffer, Expr, Stmt, View } from '../ir/kernel/types.ts';
import { globalBuffer, lanesFor } from './dense/common.ts';
import type { WeightElem } from './dense/common.ts';

export interface WeightMatrix {
  readonly buf: Buffer;
  /** Elements of a row. */
  readonly k: number;
  /** Accesses from one row to the next. */
  readonly stride: number;
  /** Absent: floating-point numbers, `buf.lanes` at an access. */
  readonly packed?: QuantFormat;
}

/** `streamed`: no weight is read twice soon. */
export function weightMatrix(name: string, elem: WeightElem, k: number, streamed = false): WeightMatrix {
  const hint = streamed ? { streamed } : {};
  if (!isQuantName(elem)) {
    const lanes = lanesFor(k);
    return { buf: { ...globalBuffer(name, elem, lanes), ...hint }, k, stride: k / lanes };
  }
  if (k % QUANT_GROUP !== 0) throw new Error(`${name}: rows of ${k} are no whole groups of ${QUANT_GROUP}`);
  const packed = quantFormat(elem);
  return { buf: { ...globalBuffer(name, 'u32'), ...hint }, k, stride: quantRowWords(packed, k), packed };
}

/** Accesses of a row, for an index to count. */
export const weightStride = (elem: WeightElem, k: number): number => (isQuantName(elem) ? quantRowWords(quantFormat(elem), k) : k / lanesFor(k));

/** The matrix as an operand of main loops; `start` gives the first access of a row. */
export function weightView(w: WeightMatrix, start: (row: Expr) => Expr, guard: ((row: Expr) => Expr) | undefined, matrix?: View['matrix']): View {
  const { buf, packed, k } = w;
  if (packed === undefined) return b.view(buf, (row, col) => b.add(start(row), b.div(col, b.u32(buf.lanes))), guard, matrix && { matrix });
  return b.view(buf, (row, col) => b.add(start(row), valueWordOf(packed, col)), guard, {
    packed: { format: packed, scale: (row, col) => b.add(start(row), scaleWordOf(packed, k, col)) },
  });
}

// ---------------------------------------------------------------- pieces

/** How a thread, one of `team` side by side along the depth, goes through a row. */
export interface Pieces {
  /** Pieces of a row. */
  readonly count: number;
  /** Accesses of x beside one piece, `lanes` elements each. */
  readonly span: number;
  readonly lanes: Buffer['lanes'];
  /** Words of values in a piece; 1 for an access of floating-point numbers. */
  readonly words: number;
  readonly bytes: number;
}

/** Threads from which on a team reads neighbouring memory. */
const WIDE_TEAM = 16;

/**
 * Of a group all words at once, so that its scale is read once; fewer where part of the team would have nothing to do. The threads of
 * a wide team stand at neighbouring words.
 */
export function piecesOf(elem: WeightElem, k: number, team: number): Pieces {
  const lanes = lanesFor(k);
  if (!isQuantName(elem)) return { count: k / lanes, span: 1, lanes, words: 1, bytes: ELEM_BYTES[elem] * lanes };
  const format = quantFormat(elem);
  const perWord = valuesPerWord(format);
  let words = team < WIDE_TEAM ? wordsPerGroup(format) : 1;
  while (words > 1 && k / (words * perWord) < team) words /= 2;
  return { count: k / (words * perWord), span: (words * perWord) / lanes, lanes, words, bytes: 4 * words };
}

export const formatElem = ({ buf, packed }: WeightMatrix): WeightElem =>
  packed !== undefined ? `int${packed.bits}_${packed.scales}` : buf.elem === 'f16' || buf.elem === 'bf16' ? buf.elem : 'f32';

/** What a thread has loaded of one piece: an access, or raw words and the word of their scale. */
export interface LoadedPiece {
  readonly words: readonly Expr[];
  readonly scale: Expr | undefined;
}

/** The loads of piece `i` of the row that begins at access `row`. */
export function loadPiece({ buf, k, packed }: WeightMatrix, { words }: Pieces, row: Expr, i: Expr): LoadedPiece {
  if (packed === undefined) return { words: [b.loadF32(buf, b.add(row, i))], scale: undefined };
  const first = b.mul(i, b.u32(words));
  const element = b.mul(first, b.u32(valuesPerWord(packed)));
  return {
    words: Array.from({ length: words }, (_, w) => b.load(buf, b.add(row, first, b.u32(w)))),
    scale: b.load(buf, b.add(row, scaleWordOf(packed, k, element))),
  };
}

/** The values of a loaded piece, word by word, so that few are alive at once. */
export interface PieceValues {
  /** Binds what all words share. */
  readonly begin: readonly Stmt[];
  /** Binds the values beside the accesses of x from `w` · span / words on. */
  word(w: number): { readonly stmts: readonly Stmt[]; readonly values: readonly Expr[] };
}

/** @param i the piece; the names of what is bound begin with `name` */
export function pieceValues({ packed }: WeightMatrix, { words }: Pieces, name: string, loaded: LoadedPiece, i: Expr): PieceValues {
  const { scale } = loaded;
  const wordAt = (w: number): Expr => {
    const found = loaded.words[w];
    if (found === undefined) throw new Error(`${name}: a piece has no word ${w}`);
    return found;
  };
  if (packed === undefined || scale === undefined) return { begin: [], word: (w) => ({ stmts: [], values: [wordAt(w)] }) };
  const begin: Stmt[] = [];
  const shared = bindScale(begin, packed, name, scale, b.mul(i, b.u32(words * valuesPerWord(packed))));
  return {
    begin,
    word(w) {
      const stmts: Stmt[] = [];
      return { values: bindWord(stmts, packed, `${name}_${w}`, wordAt(w), shared), stmts };
    },
  };
}
