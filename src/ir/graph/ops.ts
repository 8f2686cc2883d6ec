/** The op table: one row per op; a missing row is a type error. Everything generic reads it. */
import { addSize, mulSize, type Size } from '../../base/size.ts';
import { type CostEnv, type Ins, type OpSpec, type OutTypes, sameType, type StoredOuts } from './op-spec.ts';
import { attention, cacheAppend, rope } from './ops-attention.ts';
import { act, add, concatHeads, embed, gateMul, glu, headLinear, linear, norm, sliceHeads } from './ops-dense.ts';
import { capacity, combine, groupedLinear, permute, plan, route } from './ops-moe.ts';
import type { Graph, Node, OpName, Ops, Type, Value } from './types.ts';

export const OPS: { readonly [K in OpName]: OpSpec<K> } = {
  embed,
  norm,
  linear,
  head_linear: headLinear,
  glu,
  act,
  add,
  gate_mul: gateMul,
  slice_heads: sliceHeads,
  concat_heads: concatHeads,
  rope,
  cache_append: cacheAppend,
  attention,
  'moe.route': route,
  'moe.capacity': capacity,
  'moe.plan': plan,
  'moe.permute': permute,
  'moe.grouped_linear': groupedLinear,
  'moe.combine': combine,
};

export const OP_NAMES: readonly OpName[] = Object.keys(OPS).filter(isOpName);

export function isOpName(text: string): text is OpName {
  return Object.hasOwn(OPS, text);
}

/** Types of the results an op gives for operands that verify. */
export const inferTypes = <K extends OpName>(op: K, ins: Ins<K>, attrs: Ops[K]['attrs']): OutTypes<K> => OPS[op].infer(ins, attrs);

/** Routed rows of a graph: tokens times the slots of its plan. */
export function routedRows(graph: Graph): Size {
  for (const node of graph.nodes) if (node.op === 'moe.plan') return mulSize('T', node.attrs.slots);
  return 0;
}

const flopsOfNode = <K extends OpName>(node: Node<K>, env: CostEnv): Size => OPS[node.op].flops(node.ins, node.attrs, env);

function bytesOfNode<K extends OpName>(node: Node<K>, env: CostEnv): Size {
  const outs: Readonly<Record<string, Value | undefined>> = { ...node.outs };
  const types = Object.fromEntries(Object.entries(outs).map(([name, value]) => [name, value?.type]));
  // Types by the names of the node's results: what `StoredOuts` says, but TypeScript cannot follow it through a generic K.
  return OPS[node.op].bytes(node.ins, node.attrs, env, types as StoredOuts<K>);
}

export const flopsOf = (node: Node, env: CostEnv): Size => flopsOfNode(node, env);
export const bytesMoved = (node: Node, env: CostEnv): Size => bytesOfNode(node, env);

/** Results of a node that may be stored in 16 bits. */
export const narrowable = (node: Node): readonly string[] => narrowableOf(node);
const narrowableOf = <K extends OpName>(node: Node<K>): readonly string[] => OPS[node.op].narrow?.(node.attrs) ?? [];

/** Whether a result that `infer` types may be stored as `type`: as it says, or narrowed to 16 bits where the op's row allows that. */
export function mayStore<K extends OpName>(op: K, attrs: Ops[K]['attrs'], name: string, inferred: Type, type: Type): boolean {
  if (sameType(inferred, type)) return true;
  if (type.kind !== 'tensor' || (type.dtype !== 'f16' && type.dtype !== 'bf16')) return false;
  const narrow: readonly string[] = OPS[op].narrow?.(attrs) ?? [];
  return narrow.includes(name) && sameType(inferred, { ...type, dtype: 'f32' });
}

/** Sum over the nodes of a graph. */
export function graphCost(graph: Graph): { readonly flops: Size; readonly bytes: Size } {
  const env = { P: routedRows(graph) };
  return {
    flops: graph.nodes.reduce<Size>((n, node) => addSize(n, flopsOf(node, env)), 0),
    bytes: graph.nodes.reduce<Size>((n, node) => addSize(n, bytesMoved(node, env)), 0),
  };
}
