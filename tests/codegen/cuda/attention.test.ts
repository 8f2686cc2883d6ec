/** Attention on tensor cores: the printed text under the emulator against the definition in f64, and the text made wrong. */
import { describe, expect, it } from 'vitest';
import { finishCuda } from '../../../src/codegen/cuda/pipeline.ts';
import type { TypedArray } from '../../../src/ir/kernel/interpret.ts';
import { attention } from '../../../src/kernels/dense/attention.ts';
import type { AttentionProblem } from '../../../src/kernels/dense/attention.ts';
import type { MmaAttention } from '../../../src/kernels/dense/attention-tiles.ts';
import { CUDA_SM80 } from '../../../src/target/cuda.ts';
import { fullProblem, makeData, reference } from '../../kernels/dense/attention-reference.ts';
import { gridOf, memoryOf, stored } from '../../kernels/dense/harness.ts';
import { MODES, buildEmulated, hasCompiler, runEmulated } from './emulate.ts';
import type { Mode } from './emulate.ts';

const FIRST: Mode = { order: 'fwd', late: 0 };
/** A probability in bf16 is off by 2^-9 at most, one in f16 by 2^-12; of many, errors cancel. */
const TOLERANCE = { bf16: 4e-6, f16: 6e-8 } as const;

interface Case {
  readonly p: AttentionProblem;
  readonly s: MmaAttention;
  readonly calls: readonly (readonly [T: number, past: number])[];
}

const problem = (p: Omit<AttentionProblem, 'scale' | 'vFromK'> & Partial<AttentionProblem>, elem: 'bf16' | 'f16' = 'bf16'): AttentionProblem =>
  fullProblem({ qElem: elem, kvElem: elem, ...p });
const tiles = (rows: number, keys: number, warps: number, split = 1): MmaAttention => ({ variant: 'mma-sync', rows, keys, warps, split });

const CASES: readonly (readonly [string, Case])[] = [
  ['one head', { p: problem({ heads: 1, kvHeads: 1, qkDim: 16, vDim: 16 }), s: tiles(16, 16, 1), calls: [[1, 0], [40, 0], [5, 33]] }],
  ['heads of 64, 32 rows a warp', { p: problem({ heads: 2, kvHeads: 2, qkDim: 64, vDim: 64 }), s: tiles(128, 48, 4), calls: [[140, 70]] }],
  ['grouped heads of 96 and 80, f16', { p: problem({ heads: 6, kvHeads: 2, qkDim: 96, vDim: 80 }, 'f16'), s: tiles(64, 32, 4), calls: [[30, 0], [17, 50]] }],
  ['a window and sinks', { p: problem({ heads: 4, kvHeads: 2, qkDim: 32, vDim: 48, window: 21, sinksElem: 'f32' }), s: tiles(32, 16, 2), calls: [[50, 0], [9, 37]] }],
  ['values of the keys, in two parts', { p: problem({ heads: 4, kvHeads: 1, qkDim: 48, vDim: 32, vFromK: true }), s: tiles(32, 32, 2, 2), calls: [[21, 11]] }],
  ['results in 16 bits', { p: problem({ heads: 2, kvHeads: 1, qkDim: 128, vDim: 128, yElem: 'bf16' }), s: tiles(64, 64, 4), calls: [[35, 64]] }],
];

function setUp({ p, s }: Case, T: number, past: number): { readonly want: Float64Array; readonly run: (program: string, mode: Mode) => Float32Array } {
  const elem = p.kvElem ?? 'f32';
  const d = makeData(p, T, past);
  const [q, k, v] = [stored(d.q, elem), stored(d.k, elem), stored(d.v, elem)];
  const want = reference(p, { ...d, q: q.values, k: k.values, v: v.values }, T, past);
  const launch = attention(p, s, CUDA_SM80);
  const kernel = finishCuda(launch.kernel, CUDA_SM80);
  return {
    want,
    run(program, mode) {
      const y: TypedArray = p.yElem === 'bf16' ? new Uint16Array(want.length).fill(0x7fc0) : new Float32Array(want.length).fill(NaN);
      const memory = memoryOf(launch, { q: q.data, k: k.data, v: v.data, sinks: d.sinks, y });
      runEmulated(program, kernel, { grid: gridOf(launch, T), memory, scalars: { T, past } }, mode);
      return p.yElem === 'bf16' ? Float32Array.from(y, (bits) => new Float32Array(Uint32Array.of(bits << 16).buffer)[0] ?? NaN) : (y as Float32Array);
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
    const program = buildEmulated(finishCuda(attention(c.p, c.s, CUDA_SM80).kernel, CUDA_SM80));
    for (const [T, past] of c.calls) {
      const { want, run } = setUp(c, T, past);
      const first = run(program, FIRST);
      expect(nmse(first, want)).toBeLessThan(TOLERANCE[c.p.kvElem === 'f16' ? 'f16' : 'bf16'] + (c.p.yElem === 'bf16' ? 4e-6 : 0));
      for (const mode of MODES) expect(run(program, mode), JSON.stringify(mode)).toEqual(first);
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
  const kernel = finishCuda(attention(c.p, c.s, CUDA_SM80).kernel, CUDA_SM80);
  const { want, run } = setUp(c, 23, 11);
  it('and as it is', () => {
    expect(nmse(run(buildEmulated(kernel), FIRST), want)).toBeLessThan(TOLERANCE.bf16);
  });

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
        return nmse(run(program, mode), want) < TOLERANCE.bf16;
      } catch {
        return false;
      }
    });
    expect(survived).toBe(false);
  });
});
