/**
 * Quantised experts: layers and models on the interpreter, the device at hand and emulated CUDA, against the evaluator with the
 * values that the stored words stand for. Gates are those of the activation path: f32.
 */
import { describe, expect, it } from 'vitest';
import { compileSpec } from '../../src/driver/compile.ts';
import { gateOf, roundedTo } from '../../src/driver/golden.ts';
import { loadReference } from '../../src/driver/reference.ts';
import { lowerToGraphs } from '../../src/lower/model-to-graph.ts';
import type { LayerSpec, ModelSpec } from '../../src/model/types.ts';
import { deviation } from '../../src/runtime/core/metrics.ts';
import { proceduralWeights } from '../../src/runtime/core/procedural.ts';
import { proceduralProvider } from '../../src/runtime/core/provider.ts';
import { random } from '../kernels/dense/harness.ts';
import { numberToBf16 } from '../../src/runtime/core/f16.ts';
import { type NamedTensor, type TensorSet, namedTensors } from '../../src/runtime/core/tensors.ts';
import { checkpointWeights } from '../../src/runtime/core/provider.ts';
import { CUDA_SM80 } from '../../src/target/cuda.ts';
import { WEBGPU_BASELINE } from '../../src/target/types.ts';
import { hasCompiler } from '../codegen/cuda/emulate.ts';
import { DAWN_GATE, INTERPRETER_GATE, type RunningLayer, dawnBackend, deviceLayer, deviceModel, openSession } from './benches.ts';
import { layerOf, specOf } from './cases.ts';
import { emulatedBackend, rounding } from './cuda-bench.ts';
import { expectWithin } from './golden-suite.ts';
import { InterpreterBackend } from './interpreter-backend.ts';
import { judgeOf } from './judge.ts';
import { expertsOf, proceduralLayerInput } from './procedural.ts';
import { type OpenRandom, expectRandom, seedsToRun } from './random-check.ts';
import { randomLayer } from './random-layers.ts';

const SEED = 11;
const quantised = (seed: number): ReturnType<typeof randomLayer> => randomLayer(seed, 'quantised');

const onInterpreter: OpenRandom = async (spec, seed) => {
  const compiled = compileSpec(spec);
  const backend = new InterpreterBackend(compiled, { variant: seed % 3 === 0 ? 'subgroups' : 'portable', subgroupSize: 8 });
  return deviceLayer(await openSession(compiled, backend, proceduralProvider(seed, expertsOf(spec))));
};

const onDawn: OpenRandom = async (spec, seed) => {
  const compiled = compileSpec(spec);
  const backend = await dawnBackend(compiled);
  const running = deviceLayer(await openSession(compiled, backend, proceduralProvider(seed, expertsOf(spec))));
  return { ...running, close: () => running.close().finally(() => backend.dispose()) };
};

const layer = (dtype: string, moe: string, hidden = 64): LayerSpec => layerOf(`layer q { hidden ${hidden}  dtype ${dtype}  moe { ${moe} } }`, 'quantised');

async function judged(spec: LayerSpec, running: RunningLayer, tokens: readonly number[], gate = DAWN_GATE): Promise<void> {
  const judge = judgeOf(spec, SEED);
  for (const T of tokens) {
    const input = proceduralLayerInput(spec, SEED + T, T);
    const actual = await running.run(input);
    expect(judge.verdict(input, actual, gate).problems, `T = ${T}`).toEqual([]);
  }
  await running.close();
}

describe('random layers with quantised experts', () => {
  const seeds = seedsToRun(40);
  it.each(Array.from({ length: Math.ceil(seeds.length / 10) }, (_, i) => seeds.slice(i * 10, (i + 1) * 10)).map((b) => [b[0] ?? 0, b] as const))(
    'on the interpreter from seed %i on',
    (_first, batch) => expectRandom(batch, onInterpreter, () => INTERPRETER_GATE, quantised),
    600_000,
  );

  it('on the device', { timeout: 600_000 }, () => expectRandom(seedsToRun(8), onDawn, () => DAWN_GATE, quantised));
});

