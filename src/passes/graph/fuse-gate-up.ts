/**
 * glu(x · Gᵀ + g, x · Uᵀ + u) = glu(z[:, :n], z[:, n:]) with z = x · [G; U]ᵀ + [g; u]
 * for dense products and for those of an expert bank. Legal where the two read the same rows, differ in nothing but their
 * weights, and only the glu reads them; their parameters become one, the gate rows first. The halves are cut apart again
 * until fuse-activation takes the glu into the product, so this pass asks for that one.
 * Saves one reading of the rows.
 */
import { stableJson } from '../../base/hash.ts';
import { makeNode } from '../../ir/graph/build.ts';
import { numberDim } from '../../ir/graph/op-spec.ts';
import { freshFor } from '../../ir/graph/rewrite.ts';
import type { Graph, Node, NodeOf, Value } from '../../ir/graph/types.ts';
import type { Capabilities } from '../../target/types.ts';
import { definePass, type Pass } from '../pass.ts';
import { joinedType, joinParams, joinProblem } from './concat-params.ts';
import { isSegmented, segmentRows } from './limits.ts';
import { type Attempt, describe, maybe, rewriteAll, sameValue, type Scene, substitute } from './match.ts';

type Product = NodeOf<'linear'> | NodeOf<'moe.grouped_linear'>;

/** Everything of a product but its weights and results. */
const frame = ({ op, ins, attrs }: Product): string => {
  const { weight: _w, bias, ...rest } = ins;
  const ids = Object.entries<Value | undefined>(rest).map(([name, value]) => [name, value?.id]);
  return stableJson([op, ids, bias !== undefined, attrs]);
};

function problemOf(scene: Scene, gate: Product, up: Product, caps: Capabilities): string | undefined {
  if (frame(gate) !== frame(up)) return `${describe(gate)} and ${describe(up)} differ in more than their weights`;
  if (gate.attrs.epilogue.kind !== 'none' || gate.attrs.scale !== 1) return `${describe(gate)} does more than multiply`;
  if (scene.uses(gate.outs.y) !== 1 || scene.uses(up.outs.y) !== 1) return 'something else reads the gate or the up product';
  const [{ weight, bias }, { weight: upWeight, bias: upBias }] = [gate.ins, up.ins];
  const problem = joinProblem(scene, weight, upWeight) ?? (bias && upBias && joinProblem(scene, bias, upBias));
  if (problem !== undefined) return problem;
  const joined: Value = { id: 'joined', type: joinedType(scene, weight, upWeight) };
  // A split keeps experts whole; rows of one matrix cannot be split where gate and up rows lie apart.
  if (gate.op === 'linear' && isSegmented(joined, caps)) return 'together the weights are larger than one binding';
  return segmentRows(joined, caps) === 0 ? 'together the weights of one expert are larger than one binding' : undefined;
}

function fuse(scene: Scene, glu: NodeOf<'glu'>, gate: Product, up: Product): Graph {
  const { graph } = scene;
  const weight = joinParams(scene, graph, gate.ins.weight, up.ins.weight);
  const { bias: gateBias } = gate.ins;
  const { bias: upBias } = up.ins;
  const bias = gateBias && upBias && joinParams(scene, weight.graph, gateBias, upBias);
  const base = bias?.graph ?? weight.graph;
  const fresh = freshFor(base);
  const wide: Node =
    gate.op === 'linear'
      ? makeNode(fresh, 'linear', { ...gate.ins, weight: weight.value, ...maybe('bias', bias?.value) }, gate.attrs, gate.span)
      : makeNode(fresh, 'moe.grouped_linear', { ...gate.ins, weight: weight.value, ...maybe('bias', bias?.value) }, gate.attrs, gate.span);
  const [z, n] = [wide.outs.y, numberDim(gate.outs.y, 1)];
  const half = (start: number, y: Value): Node =>
    makeNode(fresh, 'slice_heads', { x: z }, { heads: 1, stride: 2 * n, start, length: n }, glu.span, { y });
  return substitute(base, [gate, up], [wide, half(0, gate.outs.y), half(n, up.outs.y)]);
}

export const fuseGateUp: Pass<Graph> = definePass({
  name: 'fuse-gate-up',
  doc: 'gate and up projections share one pass over the rows',
  run: (graph, options, report) =>
    rewriteAll(graph, report, (scene, node): Attempt => {
      if (node.op !== 'glu') return undefined;
      const product = (value: Value): Product | undefined => scene.maker('linear', value) ?? scene.maker('moe.grouped_linear', value);
      const [gate, up] = [product(node.ins.gate), product(node.ins.up)];
      if (gate === undefined || up === undefined || sameValue(node.ins.gate, node.ins.up)) return undefined;
      if (options.disabled.has('fuse-activation')) return { refused: 'without fuse-activation the halves would be cut apart again' };
      const problem = problemOf(scene, gate, up, options.caps);
      if (problem !== undefined) return { refused: problem };
      return { graph: fuse(scene, node, gate, up), what: `one ${gate.op} for gate and up` };
    }),
});
