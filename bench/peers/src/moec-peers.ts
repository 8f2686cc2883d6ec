/** moec's own side: the spec of the layer, compiled as `moec compile` compiles it, run by the runtime that ships in packages. */
import { compileSpec, GENERATOR } from '../../../src/driver/compile.ts';
import { readSpecs } from '../../../src/driver/frontend.ts';
import type { Spec } from '../../../src/driver/analysis.ts';
import { compileProgram } from '../../../src/runtime/core/program.ts';
import { checkpointWeights } from '../../../src/runtime/core/provider.ts';
import { Session } from '../../../src/runtime/core/session.ts';
import { type NamedTensor, namedTensors } from '../../../src/runtime/core/tensors.ts';
import { WebGpuBackend } from '../../../src/runtime/webgpu/backend.ts';
import { sharedDevice } from './device.ts';
import type { DenseWeights, LayerWeights, Shape } from './numbers.ts';
import type { Peer } from './peer.ts';

export function specOf(text: string): Spec {
  const { specs, diagnostics } = readSpecs(text, 'peers.moe');
  const wrong = diagnostics.filter((d) => d.severity === 'error').map((d) => d.message);
  const [spec] = specs;
  if (spec === undefined || wrong.length > 0) throw new Error(wrong.join('; '));
  return spec;
}

export interface Running {
  readonly session: Session;
  readonly compileMs: number;
}

/** A spec with a checkpoint's tensors on the shared device. */
export async function openSpec(spec: Spec, tensors: Iterable<readonly [string, NamedTensor]>): Promise<Running> {
  const { manifest, texts } = compileSpec(spec);
  const backend = new WebGpuBackend({ ...(await sharedDevice()).acquired, owned: false }, 'peers');
  const program = await compileProgram(manifest, (file) => texts.get(file), backend, {});
  const session = await Session.create(program, checkpointWeights(manifest, namedTensors(tensors)));
  return { session, compileMs: program.compileMs };
}

async function layerPeer(name: string, storage: Peer['storage'], text: string, hidden: number, tensors: Iterable<readonly [string, NamedTensor]>): Promise<Peer> {
  const { session } = await openSpec(specOf(text), tensors);
  return {
    name,
    storage,
    detail: GENERATOR,
    run: async (x) => (await session.call({ tokens: x.length / hidden, past: 0, x })).y,
    dispose: () => session.dispose(),
  };
}

/** Experts in f32, or quantised when they are loaded. */
export function moecMixture(weights: LayerWeights, { experts, active, hidden, width }: Shape, storage: Peer['storage']): Promise<Peer> {
  const dtype = storage === 'f32' ? 'f32' : `f32 experts ${storage} group 32 scales f32`;
  const text = `layer peers {
  hidden ${hidden}
  dtype ${dtype}
  moe {
    experts ${experts} of swiglu ${width}  active ${active}
    router softmax top-k renormalize
  }
}
`;
  return layerPeer(`moec, ${storage}`, storage, text, hidden, [
    ['gate.weight', { data: weights.router, shape: [experts, hidden] }],
    ['experts.gate_proj', { data: weights.gate, shape: [experts, width, hidden] }],
    ['experts.up_proj', { data: weights.up, shape: [experts, width, hidden] }],
    ['experts.down_proj', { data: weights.down, shape: [experts, hidden, width] }],
  ]);
}

export function moecDense({ hidden, width, gate, up, down }: DenseWeights): Promise<Peer> {
  return layerPeer('moec, f32', 'f32', `layer peers {\n  hidden ${hidden}\n  ffn swiglu ${width}\n}\n`, hidden, [
    ['gate_proj', { data: gate, shape: [width, hidden] }],
    ['up_proj', { data: up, shape: [width, hidden] }],
    ['down_proj', { data: down, shape: [hidden, width] }],
  ]);
}
