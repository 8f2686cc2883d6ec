/** Attention on tensor cores: the printed text under the emulator against the definition in f64, and the text made wrong. */
import { describe, expect, it } from 'vitest';
import { emitCuda } from '../../../src/codegen/cuda/emit.ts';
import { finishCuda } from '../../../src/codegen/cuda/pipeline.ts';
import type { TypedArray } from '../../../src/ir/kernel/interpret.ts';
import { bf16ToNumber } from '../../../src/ir/kernel/numerics.ts';
import type { Kernel } from '../../../src/ir/kernel/types.ts';
import { attention } from '../../../src/kernels/dense/attention.ts';
import type { AttentionProblem } from '../../../src/kernels/dense/attention.ts';
import type { MmaAttention } from '../../../src/kernels/dense/attention-tiles-schedule.ts';
import type { Launch } from '../../../src/kernels/launch.ts';
import { CUDA_SM80 } from '../../../src/target/cuda.ts';
import { fullProblem, makeData, reference, scratchOf, single } from '../../kernels/dense/attention-reference.ts';
import { gridOf, memoryOf, stored } from '../../kernels/dense/harness.ts';
import { MODES, buildAllEmulated, buildEmulated, hasCompiler, runEmulated } from './emulate.ts';
import type { Mode } from './emulate.ts';

const FIRST: Mode = { order: 'fwd', late: 0 };
/** A probability in bf16 is off by 2^-9 at most, one in f16 by 2^-12; of many, errors cancel. */
const TOLERANCE = { bf16: 4e-6, f16: 6e-8 } as const;

interface Case {
  readonly p: AttentionProblem;
  /** Absent: the default. */
  readonly s?: MmaAttention;
  readonly calls: readonly (readonly [T: number, past: number])[];
}

const problem = (p: Omit<AttentionProblem, 'scale' | 'vFromK'> & Partial<AttentionProblem>, elem: 'bf16' | 'f16' = 'bf16'): AttentionProblem =>
  fullProblem({ qElem: elem, kvElem: elem, ...p });
const tiles = (rows: number, keys: number, warps: number, more: Partial<MmaAttention> = {}): MmaAttention => ({
  variant: 'mma-sync', rows, keys, warps, split: 1, parts: 1, ...more,
});

const CASES: readonly (readonly [string, Case])[] = [
  ['one head', { p: problem({ heads: 1, kvHeads: 1, qkDim: 16, vDim: 16 }), s: tiles(16, 16, 1), calls: [[1, 0], [40, 0], [5, 33]] }],
  ['heads of 64, 32 rows a warp', { p: problem({ heads: 2, kvHeads: 2, qkDim: 64, vDim: 64 }), s: tiles(128, 48, 4), calls: [[140, 70]] }],
  ['grouped heads of 96 and 80, f16', { p: problem({ heads: 6, kvHeads: 2, qkDim: 96, vDim: 80 }, 'f16'), s: tiles(64, 32, 4), calls: [[30, 0], [17, 50]] }],
  ['a window and sinks', { p: problem({ heads: 4, kvHeads: 2, qkDim: 32, vDim: 48, window: 21, sinksElem: 'f32' }), s: tiles(32, 16, 2), calls: [[50, 0], [9, 37]] }],
  ['values of the keys, in two parts', { p: problem({ heads: 4, kvHeads: 1, qkDim: 48, vDim: 32, vFromK: true }), s: tiles(32, 32, 2, { split: 2 }), calls: [[21, 11]] }],
  ['results in 16 bits', { p: problem({ heads: 2, kvHeads: 1, qkDim: 128, vDim: 128, yElem: 'bf16' }), s: tiles(64, 64, 4), calls: [[35, 64]] }],
  ['parts of the keys, a window and sinks', {
    p: problem({ heads: 4, kvHeads: 2, qkDim: 32, vDim: 32, window: 40, sinksElem: 'bf16' }), s: tiles(16, 16, 1, { parts: 4, split: 2 }), calls: [[3, 90], [1, 0]],
  }],
  ['few tokens, as the default has it', { p: problem({ heads: 2, kvHeads: 1, qkDim: 64, vDim: 64, maxTokens: 8, yElem: 'bf16' }), calls: [[1, 300], [8, 0]] }],
  ['few tokens of latent attention', { p: problem({ heads: 16, kvHeads: 1, qkDim: 576, vDim: 512, vFromK: true, maxTokens: 8 }), calls: [[1, 70]] }],
];

/** One case with its programs. */
interface Built {
  readonly launches: readonly { readonly launch: Launch; readonly kernel: Kernel }[];
  readonly scratch: (T: number) => Record<string, Float32Array>;
}

function build({ p, s }: Case): Built {
  const group = attention(p, s, CUDA_SM80);
  const launches = group.launches.map((launch) => ({ launch, kernel: finishCuda(launch.kernel, CUDA_SM80) }));
  return { launches, scratch: (T) => scratchOf(group, T) };
}

interface Call {
  readonly want: Float64Array;
  /** @param place of the program among several */
  readonly run: (programs: readonly string[], mode: Mode, place?: number) => Float32Array;
}

