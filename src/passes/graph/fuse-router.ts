/**
 * route(norm(x) · Wᵀ + b) = route {norm}(x, W, b), with the normalised rows and the shared experts' gate logit as results.
 * In three steps, each where it fits: the router's product, then the norm before it, then the product of the shared gate.
 * Legal where only the route reads the logits, one binding holds the router's matrix, the norm is one run per row, and the
 * kernel binds no more buffers than the target allows (the shared gate's row may join the router's matrix for that). Other readers of the normalised rows read the result `xn`.
 * Saves the logits and, per step, a dispatch that reads every row again.
 */
import { makeNode, type Reuse } from '../../ir/graph/build.ts';
import { numberDim } from '../../ir/graph/op-spec.ts';
import { consumers, freshFor, operands } from '../../ir/graph/rewrite.ts';
import type { Graph, Node, NodeOf } from '../../ir/graph/types.ts';
import type { Capabilities } from '../../target/types.ts';
import { definePass, type Pass } from '../pass.ts';
import { joinParams, joinProblem } from './concat-params.ts';
import { bindingProblem, isSegmented } from './limits.ts';
import { type Attempt, describe, maybe, rewriteAll, sameValue, type Scene, substitute } from './match.ts';

type Route = NodeOf<'moe.route'>;

const isPlainProduct = ({ attrs, ins }: NodeOf<'linear'>): boolean =>
  attrs.epilogue.kind === 'none' && attrs.scale === 1 && ins.residual === undefined;

/** The results to keep; rows that no norm has touched need no copy. */
const resultsOf = ({ outs }: Route): Reuse<'moe.route'> => ({ xn: 'omit', ...outs });

/** `made` in place of `gone`, where it fits the target. */
function place(scene: Scene, gone: readonly Node[], made: Node, caps: Capabilities, what: string): Attempt {
  const problem = bindingProblem(made, caps);
  return problem === undefined ? { graph: substitute(scene.graph, gone, [made]), what } : { refused: `${what}: ${problem}` };
}

function fuseProduct(scene: Scene, route: Route, caps: Capabilities): Attempt {
  const { logits, ...rest } = route.ins;
  if (logits === undefined) return undefined;
  const product = scene.maker('linear', logits);
  if (product === undefined || !isPlainProduct(product)) return { refused: 'its logits are not a plain product' };
  if (scene.uses(logits) !== 1) return { refused: `something else reads the logits %${logits.id}` };
  const { x, weight: gate, bias } = product.ins;
  // The choice needs all logits of a token; a split product makes them in several steps.
  if (isSegmented(gate, caps)) return { refused: `the weight of ${describe(product)} is split over several bindings` };
  const made = makeNode(
    freshFor(scene.graph),
    'moe.route',
    { ...rest, x, gate, ...maybe('gateBias', bias) },
    route.attrs,
    route.span,
    resultsOf(route),
  );
  return place(scene, [product, route], made, caps, 'the logits are made where they are used');
}

function fuseNorm(scene: Scene, route: Route, caps: Capabilities): Attempt {
  const norm = route.attrs.norm === undefined && route.outs.xn === undefined ? scene.maker('norm', route.ins.x) : undefined;
  if (norm === undefined) return undefined;
  if (norm.attrs.groups !== 1) return { refused: `${describe(norm)} has ${norm.attrs.groups} runs a row` };
  const others = operands(route).filter(([name]) => name !== 'x');
  if (others.some(([, value]) => scene.dependsOn(value, norm.outs.y))) return { refused: `another operand comes from ${describe(norm)}` };
  const { x, weight, bias } = norm.ins;
  const { kind, eps } = norm.attrs;
  const ins = { ...route.ins, x, normWeight: weight, ...maybe('normBias', bias) };
  const attrs = { ...route.attrs, norm: { kind, eps } };
  const made = makeNode(freshFor(scene.graph), 'moe.route', ins, attrs, route.span, { ...route.outs, xn: norm.outs.y });
  return place(scene, [norm, route], made, caps, `${describe(norm)} runs before the logits`);
}

/** The product with one row over the (normalised) rows that only gates shared experts. */
function sharedGate(scene: Scene, route: Route): NodeOf<'linear'> | undefined {
  const rows = route.attrs.norm === undefined ? route.ins.x : route.outs.xn;
  const readers = consumers(scene.graph);
  return scene.graph.nodes.find((node): node is NodeOf<'linear'> => {
    if (node.op !== 'linear' || !sameValue(node.ins.x, rows) || numberDim(node.ins.weight, 0) !== 1) return false;
    const isGate = (reader: Node): boolean =>
      reader.op === 'gate_mul'
        ? sameValue(reader.ins.gate, node.outs.y) && !sameValue(reader.ins.x, node.outs.y)
        : 'sharedGate' in reader.ins;
    const all = readers.get(node.outs.y.id) ?? [];
    return all.length > 0 && all.length === scene.uses(node.outs.y) && all.every(isGate);
  });
}

function fuseSharedGate(scene: Scene, route: Route, caps: Capabilities): Attempt {
  if (route.ins.x === undefined || route.outs.gate !== undefined) return undefined;
  const product = sharedGate(scene, route);
  if (product === undefined) return undefined;
  if (!isPlainProduct(product) || product.ins.bias !== undefined) return { refused: `${describe(product)} is not a plain product` };
  const what = `${describe(product)}, the shared gate, is one more logit`;
  const outs = { ...resultsOf(route), gate: product.outs.y };
  const ins = { ...route.ins, sharedGate: product.ins.weight };
  const apart = place(
    scene,
    [product, route],
    makeNode(freshFor(scene.graph), 'moe.route', ins, route.attrs, route.span, outs),
    caps,
    what,
  );
  const { gate } = route.ins;
  if (apart === undefined || 'graph' in apart || gate === undefined) return apart;
  // One binding fewer: its row stands behind the rows of the router's matrix.
  const problem = joinProblem(scene, gate, product.ins.weight);
  if (problem !== undefined) return { refused: `${what}: ${problem}` };
  const joined = joinParams(scene, scene.graph, gate, product.ins.weight);
  if (isSegmented(joined.value, caps)) return { refused: `${what}: together the weights are larger than one binding` };
  const made = makeNode(freshFor(joined.graph), 'moe.route', { ...route.ins, gate: joined.value }, route.attrs, route.span, outs);
  const tooMany = bindingProblem(made, caps);
  if (tooMany !== undefined) return { refused: `${what}: ${tooMany}` };
  return { graph: substitute(joined.graph, [product, route], [made]), what: `${what}, its row behind those of the experts` };
}

export const fuseRouter: Pass<Graph> = definePass({
  name: 'fuse-router',
  doc: 'norm, router product, choice and shared gate become one kernel',
  run: (graph, { caps }, report) =>
    rewriteAll(graph, report, (scene, node): Attempt => {
      if (node.op !== 'moe.route') return undefined;
      const tried = [fuseProduct, fuseNorm, fuseSharedGate].map((step) => step(scene, node, caps)).filter((result) => result !== undefined);
      const fired = tried.find((result) => 'graph' in result);
      if (fired !== undefined) return fired;
      const refusals = tried.flatMap((result) => ('refused' in result ? [result.refused] : []));
      return refusals.length === 0 ? undefined : { refused: refusals.join('; ') };
    }),
});
