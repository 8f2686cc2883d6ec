/** Weights that one binding cannot hold are split along their first dim, one buffer and one step per segment. */
import { storedBytes } from '../ir/graph/op-spec.ts';
import type { Dim, GraphParam } from '../ir/graph/types.ts';
import type { Capabilities } from '../target/types.ts';

const numeric = (shape: readonly Dim[]): readonly number[] | undefined => {
  const numbers = shape.filter((d) => typeof d === 'number');
  return numbers.length === shape.length ? numbers : undefined;
};

/** Bytes of a weight; undefined for what is sized at run time. */
export function paramBytes(param: GraphParam): number | undefined {
  const { type } = param.value;
  if (type.kind !== 'tensor') return undefined;
  const shape = numeric(type.shape);
  return shape && storedBytes(type.dtype, shape);
}

/**
 * Leading rows per segment of a weight, or undefined where one binding holds all of it.
 * @throws RangeError where one row alone (one expert of a bank) is larger than a binding
 */
export function segmentRowsOf(param: GraphParam, caps: Capabilities): number | undefined {
  const bytes = paramBytes(param);
  const { type } = param.value;
  if (param.role.kind !== 'weight' || type.kind !== 'tensor' || bytes === undefined || bytes <= caps.maxBindingBytes) return undefined;
  const rows = Number(type.shape[0]);
  const most = Math.floor(caps.maxBindingBytes / (bytes / rows));
  if (most < 1) {
    const mib = (n: number): string => `${(n / 2 ** 20).toFixed(0)} MiB`;
    throw new RangeError(`${param.name}: one of its ${rows} rows takes ${mib(bytes / rows)}, a binding of profile ${caps.profile} holds ${mib(caps.maxBindingBytes)}`);
  }
  // Equal segments: the last one is not a sliver, and all steps of the family share one kernel.
  const count = Math.ceil(rows / most);
  return Math.ceil(rows / count);
}

export interface Segment {
  readonly index: number;
  readonly first: number;
  readonly count: number;
}

export function segmentsOf(rows: number, segmentRows: number): readonly Segment[] {
  return Array.from({ length: Math.ceil(rows / segmentRows) }, (_, index) => {
    const first = index * segmentRows;
    return { index, first, count: Math.min(segmentRows, rows - first) };
  });
}
