/** The op table: one row per op; a missing row is a type error. Everything generic reads it. */
import { addSize, mulSize, type Size } from '../../base/size.ts';
import type { CostEnv, Ins, OpSpec, OutTypes } from './op-spec.ts';
import { attention, cacheAppend, rope } from './ops-attention.ts';
import { act, add, concatHeads, embed, gateMul, glu, headLinear, linear, norm, sliceHeads } from './ops-dense.ts';
import { capacity, combine, groupedLinear, permute, plan, route } from './ops-moe.ts';
import type { Graph, Node, OpName, Ops } from './types.ts';

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

const cost = <K extends OpName>(what: 'flops' | 'bytes', node: Node<K>, env: CostEnv): Size =>
  OPS[node.op][what](node.ins, node.attrs, env);

export const flopsOf = (node: Node, env: CostEnv): Size => cost('flops', node, env);
export const bytesMoved = (node: Node, env: CostEnv): Size => cost('bytes', node, env);

/** Sum over the nodes of a graph. */
export function graphCost(graph: Graph): { readonly flops: Size; readonly bytes: Size } {
  const env = { P: routedRows(graph) };
  return {
    flops: graph.nodes.reduce<Size>((n, node) => addSize(n, flopsOf(node, env)), 0),
    bytes: graph.nodes.reduce<Size>((n, node) => addSize(n, bytesMoved(node, env)), 0),
  };
}