function setUp({ p }: Case, { launches, scratch }: Built, T: number, past: number): Call {
  const elem = p.kvElem ?? 'f32';
  const d = makeData(p, T, past);
  const [q, k, v, sinks] = [stored(d.q, elem), stored(d.k, elem), stored(d.v, elem), stored(d.sinks, p.sinksElem ?? 'f32')];
  const want = reference(p, { q: q.values, k: k.values, v: v.values, sinks: sinks.values }, T, past);
  return {
    want,
    run(programs, mode, place = 0) {
      const y: TypedArray = p.yElem === 'bf16' ? new Uint16Array(want.length).fill(0x7fc0) : new Float32Array(want.length).fill(NaN);
      const operands = { q: q.data, k: k.data, v: v.data, sinks: sinks.data, y, ...scratch(T) };
      launches.forEach(({ launch, kernel }, i) => {
        const memory = memoryOf(launch, operands);
        runEmulated(programs[i] ?? '', kernel, { grid: gridOf(launch, T), memory, scalars: { T, past } }, mode, place);
      });
      return p.yElem === 'bf16' ? Float32Array.from(y, bf16ToNumber) : Float32Array.from(y);
    },
  };
}

function nmse(got: ArrayLike<number>, want: ArrayLike<number>): number {
  let [error, energy] = [0, 0];
  for (let i = 0; i < want.length; i++) {
    error += ((got[i] ?? NaN) - (want[i] ?? NaN)) ** 2;
    energy += (want[i] ?? NaN) ** 2;
  }
  return error / energy;
}

describe.skipIf(!hasCompiler)('attention on tensor cores', () => {
  it.each(CASES)('%s', (_name, c) => {
    const built = build(c);
    const programs = built.launches.map(({ kernel }) => buildEmulated(kernel));
    for (const [T, past] of c.calls) {
      const { want, run } = setUp(c, built, T, past);
      const first = run(programs, FIRST);
      expect(nmse(first, want)).toBeLessThan(TOLERANCE[c.p.kvElem === 'f16' ? 'f16' : 'bf16'] + (c.p.yElem === 'bf16' ? 4e-6 : 0));
      for (const mode of MODES) expect(run(programs, mode), JSON.stringify(mode)).toEqual(first);
    }
  });
});

/** Changes to the printed text, each of which makes it wrong. */
const MUTATIONS: readonly (readonly [string, (text: string) => string])[] = [
  ['no barrier where copies are waited for', (t) => t.replace(/(moec_cp_async_wait<0>\(\);)\s*__syncthreads\(\);/g, '$1')],
  ['no barrier before keys are staged anew', (t) => t.replace(/(mma_m16n8k16_bf16\(&scores_[^;]*;[\s}]*moec_cp_async_wait<0>\(\);)\s*__syncthreads\(\);/, '$1')],
  ['copies are not waited for', (t) => t.replaceAll('moec_cp_async_wait<0>();', '')],
  ['values are read as stored', (t) => t.replaceAll('ldmatrix_x4_trans', 'ldmatrix_x4')],
  ['chunks of queries are put without the swizzle', (t) => t.replace(/queries_chunk \^ \([^)]*\)/g, 'queries_chunk')],
  ['chunks of values are read without the swizzle', (t) => t.replace(/(values_swizzle\w* = )[^;]*;/g, '$10u;')],
  ['the second half of a pair takes the first half of b', (t) => t.replace(/&b_frag_2\[2u\]/g, '&b_frag_2[0u]')],
  ['the maximum of a row is that of a lane', (t) => t.replace(/moec_quad_max\([^;]*;/g, '')],
  ['the sum of a row is that of a lane', (t) => t.replace(/moec_quad_add\([^;]*;/g, '')],
  ['rows see later keys', (t) => t.replace(/if \(base \+ 15u > first\)/, 'if (false)')],
  ['rows see keys before their window', (t) => t.replace(/if \(base \+ 9u <= last\)/, 'if (false)')],
  ['values that are not there are read', (t) => t.replace(/(bool v_in\w* = )[^;]*;/g, '$1true;')],
  ['results are not rescaled', (t) => t.replace(/ \* shrink_rows\[(\w+)\];(\s*\}\s*\}\s*#pragma unroll\s*for \(uint32_t j_\d+ = 0u; j_\d+ < 4u)/, ';$2')],
  ['heads of a group change places', (t) => t.replace(/\(pair0 \+ r_\d+\) % 2u/g, '(pair0 + 1u) % 2u')],
];

describe.skipIf(!hasCompiler)('attention on tensor cores, the text made wrong', () => {
  const c: Case = { p: problem({ heads: 4, kvHeads: 2, qkDim: 32, vDim: 48, window: 9 }), s: tiles(32, 16, 2), calls: [] };
  const built = build(c);
  const kernel = finishCuda(single({ launches: built.launches.map((l) => l.launch), scratch: [] }).kernel, CUDA_SM80);
  const { want, run } = setUp(c, built, 23, 11);
  const right = emitCuda(kernel);
  const texts = [right, ...MUTATIONS.map(([, change]) => change(right))];
  const program = hasCompiler ? buildAllEmulated(kernel, texts) : '';
  const passes = (mode: Mode, place: number): boolean => {
    try {
      return nmse(run([program], mode, place), want) < TOLERANCE.bf16;
    } catch {
      return false;
    }
  };

  it('and as it is', () => expect(MODES.every((mode) => passes(mode, 0))).toBe(true));

  it.each(MUTATIONS.map(([name], i) => [name, i + 1] as const))('%s', (_name, place) => {
    expect(texts[place]).not.toBe(right);
    expect(MODES.every((mode) => passes(mode, place))).toBe(false);
  });
});
