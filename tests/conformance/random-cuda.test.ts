/**
 * Random layers on CUDA kernels under the emulator, against the evaluator: in 16-bit storage on tensor cores, every third one on
 * those of sm_90a. Each compiles a library; MOEC_FUZZ=n runs n of them, MOEC_SEED=s one.
 */
import { describe, it } from 'vitest';
import { compileSpec } from '../../src/driver/compile.ts';
import { CUDA_SM80, CUDA_SM90A } from '../../src/target/cuda.ts';
import type { Spec } from '../../src/model/types.ts';
import { type Deviation, HALF_GATES } from '../../src/runtime/core/metrics.ts';
import { proceduralProvider } from '../../src/runtime/core/provider.ts';
import { hasCompiler } from '../codegen/cuda/emulate.ts';
import { INTERPRETER_GATE, deviceLayer, openSession } from './benches.ts';
import { emulatedBackend, rounding } from './cuda-bench.ts';
import { expertsOf } from './procedural.ts';
import { type OpenRandom, expectRandom, seedsToRun } from './random-check.ts';

const open: OpenRandom = async (spec, seed) => {
  const compiled = compileSpec(spec, { caps: rounding(seed % 3 === 0 ? CUDA_SM90A : CUDA_SM80) });
  const backend = await emulatedBackend(compiled);
  const layer = deviceLayer(await openSession(compiled, backend, proceduralProvider(seed, expertsOf(spec))));
  return { ...layer, close: () => layer.close().finally(() => backend.dispose()) };
};

const GATES: Readonly<Record<Spec['dtype'], Deviation>> = { f32: INTERPRETER_GATE, ...HALF_GATES };

describe.skipIf(!hasCompiler)('random layers on emulated CUDA', () => {
  it.each(seedsToRun(6))('seed %i', (seed) => expectRandom([seed], open, (spec) => GATES[spec.dtype]), 600_000);
});
