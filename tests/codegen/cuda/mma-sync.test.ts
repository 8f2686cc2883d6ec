/** Tensor-core main loops of single warps: the printed text under the emulator against the portable twin in the interpreter. */
import { describe, expect, it } from 'vitest';
import { finishCuda } from '../../../src/codegen/cuda/pipeline.ts';
import { interpret } from '../../../src/ir/kernel/interpret.ts';
import type { TypedArray } from '../../../src/ir/kernel/interpret.ts';
import { bf16ToNumber, f16ToNumber, numberToBf16, numberToF16 } from '../../../src/ir/kernel/numerics.ts';
import { type GroupedProblem, type Launch, type LinearProblem, type MmaTile, groupedLinear, linear } from '../../../src/kernels/index.ts';
import { finishKernel } from '../../../src/passes/kernel/pipeline.ts';
import { CUDA_SM80 } from '../../../src/target/cuda.ts';
import type { Capabilities } from '../../../src/target/types.ts';
import { gridOf } from '../../kernels/moe/harness.ts';
import { makeIds, makePlan } from '../../kernels/moe/plans.ts';
import { MODES, type Mode, buildEmulated, hasCompiler, runEmulated } from './emulate.ts';

/** Which rounds rows of f32 however narrow they are. */
const CAPS: Capabilities = { ...CUDA_SM80, roundedWidth: 1 };

type Half = 'f16' | 'bf16';

/** Numbers in [−1, 1) that the 16-bit type holds exactly, as f32. */
function halves(n: number, seed: number, elem: Half): Float32Array {
  let s = seed >>> 0;
  const next = (): number => {
    s = (Math.imul(s, 1664525) + 1013904223) >>> 0;
    return s / 2 ** 31 - 1;
  };
  const round = (x: number): number => (elem === 'f16' ? f16ToNumber(numberToF16(x)) : bf16ToNumber(numberToBf16(x)));
  return Float32Array.from({ length: n }, () => round(next()));
}

const bits = (values: Float32Array, elem: Half): Uint16Array => Uint16Array.from(values, elem === 'f16' ? numberToF16 : numberToBf16);

function nmse(actual: ArrayLike<number>, expected: ArrayLike<number>): number {
  let [error, energy] = [0, 0];
  for (let i = 0; i < expected.length; i++) {
    const [a, e] = [actual[i] ?? NaN, expected[i] ?? NaN];
    error += (a - e) ** 2;
    energy += e * e;
  }
  return error / energy;
}

interface Case {
  readonly name: string;
  readonly mma: Launch;
  readonly twin: Launch;
  readonly memory: () => Record<string, TypedArray>;
  /** The twin's memory, where rows are f32 there. */
  readonly results: readonly string[];
  readonly T: number;
}

/** Results of the portable twin; interpreted once. */
function expected(c: Case): Record<string, TypedArray> {
  const memory = c.memory();
  const call = { T: c.T };
  interpret(finishKernel(c.twin.kernel, { subgroups: false }), { grid: gridOf(c.twin, call), memory, scalars: call });
  return memory;
}

function emulated(c: Case, program: string, mode: Mode): Record<string, TypedArray> {
  const memory = c.memory();
  runEmulated(program, finishCuda(c.mma.kernel, CUDA_SM80), { grid: gridOf(c.mma, { T: c.T }), memory, scalars: { T: c.T } }, mode);
  return memory;
}

const tile = (bm: number, bn: number, bk: number, stages: number, warpsM: number, warpsN: number): MmaTile => ({
  variant: 'mma-sync', bm, bn, bk, stages, warpsM, warpsN,
});

function groupedCase(name: string, p: Partial<GroupedProblem>, t: MmaTile, T: number, elem: Half = 'bf16'): Case {
  const problem: GroupedProblem = {
    experts: 6, slots: 2, mode: 'sorted', tileRows: t.bm, n: 24, k: 72, gather: true, epilogue: { kind: 'glu', activation: 'silu' },
    weightElem: elem, xElem: elem, routeWeights: false, combine: false, scale: 1, residual: false, ...p,
  };
  const { experts, slots, n, k, shared } = problem;
  const products = problem.epilogue.kind === 'glu' ? 2 : 1;
  const ids = makeIds(T, slots, experts, 5, 0.1);
  const { buffer: plan } = makePlan(ids, experts, slots, t.bm);
  const rows = problem.gather ? T : T * slots;
  const x = halves(rows * k, 1, elem);
  const memory = (): Record<string, TypedArray> => ({
    plan: plan.slice(),
    x: problem.xElem === 'f32' ? x.slice() : bits(x, elem),
    weight: bits(halves(experts * products * n * k, 2, elem), elem),
    bias: bits(halves(experts * products * n, 3, elem), elem),
    sharedWeight: bits(halves(products * (shared?.n ?? 0) * k, 4, elem), elem),
    y: new Float32Array(T * slots * n),
    shared: new Float32Array(T * (shared?.n ?? 0)),
  });
  const mma = groupedLinear(problem, { tile: t }, CAPS);
  const twin = groupedLinear(problem, { tile: { bm: t.bm, bn: 16, bk: 8, tm: 2, tn: 2, staging: 'register' } }, CUDA_SM80);
  return { name, mma, twin, memory, results: shared === undefined ? ['y'] : ['y', 'shared'], T };
}

