/** Evaluates scalar integer and boolean expressions as far as they are known. */
import type { BinOp, Expr } from '../../ir/kernel/types.ts';

/** Value of a leaf (variable, builtin, scalar, load …); undefined where it is not known. */
export type Known = (leaf: Expr) => number | undefined;

function apply(op: BinOp, a: number, b: number): number | undefined {
  switch (op) {
    case '+': return (a + b) >>> 0;
    case '-': return (a - b) >>> 0;
    case '*': return Math.imul(a, b) >>> 0;
    case '/': return b === 0 ? undefined : Math.floor(a / b);
    case '%': return b === 0 ? undefined : a % b;
    case 'min': return Math.min(a, b);
    case 'max': return Math.max(a, b);
    case '&': return (a & b) >>> 0;
    case '|': return (a | b) >>> 0;
    case '^': return (a ^ b) >>> 0;
    case '<<': return b < 32 ? (a << b) >>> 0 : undefined;
    case '>>': return b < 32 ? a >>> b : undefined;
    case '<': return a < b ? 1 : 0;
    case '<=': return a <= b ? 1 : 0;
    case '>': return a > b ? 1 : 0;
    case '>=': return a >= b ? 1 : 0;
    case '==': return a === b ? 1 : 0;
    case '!=': return a !== b ? 1 : 0;
    case '&&': return a & b;
    case '||': return a | b;
  }
}

/** Unknown operands do not matter where the other one decides (0 && x, 1 || x). */
export function evaluate(e: Expr, known: Known): number | undefined {
  switch (e.k) {
    case 'const':
      return e.value;
    case 'un': {
      const a = evaluate(e.a, known);
      return a === undefined || e.op !== 'not' ? undefined : a === 0 ? 1 : 0;
    }
    case 'bin': {
      if (e.a.ty.elem !== 'u32' && e.a.ty.elem !== 'bool') return undefined;
      const a = evaluate(e.a, known);
      const b = evaluate(e.b, known);
      if (e.op === '&&' && (a === 0 || b === 0)) return 0;
      if (e.op === '||' && (a === 1 || b === 1)) return 1;
      return a === undefined || b === undefined ? undefined : apply(e.op, a, b);
    }
    case 'select': {
      const c = evaluate(e.cond, known);
      return c === undefined ? undefined : evaluate(c !== 0 ? e.a : e.b, known);
    }
    default:
      return known(e);
  }
}