/** Forms that differ in kernels: gates, biases, shared experts, top-1, weights on the input, widths that no tile divides. */
const FORMS: readonly (readonly [string, LayerSpec])[] = [
  ['int4, f16 scales', layer('f32 experts int4', 'experts 8 of swiglu 96  active 2')],
  ['int8, f32 scales, shared', layer('f16 experts int8 scales f32', 'experts 6 of swiglu 64  active 3  shared 2')],
  ['int4, f32 scales, top-1, two matrices, biases', layer('bf16 experts int4 scales f32', 'experts 5 of mlp gelu 160 bias  active 1', 32)],
  ['int8, f16 scales, gated shared experts', layer('f32 experts int8', 'experts 4 of swiglu 32 bias  active 2  shared 1 of swiglu 96 gated', 96)],
  ['int4, clamped, weights on the input', layer('f32 experts int4', 'experts 9 of swiglu 64 interleaved clamp 7 alpha 1.702 offset 1  active 4  router sigmoid top-k weights on input', 160)],
];

describe.each(FORMS)('%s', (_name, spec) => {
  it('on the device, from 1 token to 65', { timeout: 300_000 }, async () => {
    await judged(spec, await onDawn(spec, SEED), [1, 2, 7, 8, 9, 33, 65]);
  });

  it('on the interpreter, unfused too', { timeout: 300_000 }, async () => {
    for (const disabled of [[], ['fuse-shared'], ['fuse-gate-up', 'fuse-combine'], ['fuse-gather', 'fuse-activation']]) {
      const compiled = compileSpec(spec, { disabled: new Set(disabled) });
      const backend = new InterpreterBackend(compiled, { variant: 'portable' });
      await judged(spec, deviceLayer(await openSession(compiled, backend, proceduralProvider(SEED, expertsOf(spec)))), [1, 5, 17], INTERPRETER_GATE);
    }
  });

  it('in banks that are split', { timeout: 300_000 }, async () => {
    const split = compileSpec(spec, { caps: { ...WEBGPU_BASELINE, profile: 'small bindings', maxBindingBytes: 12 << 10 } });
    const cut = split.manifest.sections.flatMap((s) => s.params.filter((p) => p.segmentRows !== undefined && p.elem.startsWith('int')));
    expect(cut.length).toBeGreaterThan(0);
    const backend = new InterpreterBackend(split, { variant: 'portable' });
    await judged(spec, deviceLayer(await openSession(split, backend, proceduralProvider(SEED, expertsOf(spec)))), [3, 20], INTERPRETER_GATE);
  });

  it.skipIf(!hasCompiler)('on CUDA kernels under the emulator', { timeout: 600_000 }, async () => {
    const compiled = compileSpec({ ...spec, dtype: 'f32' }, { caps: CUDA_SM80 });
    const backend = await emulatedBackend(compiled);
    const running = deviceLayer(await openSession(compiled, backend, proceduralProvider(SEED, expertsOf(spec))));
    await judged({ ...spec, dtype: 'f32' }, running, [1, 8, 40], INTERPRETER_GATE);
    backend.dispose();
  });
});

// ---------------------------------------------------------------- checkpoints

/** A published checkpoint's names and dtypes, every expert a tensor of its own. */
function checkpoint(spec: ModelSpec, dtype: 'F32' | 'BF16'): TensorSet {
  const tensors = new Map<string, NamedTensor>();
  const sections = compileSpec(spec).manifest;
  let seed = 1;
  for (const { section, layer: at } of sections.sequence) {
    for (const param of sections.sections[section]?.params ?? []) {
      if (param.role.kind !== 'weight') continue;
      for (const part of param.role.parts) {
        const [source] = part.sources;
        if (source === undefined) throw new Error(param.name);
        const base = source.name.replaceAll('{l}', String(at ?? 0));
        for (const name of base.includes('{e}') ? Array.from({ length: Number(param.shape[0]) }, (_, e) => base.replaceAll('{e}', String(e))) : [base]) {
          if (tensors.has(name)) continue;
          const count = source.shape.reduce((n, d) => n * d, 1);
          const scale = 1 / Math.sqrt(source.shape.at(-1) ?? 1);
          const values = random(count, seed++).map((x) => (name.includes('norm') ? 1 + x / 8 : 2 * scale * x));
          tensors.set(name, dtype === 'F32' ? { data: values, shape: source.shape } : { data: Uint16Array.from(values, numberToBf16), shape: source.shape, dtype });
        }
      }
    }
  }
  return namedTensors(tensors);
}

