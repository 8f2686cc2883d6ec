/**
 * act(x · Wᵀ + b)           = linear {epilogue act}          and the same of an expert bank
 * glu(z[:, :n], z[:, n:])   = linear {epilogue glu}          with z = x · Wᵀ + b of 2n columns
 * Legal where only the activation (or the two slices) reads the product, which has no epilogue, scale or residual yet,
 * and where the weights of a glu need not be split over their rows.
 * Saves the product written and read again, in f32, and one or three dispatches.
 */
import { makeNode } from '../../ir/graph/build.ts';
import { numberDim } from '../../ir/graph/op-spec.ts';
import { freshFor } from '../../ir/graph/rewrite.ts';
import type { Epilogue, Graph, Node, NodeOf, Value } from '../../ir/graph/types.ts';
import type { Capabilities } from '../../target/types.ts';
import { definePass, type Pass } from '../pass.ts';
import { isSegmented } from './limits.ts';
import { type Attempt, describe, rewriteAll, sameValue, type Scene, substitute } from './match.ts';

type Product = NodeOf<'linear'> | NodeOf<'moe.grouped_linear'>;

const productOf = (scene: Scene, value: Value | undefined): Product | undefined =>
  scene.maker('linear', value) ?? scene.maker('moe.grouped_linear', value);

/** @param readers how often the activation itself reads the product */
function problemOf(scene: Scene, product: Product, readers: number, epilogue: Epilogue, caps: Capabilities): string | undefined {
  if (scene.uses(product.outs.y) !== readers) return `something else reads the result of ${describe(product)}`;
  const { attrs, ins } = product;
  const isPlain = attrs.epilogue.kind === 'none' && attrs.scale === 1 && ins.residual === undefined;
  if (!isPlain || (product.op === 'moe.grouped_linear' && product.attrs.combine)) return `${describe(product)} does more than multiply`;
  return epilogue.kind === 'glu' && product.op === 'linear' && isSegmented(ins.weight, caps)
    ? 'its weight is split over its rows'
    : undefined;
}

function withEpilogue(graph: Graph, product: Product, epilogue: Epilogue, y: Value): Node {
  const fresh = freshFor(graph);
  return product.op === 'linear'
    ? makeNode(fresh, 'linear', product.ins, { ...product.attrs, epilogue }, product.span, { y })
    : makeNode(fresh, 'moe.grouped_linear', product.ins, { ...product.attrs, epilogue }, product.span, { y });
}

function fuseAct(scene: Scene, node: NodeOf<'act'>, caps: Capabilities): Attempt {
  const product = productOf(scene, node.ins.x);
  if (product === undefined) return { refused: 'its operand is not a product' };
  const epilogue: Epilogue = { kind: 'act', activation: node.attrs.activation };
  const problem = problemOf(scene, product, 1, epilogue, caps);
  if (problem !== undefined) return { refused: problem };
  return {
    graph: substitute(scene.graph, [product, node], [withEpilogue(scene.graph, product, epilogue, node.outs.y)]),
    what: `${node.attrs.activation} runs in the epilogue of ${product.op}`,
  };
}

function fuseGlu(scene: Scene, node: NodeOf<'glu'>, caps: Capabilities): Attempt {
  const [gate, up] = [scene.maker('slice_heads', node.ins.gate), scene.maker('slice_heads', node.ins.up)];
  const product = productOf(scene, gate?.ins.x);
  if (gate === undefined || up === undefined || product === undefined || !sameValue(gate.ins.x, up.ins.x))
    return { refused: 'gate and up are not the halves of one product' };
  const n = numberDim(product.outs.y, 1) / 2;
  const isHalf = (slice: NodeOf<'slice_heads'>, start: number): boolean =>
    slice.attrs.heads === 1 && slice.attrs.start === start && slice.attrs.length === n && scene.uses(slice.outs.y) === 1;
  if (!isHalf(gate, 0) || !isHalf(up, n)) return { refused: 'gate and up are not the halves of one product' };
  const { activation, clamp } = node.attrs;
  const epilogue: Epilogue = { kind: 'glu', activation, ...(clamp !== undefined && { clamp }) };
  const problem = problemOf(scene, product, 2, epilogue, caps);
  if (problem !== undefined) return { refused: problem };
  return {
    graph: substitute(scene.graph, [product, gate, up, node], [withEpilogue(scene.graph, product, epilogue, node.outs.y)]),
    what: `the gated ${activation} runs in the epilogue of ${product.op}`,
  };
}

export const fuseActivation: Pass<Graph> = definePass({
  name: 'fuse-activation',
  doc: 'activations run on the accumulators before they are stored',
  run: (graph, { caps }, report) =>
    rewriteAll(graph, report, (scene, node) => {
      if (node.op === 'act') return fuseAct(scene, node, caps);
      return node.op === 'glu' ? fuseGlu(scene, node, caps) : undefined;
    }),
});
