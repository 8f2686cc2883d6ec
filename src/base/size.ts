/**
 * Sizes known only at run time, as plain data: element counts of buffers and grid dimensions are
 * written down by the compiler as a `Size` and evaluated on the host, never on the device.
 *
 * Symbols:
 * - `T`    tokens of this call
 * - `past` tokens already in the KV cache
 * - `seq`  tokens per sequence (T is a multiple of it)
 * - `cap`  tokens the KV cache can hold
 */
export type SizeSymbol = 'T' | 'past' | 'seq' | 'cap';
export type SizeOp = '+' | '*' | 'ceildiv' | 'min' | 'max';
export type Size = number | SizeSymbol | { readonly op: SizeOp; readonly a: Size; readonly b: Size };
export type SizeEnv = Readonly<Record<SizeSymbol, number>>;

const apply = (op: SizeOp, a: number, b: number): number => {
  switch (op) {
    case '+':
      return a + b;
    case '*':
      return a * b;
    case 'ceildiv':
      return Math.ceil(a / b);
    case 'min':
      return Math.min(a, b);
    case 'max':
      return Math.max(a, b);
  }
};

/** Builds `a op b`, folding numbers and the neutral elements so that equal sizes print equally. */
export function size(op: SizeOp, a: Size, b: Size): Size {
  if (typeof a === 'number' && typeof b === 'number') return apply(op, a, b);
  if (op === '+' && a === 0) return b;
  if (op === '+' && b === 0) return a;
  if (op === '*' && a === 1) return b;
  if ((op === '*' || op === 'ceildiv') && b === 1) return a;
  if (op === '*' && (a === 0 || b === 0)) return 0;
  return { op, a, b };
}

export const addSize = (a: Size, b: Size): Size => size('+', a, b);
export const mulSize = (a: Size, b: Size): Size => size('*', a, b);
export const ceilDivSize = (a: Size, b: Size): Size => size('ceildiv', a, b);

/** The number a size stands for under `env`. */
export function evalSize(s: Size, env: SizeEnv): number {
  if (typeof s === 'number') return s;
  if (typeof s === 'string') return env[s];
  return apply(s.op, evalSize(s.a, env), evalSize(s.b, env));
}

/** Readable form, such as `ceildiv(T * 6, 8) + 64`. */
export function showSize(s: Size): string {
  if (typeof s === 'number' || typeof s === 'string') return String(s);
  const inner = (x: Size): string => (typeof x === 'object' && x.op === '+' ? `(${showSize(x)})` : showSize(x));
  if (s.op === '+') return `${showSize(s.a)} + ${showSize(s.b)}`;
  if (s.op === '*') return `${inner(s.a)} * ${inner(s.b)}`;
  return `${s.op}(${showSize(s.a)}, ${showSize(s.b)})`;
}
