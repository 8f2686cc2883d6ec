/**
 * combine(r) + s             = combine {shared: s}(r)              s the shared experts' output, or s · σ(gate)
 * grouped(x), linear(h)      = grouped {sharedWeight}(x, h)        one dispatch runs the routed and the shared product
 * Legal where only this sum reads the two, the shared product has the epilogue of the routed one, neither needs the other's
 * result, one binding holds the shared weight (a bank may be split: its first step runs the shared product), and the kernel
 * binds no more buffers than the target allows.
 * Saves a dispatch a product and the shared output written and read again. No weight is copied.
 */
import { stableJson } from '../../base/hash.ts';
import { makeNode } from '../../ir/graph/build.ts';
import { freshFor, operands } from '../../ir/graph/rewrite.ts';
import type { Graph, NodeOf, Value } from '../../ir/graph/types.ts';
import type { Capabilities } from '../../target/types.ts';
import { definePass, type Pass, type PassOptions } from '../pass.ts';
import { bindingProblem, isSegmented } from './limits.ts';
import { type Attempt, describe, maybe, rewriteAll, sameValue, type Scene, substitute } from './match.ts';
import { isDecode } from './plan.ts';

type Grouped = NodeOf<'moe.grouped_linear'>;
type Linear = NodeOf<'linear'>;

/** The rows of tokens that the plan distributes. */
function routedInput({ graph }: Scene, plan: Value): Value | undefined {
  for (const node of graph.nodes) {
    if (node.op === 'moe.permute' && sameValue(node.ins.plan, plan)) return node.ins.x;
    if (node.op === 'moe.grouped_linear' && node.attrs.gather && sameValue(node.ins.plan, plan)) return node.ins.x;
  }
  return undefined;
}

/** Why the shared product `l` cannot run beside the routed product `g`; undefined where it can. */
function pairProblem(scene: Scene, g: Grouped, l: Linear, caps: Capabilities): string | undefined {
  if (g.ins.sharedWeight !== undefined || g.attrs.combine) return `${describe(g)} already does more`;
  if (stableJson(g.attrs.epilogue) !== stableJson(l.attrs.epilogue)) return 'its epilogue is not that of the routed product';
  if (l.attrs.scale !== 1 || l.ins.residual !== undefined) return 'it does more than multiply';
  if (isSegmented(l.ins.weight, caps)) return `the weight of ${describe(l)} is split over several bindings`;
  const needs = (values: readonly (readonly [string, Value])[], made: readonly Value[]): boolean =>
    values.some(([, value]) => made.some((from) => scene.dependsOn(value, from)));
  if (needs(operands(l), [g.outs.y]) || needs(operands(g), [l.outs.y])) return 'one needs the result of the other';
  return undefined;
}

/** The routed product with the shared one beside it. */
function paired(scene: Scene, g: Grouped, l: Linear): Grouped {
  const sharedX = g.attrs.gather && sameValue(g.ins.x, l.ins.x) ? undefined : l.ins.x;
  const ins = { ...g.ins, ...maybe('sharedX', sharedX), sharedWeight: l.ins.weight, ...maybe('sharedBias', l.ins.bias) };
  return makeNode(freshFor(scene.graph), 'moe.grouped_linear', ins, g.attrs, g.span, { y: g.outs.y, shared: l.outs.y });
}

function pair(scene: Scene, g: Grouped, l: Linear, caps: Capabilities): Attempt {
  const problem = pairProblem(scene, g, l, caps);
  if (problem !== undefined) return { refused: `${describe(l)}: ${problem}` };
  const made = paired(scene, g, l);
  const tooMany = bindingProblem(made, caps);
  if (tooMany !== undefined) return { refused: `${describe(l)} beside ${describe(g)}: ${tooMany}` };
  return { graph: substitute(scene.graph, [g, l], [made]), what: `${describe(l)} runs beside ${describe(g)}` };
}

/** The first products of both chains: `last` reads the rows of one, the shared chain's last product those of the other. */
function fuseFirst(scene: Scene, last: Grouped, sharedRows: Value | undefined, caps: Capabilities): Attempt {
  const first = scene.maker('moe.grouped_linear', last.ins.x);
  const up = scene.maker('linear', sharedRows);
  return first === undefined || up === undefined || first.ins.sharedWeight !== undefined ? undefined : pair(scene, first, up, caps);
}

