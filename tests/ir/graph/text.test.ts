/** Printed graphs read back equal, and broken text is refused with its line. */
import { describe, expect, it } from 'vitest';
import { GraphTextError, parseGraph } from '../../../src/ir/graph/parse.ts';
import { printGraph } from '../../../src/ir/graph/print.ts';
import type { Graph } from '../../../src/ir/graph/types.ts';
import { verifyGraph } from '../../../src/ir/graph/verify.ts';
import { lowerToGraphs } from '../../../src/lower/model-to-graph.ts';
import { LAYER_CASES, MODEL_CASES } from '../../lower/specs.ts';
import { fusedLayer, HOSTILE } from './graphs.ts';

const withoutSpans = (graph: Graph): Graph => ({
  ...graph,
  nodes: graph.nodes.map((node) => {
    const { span: _span, ...rest } = node;
    return rest;
  }),
});

const all = [...Object.values(LAYER_CASES), ...Object.values(MODEL_CASES)].flatMap((spec) =>
  lowerToGraphs(spec).sections.map((graph) => [`${spec.name} ${graph.name}`, graph] as const),
);

describe('graph text', () => {
  it.each(all)('%s reads back', (_name, graph) => {
    expect(verifyGraph(graph)).toEqual([]);
    const text = printGraph(graph);
    const read = parseGraph(text);
    expect(read).toEqual(withoutSpans(graph));
    expect(printGraph(read)).toBe(text);
  });

  it('reads back a fused graph', () => {
    const graph = fusedLayer();
    expect(verifyGraph(graph)).toEqual([]);
    expect(parseGraph(printGraph(graph))).toEqual(graph);
  });

  it.each(HOSTILE)('keeps the name %j of a tensor', (name) => {
    const graph = fusedLayer();
    const renamed: Graph = {
      ...graph,
      name,
      params: graph.params.map((p, i) =>
        p.role.kind === 'weight'
          ? {
              ...p,
              name: `${name}${i}`,
              role: {
                kind: 'weight',
                parts: p.role.parts.map((part) => ({ ...part, sources: part.sources.map((s) => ({ ...s, name, requires: name })) })),
              },
            }
          : p,
      ),
    };
    expect(parseGraph(printGraph(renamed))).toEqual(renamed);
  });

  it('shows a node on one line', () => {
    const [graph] = lowerToGraphs(LAYER_CASES['mixtral_top2'] ?? failNoSpec()).sections;
    const text = printGraph(graph ?? failNoSpec());
    expect(text).toContain('  y=%linear: f32[T, 8] = linear(x=%x, weight=%router.weight) {"epilogue":{"kind":"none"},"scale":1}');
    expect(text).toContain(
      '  param %experts.gate.weight: f32[8, 20, 24] = weight "experts.gate.weight"\n    rows 20\n      from "experts.gate_proj" [8, 20, 24] n 0:0:1 k 0:1',
    );
    expect(text).toContain('  return y=%combine, topk_weights=%route.weights, topk_indices=%route.ids\n}\n');
  });

  it.each([
    ['', 1, 'the graph does not end'],
    ['graph "g" {\n  y=%a: f32[T, 4] = act(x=%x) {}\n  return y=%a\n}', 2, '%x is not defined before'],
    ['graph "g" {\n  param %x: f32[T, 4] = input "x"\n  y=%a: f32[T, 4] = fly(x=%x)\n}', 3, 'no op is called fly'],
    ['graph "g" {\n  param %x: f32[T, 4] = input "x"\n  y=%a: f32[T, 4] = act(z=%x)\n}', 3, 'act has no operand z'],
    ['graph "g" {\n  param %x: f31[T] = input "x"\n', 2, 'f31[T] is no type'],
    ['graph "g" {\n  param %x: f32[T, Q] = input "x"\n', 2, 'Q is no dim'],
    ['graph "g" {\n  return\n}\nmore', 4, 'nothing follows the graph'],
  ])('refuses %j', (text, line, message) => {
    expect(() => parseGraph(text)).toThrow(GraphTextError);
    expect(() => parseGraph(text)).toThrow(`line ${line}: ${message}`);
  });
});

function failNoSpec(): never {
  throw new Error('no such case');
}
