/** Runs graphs on random data whose stacked weights agree with the single ones. */
import { evaluate, type Data, type Evaluation } from '../../../src/ir/graph/evaluate/evaluate.ts';
import type { Graph } from '../../../src/ir/graph/types.ts';
import { weightShape } from './graphs.ts';

/** Deterministic numbers in (−1, 1) (mulberry32). */
export function random(seed: number): () => number {
  let a = seed >>> 0;
  return () => {
    a = (a + 0x6d2b79f5) | 0;
    let t = Math.imul(a ^ (a >>> 15), a | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 31 - 1;
  };
}

const hash = (text: string): number => Array.from(text).reduce((h, c) => Math.imul(h ^ (c.codePointAt(0) ?? 0), 0x01000193), 0x811c9dc5);

/** Numbers that depend on the name only, so that two graphs get the same weights. */
export const numbers = (name: string, count: number, seed = 0): Float64Array => {
  const next = random(hash(name) + seed);
  return Float64Array.from({ length: count }, next);
};

/** Rows of `gate`, then rows of `up`, per bank. */
function interleaveBanks(gate: Float64Array, up: Float64Array, banks: number): Float64Array {
  const half = gate.length / banks;
  return Float64Array.from({ length: 2 * gate.length }, (_, i) => {
    const [bank, j] = [Math.floor(i / (2 * half)), i % (2 * half)];
    return (j < half ? gate[bank * half + j] : up[bank * half + j - half]) ?? NaN;
  });
}

/** Weights of a graph by their names; `…gate_up…` is made of `…gate…` and `…up…`. */
export function weightsFor(graph: Graph, seed: number): Map<string, Data> {
  return new Map(
    graph.params.flatMap((param) => {
      if (param.role.kind !== 'weight') return [];
      const shape = weightShape(param);
      const count = shape.reduce((n, dim) => n * dim, 1);
      if (!param.name.includes('gate_up')) return [[param.name, numbers(param.name, count, seed)] as const];
      const banks = param.name.startsWith('e.') ? (shape[0] ?? 1) : 1;
      const half = (which: string): Float64Array => numbers(param.name.replace('gate_up', which), count / 2, seed);
      return [[param.name, interleaveBanks(half('gate'), half('up'), banks)] as const];
    }),
  );
}

export function run(graph: Graph, x: Float64Array, width: number, seed = 0): Evaluation {
  const T = x.length / width;
  return evaluate(graph, { params: new Map<string, Data>([...weightsFor(graph, seed), ['x', x]]), size: { T, past: 0, seq: T, cap: 0 } });
}
