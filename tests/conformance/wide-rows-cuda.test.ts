/**
 * Layers just wide enough for rows in 16 bits, and wider: random weights and rows on CUDA kernels under the emulator, against the
 * evaluator on the weights as they are stored. The gates are those of every layer in 16 bits, for calls of any number of tokens.
 */
import { describe, expect, it } from 'vitest';
import { compileSpec } from '../../src/driver/compile.ts';
import { roundedTo } from '../../src/driver/golden.ts';
import { deviation, HALF_GATES } from '../../src/runtime/core/metrics.ts';
import { proceduralProvider } from '../../src/runtime/core/provider.ts';
import { CUDA_SM80, CUDA_SM90A } from '../../src/target/cuda.ts';
import { ROUNDED_WIDTH } from '../../src/target/types.ts';
import { hasCompiler } from '../codegen/cuda/emulate.ts';
import { deviceLayer, openSession } from './benches.ts';
import { layerOf } from './cases.ts';
import { emulatedBackend } from './cuda-bench.ts';
import { judgeOf } from './judge.ts';
import { expertsOf, proceduralLayerInput } from './procedural.ts';

const SEED = 5;
const TOKENS = [1, 7, 48];
const W = ROUNDED_WIDTH;

const LAYERS: readonly (readonly [name: string, dtype: 'f16' | 'bf16', caps: typeof CUDA_SM80, text: string])[] = [
  ['one expert a token', 'bf16', CUDA_SM80, `hidden ${W} moe { experts 4 of swiglu ${W} active 1 router softmax top-k }`],
  ['two of them, weights that sum to 1, a shared one', 'bf16', CUDA_SM90A, `hidden ${W + 8} moe { experts 8 of swiglu ${W} active 2 shared 1 router softmax top-k renormalize }`],
  ['eight of them', 'bf16', CUDA_SM80, `hidden ${W} moe { experts 16 of swiglu ${W} active 8 router softmax top-k }`],
  ['gpt-oss', 'bf16', CUDA_SM90A, `hidden ${W + 64} moe { experts 4 of swiglu ${W + 32} bias interleaved clamp 7 alpha 1.702 offset 1 active 4 router softmax logit-bias top-k weights softmax }`],
  ['relu, dropped rows', 'bf16', CUDA_SM90A, `hidden ${W} moe { experts 4 of mlp relu ${W} active 2 router softmax top-k capacity factor 1 renormalize after }`],
  ['a norm, a residual, two shared ones', 'bf16', CUDA_SM80, `hidden ${W} norm rms 1e-6 residual moe { experts 4 of swiglu ${W} active 2 shared 2 router sigmoid top-k renormalize scale 2.5 }`],
  ['twice as wide', 'bf16', CUDA_SM90A, `hidden ${2 * W} moe { experts 4 of swiglu ${2 * W} active 2 router softmax top-k }`],
  ['narrow experts beside a wide one', 'bf16', CUDA_SM80, `hidden ${2 * W} moe { experts 8 of swiglu ${W / 4} active 1 shared 1 of swiglu ${W} router softmax top-k }`],
  ['f16', 'f16', CUDA_SM80, `hidden ${W} moe { experts 4 of swiglu ${W} active 1 router softmax top-k }`],
];

describe.skipIf(!hasCompiler)('wide rows', () => {
  it.each(LAYERS)('%s', { timeout: 600_000 }, async (name, dtype, caps, text) => {
    const spec = layerOf(`layer wide { dtype ${dtype} ${text} }`, name);
    const compiled = compileSpec(spec, { caps });
    expect(roundedTo(compiled.kernels)).toBe(dtype);
    const backend = await emulatedBackend(compiled);
    const layer = deviceLayer(await openSession(compiled, backend, proceduralProvider(SEED, expertsOf(spec))));
    const judge = judgeOf(spec, SEED);
    for (const tokens of TOKENS) {
      const input = proceduralLayerInput(spec, SEED + tokens, tokens);
      const [actual, expected] = [await layer.run(input), judge.expected(input)];
      expect(actual.ids).toEqual(expected.ids);
      const { nmse, rowNmse } = deviation(actual.y, expected.y, tokens);
      expect(nmse).toBeLessThanOrEqual(HALF_GATES[dtype].nmse);
      expect(rowNmse).toBeLessThanOrEqual(HALF_GATES[dtype].rowNmse);
    }
    await layer.close();
    backend.dispose();
  });
});
