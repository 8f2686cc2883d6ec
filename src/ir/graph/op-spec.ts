/** What one row of the op table says, and the small shape language the rows check their operands with. */
import { isQuantName, QUANT_NAMES, type QuantName, quantFormat, quantRowWords } from '../../base/quant.ts';
import { mulSize, type Size } from '../../base/size.ts';
import type { Dim, DType, OpName, Ops, TensorType, Type, Value } from './types.ts';

/** For every operand or result whether it must be there; the order of the keys is the order of printing. */
export type Presence<T> = { readonly [I in keyof T]-?: object extends Pick<T, I> ? 'optional' : 'required' };

export type Ins<K extends OpName> = Readonly<Ops[K]['ins']>;
export type Attrs<K extends OpName> = Ops[K]['attrs'];
export type OutTypes<K extends OpName> = { readonly [O in keyof Ops[K]['outs']]: Type };
/** Types of the results that a node has. */
export type StoredOuts<K extends OpName> = { readonly [O in keyof Ops[K]['outs']]?: Type | undefined };

/** What the routed rows `P` of the graph amount to. */
export interface CostEnv {
  readonly P: Size;
}

export interface OpSpec<K extends OpName> {
  /** The op as an equation, one line. */
  readonly doc: string;
  readonly ins: Presence<Ops[K]['ins']>;
  readonly outs: Presence<Ops[K]['outs']>;
  /** Types of all results the operands allow; optional results may be left out of a node. Call only after `verify` found nothing. */
  infer(ins: Ins<K>, attrs: Attrs<K>): OutTypes<K>;
  /** Tells what is wrong with operands and attributes. Presence of operands was checked before. */
  verify(ins: Ins<K>, attrs: Attrs<K>, bad: (problem: string) => void): void;
  /** Results that may be stored in 16 bits, though `infer` says f32; none where the row does not say. */
  narrow?(attrs: Attrs<K>): readonly (keyof Ops[K]['outs'] & string)[];
  /** Multiplications and additions, a multiply-add counted as two; element-wise work is one per element. */
  flops(ins: Ins<K>, attrs: Attrs<K>, env: CostEnv): Size;
  /** Bytes read and written when no operand is in a cache; `outs` are the results as they are stored. */
  bytes(ins: Ins<K>, attrs: Attrs<K>, env: CostEnv, outs: StoredOuts<K>): Size;
}

export const ACT: readonly DType[] = ['f32'];
/** Activations that are only multiplied, copied or summed by those who read them: f32, or narrowed to 16 bits. */
export const ROWS: readonly DType[] = ['f32', 'f16', 'bf16'];
export const WEIGHT: readonly DType[] = ['f32', 'f16', 'bf16'];
/** Matrices of experts. */
export const EXPERT: readonly DType[] = [...WEIGHT, ...QUANT_NAMES];
export const INDEX: readonly DType[] = ['u32', 'i32'];

export const tensor = (dtype: DType, ...shape: readonly Dim[]): TensorType => ({ kind: 'tensor', dtype, shape });

export function sameType(a: Type, b: Type): boolean {
  if (a.kind === 'plan' || b.kind === 'plan')
    return (
      a.kind === 'plan' &&
      b.kind === 'plan' &&
      a.experts === b.experts &&
      a.slots === b.slots &&
      a.mode === b.mode &&
      a.tileRows === b.tileRows
    );
  return a.dtype === b.dtype && a.shape.length === b.shape.length && a.shape.every((dim, i) => dim === b.shape[i]);
}

export const showDims = (shape: readonly Dim[]): string => `[${shape.join(', ')}]`;

/** Shape of a tensor value. @throws Error for a plan: verified nodes never get here with one */
export function shapeOf(value: Value): readonly Dim[] {
  if (value.type.kind !== 'tensor') throw new Error(`%${value.id} is a plan, not a tensor`);
  return value.type.shape;
}

/** Dim `axis` (negative: from the end) as a number. @throws Error for a symbolic dim */
export function numberDim(value: Value, axis: number): number {
  const dim = shapeOf(value).at(axis);
  if (typeof dim !== 'number') throw new Error(`dim ${axis} of %${value.id} is ${dim ?? 'missing'}, not a number`);
  return dim;
}

