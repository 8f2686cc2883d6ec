/** Values of all threads of a block side by side, and what the operators do to them. */
import { toInteger } from './numerics.ts';
import type { BinOp, Elem, Fn, Ty } from './types.ts';

/** One component of a value, one entry per thread. f16 and bf16 values are f32 once loaded. */
export type Vec = Float32Array | Uint32Array | Int32Array | Uint8Array;
/** One vector per component. */
export type Value = readonly Vec[];

/** The threads for which a piece of code runs: the first `n` entries of `threads`, ascending. */
export interface Mask {
  readonly threads: Int32Array;
  n: number;
}

export function makeVec(elem: Elem, block: number): Vec {
  switch (elem) {
    case 'u32':
      return new Uint32Array(block);
    case 'i32':
      return new Int32Array(block);
    case 'bool':
      return new Uint8Array(block);
    case 'f32':
    case 'f16':
    case 'bf16':
      return new Float32Array(block);
  }
}

export const makeValue = (t: Ty, block: number): Value => Array.from({ length: t.lanes }, () => makeVec(t.elem, block));

/** Copies the running threads' entries. */
export function copyValue(to: Value, from: Value, m: Mask): void {
  for (let l = 0; l < to.length; l++) {
    const d = to[l];
    const s = from[l];
    if (d === undefined || s === undefined) continue;
    for (let i = 0; i < m.n; i++) {
      const t = m.threads[i] as number;
      d[t] = s[t] as number;
    }
  }
}

export type Binary = (a: number, b: number) => number;
export type Unary = (a: number) => number;

const flag = (x: boolean): number => (x ? 1 : 0);

const COMPARISONS: Partial<Record<BinOp, Binary>> = {
  '<': (a, b) => flag(a < b),
  '<=': (a, b) => flag(a <= b),
  '>': (a, b) => flag(a > b),
  '>=': (a, b) => flag(a >= b),
  '==': (a, b) => flag(a === b),
  '!=': (a, b) => flag(a !== b),
  '&&': (a, b) => a & b,
  '||': (a, b) => a | b,
};

const FLOAT: Partial<Record<BinOp, Binary>> = {
  '+': (a, b) => a + b,
  '-': (a, b) => a - b,
  '*': (a, b) => a * b,
  '/': (a, b) => a / b,
  '%': (a, b) => a % b,
  min: Math.min,
  max: Math.max,
};

/** Results are stored into 32-bit vectors, which wraps them. Divisors and shift counts are checked by the caller. */
const INTEGER: Partial<Record<BinOp, Binary>> = {
  '+': (a, b) => a + b,
  '-': (a, b) => a - b,
  '*': Math.imul,
  '/': (a, b) => Math.trunc(a / b),
  '%': (a, b) => a % b,
  '&': (a, b) => a & b,
  '|': (a, b) => a | b,
  '^': (a, b) => a ^ b,
  '<<': (a, b) => a << b,
  min: Math.min,
  max: Math.max,
};

const BOOL: Partial<Record<BinOp, Binary>> = { '&': (a, b) => a & b, '|': (a, b) => a | b, '^': (a, b) => a ^ b };

const isFloat = (elem: Elem): boolean => elem === 'f32' || elem === 'f16' || elem === 'bf16';

/** The operator on operands of `elem`; undefined where it has no meaning. */
export function binary(op: BinOp, elem: Elem): Binary | undefined {
  const comparison = COMPARISONS[op];
  if (comparison !== undefined) return comparison;
  if (isFloat(elem)) return FLOAT[op];
  if (elem === 'bool') return BOOL[op];
  if (op === '>>') return elem === 'u32' ? (a, b) => a >>> b : (a, b) => a >> b;
  return INTEGER[op];
}

export const FUNCTIONS: Readonly<Record<Exclude<Fn, 'fma' | 'pack.f16' | 'pack.bf16'>, Unary>> = {
  exp: Math.exp,
  exp2: (a) => 2 ** a,
  log: Math.log,
  sqrt: Math.sqrt,
  rsqrt: (a) => 1 / Math.sqrt(a),
  abs: Math.abs,
  floor: Math.floor,
};

/** What a value conversion does to one component. */
export function conversion(from: Elem, to: Elem): Unary {
  if (to === 'bool') return (a) => flag(a !== 0);
  if (to === 'u32') return isFloat(from) ? (a) => toInteger(a, false) : (a) => a;
  if (to === 'i32') return isFloat(from) ? (a) => toInteger(a, true) : (a) => a;
  return (a) => a;
}
