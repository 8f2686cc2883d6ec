/** What the reference computes with: flat arrays beside the types of the graph. */
import { evalSize, type SizeEnv } from '../../../base/size.ts';
import { elements } from '../op-spec.ts';
import type { Node, OpName, Ops, Type, Value } from '../types.ts';

/** Elements in row-major order: floats of any storage type as f64, ids as they are. */
export type Data = Float64Array | Uint32Array | Int32Array;

/**
 * A plan worked out: for every routed row its token, slot and expert; and for every (token, slot) its row,
 * −1 where the slot is dropped. `rows` is T × slots; rows that no slot uses have expert −1.
 */
export interface PlanData {
  readonly rows: number;
  readonly slots: number;
  readonly tokenOf: Int32Array;
  readonly slotOf: Int32Array;
  readonly expertOf: Int32Array;
  readonly rowOf: Int32Array;
}

/** What an op sees of its surroundings. */
export interface OpContext<K extends OpName> {
  readonly node: Node<K>;
  readonly size: SizeEnv;
  /** Elements of an operand. @throws Error for a plan */
  data(value: Value): Data;
  plan(value: Value): PlanData;
  /** A new array of the value's type, filled with zeros. */
  zeros(value: Value): Float64Array;
  /** Tells that the router logits of a row were not all finite. */
  fault(): void;
}

export type OpResults<K extends OpName> = { readonly [O in keyof Ops[K]['outs']]: Data | PlanData };

export type Evaluate<K extends OpName> = (ctx: OpContext<K>) => OpResults<K>;

/** Elements of a type under given sizes; `P` counts `slots` rows a token. */
export function countElements(type: Type, size: SizeEnv, slots: number): number {
  return evalSize(elements(type, { P: size.T * slots }), size);
}

/** `a[i]`, reading past the end is an error of the reference itself. */
export function at(a: Data | readonly number[], i: number): number {
  const value = a[i];
  if (value === undefined) throw new RangeError(`index ${i} of ${a.length} elements`);
  return value;
}

/** Σ a[aAt + i] · b[bAt + i] in ascending i. */
export function dot(a: Data, aAt: number, b: Data, bAt: number, length: number): number {
  let sum = 0;
  for (let i = 0; i < length; i++) sum += at(a, aAt + i) * at(b, bAt + i);
  return sum;
}
