/** Three ways to run a spec behind one face: the f64 evaluator, the kernel interpreter, and the WebGPU device at hand. */
import { type CompileOptions, type Compiled, compileSpec } from '../../src/driver/compile.ts';
import { loadReference } from '../../src/driver/reference.ts';
import type { Reference } from '../../src/ir/graph/evaluate/reference.ts';
import { lowerToGraphs } from '../../src/lower/model-to-graph.ts';
import type { Spec } from '../../src/model/types.ts';
import type { Backend } from '../../src/runtime/core/backend.ts';
import { readManifest } from '../../src/runtime/core/manifest.ts';
import type { Deviation } from '../../src/runtime/core/metrics.ts';
import { forwardSplit, makeLayer, makeModel } from '../../src/runtime/core/model.ts';
import { compileProgram } from '../../src/runtime/core/program.ts';
import { type WeightProvider, checkpointWeights } from '../../src/runtime/core/provider.ts';
import { Session } from '../../src/runtime/core/session.ts';
import type { TensorSet } from '../../src/runtime/core/tensors.ts';
import { acquireDevice } from '../../src/runtime/webgpu/acquire.ts';
import { WebGpuBackend } from '../../src/runtime/webgpu/backend.ts';
import type { LayerInput } from './cases.ts';
import { dawnDevice } from './dawn.ts';
import { InterpreterBackend, type InterpreterOptions } from './interpreter-backend.ts';

export interface LayerOutcome {
  /** [T, hidden] */
  readonly y: Float32Array | Float64Array;
  /** [T, slots]; −1 where a slot is not used. */
  readonly ids: Int32Array;
  readonly routeWeights: Float32Array | Float64Array;
  /** Rows whose logits were not all finite, in this call. */
  readonly faults: number;
}

export interface RunningLayer {
  run(input: LayerInput): Promise<LayerOutcome>;
  close(): Promise<void>;
}

export interface RunningModel {
  /** Logits of all tokens, given in consecutive calls that share a cache. */
  forward(ids: Int32Array, lengths: readonly number[]): Promise<Float32Array | Float64Array>;
  /** The likeliest next tokens; absent where a backend has no sampler. */
  readonly generate?: (ids: Int32Array, count: number) => Promise<number[]>;
  close(): Promise<void>;
}

/** A way to run specs, and how far from the expected values it may be. */
export interface Bench {
  readonly name: string;
  readonly gate: Deviation;
  /** Largest error of a route weight. */
  readonly weightGate: number;
  /** Tokens that one KV cache of the models must hold. */
  layer(spec: Spec, weights: TensorSet): Promise<RunningLayer>;
  model(spec: Spec, weights: TensorSet): Promise<RunningModel>;
}

const signed = (ids: ArrayLike<number> | undefined): Int32Array => Int32Array.from(ids ?? [], (e) => e | 0);

/** A layer in the evaluator. */
export function referenceLayer(reference: Reference): RunningLayer {
  return {
    run({ x, tokenIds, seq }) {
      const { results, faults } = reference.run({
        x: Float64Array.from(x),
        ...(seq === undefined ? {} : { seq }),
        ...(tokenIds === undefined ? {} : { ids: tokenIds }),
      });
      const { y, topk_indices: ids, topk_weights: weights } = results;
      return Promise.resolve({ y: Float64Array.from(y ?? []), ids: signed(ids), routeWeights: Float64Array.from(weights ?? []), faults });
    },
    close: () => Promise.resolve(),
  };
}

export const REFERENCE: Bench = {
  name: 'the reference evaluator',
  gate: { nmse: 1e-24, rowNmse: 1e-24 },
  weightGate: 1e-12,
  layer: async (spec, weights) => referenceLayer(await loadReference(lowerToGraphs(spec), weights, { capacity: 1 })),
  async model(spec, weights) {
    const reference = await loadReference(lowerToGraphs(spec), weights, { capacity: 32 });
    return {
      forward(ids, lengths) {
        reference.reset();
        let at = 0;
        const parts = lengths.flatMap((n) => Array.from(reference.run({ ids: ids.slice(at, (at += n)) }).results['y'] ?? []));
        return Promise.resolve(Float64Array.from(parts));
      },
      close: () => Promise.resolve(),
    };
  },
};

