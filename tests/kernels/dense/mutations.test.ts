/** No guard, bound, barrier or buffer size of a dense kernel can change without the interpreter or the result noticing. */
import { describe, it } from 'vitest';
import type { TypedArray } from '../../../src/ir/kernel/interpret.ts';
import type { ScalarName } from '../../../src/ir/kernel/types.ts';
import * as k from '../../../src/kernels/dense/index.ts';
import type { Launch } from '../../../src/kernels/launch.ts';
import { expectEveryMutationCaught } from '../../ir/kernel/mutate.ts';
import type { MutationRun } from '../../ir/kernel/mutate.ts';
import { single } from './attention-reference.ts';
import { NARROW, gridOf, memoryOf, random } from './harness.ts';

interface Call {
  readonly T: number;
  readonly past?: number;
  readonly constants?: Partial<Record<ScalarName, number>>;
  /** Fresh operands, results included, each as long as it must be and no longer. */
  readonly operands: () => Record<string, TypedArray>;
}

function check(launch: Launch, calls: readonly Call[], equivalent: readonly RegExp[] = []): void {
  const poison = launch.kernel.params.some((p) => p.name === 'y') ? ['y'] : [];
  const runs = calls.map(({ T, past = 0, constants = {}, operands }): MutationRun => ({
    grid: gridOf(launch, T), scalars: { T, past, ...constants }, poison, memory: () => memoryOf(launch, operands()),
  }));
  expectEveryMutationCaught(launch.kernel, runs, { equivalent });
}

const attention = (...args: Parameters<typeof k.attention>): Launch => single(k.attention(...args));
const zeros = (n: number): Float32Array => new Float32Array(n);

/** Several blocks, the last one partly filled, and a grid that is folded with blocks to spare. */
const SMALL = { block: 4 };
const PAIRS = { ...NARROW, maxGrid: 2 };