function linearCase(name: string, p: Partial<LinearProblem>, t: MmaTile, T: number): Case {
  const problem: LinearProblem = { n: 40, k: 64, epilogue: { kind: 'none' }, scale: 0.5, residual: true, weightElem: 'bf16', biasElem: 'bf16', xElem: 'bf16', ...p };
  const { n, k } = problem;
  const memory = (): Record<string, TypedArray> => ({
    x: bits(halves(T * k, 1, 'bf16'), 'bf16'),
    weight: bits(halves(n * k, 2, 'bf16'), 'bf16'),
    bias: bits(halves(n, 3, 'bf16'), 'bf16'),
    residual: halves(T * n, 4, 'bf16'),
    y: new Float32Array(T * n),
  });
  const mma = linear(problem, { ...t, oneRow: 0 }, CAPS);
  const twin = linear(problem, { bm: 8, bn: 16, bk: 8, tm: 2, tn: 2, staging: 'register', oneRow: 0 }, CUDA_SM80);
  return { name, mma, twin, memory, results: ['y'], T };
}

const shared = { n: 40, k: 72, weightElem: 'bf16', ownX: false, gate: false } as const;
const CASES: readonly Case[] = [
  groupedCase('gathered gated rows beside shared experts, tails everywhere', { shared }, tile(32, 32, 32, 3, 2, 2), 37),
  groupedCase('small tiles, one warp each way', {}, tile(16, 8, 16, 2, 1, 1), 19),
  groupedCase('small tiles, four warps', { k: 128 }, tile(16, 64, 64, 4, 1, 4), 40),
  groupedCase('planned rows with a bias, f16', { gather: false, epilogue: { kind: 'none' }, biasElem: 'f16', n: 26 }, tile(64, 16, 32, 3, 4, 1), 33, 'f16'),
  groupedCase('rows of f32', { xElem: 'f32' }, tile(32, 16, 32, 3, 2, 1), 29),
  groupedCase('columns in threes', { n: 72 }, tile(16, 48, 32, 2, 1, 2), 9),
  linearCase('linear with bias, scale and residual', {}, tile(64, 64, 32, 3, 2, 2), 70),
  linearCase('linear of an odd width', { n: 13, residual: false }, tile(16, 16, 64, 2, 1, 2), 21),
];

describe.skipIf(!hasCompiler)('mma-sync', () => {
  it.each(CASES.map((c) => [c.name, c] as const))('%s', (_name, c) => {
    const want = expected(c);
    const program = buildEmulated(finishCuda(c.mma.kernel, CUDA_SM80));
    const first = emulated(c, program, MODES[0] ?? { order: 'fwd', late: 0 });
    for (const name of c.results) expect(nmse(first[name] ?? [], want[name] ?? [])).toBeLessThan(1e-12);
    for (const mode of MODES.slice(1)) {
      const again = emulated(c, program, mode);
      for (const name of c.results) expect(again[name], JSON.stringify(mode)).toEqual(first[name]);
    }
  });
});

/** Changes to the printed text, each of which makes it wrong. */
const MUTATIONS: readonly (readonly [string, (text: string) => string])[] = [
  ['no barrier before a slice is read', (t) => t.replace(/(moec_cp_async_wait<1>\(\);)\s*__syncthreads\(\);/g, '$1')],
  ['one group of copies too few is waited for', (t) => t.replaceAll('moec_cp_async_wait<1>', 'moec_cp_async_wait<2>')],
  ['copies are not committed', (t) => t.replaceAll('moec_cp_async_commit();', '')],
  ['a ring of one stage less than is filled', (t) => t.replace(/next_slice % 3u/g, 'next_slice % 2u')],
  ['slices are read from the next stage', (t) => t.replace(/stage = slice % 3u/g, 'stage = (slice + 1u) % 3u')],
  ['chunks are put without the swizzle', (t) => t.replace(/\^ \((x_row % 8u) \/ 2u\)/g, '^ (0u * ($1))')],
  ['chunks are read without the swizzle', (t) => t.replace(/\^ \((acc_lane % 8u) \/ 2u\)/g, '^ (0u * ($1))')],
  ['the tail of the depth is read past the row', (t) => t.replace(/next_slice \* 32u \+ x_chunk \* 8u < 136u/g, 'true')],
  ['fragments of a and b change places', (t) => t.replace(/&a_frag\[0u\], &(b_frag\w*)\[/g, '&$1[0u], &a_frag[')],
  ['the rows of the second half go to the first', (t) => t.replace(/ \+ i \* 8u/g, '')],
  ['gate and up change places', (t) => t.replace(/(ldmatrix_x4\(&b_frag\[.*&)ring_b0/g, '$1ring_b1')],
];

describe.skipIf(!hasCompiler)('mma-sync, the text made wrong', () => {
  const c = groupedCase('gathered gated rows', { k: 72 + 64 }, tile(32, 32, 32, 3, 2, 2), 37);
  const kernel = finishCuda(c.mma.kernel, CUDA_SM80);
  const want = hasCompiler ? expected(c) : {};
  it.each(MUTATIONS)('%s', (_name, change) => {
    let changed = false;
    const program = buildEmulated(kernel, (text) => {
      const mutated = change(text);
      changed = mutated !== text;
      return mutated;
    });
    expect(changed).toBe(true);
    const survived = MODES.every((mode) => {
      try {
        return nmse(emulated(c, program, mode)['y'] ?? [], want['y'] ?? []) < 1e-12;
      } catch {
        return false;
      }
    });
    expect(survived).toBe(false);
  });
});