/** What fired, or everything that was refused. */
function firedOf(tried: readonly Attempt[]): Attempt {
  const fired = tried.find((result) => result !== undefined && 'graph' in result);
  const refusals = tried.flatMap((result) => (result !== undefined && 'refused' in result ? [result.refused] : []));
  return fired ?? (refusals.length === 0 ? undefined : { refused: refusals.join('; ') });
}

/** Pairs each product of the routed chain with its like in the shared chain, last products first. */
function fuseProducts(scene: Scene, combine: NodeOf<'moe.combine'>, caps: Capabilities): Attempt {
  const last = scene.maker('moe.grouped_linear', combine.ins.x);
  if (last === undefined || combine.ins.shared === undefined) return undefined;
  if (sameValue(last.outs.shared, combine.ins.shared)) return fuseFirst(scene, last, last.ins.sharedX, caps);
  const down = scene.maker('linear', combine.ins.shared);
  return down === undefined ? undefined : firedOf([pair(scene, last, down, caps), fuseFirst(scene, last, down.ins.x, caps)]);
}

/** Takes the sum of routed and shared output into the combine. */
function fuseSum(scene: Scene, sum: NodeOf<'add'>, options: PassOptions): Attempt {
  const { a, b } = sum.ins;
  const combine = scene.maker('moe.combine', a) ?? scene.maker('moe.combine', b);
  if (combine === undefined) return undefined;
  const other = sameValue(combine.outs.y, a) ? b : a;
  const gating = scene.maker('gate_mul', other);
  const down = scene.maker('linear', gating?.ins.x ?? other);
  const input = routedInput(scene, combine.ins.plan);
  if (down === undefined || input === undefined || !scene.dependsOn(down.outs.y, input)) return undefined;
  if (down.ins.residual !== undefined || combine.ins.shared !== undefined) return undefined;
  if (sum.attrs.scale !== 1 || combine.attrs.scale !== 1 || combine.ins.residual !== undefined) return { refused: 'the sum is scaled' };
  if ([combine.outs.y, other, down.outs.y].some((value) => scene.uses(value) !== 1))
    return { refused: 'something else reads the shared or the routed output' };
  const ins = { ...combine.ins, shared: down.outs.y, ...maybe('sharedGate', gating?.ins.gate) };
  const made = makeNode(freshFor(scene.graph), 'moe.combine', ins, combine.attrs, combine.span, { y: sum.outs.y });
  const problem = bindingProblem(made, options.caps) ?? decodeProblem(scene, made, down, options);
  const last = scene.maker('moe.grouped_linear', combine.ins.x);
  if (problem !== undefined) return firedOf([last && fuseFirst(scene, last, down.ins.x, options.caps), { refused: problem }]);
  const gone = [combine, sum, ...(gating === undefined ? [] : [gating])];
  return { graph: substitute(scene.graph, gone, [made]), what: `the combine adds ${describe(down)}` };
}

/**
 * When decoding, the combine shall run inside the last product. It can take the shared product along or leave the sum to the
 * shared product's residual; adding in the combine would cost it its place.
 */
function decodeProblem(
  scene: Scene,
  combine: NodeOf<'moe.combine'>,
  down: Linear,
  { maxTokens, caps, disabled }: PassOptions,
): string | undefined {
  const last = scene.maker('moe.grouped_linear', combine.ins.x);
  if (!isDecode(maxTokens) || disabled.has('fuse-combine') || last === undefined || isSegmented(last.ins.weight, caps)) return undefined;
  const problem = pairProblem(scene, last, down, caps);
  if (problem !== undefined) return problem;
  const beside = paired(scene, last, down);
  const bound = bindingProblem(
    {
      ...beside,
      outs: { y: beside.outs.y },
      ins: { ...beside.ins, ...maybe('routeWeights', combine.ins.weights), ...maybe('sharedGate', combine.ins.sharedGate) },
    },
    caps,
  );
  return bound && `combining in the last product, ${bound}`;
}

export const fuseShared: Pass<Graph> = definePass({
  name: 'fuse-shared',
  doc: 'shared experts run in the dispatches of the routed ones and are added where these are combined',
  run: (graph, options, report) =>
    rewriteAll(graph, report, (scene, node) => {
      if (node.op === 'add') return fuseSum(scene, node, options);
      return node.op === 'moe.combine' ? fuseProducts(scene, node, options.caps) : undefined;
    }),
});
