/** The helpers that passes stand on. */
import { describe, expect, it } from 'vitest';
import { graphBuilder, makeNode } from '../../../src/ir/graph/build.ts';
import { tensor } from '../../../src/ir/graph/op-spec.ts';
import {
  consumers,
  freshFor,
  producers,
  removeDead,
  replaceValues,
  rewriteNodes,
  sortNodes,
  useCounts,
} from '../../../src/ir/graph/rewrite.ts';
import type { Graph } from '../../../src/ir/graph/types.ts';
import { verifyGraph } from '../../../src/ir/graph/verify.ts';
import { isVector } from '../../../src/ir/graph/weight.ts';
import { declare, unfusedLayer } from './graphs.ts';

/** a = act(x); b = act(a); y = a + b; and c = act(b), which nobody reads. */
function small(): Graph {
  const g = graphBuilder('g');
  const p = declare((name, type, role) => g.param(name, type, role));
  const x = p.input('x', 'T', 4);
  p.weight('unused', 2, 3);
  const act = (value: typeof x): typeof x => g.add('act', { x: value }, { activation: 'relu' }).y;
  const a = act(x);
  const b = act(a);
  act(b);
  return g.finish({ y: g.add('add', { a, b }, { scale: 1 }).y });
}

describe('rewrite helpers', () => {
  it('know who makes and who reads a value', () => {
    const graph = small();
    expect([...producers(graph)].map(([id, node]) => `${id}:${node.op}`)).toEqual(['act:act', 'act_1:act', 'act_2:act', 'add:add']);
    expect(
      consumers(graph)
        .get('act')
        ?.map((node) => node.op),
    ).toEqual(['act', 'add']);
    expect(Object.fromEntries(useCounts(graph))).toEqual({ x: 1, act: 2, act_1: 2, add: 1 });
  });

  it('drop dead nodes and parameters, keep inputs and effects', () => {
    const graph = removeDead(small());
    expect(graph.nodes.map((node) => node.op)).toEqual(['act', 'act', 'add']);
    expect(graph.params.map((p) => p.name)).toEqual(['x']);
    expect(removeDead(graph)).toBe(graph);
    const input = graph.params[0]?.value ?? fail();
    const lone: Graph = { ...graph, params: [...graph.params, { name: 'ids', value: { ...input, id: 'ids' }, role: { kind: 'input' } }] };
    expect(removeDead(lone)).toBe(lone);
    const g = graphBuilder('g');
    const x = g.param('x', tensor('f32', 'T', 4), { kind: 'input' });
    const cache = g.param('cache', tensor('f32', 'cap', 4), { kind: 'state' });
    g.add('cache_append', { x, cache }, {});
    expect(removeDead(g.finish({ y: x })).nodes).toHaveLength(1);
  });

  it('replace values, along chains too', () => {
    const graph = small();
    const [x, a] = [graph.params[0]?.value, producers(graph).get('act')];
    if (x === undefined || a?.op !== 'act') throw new Error('no values');
    const replaced = replaceValues(
      graph,
      new Map([
        ['act_1', a.outs.y],
        ['act', x],
      ]),
    );
    expect(verifyGraph(replaced)).toEqual([]);
    expect(useCounts(replaced).get('x')).toBe(5);
    expect(removeDead(replaced).nodes.map((node) => node.op)).toEqual(['add']);
  });

  it('rewrite nodes in place', () => {
    const graph = small();
    const fresh = freshFor(graph);
    const doubled = rewriteNodes(graph, (node) => {
      if (node.op !== 'add') return undefined;
      const first = makeNode(fresh, 'add', node.ins, { scale: 2 }, node.span);
      const second = makeNode(fresh, 'act', { x: first.outs.y }, { activation: 'silu' });
      return { nodes: [first, second], values: new Map([[node.outs.y.id, second.outs.y]]) };
    });
    expect(verifyGraph(doubled)).toEqual([]);
    expect(doubled.results['y']?.id).toBe('act_3');
  });

  it('sort nodes and refuse circles', () => {
    const graph = small();
    const sorted = sortNodes({ ...graph, nodes: graph.nodes.toReversed() });
    expect(verifyGraph(sorted)).toEqual([]);
    const [first, second] = graph.nodes;
    if (first?.op !== 'act' || second?.op !== 'act') throw new Error('no nodes');
    expect(() => sortNodes({ ...graph, nodes: [{ ...first, ins: { x: second.outs.y } }, second] })).toThrow(/circle/);
  });
});

it('tells a bank of biases from a square matrix by its sources', () => {
  const vector = (name: string): boolean => {
    const role = unfusedLayer().params.find((p) => p.name === name)?.role;
    return role?.kind === 'weight' && isVector(role);
  };
  expect(['e.gate.bias', 'norm', 'e.gate', 'router'].map(vector)).toEqual([true, true, false, false]);
});

function fail(): never {
  throw new Error('the graph has no parameters');
}
