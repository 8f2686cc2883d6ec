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
  ['heads of 64, 32 rows a warp', { p: problem({ heads: 2, kvHeads: 2, qkDim: 64, vDim: 64 }), s: tiles(128, 64, 4), calls: [[140, 70]] }],
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
