/**
 * Quantised weights inside kernels: words of values and scales become f32 by shifts, masks and conversions, which every target
 * and the interpreter run alike. How rows lie stands in `base/quant.ts`.
 */
import { QUANT_GROUP, type QuantFormat, valueWords } from '../../base/quant.ts';
import * as b from './build.ts';
import { define } from './build.ts';
import type { Expr, Stmt } from './types.ts';

/** Values of one word. */
export const valuesPerWord = ({ bits }: QuantFormat): number => 32 / bits;
export const wordsPerGroup = ({ bits }: QuantFormat): number => (QUANT_GROUP * bits) / 32;

/** Word of element `k` within a row, and the word of its group's scale. */
export const valueWordOf = (format: QuantFormat, k: Expr): Expr => b.div(k, b.u32(valuesPerWord(format)));
export const scaleWordOf = (format: QuantFormat, depth: number, k: Expr): Expr =>
  b.add(b.u32(valueWords(format, depth)), b.div(k, b.u32(format.scales === 'f32' ? QUANT_GROUP : 2 * QUANT_GROUP)));

/** Binary16 in the low 16 bits of a u32 to f32, exactly: subnormals too, which a device may flush where they pass through f32 bits. */
function halfToF32(stmts: Stmt[], name: string, half: Expr): Expr {
  const bits = define(stmts, `${name}_half`, half);
  const size = define(stmts, `${name}_size`, b.bin('&', bits, b.u32(0x7fff)));
  const normal = b.bitcast('f32', b.add(b.bin('<<', size, b.u32(13)), b.u32(112 << 23)));
  const small = b.mul(b.cast('f32', size), b.f32(2 ** -24));
  const magnitude = define(stmts, `${name}_magnitude`, b.select(b.lt(size, b.u32(0x400)), small, normal));
  return b.select(b.eq(size, bits), magnitude, b.neg(magnitude));
}

/** What the values of a group are made of: weight = field · scale + offset. */
export interface GroupScale {
  readonly scale: Expr;
  /** Takes the bias of the fields away again. */
  readonly offset: Expr;
}

/** Binds the scale of the group that element `k` (a multiple of the group) begins, from its word. */
export function bindScale(stmts: Stmt[], format: QuantFormat, name: string, word: Expr, k: Expr): GroupScale {
  const half = (): Expr => b.bin('&', b.bin('>>', word, b.mul(b.mod(b.div(k, b.u32(QUANT_GROUP)), b.u32(2)), b.u32(16))), b.u32(0xffff));
  const scale = define(stmts, `${name}_scale`, format.scales === 'f32' ? b.bitcast('f32', word) : halfToF32(stmts, name, half()));
  return { scale, offset: define(stmts, `${name}_offset`, b.mul(scale, b.f32(format.bits === 8 ? -128 : -8))) };
}

/** Binds the values of one word, in ascending order, four to a vector. */
export function bindWord(stmts: Stmt[], format: QuantFormat, name: string, word: Expr, { scale, offset }: GroupScale): readonly Expr[] {
  const { bits } = format;
  // Two's complement becomes value + 128.
  const fields = define(stmts, `${name}_fields`, bits === 8 ? b.bin('^', word, b.u32(0x8080_8080)) : word);
  const field = (i: number): Expr => b.bin('&', b.bin('>>', fields, b.u32(i * bits)), b.u32(2 ** bits - 1));
  // Fields are small: as signed numbers they convert in one instruction everywhere.
  const value = (i: number): Expr => b.fma(b.cast('f32', b.bitcast('i32', field(i))), scale, offset);
  return Array.from({ length: valuesPerWord(format) / 4 }, (_, v) =>
    define(stmts, `${name}_${v}`, b.pack([0, 1, 2, 3].map((i) => value(4 * v + i)))),
  );
}
