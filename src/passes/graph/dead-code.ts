/**
 * A node whose results nobody reads, and a parameter nobody reads, go away. Appending to a cache stays.
 * Saves their dispatches and, for parameters, their memory.
 */
import { removeDead } from '../../ir/graph/rewrite.ts';
import type { Graph } from '../../ir/graph/types.ts';
import { definePass, type Pass } from '../pass.ts';
import { describe } from './match.ts';

export const deadCode: Pass<Graph> = definePass({
  name: 'dead-code',
  doc: 'nodes and parameters that nobody reads go away',
  run(graph, _options, report) {
    const live = removeDead(graph);
    const nodes = new Set(live.nodes);
    for (const node of graph.nodes)
      if (!nodes.has(node)) report({ kind: 'fired', where: describe(node), what: 'removed: nobody reads it' });
    const params = new Set(live.params);
    for (const p of graph.params) if (!params.has(p)) report({ kind: 'fired', where: `param ${p.name}`, what: 'removed: nobody reads it' });
    return live;
  },
});
