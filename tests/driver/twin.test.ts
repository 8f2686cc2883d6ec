/** Twins of large specs: kernels that round as those of the spec do, and verify on the emulator within the gates that they carry. */
import { describe, expect, it } from 'vitest';
import { compileSpec } from '../../src/driver/compile.ts';
import { gateOf, goldenVectors, needsTwin, roundedTo } from '../../src/driver/golden.ts';
import { compileTwin } from '../../src/driver/package.ts';
import { decodeGolden } from '../../src/runtime/core/golden.ts';
import { F32_GATE, HALF_GATES } from '../../src/runtime/core/metrics.ts';
import { compileProgram } from '../../src/runtime/core/program.ts';
import { runGolden } from '../../src/runtime/core/verify.ts';
import { CUDA_SM80, CUDA_SM90A } from '../../src/target/cuda.ts';
import { hasCompiler } from '../codegen/cuda/emulate.ts';
import { layerOf } from '../conformance/cases.ts';
import { emulatedBackend } from '../conformance/cuda-bench.ts';

const moe = (hidden: number, experts: number, width: number): string =>
  `hidden ${hidden} moe { experts ${experts} of swiglu ${width} active 2 shared 1 router softmax top-k renormalize }`;

describe('twins', () => {
  it.skipIf(!hasCompiler).each([
    ['bf16', CUDA_SM90A],
    ['f16', CUDA_SM80],
  ] as const)('of wide layers in %s', { timeout: 300_000 }, async (dtype, caps) => {
    const spec = layerOf(`layer large { dtype ${dtype} ${moe(256, 16, 256)} }`, 'large');
    expect(needsTwin(spec)).toBe(true);
    const compiled = compileSpec(spec, { caps });
    expect(gateOf(spec, compiled.kernels)).toEqual(HALF_GATES[dtype]);
    const twin = compileTwin(compiled, { caps });
    expect(roundedTo(twin.kernels)).toBe(dtype);
    const backend = await emulatedBackend(twin);
    const program = await compileProgram(twin.manifest, (file) => twin.texts.get(file), backend);
    const golden = goldenVectors(twin.spec, twin.graphs, gateOf(twin.spec, twin.kernels, 'narrow'));
    const { ok, vectors } = await runGolden(program, await decodeGolden(golden), true);
    expect(ok, JSON.stringify(vectors)).toBe(true);
    backend.dispose();
  });

  it('of narrow layers compute in f32 as those do', () => {
    const spec = layerOf(`layer narrow { dtype bf16 ${moe(64, 256, 64)} }`, 'narrow');
    expect(needsTwin(spec)).toBe(true);
    const options = { caps: CUDA_SM80 };
    const compiled = compileSpec(spec, options);
    const twin = compileTwin(compiled, options);
    for (const { spec: own, kernels } of [compiled, twin]) expect(gateOf(own, kernels)).toEqual(F32_GATE);
  });
});
