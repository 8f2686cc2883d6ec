/**
 * r + combine(…) · s                    = combine {scale s, residual r}
 * r + linear(…) · s                     = linear {scale s, residual r}
 * combine(grouped_linear(x), weights)   = grouped_linear {combine}(x, weights)      in the decode bucket only
 * Legal where only the sum (or the combine) reads the product, the product has no residual yet and the kernel binds no more
 * buffers than the target allows; in the last form also where the plan is direct, the product has no epilogue or input
 * weights, its bank is not split, and shared experts run in the same dispatch.
 * Saves a dispatch each; the last one also the routed rows, T · slots · n elements written and read again.
 */
import { makeNode } from '../../ir/graph/build.ts';
import { freshFor } from '../../ir/graph/rewrite.ts';
import type { Graph, Node, NodeOf, Value } from '../../ir/graph/types.ts';
import type { Capabilities } from '../../target/types.ts';
import { definePass, type Pass, type PassOptions } from '../pass.ts';
import { bindingProblem, isSegmented } from './limits.ts';
import { type Attempt, describe, maybe, rewriteAll, sameValue, type Scene, substitute } from './match.ts';
import { isDecode } from './plan.ts';

type Product = NodeOf<'linear'> | NodeOf<'moe.combine'> | NodeOf<'moe.grouped_linear'>;

/** A node that can add rows to its result: one that combines before one that only multiplies. */
function productOf(scene: Scene, value: Value): Product | undefined {
  const grouped = scene.maker('moe.grouped_linear', value);
  return scene.maker('moe.combine', value) ?? (grouped?.attrs.combine === true ? grouped : undefined) ?? scene.maker('linear', value);
}

const withResidual = (graph: Graph, product: Product, residual: Value, scale: number, y: Value): Node => {
  const fresh = freshFor(graph);
  const factor = product.attrs.scale * scale;
  if (product.op === 'linear')
    return makeNode(fresh, 'linear', { ...product.ins, residual }, { ...product.attrs, scale: factor }, product.span, { y });
  if (product.op === 'moe.combine')
    return makeNode(fresh, 'moe.combine', { ...product.ins, residual }, { ...product.attrs, scale: factor }, product.span, { y });
  return makeNode(fresh, 'moe.grouped_linear', { ...product.ins, residual }, { ...product.attrs, scale: factor }, product.span, { y });
};

function residualInto(scene: Scene, sum: NodeOf<'add'>, product: Product, residual: Value, scale: number, caps: Capabilities): Attempt {
  if (product.ins.residual !== undefined) return { refused: `${describe(product)} adds something already` };
  if (scene.uses(product.outs.y) !== 1) return { refused: `something else reads ${describe(product)}` };
  const made = withResidual(scene.graph, product, residual, scale, sum.outs.y);
  const problem = bindingProblem(made, caps);
  if (problem !== undefined) return { refused: `into ${describe(product)}: ${problem}` };
  return { graph: substitute(scene.graph, [product, sum], [made]), what: `${product.op} adds %${residual.id}` };
}

function fuseResidual(scene: Scene, sum: NodeOf<'add'>, caps: Capabilities): Attempt {
  const { a, b } = sum.ins;
  if (sameValue(a, b)) return undefined;
  const { scale } = sum.attrs;
  const [left, right] = [productOf(scene, a), productOf(scene, b)];
  const tried: Attempt[] = [];
  const take = (product: Product | undefined, residual: Value, by: number): void => {
    if (product !== undefined) tried.push(residualInto(scene, sum, product, residual, by, caps));
  };
  const takeLeft = (): void =>
    scale === 1 ? take(left, b, 1) : left && void tried.push({ refused: `the sum scales %${b.id}, not ${describe(left)}` });
  // What combines goes first: a linear on the other side may then still take another sum.
  if (right?.op === 'linear') takeLeft();
  take(right, a, scale);
  if (right?.op !== 'linear') takeLeft();
  return tried.find((result) => result !== undefined && 'graph' in result) ?? tried[0];
}

function problemOf(
  scene: Scene,
  combine: NodeOf<'moe.combine'>,
  product: NodeOf<'moe.grouped_linear'>,
  caps: Capabilities,
): string | undefined {
  if (scene.uses(product.outs.y) !== 1) return `something else reads ${describe(product)}`;
  if (product.attrs.combine || product.attrs.epilogue.kind !== 'none') return `${describe(product)} does more than multiply`;
  if (product.ins.routeWeights !== undefined) return `${describe(product)} weighs its input rows`;
  if (isSegmented(product.ins.weight, caps))
    return `the bank of ${describe(product)} is split over several bindings, so no dispatch sees all slots of a token`;
  const { shared } = combine.ins;
  if (shared !== undefined && !sameValue(shared, product.outs.shared)) return 'the shared experts run in a dispatch of their own';
  return product.outs.shared !== undefined && (shared === undefined || scene.uses(shared) !== 1)
    ? `something else reads the shared output`
    : undefined;
}

function fuseDecode(scene: Scene, combine: NodeOf<'moe.combine'>, { maxTokens, caps }: PassOptions): Attempt {
  const { x, plan, ids, weights, sharedGate, residual } = combine.ins;
  const product = scene.maker('moe.grouped_linear', x);
  if (product === undefined) return undefined;
  if (!isDecode(maxTokens))
    return { refused: 'stays after the last product: rows lie sorted by expert here, those of one token in several tiles' };
  if (plan.type.kind !== 'plan' || plan.type.mode !== 'direct') return { refused: 'the plan is sorted' };
  const problem = problemOf(scene, combine, product, caps);
  if (problem !== undefined) return { refused: problem };
  const ins = {
    ...product.ins,
    plan,
    ids,
    ...maybe('routeWeights', weights),
    ...maybe('sharedGate', sharedGate),
    ...maybe('residual', residual),
  };
  const attrs = { ...product.attrs, combine: true, weighted: weights !== undefined, scale: combine.attrs.scale };
  const made = makeNode(freshFor(scene.graph), 'moe.grouped_linear', ins, attrs, product.span, { y: combine.outs.y });
  const tooMany = bindingProblem(made, caps);
  if (tooMany !== undefined) return { refused: `into ${describe(product)}: ${tooMany}` };
  return { graph: substitute(scene.graph, [product, combine], [made]), what: `${describe(product)} sums the rows of its token` };
}

export const fuseCombine: Pass<Graph> = definePass({
  name: 'fuse-combine',
  doc: 'residuals are added where rows are combined or multiplied; when decoding, the last expert product combines',
  run: (graph, options, report) =>
    rewriteAll(graph, report, (scene, node) => {
      if (node.op === 'add') return fuseResidual(scene, node, options.caps);
      return node.op === 'moe.combine' ? fuseDecode(scene, node, options) : undefined;
    }),
});
