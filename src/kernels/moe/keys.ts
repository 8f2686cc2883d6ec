/**
 * Sorting keys: a u32 for every f32, greater exactly where the number is greater. Comparing keys instead of
 * numbers gives a total order whatever the bits are, so ranks are unique even where a NaN slipped in.
 */
import * as b from '../../ir/kernel/build.ts';
import type { Expr } from '../../ir/kernel/types.ts';

const SIGN = 0x8000_0000;
const ALL = 0xffff_ffff;

/** Below the key of every number. */
export const LEAST_KEY = 0;

/** Key of an f32 scalar; +0 and −0 have one key. `x` is written out twice: pass a variable. */
export function keyOf(x: Expr): Expr {
  const bits = b.bitcast('u32', b.select(b.eq(x, b.f32(0)), b.f32(0), x));
  const flipped = b.select(b.ge(bits, b.u32(SIGN)), b.bin('^', bits, b.u32(ALL)), b.bin('|', bits, b.u32(SIGN)));
  return b.max(flipped, b.u32(LEAST_KEY + 1));
}

/** The f32 a key was made from. */
export const numberOf = (key: Expr): Expr =>
  b.bitcast('f32', b.select(b.ge(key, b.u32(SIGN)), b.bin('^', key, b.u32(SIGN)), b.bin('^', key, b.u32(ALL))));

/** Whether (key a, index a) stands before (key b, index b): the greater key, among equals the lower index. */
export const before = (keyA: Expr, indexA: Expr, keyB: Expr, indexB: Expr): Expr =>
  b.or(b.gt(keyA, keyB), b.and(b.eq(keyA, keyB), b.lt(indexA, indexB)));

/** 1 where the condition holds, else 0. */
export const indicator = (cond: Expr): Expr => b.select(cond, b.u32(1), b.u32(0));
