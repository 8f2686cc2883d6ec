/**
 * Models whose heads fit tensor cores, in 16-bit storage on emulated CUDA: calls of many tokens, of few, and of few behind many,
 * against the evaluator on the same weights.
 */
import { describe, expect, it } from 'vitest';
import { compileSpec } from '../../src/driver/compile.ts';
import { weightSections } from '../../src/driver/reference.ts';
import type { Data } from '../../src/ir/graph/evaluate/evaluate.ts';
import { createReference } from '../../src/ir/graph/evaluate/reference.ts';
import { lowerToGraphs } from '../../src/lower/model-to-graph.ts';
import { proceduralIds, proceduralWeights } from '../../src/runtime/core/procedural.ts';
import { proceduralProvider } from '../../src/runtime/core/provider.ts';
import { weightsOf } from '../../src/runtime/core/weights.ts';
import { CUDA_SM80 } from '../../src/target/cuda.ts';
import { hasCompiler } from '../codegen/cuda/emulate.ts';
import { deviceModel, openSession } from './benches.ts';
import { specOf } from './cases.ts';
import { emulatedBackend, rounding } from './cuda-bench.ts';
import { expectWithin } from './golden-suite.ts';

const SEED = 11;
const TOKENS = 60;
const SPLITS = [[TOKENS], [45, 1, 1, 8, 5]];
const GATES = { f16: { nmse: 2e-6, rowNmse: 1e-5 }, bf16: { nmse: 1e-4, rowNmse: 4e-4 } } as const;

const model = (dtype: 'f16' | 'bf16', attention: string): string =>
  `model m { dtype ${dtype} vocab 64 hidden 64 context 64 attention ${attention} layers 0..1 { ffn swiglu 64 } }`;

const MODELS: readonly (readonly [string, 'f16' | 'bf16', string])[] = [
  ['heads', 'bf16', 'mha { heads 2 x 32 rope 10000 }'],
  ['grouped heads, a window and sinks', 'f16', 'gqa { heads 6 x 16 kv 2 rope 10000 window 20 sinks }'],
  ['a latent', 'f16', 'mla { heads 4 kv-lora 48 nope 32 rope 10000 dim 16 value 32 }'],
];

describe.skipIf(!hasCompiler)('attention of models on emulated CUDA', () => {
  it.each(MODELS)('%s', { timeout: 600_000 }, async (_name, dtype, attention) => {
    const spec = specOf(model(dtype, attention), 'm.moe');
    const graphs = lowerToGraphs(spec);
    const weights = new Map<string, Data>();
    const sequence = graphs.sequence.map((s) => ({ section: s.section, layer: s.layer ?? null }));
    for (const { name, param, layer } of weightsOf(weightSections(graphs.sections), sequence)) weights.set(name, proceduralWeights(param, layer, SEED, 0));
    const reference = createReference(graphs, (name) => weights.get(name) ?? new Float64Array(), TOKENS);
    const ids = proceduralIds(SEED, TOKENS, 64);
    const want = Float64Array.from(reference.run({ ids }).results['y'] ?? []);

    const compiled = compileSpec(spec, { caps: rounding(CUDA_SM80) });
    // Only tiles have parts to join.
    expect(compiled.manifest.kernels.flatMap((k) => k.variants.map((v) => v.entry)).join(' ')).toMatch(/attention_merge/);
    const backend = await emulatedBackend(compiled);
    const running = deviceModel(await openSession(compiled, backend, proceduralProvider(SEED, 0)));
    for (const lengths of SPLITS) expectWithin(await running.forward(ids, lengths), want, TOKENS, GATES[dtype]);
    await running.close();
    backend.dispose();
  });
});