describe('mutations of', () => {
  it('arithmetic element by element', () => {
    const T = 5;
    const some = (n: number, ...names: readonly string[]): (() => Record<string, TypedArray>) => () => ({
      ...Object.fromEntries(names.map((name, i) => [name, random(n, i + 1)])), y: zeros(n),
    });
    check(k.act({ width: 7, activation: 'relu' }, SMALL, NARROW), [{ T, operands: some(35, 'x') }]);
    check(k.glu({ width: 7, activation: 'silu' }, SMALL, NARROW), [{ T, operands: some(35, 'gate', 'up') }]);
    check(k.add({ width: 8, scale: 2 }, SMALL, NARROW), [{ T, operands: some(40, 'a', 'b') }]);
    check(k.gateMul({ width: 7 }, SMALL, NARROW), [{ T, operands: () => ({ x: random(35, 1), gate: random(5, 2), y: zeros(35) }) }]);
  });

  it('columns of heads, rows of the cache, rotary positions', () => {
    const T = 3;
    check(k.sliceHeads({ heads: 3, stride: 10, start: 2, length: 8 }, SMALL, PAIRS), [{ T, operands: () => ({ x: random(90, 1), y: zeros(72) }) }]);
    check(k.concatHeads({ heads: 3, aDim: 5, bDim: 2 }, SMALL, NARROW), [
      { T, operands: () => ({ a: random(45, 1), b: random(18, 2), y: zeros(63) }) },
    ]);
    check(k.cacheAppend({ width: 7 }, SMALL, NARROW), [{ T, past: 2, operands: () => ({ x: random(21, 1), cache: random(35, 2) }) }]);
    for (const dim of [4, 6]) {
      const rope: k.RopeProblem = { heads: 2, headDim: 6, dim, style: 'half' };
      check(k.rope(rope, SMALL, NARROW), [{ T: 5, past: 2, operands: () => ({ x: random(60, 1), table: random(7 * dim, 2), y: zeros(60) }) }]);
    }
  });

  it('embed', () => {
    const ids = Int32Array.of(0, 6, -1, 7, 3, 4, 6);
    const operands = (rows: number) => (): Record<string, TypedArray> => ({ ids: ids.slice(), table: random(rows * 6, 1), y: zeros(42), faults: new Uint32Array(2) });
    const p: k.EmbedProblem = { vocab: 7, dim: 6, scale: 1, tableElem: 'f32' };
    check(k.embed(p, SMALL, NARROW), [{ T: 7, operands: operands(7) }]);
    check(k.embed({ ...p, segmentRows: 4 }, SMALL, NARROW), [
      { T: 7, constants: { 'segment.first': 0, 'segment.count': 4 }, operands: operands(4) },
      { T: 7, constants: { 'segment.first': 4, 'segment.count': 3 }, operands: operands(3) },
    ]);
  });

  it('norm', () => {
    for (const kind of ['rms', 'layer'] as const) {
      const p: k.NormProblem = { kind, dim: 14, groups: 2, eps: 1e-3, weightElem: 'f32', ...(kind === 'layer' ? { biasElem: 'f32' } : {}) };
      check(k.norm(p, SMALL, NARROW), [{ T: 5, operands: () => ({ x: random(70, 1), weight: random(7, 2), bias: random(7, 3), y: zeros(70) }) }]);
    }
  });

  const tile = { bm: 4, bn: 4, tm: 2, tn: 2, bk: 4, oneRow: 0 } as const;
  const linear = (T: number, p: k.LinearProblem, first = 0, count = p.n): Call => ({
    T,
    constants: { 'segment.first': first, 'segment.count': count },
    operands: () => ({
      x: random(T * p.k, 1), weight: random(count * p.k, 2), bias: random(p.n, 3), residual: random(T * p.n, 4), y: zeros(T * p.n),
    }),
  });

  it('linear', () => {
    const p: k.LinearProblem = { n: 10, k: 6, epilogue: { kind: 'none' }, scale: 1, residual: true, weightElem: 'f32', biasElem: 'f32' };
    for (const staging of ['register', 'shared'] as const) {
      check(k.linear(p, { ...tile, staging }, PAIRS), [linear(7, p), linear(9, p)]);
    }
    const decode = { ...tile, bm: 4, tm: 4, tn: 1, staging: 'register', oneRow: 1 } as const;
    check(k.linear({ ...p, maxRows: 4 }, decode, PAIRS), [linear(1, p), linear(3, p), linear(4, p)]);
    const split = { ...p, segmentRows: 9 };
    // Blocks beyond the columns of a small segment would find every column guarded anyway.
    check(k.linear(split, { ...tile, staging: 'register' }, PAIRS), [linear(9, split, 0, 9), linear(9, split, 9, 1)], [/if col0 < %segment.count/]);
    const glu: k.LinearProblem = { ...p, epilogue: { kind: 'glu', activation: 'relu' }, residual: false };
    const call: Call = { T: 9, operands: () => ({ x: random(54, 1), weight: random(120, 2), bias: random(20, 3), y: zeros(90) }) };
    check(k.linear(glu, { ...tile, staging: 'register' }, PAIRS), [call]);
  });

  it('head_linear', () => {
    const p: k.HeadLinearProblem = { heads: 3, n: 5, k: 3, weightElem: 'f32' };
    const call = (T: number, first: number, count: number): Call => ({
      T, constants: { 'segment.first': first, 'segment.count': count }, operands: () => ({ x: random(T * 9, 1), weight: random(count * 15, 2), y: zeros(T * 15) }),
    });
    check(k.headLinear(p, { ...tile, staging: 'register' }, { ...NARROW, maxGrid: 4 }), [call(17, 0, 3)]);
    // Blocks to spare belong to heads beyond the segment's.
    check(k.headLinear({ ...p, segmentRows: 2 }, { ...tile, staging: 'register' }, NARROW), [call(17, 0, 2), call(17, 2, 1)], [/if block_index/]);
  });

  it('attention', () => {
    const call = (p: k.AttentionProblem, T: number, past: number, sign = (x: number): number => x): Call => ({
      T,
      past,
      operands: () => ({
        q: random(T * p.heads * p.qkDim, 1).map(sign), k: random((T + past) * p.kvHeads * p.qkDim, 2).map((x) => -sign(x)),
        v: random((T + past) * p.kvHeads * p.vDim, 3), sinks: random(p.heads, 4), y: zeros(T * p.heads * p.vDim),
      }),
    });
    // One chunk more would hold no key that anyone sees.
    const idle = [/for base in .* step 4/];
    // Keys begin with what the first row sees and end with what the last one sees: what those mask beyond is never read.
    const plain: k.AttentionProblem = { heads: 3, kvHeads: 3, qkDim: 3, vDim: 5, scale: 1, vFromK: false };
    // With negative scores a key that is not there, of score 0, would be the largest.
    const calls = [call(plain, 3, 5), call(plain, 1, 0), call(plain, 5, 2, Math.abs)];
    // With scores that all overflow, a key that is not seen would weigh as much as one that is.
    const overflow = call(plain, 3, 2, (x) => Math.abs(x) * 1e25);
    check(attention(plain, { block: 4, rows: 1, tn: 1 }, PAIRS), calls, idle);
    check(attention(plain, { block: 4, rows: 2, tn: 1 }, PAIRS), [...calls, overflow], [...idle, /scores\[thread \+ 4\] = select/]);
    const grouped: k.AttentionProblem = { heads: 6, kvHeads: 2, qkDim: 2, vDim: 3, scale: 1, vFromK: false, window: 3 };
    const window = [call(grouped, 3, 5), call(grouped, 5, 0, Math.abs), call(grouped, 6, 2, (x) => Math.abs(x) * 1e25)];
    check(attention({ ...grouped, sinksElem: 'f32' }, { block: 4, rows: 1, tn: 1 }, { ...NARROW, maxGrid: 4 }), window, idle);
    check(attention(grouped, { block: 4, rows: 4, tn: 1 }, NARROW), window, [...idle, /scores\[thread\] = select/, /scores\[thread \+ 12\] = select/]);
  });

  it('attention by tiles', () => {
    const call = (p: k.AttentionProblem, T: number, past: number, sign = (x: number): number => x): Call => ({
      T,
      past,
      operands: () => ({
        q: random(T * p.heads * p.qkDim, 1).map(sign), k: random((T + past) * p.kvHeads * p.qkDim, 2).map((x) => -sign(x)),
        v: random((T + past) * p.kvHeads * p.vDim, 3), sinks: random(p.heads, 4), y: zeros(T * p.heads * p.vDim),
      }),
    });
    const tiles = { variant: 'fma', rows: 4, keys: 4, split: 1, parts: 1, tm: 2, across: 2 } as const;
    // One chunk more would hold no key that anyone sees; blocks to spare have no rows; masking what is seen whole changes nothing.
    const idle = [/for base in .* step 4/, /if block_index/, /if \(base \+ 3\) > first/];
    const plain: k.AttentionProblem = { heads: 3, kvHeads: 3, qkDim: 3, vDim: 4, scale: 1, vFromK: false };
    check(attention(plain, tiles, PAIRS), [call(plain, 3, 5), call(plain, 1, 0), call(plain, 5, 2, Math.abs), call(plain, 7, 4)], idle);
    const grouped: k.AttentionProblem = { heads: 4, kvHeads: 2, qkDim: 2, vDim: 4, scale: 1, vFromK: false, window: 3, sinksElem: 'f32' };
    const window = [call(grouped, 3, 5), call(grouped, 5, 0, Math.abs), call(grouped, 6, 2), call(grouped, 1, 0)];
    check(attention(grouped, { ...tiles, split: 2 }, { ...NARROW, maxGrid: 4 }), window, [...idle, /if \(base \+ 3\) <= last/]);
    const [parts, merge] = k.attention(grouped, { ...tiles, parts: 2 }, { ...NARROW, maxGrid: 4 }).launches;
    if (parts === undefined || merge === undefined) throw new Error('no parts');
    const halves = ({ operands, ...rest }: Call): Call => {
      const rows = rest.T * grouped.heads;
      return { ...rest, operands: () => ({ ...operands(), sums: zeros(rows * 2 * grouped.vDim).fill(NaN), stats: zeros(rows * 4).fill(NaN) }) };
    };
    check(parts, window.map(halves), [/for base in .* step 8/, /if block_index/, /if \(base \+ 3\) > first/, /if \(base \+ 3\) <= last/]);
    const joined = (T: number): Call => ({
      T, operands: () => ({ sums: random(T * 32, 1), stats: random(T * 16, 2), sinks: random(4, 3), y: zeros(T * 16) }),
    });
    check(merge, [joined(3), joined(5)]);
  });
});
