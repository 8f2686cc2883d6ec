/** Bounds of u32 expressions: what `simplify` may rely on. */
import type { Builtin, Expr } from '../../ir/kernel/types.ts';

/** Inclusive. */
export interface Range {
  readonly lo: number;
  readonly hi: number;
}

export const MAX_U32 = 0xffff_ffff;
const FULL: Range = { lo: 0, hi: MAX_U32 };

export interface Ranges {
  /** Threads per block. */
  readonly block: number;
  /** Of variables that never change while in scope. */
  readonly variables: ReadonlyMap<string, Range>;
  /** Values of variables that have one value only. */
  readonly constants: ReadonlyMap<string, Expr>;
}

function ofBuiltin(id: Builtin, block: number): Range {
  if (id === 'thread' || id === 'lane' || id === 'subgroup') return { lo: 0, hi: block - 1 };
  return id === 'subgroup.size' || id.startsWith('grid.') ? { lo: 1, hi: MAX_U32 } : FULL;
}

/** Sound: the value of `e`, wrapped as the targets wrap, lies inside. */
export function rangeOf(e: Expr, r: Ranges): Range {
  if (e.ty.elem !== 'u32' || e.ty.lanes !== 1) return FULL;
  switch (e.k) {
    case 'const':
      return { lo: e.value, hi: e.value };
    case 'var':
      return r.variables.get(e.name) ?? FULL;
    case 'builtin':
      return ofBuiltin(e.id, r.block);
    case 'cast':
      return e.a.ty.elem === 'bool' ? { lo: 0, hi: 1 } : FULL;
    case 'select': {
      const a = rangeOf(e.a, r);
      const b = rangeOf(e.b, r);
      return { lo: Math.min(a.lo, b.lo), hi: Math.max(a.hi, b.hi) };
    }
    case 'bin': {
      const a = rangeOf(e.a, r);
      const b = rangeOf(e.b, r);
      const within = (lo: number, hi: number): Range => (lo >= 0 && hi <= MAX_U32 ? { lo, hi } : FULL);
      switch (e.op) {
        case '+':
          return within(a.lo + b.lo, a.hi + b.hi);
        case '-':
          return within(a.lo - b.hi, a.hi - b.lo);
        case '*':
          return within(a.lo * b.lo, a.hi * b.hi);
        case '/':
          return { lo: Math.floor(a.lo / Math.max(1, b.hi)), hi: Math.floor(a.hi / Math.max(1, b.lo)) };
        case '%':
          return { lo: 0, hi: Math.min(a.hi, Math.max(0, b.hi - 1)) };
        case '&':
          return { lo: 0, hi: Math.min(a.hi, b.hi) };
        case '>>': {
          if (e.b.k !== 'const' || e.b.value >= 32) return FULL;
          return { lo: Math.floor(a.lo / 2 ** e.b.value), hi: Math.floor(a.hi / 2 ** e.b.value) };
        }
        case '<<':
          return e.b.k === 'const' && e.b.value < 32 ? within(a.lo * 2 ** e.b.value, a.hi * 2 ** e.b.value) : FULL;
        case 'min':
          return { lo: Math.min(a.lo, b.lo), hi: Math.min(a.hi, b.hi) };
        case 'max':
          return { lo: Math.max(a.lo, b.lo), hi: Math.max(a.hi, b.hi) };
        default:
          return FULL;
      }
    }
    default:
      return FULL;
  }
}
