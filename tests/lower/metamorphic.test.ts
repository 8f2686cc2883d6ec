/** Relations that must hold for any mixture, on random specs: no expected values needed. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { createReference } from '../../src/ir/graph/evaluate/reference.ts';
import { parseGraph } from '../../src/ir/graph/parse.ts';
import { printGraph } from '../../src/ir/graph/print.ts';
import type { GraphParam } from '../../src/ir/graph/types.ts';
import { lowerToGraphs } from '../../src/lower/model-to-graph.ts';
import type { LayerSpec, MoeLayerFfn } from '../../src/model/types.ts';
import { numbers } from '../ir/graph/run.ts';
import { type Change, moeLayer, VOCAB, weights } from './random-specs.ts';
import { maxDifference } from './safetensors.ts';
import { layer, moe, shared, SUM, swiglu } from './specs.ts';

const RUNS = { numRuns: 80, seed: 2401 };
const T = 6;

const moeOf = (spec: LayerSpec): MoeLayerFfn => {
  if (spec.ffn.kind !== 'moe') throw new Error('not a mixture');
  return spec.ffn;
};
const tokens = (count: number, d: number): Float64Array => numbers('tokens', count * d, 5);
const idsOf = (count: number): Uint32Array => Uint32Array.from({ length: count }, (_, t) => (t * 13 + 4) % VOCAB);

interface Out {
  readonly y: Float64Array;
  readonly ids: readonly number[];
}

function run(spec: LayerSpec, x: Float64Array, ids: Uint32Array, change?: Change, seq?: number): Out {
  const reference = createReference(lowerToGraphs(spec), weights(moeOf(spec).experts, change), 1);
  const { results } = reference.run({ x, ids, ...(seq !== undefined && { seq }) });
  const y = Float64Array.from(results['y'] ?? []);
  expect(y.every(Number.isFinite)).toBe(true);
  return { y, ids: Array.from(results['topk_indices'] ?? []) };
}

const rows = (data: Float64Array, d: number, order: readonly number[]): Float64Array =>
  Float64Array.from(order.flatMap((t) => Array.from(data.subarray(t * d, (t + 1) * d))));
const pick = (ids: Uint32Array, order: readonly number[]): Uint32Array => Uint32Array.from(order, (t) => ids[t] ?? 0);

/** Whether the first dim of a parameter counts experts. */
const isPerExpert = ({ name }: GraphParam): boolean =>
  name.startsWith('experts.') || (name.startsWith('router.') && name !== 'router.table');

/** Blocks of the leading dim in reverse order. */
function reverseBlocks(data: Float64Array, blocks: number): Float64Array {
  const size = data.length / blocks;
  return rows(
    data,
    size,
    Array.from({ length: blocks }, (_, i) => blocks - 1 - i),
  );
}

describe('any mixture', () => {
  it('prints, reads back, verifies', () => {
    fc.assert(
      fc.property(moeLayer({ perToken: false }), (spec) => {
        for (const graph of lowerToGraphs(spec).sections) {
          const text = printGraph(graph);
          expect(printGraph(parseGraph(text))).toBe(text);
        }
      }),
      RUNS,
    );
  });

  it('does not care about the order of its experts', () => {
    fc.assert(
      fc.property(moeLayer({ perToken: false }), (spec) => {
        const { experts } = moeOf(spec);
        const x = tokens(T, spec.hidden);
        const reversed: Change = (param, data) =>
          param.name === 'router.table' ? data.map((e) => experts - 1 - e) : isPerExpert(param) ? reverseBlocks(data, experts) : data;
        const [plain, other] = [run(spec, x, idsOf(T)), run(spec, x, idsOf(T), reversed)];
        expect(maxDifference(other.y, plain.y)).toBeLessThan(1e-12);
      }),
      RUNS,
    );
  });

  it('treats sequences one by one', () => {
    fc.assert(
      fc.property(moeLayer({ perToken: false }), (spec) => {
        if (moeOf(spec).router.select.kind === 'expert-choice') return;
        const x = tokens(2 * T, spec.hidden);
        const ids = idsOf(2 * T);
        const half = T * spec.hidden;
        const apart = [run(spec, x.subarray(0, half), ids.subarray(0, T)), run(spec, x.subarray(half), ids.subarray(T))];
        expect(Array.from(run(spec, x, ids, undefined, T).y)).toEqual(apart.flatMap((out) => Array.from(out.y)));
      }),
      RUNS,
    );
  });
});

