/**
 * Index algebra: one rewriting step on a node whose operands are already simple. Each rule is an equation;
 * it holds modulo 2^32 unless it says what it needs. Only u32 and bool are rewritten: floating point is left as written.
 */
import * as b from '../../ir/kernel/build.ts';
import type { BinOp, Expr } from '../../ir/kernel/types.ts';
import { mapOperands, sameExpr, someExpr } from '../../ir/kernel/walk.ts';
import { MAX_U32, rangeOf } from './range.ts';
import type { Ranges } from './range.ts';

/** Simplifies bottom-up until nothing changes. */
export function simplifyExpr(e: Expr, r: Ranges): Expr {
  if (e.k === 'var') return r.constants.get(e.name) ?? e;
  let x = mapOperands(e, (a) => simplifyExpr(a, r));
  // Each rule makes the node smaller or moves a constant to the right, so this ends.
  for (let next = rewrite(x, r); next !== x; next = rewrite(x, r)) x = mapOperands(next, (a) => simplifyExpr(a, r));
  return x;
}

type Bin = Extract<Expr, { k: 'bin' }>;

const constant = (e: Expr): number | undefined => (e.k === 'const' ? e.value : undefined);
const is = (e: Expr, op: BinOp): e is Bin => e.k === 'bin' && e.op === op;
const COMMUTES: ReadonlySet<BinOp> = new Set<BinOp>(['+', '*', '&', '|', '^', 'min', 'max']);
const OPPOSITE: Partial<Record<BinOp, BinOp>> = { '<': '>=', '>=': '<', '>': '<=', '<=': '>', '==': '!=', '!=': '==' };
/** Evaluating it cannot stop the program. */
const isTotal = (e: Expr): boolean =>
  !someExpr(e, (x) => x.k === 'load' || x.k === 'subgroup' || (x.k === 'bin' && (x.op === '/' || x.op === '%') && x.b.k !== 'const'));

function rewrite(e: Expr, r: Ranges): Expr {
  switch (e.k) {
    case 'un':
      return e.op === 'not' ? rewriteNot(e) : e;
    case 'select':
      // select(true, a, b) = a; select(false, a, b) = b
      if (e.cond.k === 'const') return b.select(e.cond, e.a, e.b);
      // select(c, a, a) = a
      return sameExpr(e.a, e.b) && isTotal(e.cond) ? e.a : e;
    case 'bin':
      if (e.ty.lanes !== 1) return e;
      if (e.op === '&&' || e.op === '||') return rewriteLogic(e);
      return e.a.ty.elem === 'u32' ? rewriteU32(e, r) : e;
    default:
      return e;
  }
}

function rewriteNot(e: Extract<Expr, { k: 'un' }>): Expr {
  const { a } = e;
  // !true = false
  if (a.k === 'const') return b.bool(a.value === 0);
  // !!a = a
  if (a.k === 'un' && a.op === 'not') return a.a;
  // !(x < y) = x >= y, and so on; not of floats, where NaN compares false with everything
  if (a.k === 'bin' && a.a.ty.elem === 'u32') {
    const op = OPPOSITE[a.op];
    if (op !== undefined) return b.bin(op, a.a, a.b);
  }
  return e;
}

function rewriteLogic(e: Bin): Expr {
  // a && a = a; a || a = a
  if (sameExpr(e.a, e.b)) return e.a;
  const decides = e.op === '&&' ? 0 : 1;
  // false && b = false; true || b = true; true && b = b; false || b = b
  if (e.a.k === 'const') return e.a.value === decides ? e.a : e.b;
  // a && false = false; a || true = true (a total); a && true = a; a || false = a
  if (e.b.k === 'const') return e.b.value !== decides ? e.a : isTotal(e.a) ? e.b : e;
  return e;
}

function rewriteU32(e: Bin, r: Ranges): Expr {
  // constants fold; x + 0 = x; x * 1 = x; x * 0 = 0; x / 1 = x; x % 1 = 0
  const folded = b.bin(e.op, e.a, e.b);
  if (folded === e.a || folded === e.b) return folded;
  if (folded.k === 'const') return isTotal(e) ? folded : e;
  // c + x = x + c
  if (COMMUTES.has(e.op) && e.a.k === 'const' && e.b.k !== 'const') return b.bin(e.op, e.b, e.a);
  switch (e.op) {
    case '+':
      return rewriteAdd(e);
    case '-':
      // x - x = 0
      if (sameExpr(e.a, e.b) && isTotal(e.a)) return b.u32(0);
      // (x + y) - y = x; (x + y) - x = y
      if (is(e.a, '+') && sameExpr(e.a.b, e.b) && isTotal(e.b)) return e.a.a;
      if (is(e.a, '+') && sameExpr(e.a.a, e.b) && isTotal(e.b)) return e.a.b;
      return e;
    case '*': {
      // (x * c) * d = x * (c * d)
      const d = constant(e.b);
      const c = is(e.a, '*') ? constant(e.a.b) : undefined;
      return is(e.a, '*') && c !== undefined && d !== undefined ? b.mul(e.a.a, b.mul(b.u32(c), b.u32(d))) : e;
    }
    case '/':
      return rewriteDiv(e, r);
    case '%':
      return rewriteMod(e, r);
    case 'min':
    case 'max': {
      const [low, high] = order(e.a, e.b, r);
      // min(x, y) = x, max(x, y) = y where x <= y everywhere
      if (low === undefined || high === undefined) return e;
      return e.op === 'min' ? (isTotal(high) ? low : e) : isTotal(low) ? high : e;
    }
    default:
      return rewriteComparison(e, r);
  }
}

