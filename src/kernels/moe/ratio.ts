/** Shares of counts by a rational factor, exact in u32: floor(x · num / den) without a 64-bit product. */
import * as b from '../../ir/kernel/build.ts';
import type { Expr, Stmt } from '../../ir/kernel/types.ts';
import { define } from './common.ts';

export interface Ratio {
  readonly num: number;
  readonly den: number;
}

/** Largest numerator and denominator; twice a remainder plus a numerator still fits u32. */
const LIMIT = 2 ** 30;
/** Largest denominator tried: what people write has fewer than seven decimals. */
const MAX_DEN = 2 ** 20;

const gcd = (a: number, c: number): number => (c === 0 ? a : gcd(c, a % c));

/**
 * The fraction a person means by a number such as 1.25: the first convergent of its continued fraction that
 * the number is the nearest double of, or the last one of a bearable size.
 */
export function ratioOf(x: number, maxDen: number = MAX_DEN): Ratio {
  if (!(x > 0 && x < LIMIT)) throw new Error(`a factor must be above 0 and below ${LIMIT}, not ${x}`);
  let [n0, d0, n1, d1] = [0, 1, 1, 0];
  let rest = x;
  for (;;) {
    const whole = Math.floor(rest);
    const [n2, d2] = [whole * n1 + n0, whole * d1 + d0];
    if (d2 > maxDen || n2 >= LIMIT) break;
    [n0, d0, n1, d1] = [n1, d1, n2, d2];
    if (n1 / d1 === x || rest === whole) break;
    rest = 1 / (rest - whole);
  }
  return { num: n1, den: d1 };
}

/** factor / d, shortened. Throws where it cannot be written with 30 bits. */
export function ratioOver(factor: number, d: number): Ratio {
  const r = ratioOf(factor, Math.min(MAX_DEN, Math.max(1, Math.floor((LIMIT - 1) / d))));
  const g = gcd(r.num, r.den * d);
  const out = { num: r.num / g, den: (r.den * d) / g };
  if (out.num >= LIMIT || out.den >= LIMIT) throw new Error(`the factor ${factor} over ${d} needs more than 30 bits`);
  return out;
}

/** Appends statements that compute floor(x · num / den) of a u32 and gives it; the quotient must fit u32. */
export function mulRatio(stmts: Stmt[], name: string, x: Expr, r: Ratio): Expr {
  if (r.den === 1) return define(stmts, name, b.mul(x, b.u32(r.num)));
  const quotient = b.variable(`${name}_quotient`);
  const rest = b.variable(`${name}_rest`);
  const value = define(stmts, `${name}_of`, x);
  // Long division, one bit of x at a time: x · num = quotient · den + rest throughout.
  stmts.push(
    b.var_(`${name}_quotient`, b.u32(0)),
    b.var_(`${name}_rest`, b.u32(0)),
    b.for_(`${name}_bit`, b.u32(0), b.u32(32), 1, (i) => {
      const body: Stmt[] = [];
      const bit = b.bin('&', b.bin('>>', value, b.sub(b.u32(31), i)), b.u32(1));
      const next = define(body, `${name}_next`, b.add(b.mul(rest, b.u32(2)), b.mul(bit, b.u32(r.num))));
      body.push(
        b.assign(`${name}_quotient`, b.add(b.mul(quotient, b.u32(2)), b.div(next, b.u32(r.den)))),
        b.assign(`${name}_rest`, b.mod(next, b.u32(r.den))),
      );
      return body;
    }),
  );
  return define(stmts, name, quotient);
}