describe('a mixture whose router looks at one token', () => {
  it('permutes, repeats and extends with its tokens, bit for bit', () => {
    fc.assert(
      fc.property(moeLayer({ perToken: true }), fc.array(fc.nat(T - 1), { maxLength: 12 }), (spec, order) => {
        const d = spec.hidden;
        const [x, ids] = [tokens(T, d), idsOf(T)];
        const plain = run(spec, x, ids);
        const chosen = run(spec, rows(x, d, order), pick(ids, order));
        expect(chosen.y).toEqual(rows(plain.y, d, order));
      }),
      RUNS,
    );
  });

  it('feels an expert only through the tokens that chose it', () => {
    fc.assert(
      fc.property(moeLayer({ perToken: true }), fc.nat(7), (spec, which) => {
        const { experts } = moeOf(spec);
        const d = spec.hidden;
        const expert = which % experts;
        const shifted: Change = (param, data) => {
          const size = data.length / experts;
          return param.name.startsWith('experts.') ? data.map((v, i) => (Math.floor(i / size) === expert ? v + 1 : v)) : data;
        };
        const x = tokens(T, d);
        const [plain, other] = [run(spec, x, idsOf(T)), run(spec, x, idsOf(T), shifted)];
        expect(other.ids).toEqual(plain.ids);
        const slots = plain.ids.length / T;
        for (let t = 0; t < T; t++) {
          const isChosen = plain.ids.slice(t * slots, (t + 1) * slots).includes(expert);
          if (!isChosen) expect(rows(other.y, d, [t])).toEqual(rows(plain.y, d, [t]));
        }
      }),
      RUNS,
    );
  });

  it('adds what its shared experts give', () => {
    fc.assert(
      fc.property(moeLayer({ perToken: true }), (spec) => {
        const { shared: both, ...alone } = moeOf(spec);
        if (both === undefined || both.ffn.bias || both.gate !== 'none') return;
        const x = tokens(T, spec.hidden);
        const { width } = both.ffn;
        const cut = Math.floor(width / 2);
        /** Only some of the inner columns: the others do not reach the output. */
        const only =
          (keep: (j: number) => boolean): Change =>
          (param, data) =>
            /^shared\.(down|out)\.weight$/.test(param.name) ? data.map((v, i) => (keep(i % width) ? v : 0)) : data;
        const without = run({ ...spec, ffn: alone }, x, idsOf(T)).y;
        const whole = run(spec, x, idsOf(T)).y;
        const left = run(
          spec,
          x,
          idsOf(T),
          only((j) => j < cut),
        ).y;
        const right = run(
          spec,
          x,
          idsOf(T),
          only((j) => j >= cut),
        ).y;
        expect(
          maxDifference(
            left.map((v, i) => v + (right[i] ?? NaN) - (without[i] ?? NaN)),
            whole,
          ),
        ).toBeLessThan(1e-12);
      }),
      RUNS,
    );
  });
});

describe('equal rules', () => {
  const x = tokens(T, 8);

  it('softmax renormalised over the selected = softmax over the selected logits', () => {
    for (let k = 1; k <= 6; k++) {
      const a = run(layer('a', 8, moe(6, k, swiglu(4), { renormalize: SUM })), x, idsOf(T));
      const b = run(layer('b', 8, moe(6, k, swiglu(4), { weights: 'softmax-selected' })), x, idsOf(T));
      expect(b.ids).toEqual(a.ids);
      expect(maxDifference(b.y, a.y)).toBeLessThan(1e-14);
    }
  });

  it('all experts under equal logits = the average of the experts', () => {
    const noRouter: Change = (param, data) => (param.name === 'router.weight' ? data.map(() => 0) : data);
    const all = run(layer('all', 8, moe(5, 5, swiglu(4))), x, idsOf(T), noRouter);
    expect(all.ids.slice(0, 5)).toEqual([0, 1, 2, 3, 4]);
    const sum = new Float64Array(x.length);
    for (let e = 0; e < 5; e++) {
      const one: Change = (param, data) => {
        const size = data.length / 5;
        if (param.name === 'experts.down.weight') return data.map((v, i) => (Math.floor(i / size) === e ? v : 0));
        return noRouter(param, data);
      };
      run(layer('one', 8, moe(5, 5, swiglu(4))), x, idsOf(T), one).y.forEach((v, i) => {
        sum[i] = (sum[i] ?? 0) + v;
      });
    }
    expect(maxDifference(sum, all.y)).toBeLessThan(1e-14);
  });

  it('an expert that nobody can want changes nothing', () => {
    const spec = (experts: number): LayerSpec => layer('x', 8, moe(experts, 2, swiglu(4), { logitBias: true }, shared(1, 3)));
    const plain = run(spec(4), x, idsOf(T));
    const extended: Change = (param, data) => {
      if (!isPerExpert(param)) return data;
      const size = data.length / 5;
      const four = numbers(param.name, 4 * size);
      return Float64Array.from(data, (v, i) => (i < 4 * size ? (four[i] ?? NaN) : param.name === 'router.bias' ? -1e30 : v));
    };
    expect(run(spec(5), x, idsOf(T), extended).y).toEqual(plain.y);
  });

  it('expert choice with room for all = all experts', () => {
    const choice = layer('c', 8, moe(4, 4, swiglu(4), { select: { kind: 'expert-choice', capacityFactor: 4 } }));
    expect(maxDifference(run(choice, x, idsOf(T)).y, run(layer('a', 8, moe(4, 4, swiglu(4))), x, idsOf(T)).y)).toBeLessThan(1e-14);
  });

  it('capacity for all tokens drops nothing', () => {
    const roomy = { limit: { kind: 'tokens', tokens: T }, renormalize: 'none' } as const;
    const [a, b] = [{}, { capacity: roomy }].map((more) => run(layer('a', 8, moe(4, 2, swiglu(4), more)), x, idsOf(T)));
    expect(b).toEqual(a);
  });
});
