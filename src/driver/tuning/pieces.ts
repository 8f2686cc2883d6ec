/** The pieces of a section that are tuned by themselves, and what they amount to. */
import { evalSize, mulSize, type SizeEnv } from '../../base/size.ts';
import { OPS } from '../../ir/graph/ops.ts';
import { operands, paramsById, results } from '../../ir/graph/rewrite.ts';
import type { Graph, Node, OpName } from '../../ir/graph/types.ts';
import { cut, expertNodes, type Piece, SINGLE_OPS } from './cut.ts';

/** A number of tokens to tune for, the calls that its winners serve, and the untuned bucket that serves them. */
export interface TokenPoint {
  readonly tokens: number;
  readonly from: number;
  readonly maxTokens: number | undefined;
}

/** Each point serves the calls above the point before it, as far down as the same untuned bucket does. */
export function tokenPoints(tokens: readonly number[], buckets: readonly (number | undefined)[]): readonly TokenPoint[] {
  const sorted = [...new Set(tokens)].sort((a, b) => a - b);
  return sorted.map((t, i) => {
    const at = buckets.findIndex((m) => m === undefined || m >= t);
    const below = Math.max(sorted[i - 1] ?? 0, buckets[at - 1] ?? 0);
    return { tokens: t, from: below + 1, maxTokens: buckets[at] };
  });
}

/** A piece of a section in one bucket. */
export interface SectionPiece {
  readonly name: string;
  readonly kind: 'experts' | (typeof SINGLE_OPS)[number];
  /** With another height of the plan's tiles, or its default one. */
  piece(tileRows: number | undefined): Piece;
}

const isSingle = (op: OpName): op is (typeof SINGLE_OPS)[number] => SINGLE_OPS.some((s) => s === op);

/** `attn.o` of the weight `layers.{l}.attn.o.weight` */
const weightName = (name: string): string => name.replace(/^layers\.\{l\}\./, '').replace(/\.weight$/, '');

/** The pieces of one section. @param optimized with the plan's default height, or with another one */
export function piecesOf(optimized: (tileRows: number | undefined) => Graph): readonly SectionPiece[] {
  const graph = optimized(undefined);
  const mixture = new Set(expertNodes(graph));
  const pieces: SectionPiece[] = [];
  if (mixture.size > 0) {
    const name = graph.name === 'layer' ? 'experts' : `experts of ${graph.name}`;
    pieces.push({ name, kind: 'experts', piece: (rows) => { const g = optimized(rows); return cut(g, expertNodes(g)); } });
  }
  const params = paramsById(graph);
  for (const node of graph.nodes) {
    if (mixture.has(node) || !isSingle(node.op)) continue;
    const weight = operands(node).find(([name]) => name === 'weight')?.[1];
    // The head may share the weight of the embedding.
    const name = graph.name === 'head' ? 'head' : weight === undefined ? node.op : weightName(params.get(weight.id)?.name ?? node.op);
    pieces.push({ name, kind: node.op, piece: () => cut(graph, [node]) });
  }
  return pieces;
}

/** Multiply-adds of nodes. */
export function workOf(nodes: readonly Node[], size: SizeEnv): number {
  const slots = nodes.reduce((n, node) => (node.op === 'moe.plan' ? node.attrs.slots : n), 1);
  const flops = <K extends OpName>(node: Node<K>): number => evalSize(OPS[node.op].flops(node.ins, node.attrs, { P: mulSize('T', slots) }), size);
  return nodes.reduce((n, node) => n + flops(node), 0) / 2;
}

/** What is computed, without the names that a spec gives. */
export const shapeOf = ({ graph }: Piece): unknown =>
  graph.nodes.map((n) => [n.op, n.attrs, operands(n).map(([name, v]) => [name, v.type]), results(n).map(([name, v]) => [name, v.type])]);
