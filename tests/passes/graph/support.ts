/** Small graphs to run passes over, their text, and their value on random data. */
import { stableJson } from '../../../src/base/hash.ts';
import { createReference, type ReferenceRun, type WeightLookup } from '../../../src/ir/graph/evaluate/reference.ts';
import { showNode } from '../../../src/ir/graph/print.ts';
import type { Graph } from '../../../src/ir/graph/types.ts';
import { assertValidGraph } from '../../../src/ir/graph/verify.ts';
import { weightLayout } from '../../../src/ir/graph/weight.ts';
import { lowerToGraphs } from '../../../src/lower/model-to-graph.ts';
import type { Spec } from '../../../src/model/types.ts';
import type { Pass, PassEvent, PassOptions } from '../../../src/passes/pass.ts';
import { WEBGPU_BASELINE } from '../../../src/target/types.ts';
import { numbers } from '../../ir/graph/run.ts';

export const options = (more: Partial<PassOptions> = {}): PassOptions => ({
  maxTokens: 8,
  disabled: new Set(),
  caps: WEBGPU_BASELINE,
  deterministicBatch: false,
  ...more,
});

export const DECODE: PassOptions = options();
export const PREFILL: PassOptions = options({ maxTokens: undefined });

/** The last layer section of a spec, unfused. */
export function graphOf(spec: Spec): Graph {
  const { sections } = lowerToGraphs(spec);
  const graph = sections.findLast((g) => g.name.startsWith('layer'));
  if (graph === undefined) throw new Error('no layer');
  return graph;
}

export interface Passed {
  readonly graph: Graph;
  readonly events: readonly PassEvent[];
}

/** Runs passes one after the other, each verified, each held to leaving its input alone. */
export function apply(graph: Graph, passes: readonly Pass<Graph>[], opts: PassOptions = DECODE): Passed {
  const events: PassEvent[] = [];
  let current = graph;
  for (const pass of passes) {
    const before = stableJson(current);
    const next = pass.run(current, opts, (event) => events.push({ pass: pass.name, ...event }));
    if (stableJson(current) !== before) throw new Error(`${pass.name} changed its input`);
    assertValidGraph(next, `after ${pass.name}`);
    current = next;
  }
  return { graph: current, events };
}

/** The nodes, a line each, without the attributes that say nothing. */
export const text = (graph: Graph): string =>
  graph.nodes
    .map((node) =>
      showNode(node)
        .replaceAll('"epilogue":{"kind":"none"}', '')
        .replaceAll(/"(combine|gather|weighted)":false/g, '')
        .replaceAll(/"scale":1(?=[,}])/g, '')
        .replaceAll(/,(?=[,}])/g, '')
        .replaceAll('{,', '{')
        .replaceAll(' {}', ''),
    )
    .join('\n');

export const opsOf = (graph: Graph): string => graph.nodes.map((node) => node.op.replace('moe.', '')).join(' ');

/** What a pass refused, without the place. */
export const refusals = ({ events }: Passed): readonly string[] => events.filter((e) => e.kind === 'refused').map((e) => e.what);

/** Weights by what their parts are, so that a joined weight has the rows of the two it replaces. */
export const partWeights =
  (experts: number): WeightLookup =>
  (_name, param) => {
    if (param.role.kind !== 'weight' || param.value.type.kind !== 'tensor') throw new Error(`${param.name} is no weight`);
    const { type } = param.value;
    if (type.dtype === 'i32') {
      const [rows = 0, columns = 1] = type.shape.map(Number);
      return Int32Array.from({ length: rows * columns }, (_, i) => (Math.floor(i / columns) * 7 + (i % columns)) % experts);
    }
    const layout = weightLayout(type, param.role);
    if (layout === undefined) throw new Error(`${param.name} has no layout`);
    const [banks, width] = [layout.bank ?? 1, layout.k ?? 1];
    const out = new Float64Array(banks * layout.n * width);
    let first = 0;
    for (const part of param.role.parts) {
      const rows = numbers(stableJson(part.sources), banks * part.rows * width);
      for (let bank = 0; bank < banks; bank++) {
        const from = bank * part.rows * width;
        out.set(rows.subarray(from, from + part.rows * width), (bank * layout.n + first) * width);
      }
      first += part.rows;
    }
    return out;
  };

/** The value of a layer graph on tokens made up from `seed`. */
export function valueOf(graph: Graph, hidden: number, experts: number, tokens: number, seed = 0): ReferenceRun {
  const program = { sections: [graph], sequence: [{ section: 0, layer: 0 }] };
  const ids = Uint32Array.from({ length: tokens }, (_, t) => (t * 13 + 4 + seed) % 20);
  return createReference(program, partWeights(experts), tokens).run({ x: numbers('x', tokens * hidden, seed), ids });
}