function rewriteAdd(e: Bin): Expr {
  const d = constant(e.b);
  if (is(e.a, '+')) {
    const c = constant(e.a.b);
    // (x + c) + d = x + (c + d)
    if (c !== undefined && d !== undefined) return b.add(e.a.a, b.add(b.u32(c), b.u32(d)));
    // (x + c) + y = (x + y) + c
    if (c !== undefined) return b.add(b.add(e.a.a, e.b), b.u32(c));
  }
  // x + (y + c) = (x + y) + c
  if (is(e.b, '+') && constant(e.b.b) !== undefined) return b.add(b.add(e.a, e.b.a), e.b.b);
  return e;
}

/** `x` and `y` of x * c + y where the sum does not wrap. */
function product(e: Expr, c: number, r: Ranges): { x: Expr; y: Expr } | undefined {
  const factor = (p: Expr): Expr | undefined => {
    const f = is(p, '*') ? constant(p.b) : undefined;
    return is(p, '*') && f !== undefined && f > 0 && f % c === 0 ? b.mul(p.a, b.u32(f / c)) : undefined;
  };
  const highest = (p: Expr): number => (is(p, '*') ? rangeOf(p.a, r).hi * rangeOf(p.b, r).hi : rangeOf(p, r).hi);
  const whole = factor(e);
  if (whole !== undefined) return highest(e) <= MAX_U32 ? { x: whole, y: b.u32(0) } : undefined;
  if (!is(e, '+')) return undefined;
  for (const [p, y] of [[e.a, e.b], [e.b, e.a]] as const) {
    const x = factor(p);
    if (x !== undefined && highest(p) + rangeOf(y, r).hi <= MAX_U32) return { x, y };
  }
  return undefined;
}

function rewriteDiv(e: Bin, r: Ranges): Expr {
  const c = constant(e.b);
  if (c === undefined || c === 0) return e;
  // x / c = 0 where x < c everywhere
  if (rangeOf(e.a, r).hi < c && isTotal(e.a)) return b.u32(0);
  // (x * c + y) / c = x + y / c where the sum does not wrap
  const p = product(e.a, c, r);
  if (p !== undefined) return b.add(p.x, b.div(p.y, e.b));
  // (x / c) / d = x / (c * d) where c * d does not wrap
  const inner = is(e.a, '/') ? constant(e.a.b) : undefined;
  if (is(e.a, '/') && inner !== undefined && inner > 0 && inner * c <= MAX_U32) return b.div(e.a.a, b.u32(inner * c));
  return e;
}

function rewriteMod(e: Bin, r: Ranges): Expr {
  const c = constant(e.b);
  if (c === undefined || c === 0) return e;
  // x % c = x where x < c everywhere
  if (rangeOf(e.a, r).hi < c) return e.a;
  // (x * c + y) % c = y % c where the sum does not wrap
  const p = product(e.a, c, r);
  if (p !== undefined && isTotal(p.x)) return b.mod(p.y, e.b);
  // (x % c) % d = x % d where d divides c
  const inner = is(e.a, '%') ? constant(e.a.b) : undefined;
  if (is(e.a, '%') && inner !== undefined && inner % c === 0) return b.mod(e.a.a, e.b);
  return e;
}

/** The lower and the higher of two expressions, where their ranges tell. */
function order(x: Expr, y: Expr, r: Ranges): readonly [Expr?, Expr?] {
  const a = rangeOf(x, r);
  const c = rangeOf(y, r);
  if (sameExpr(x, y) || a.hi <= c.lo) return [x, y];
  return c.hi <= a.lo ? [y, x] : [];
}

function rewriteComparison(e: Bin, r: Ranges): Expr {
  if (OPPOSITE[e.op] === undefined) return e;
  const total = isTotal(e.a) && isTotal(e.b);
  if (!total) return e;
  const x = rangeOf(e.a, r);
  const y = rangeOf(e.b, r);
  const same = sameExpr(e.a, e.b);
  const less = x.hi < y.lo;
  const lessOrEqual = same || x.hi <= y.lo;
  const greater = y.hi < x.lo;
  const greaterOrEqual = same || y.hi <= x.lo;
  // x < y = true where max x < min y, false where min x >= max y; and so on
  switch (e.op) {
    case '<':
      return less ? b.bool(true) : greaterOrEqual ? b.bool(false) : e;
    case '<=':
      return lessOrEqual ? b.bool(true) : greater ? b.bool(false) : e;
    case '>':
      return greater ? b.bool(true) : lessOrEqual ? b.bool(false) : e;
    case '>=':
      return greaterOrEqual ? b.bool(true) : less ? b.bool(false) : e;
    case '==':
      return same ? b.bool(true) : less || greater ? b.bool(false) : e;
    case '!=':
      return same ? b.bool(false) : less || greater ? b.bool(true) : e;
    default:
      return e;
  }
}