const MODEL = (storage: string): ModelSpec => {
  const spec = specOf(
    `model m { vocab 48  hidden 64  context 32  dtype ${storage}  attention gqa { heads 4 x 16  kv 2 }
      layer 0 { ffn swiglu 80 }  layers 1..2 { moe { experts 6 of swiglu 96  active 2  shared 1  router softmax top-k renormalize } } }`,
    'quantised model',
  );
  if (spec.kind !== 'model') throw new Error('no model');
  return spec;
};

describe('models from checkpoints', () => {
  it.each([
    ['F32', 'f32 experts int8'],
    ['BF16', 'bf16 experts int4'],
    ['BF16', 'f32 experts int4 scales f32'],
  ] as const)('in %s, stored in %s', { timeout: 300_000 }, async (dtype, storage) => {
    const spec = MODEL(storage);
    const weights = checkpoint(spec, dtype);
    const reference = await loadReference(lowerToGraphs(spec), weights, { capacity: 32, stored: true });
    const exact = await loadReference(lowerToGraphs(spec), weights, { capacity: 32, stored: false });
    const ids = Int32Array.from({ length: 14 }, (_, i) => (i * 7) % spec.vocab);
    const logits = Float64Array.from(reference.run({ ids }).results['y'] ?? []);
    const compiled = compileSpec(spec);
    const experts = compiled.manifest.sections.flatMap((s) => s.params.filter((p) => p.elem.startsWith('int')).map((p) => p.name));
    expect([...new Set(experts.map((n) => n.replace(/^layers\.\{l\}\./, '')))].sort()).toEqual([
      'experts.down.weight', 'experts.gate_up.weight', 'shared.down.weight', 'shared.gate_up.weight',
    ]);
    const backend = await dawnBackend(compiled);
    const model = deviceModel(await openSession(compiled, backend, checkpointWeights(compiled.manifest, weights)));
    for (const lengths of [[14], [9, 1, 4]]) expectWithin(await model.forward(ids, lengths), logits, 14, DAWN_GATE);
    await model.close();
    backend.dispose();
    // Quantising is not nothing.
    const lost = deviation(logits, Float64Array.from(exact.run({ ids }).results['y'] ?? []), 14).nmse;
    expect(lost).toBeGreaterThan(storage.includes('int8') ? 1e-6 : 1e-4);
    expect(lost).toBeLessThan(0.2);
  });
});

it.skipIf(!hasCompiler)('a model in f16 on tensor cores, its experts in int4 beside them', { timeout: 600_000 }, async () => {
  const spec = MODEL('f16 experts int4');
  const weights = checkpoint(spec, 'F32');
  const reference = await loadReference(lowerToGraphs(spec), weights, { capacity: 32, stored: true });
  const ids = Int32Array.from({ length: 14 }, (_, i) => (i * 7) % spec.vocab);
  const compiled = compileSpec(spec, { caps: rounding(CUDA_SM80) });
  expect(roundedTo(compiled.kernels)).toBe('f16');
  const backend = await emulatedBackend(compiled);
  const model = deviceModel(await openSession(compiled, backend, checkpointWeights(compiled.manifest, weights)));
  const gate = gateOf(spec, compiled.kernels);
  expectWithin(await model.forward(ids, [11, 1, 2]), Float64Array.from(reference.run({ ids }).results['y'] ?? []), 14, gate);
  await model.close();
  backend.dispose();
});

it('the reference multiplies what the words stand for', () => {
  const spec = layer('f32 experts int4', 'experts 2 of swiglu 32  active 1', 32);
  const [section] = compileSpec(spec).manifest.sections;
  const bank = section?.params.find((p) => p.name === 'experts.down.weight');
  if (bank?.role.kind !== 'weight') throw new Error('no bank');
  const param = { ...bank, role: bank.role };
  const [stored, exact] = [proceduralWeights(param, null, 3, 2), proceduralWeights(param, null, 3, 2, 'exact')];
  // Sixteen values a group at most, all of them near the exact ones.
  for (let g = 0; g < stored.length; g += 32) expect(new Set(stored.subarray(g, g + 32)).size).toBeLessThanOrEqual(16);
  const off = deviation(stored, exact, stored.length / 32);
  expect(off.nmse).toBeGreaterThan(1e-3);
  expect(off.nmse).toBeLessThan(1e-2);
});