/** A compiled spec on a backend. The manifest goes through JSON, as in a package. */
export async function openSession(compiled: Compiled, backend: Backend, weights: TensorSet | WeightProvider): Promise<Session> {
  const manifest = readManifest(JSON.parse(JSON.stringify(compiled.manifest)));
  const program = await compileProgram(manifest, (file) => compiled.texts.get(file), backend);
  return Session.create(program, 'chunks' in weights ? weights : checkpointWeights(manifest, weights));
}

const noVerify = (): Promise<never> => Promise.reject(new Error('no golden vectors here'));

export function deviceLayer(session: Session): RunningLayer {
  const layer = makeLayer(session, noVerify, () => session.dispose());
  let seen = 0;
  return {
    async run({ x, tokenIds, seq }) {
      const options = { ...(tokenIds === undefined ? {} : { tokenIds }), ...(seq === undefined ? {} : { sequenceLength: seq }) };
      const traced = await layer.forward(x, { ...options, trace: true });
      const { routerFaults } = layer.stats();
      const faults = routerFaults - seen;
      seen = routerFaults;
      return { y: traced.y, ids: traced.topkIndices, routeWeights: traced.topkWeights, faults };
    },
    close: () => layer.dispose(),
  };
}

export function deviceModel(session: Session): RunningModel {
  const model = makeModel(session, noVerify, () => session.dispose());
  return {
    forward: (ids, lengths) => forwardSplit(session, ids, lengths),
    async generate(ids, count) {
      const tokens: number[] = [];
      for await (const token of model.generate(ids, { maxTokens: count })) tokens.push(token);
      return tokens;
    },
    close: () => model.dispose(),
  };
}

/** Closing a session gives back what it took; only the backend's own read-back buffer may stay until the backend goes. */
const disposing = <R extends { close(): Promise<void> }>(running: R, backend: Backend): R => ({
  ...running,
  close: async () => {
    await running.close();
    const left = backend.allocatedBytes;
    backend.dispose();
    if (backend instanceof InterpreterBackend && left !== 0) throw new Error(`${left} bytes were left on the device`);
  },
});

/** A device behind the face of a bench. @param open the device for a compiled spec */
export function deviceBench(
  name: string,
  gate: Deviation,
  weightGate: number,
  open: (compiled: Compiled) => Promise<Backend>,
  options: CompileOptions,
): Bench {
  const start = async (spec: Spec, weights: TensorSet): Promise<{ session: Session; backend: Backend }> => {
    const compiled = compileSpec(spec, options);
    const backend = await open(compiled);
    return { backend, session: await openSession(compiled, backend, weights) };
  };
  return {
    name,
    gate,
    weightGate,
    async layer(spec, weights) {
      const { session, backend } = await start(spec, weights);
      return disposing(deviceLayer(session), backend);
    },
    async model(spec, weights) {
      const { session, backend } = await start(spec, weights);
      return disposing(deviceModel(session), backend);
    },
  };
}

/** Gates of f32 arithmetic with exact functions. */
export const INTERPRETER_GATE: Deviation = { nmse: 1e-11, rowNmse: 1e-10 };
/** As wide as WGSL lets `exp` and `/` be wrong. */
export const DAWN_GATE: Deviation = { nmse: 1e-9, rowNmse: 1e-8 };

export const interpreterBench = (run: InterpreterOptions, options: CompileOptions = {}): Bench =>
  deviceBench(
    `the interpreter, ${run.variant} kernels`,
    INTERPRETER_GATE,
    1e-6,
    (c) => Promise.resolve(new InterpreterBackend(c, run)),
    options,
  );

/** A backend on the one device that all cases of a process share. */
export async function dawnBackend(compiled: Compiled): Promise<Backend> {
  const features = [...new Set(compiled.manifest.kernels.flatMap((k) => k.variants.flatMap((v) => v.requires.features)))];
  return new WebGpuBackend(await acquireDevice({ device: await dawnDevice(), features }), compiled.manifest.model.name);
}

export const dawnBench = (options: CompileOptions = {}): Bench => deviceBench('the WebGPU device', DAWN_GATE, 5e-6, dawnBackend, options);