/** The first dim: `T` or `P` for activations. */
export function rowsOf(value: Value): Dim {
  const dim = shapeOf(value)[0];
  if (dim === undefined) throw new Error(`%${value.id} has no rows`);
  return dim;
}

const isSymbol = (text: string): text is 'T' | 'P' | 'cap' => text === 'T' || text === 'P' || text === 'cap';

/** Unifies shapes of operands: numbers and `T`, `P`, `cap` stand for themselves, other texts are variables. */
export interface Shapes {
  /** Checks dtype and shape of an operand; an absent one is skipped. */
  check(name: string, value: Value | undefined, dtypes: readonly DType[], ...pattern: readonly (Dim | string)[]): void;
  /** What a variable was bound to. */
  dim(variable: string): Dim | undefined;
  /** A variable as a number; 0 after a problem was told. */
  number(variable: string): number;
}

export function shapes(bad: (problem: string) => void): Shapes {
  const bound = new Map<string, Dim>();
  const matches = (dim: Dim, wanted: Dim | string): boolean => {
    if (typeof wanted === 'number' || isSymbol(wanted)) return dim === wanted;
    const known = bound.get(wanted);
    if (known === undefined) bound.set(wanted, dim);
    return known === undefined || known === dim;
  };
  const show = (wanted: Dim | string): string => {
    const known = typeof wanted === 'string' ? bound.get(wanted) : undefined;
    return known === undefined ? String(wanted) : `${wanted} = ${known}`;
  };
  return {
    check(name, value, dtypes, ...pattern) {
      if (value === undefined) return;
      if (value.type.kind !== 'tensor') return bad(`${name} must be a tensor`);
      const { dtype, shape } = value.type;
      if (!dtypes.includes(dtype)) bad(`${name} is ${dtype}, not ${dtypes.join(' or ')}`);
      if (shape.length !== pattern.length || !shape.every((dim, i) => matches(dim, pattern[i] ?? -1)))
        bad(`${name} is ${showDims(shape)}, not [${pattern.map(show).join(', ')}]`);
    },
    dim: (variable) => bound.get(variable),
    number(variable) {
      const dim = bound.get(variable);
      if (typeof dim === 'number') return dim;
      if (dim !== undefined) bad(`${variable} is ${dim}, not a number`);
      return 0;
    },
  };
}

/** Tells when a number is not a whole number of at least `least`. */
export function wantCount(bad: (problem: string) => void, name: string, value: number, least = 1): void {
  if (!Number.isInteger(value) || value < least) bad(`${name} is ${value}, not a whole number from ${least} up`);
}

export function wantFinite(bad: (problem: string) => void, name: string, value: number): void {
  if (!Number.isFinite(value)) bad(`${name} is ${value}, not a finite number`);
}

// ---------------------------------------------------------------- costs

const BYTES: Readonly<Record<Exclude<DType, QuantName>, number>> = { f32: 4, f16: 2, bf16: 2, i32: 4, u32: 4 };

export const dimSize = (dim: Dim, env: CostEnv): Size => (dim === 'P' ? env.P : dim);

/** Elements of a tensor; a plan counts as none. */
export const elements = (type: Type, env: CostEnv): Size =>
  type.kind === 'plan' ? 0 : type.shape.reduce<Size>((n, dim) => mulSize(n, dimSize(dim, env)), 1);

/** Bytes of a tensor of known shape. */
export const storedBytes = (dtype: DType, shape: readonly number[]): number =>
  isQuantName(dtype)
    ? shape.slice(0, -1).reduce((n, d) => n * d, 4 * quantRowWords(quantFormat(dtype), shape.at(-1) ?? 1))
    : shape.reduce((n, d) => n * d, BYTES[dtype]);

export function bytesOf(type: Type, env: CostEnv): Size {
  if (type.kind === 'plan') return 0;
  const { dtype, shape } = type;
  return isQuantName(dtype) ? storedBytes(dtype, shape.map(Number)) : mulSize(elements(type, env), BYTES[dtype]);
}

/** @throws Error for a quantised matrix, which is stored by rows */
export function elementBytes({ id, type }: Value): number {
  if (type.kind === 'plan') return 0;
  if (isQuantName(type.dtype)) throw new Error(`%${id} is stored by rows, not by elements`);
  return BYTES[type.dtype];
}
