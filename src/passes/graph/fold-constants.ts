/**
 * What the numbers of the spec already decide:
 *   a + (x · Wᵀ · s) · t      =  a + (x · Wᵀ · s·t) · 1       legal where only the sum reads the product
 *   a + combine(…) · t        =  a + combine {scale · t} · 1   likewise
 *   slice(x, all columns)     =  x
 *   slice(slice(x, p), q)     =  slice(x, p + q)
 *   groups, all of them kept  =  no groups                     nothing is masked
 * Saves a multiplication per element, copies, and the group step of the router.
 */
import { makeNode } from '../../ir/graph/build.ts';
import { freshFor, removeDead, replaceValues } from '../../ir/graph/rewrite.ts';
import type { Graph, Node, NodeOf } from '../../ir/graph/types.ts';
import { definePass, type Pass } from '../pass.ts';
import { type Attempt, rewriteAll, type Scene, substitute } from './match.ts';

/** Moves the scale of a sum into the product that is added. */
function foldScale({ graph, maker, uses }: Scene, node: NodeOf<'add'>): Attempt {
  const { scale } = node.attrs;
  if (scale === 1) return undefined;
  const product = maker('linear', node.ins.b) ?? maker('moe.combine', node.ins.b);
  if (product === undefined || uses(node.ins.b) !== 1 || product.ins.residual !== undefined) return undefined;
  const scaled = { ...product, attrs: { ...product.attrs, scale: product.attrs.scale * scale } } as Node;
  const sum: Node = { ...node, attrs: { scale: 1 } };
  return { graph: substitute(substitute(graph, [product], [scaled]), [node], [sum]), what: `the factor ${scale} moves into ${product.op}` };
}

function foldSlice({ graph, maker }: Scene, node: NodeOf<'slice_heads'>): Attempt {
  const { heads, stride, start, length } = node.attrs;
  if (start === 0 && length === stride) {
    return { graph: removeDead(replaceValues(graph, new Map([[node.outs.y.id, node.ins.x]]))), what: 'takes all columns: gone' };
  }
  const inner = maker('slice_heads', node.ins.x);
  if (inner?.attrs.heads !== heads) return undefined;
  const attrs = { heads, stride: inner.attrs.stride, start: inner.attrs.start + start, length };
  const made = makeNode(freshFor(graph), 'slice_heads', { x: inner.ins.x }, attrs, node.span, { y: node.outs.y });
  return { graph: removeDead(substitute(graph, [node], [made])), what: 'two slices become one' };
}

function foldGroups({ graph }: Scene, node: NodeOf<'moe.route'>): Attempt {
  const { groups, ...rest } = node.attrs;
  if (groups === undefined || groups.keep !== groups.count) return undefined;
  return { graph: substitute(graph, [node], [{ ...node, attrs: rest }]), what: `all ${groups.count} groups are kept: no group step` };
}

export const foldConstants: Pass<Graph> = definePass({
  name: 'fold-constants',
  doc: 'factors move into the products they follow; slices and group limits that do nothing go away',
  run: (graph, _options, report) =>
    rewriteAll(graph, report, (scene, node) => {
      if (node.op === 'add') return foldScale(scene, node);
      if (node.op === 'slice_heads') return foldSlice(scene, node);
      return node.op === 'moe.route' ? foldGroups(scene, node) : undefined;
    }),
});
