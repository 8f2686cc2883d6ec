/**
 * grouped_linear(permute(x)) = grouped_linear {gather}(x): rows are read through the plan.
 * Legal where every reader of the permuted rows is a grouped_linear that permits it.
 * Saves the permuted copy of the tokens, T · slots · k elements written and read again.
 */
import { makeNode } from '../../ir/graph/build.ts';
import { freshFor } from '../../ir/graph/rewrite.ts';
import type { Graph, Node } from '../../ir/graph/types.ts';
import { definePass, type Pass } from '../pass.ts';
import { describe, rewriteAll, substitute } from './match.ts';

export const fuseGather: Pass<Graph> = definePass({
  name: 'fuse-gather',
  doc: 'the permuted copy of the tokens is never written',
  run: (graph, _options, report) =>
    rewriteAll(graph, report, ({ graph: g, uses }, permute) => {
      if (permute.op !== 'moe.permute') return undefined;
      const { y } = permute.outs;
      const products = g.nodes.flatMap((node) => (node.op === 'moe.grouped_linear' && node.ins.x.id === y.id ? [node] : []));
      if (products.length !== uses(y)) return { refused: 'something else than an expert product reads the permuted rows' };
      const fresh = freshFor(g);
      const made = products.map((node) =>
        makeNode(fresh, 'moe.grouped_linear', { ...node.ins, x: permute.ins.x }, { ...node.attrs, gather: true }, node.span, node.outs),
      );
      const next = products.reduce((acc, node, i) => substitute(acc, [node], made.slice(i, i + 1) as readonly Node[]), g);
      return { graph: substitute(next, [permute], []), what: `read through the plan by ${products.map(describe).join(' and ')}` };
    }),
});
