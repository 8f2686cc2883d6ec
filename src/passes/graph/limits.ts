/** The target's limits as graph passes meet them: how many buffers a node binds, and which weights one binding cannot hold. */
import { shapeOf, storedBytes } from '../../ir/graph/op-spec.ts';
import { operands, results } from '../../ir/graph/rewrite.ts';
import type { Node, Value } from '../../ir/graph/types.ts';
import type { Capabilities } from '../../target/types.ts';

/** Operands that no kernel binds: a direct plan has no buffer, and who reads a sorted plan needs no ids beside it. */
function isUnbound(node: Node, name: string): boolean {
  if (node.op !== 'moe.permute' && node.op !== 'moe.grouped_linear' && node.op !== 'moe.combine') return false;
  const { type } = node.ins.plan;
  const direct = type.kind === 'plan' && type.mode === 'direct';
  return name === 'plan' ? direct : name === 'ids' && !direct;
}

/** Storage buffers the kernel of a node binds: operands, results and the counters of faults. */
export function bindingsOf(node: Node): number {
  const bound = operands(node).filter(([name]) => !isUnbound(node, name)).length;
  const counters = node.op === 'moe.route' || node.op === 'embed' ? 1 : 0;
  // Latent values are bound a second time, as values.
  const twice = node.op === 'attention' && node.attrs.vFromK ? 1 : 0;
  // An appended cache is the cache itself.
  return bound + counters + twice + (node.op === 'cache_append' ? 0 : results(node).length);
}

/** Why a node cannot be one kernel on the target; undefined where it can. */
export function bindingProblem(node: Node, caps: Capabilities): string | undefined {
  const n = bindingsOf(node);
  return n <= caps.maxBindings ? undefined : `it would bind ${n} buffers, the target binds at most ${caps.maxBindings}`;
}

/** Bytes of a weight of known shape. @throws Error for a symbolic dim */
export function weightBytes(value: Value): number {
  const shape = shapeOf(value).map((dim) => {
    if (typeof dim !== 'number') throw new Error(`%${value.id} has the symbolic dim ${dim}`);
    return dim;
  });
  return value.type.kind === 'plan' ? 0 : storedBytes(value.type.dtype, shape);
}

/** Rows of the first dim that one binding holds; undefined where it holds all; 0 where not even one row fits. */
export function segmentRows(value: Value, caps: Capabilities): number | undefined {
  const rows = shapeOf(value)[0];
  const bytes = weightBytes(value);
  if (typeof rows !== 'number' || bytes <= caps.maxBindingBytes) return undefined;
  return Math.floor(caps.maxBindingBytes / (bytes / rows));
}

export const isSegmented = (value: Value, caps: Capabilities): boolean => segmentRows(value, caps) !== undefined;
