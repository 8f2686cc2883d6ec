/** ONNX Runtime's WebGPU provider in Node; it brings a Dawn of its own, on the same adapter. */
import { createRequire } from 'node:module';
import * as ort from 'onnxruntime-node';
import { denseModel, mixtureModel } from './onnx-model.ts';
import { type DenseWeights, type LayerWeights, type Quantised, quantisedWeights, type Shape } from './numbers.ts';
import type { Peer } from './peer.ts';

const { version } = createRequire(import.meta.url)('onnxruntime-node/package.json') as { readonly version: string };

async function onnxPeer(name: string, storage: Peer['storage'], model: Uint8Array, hidden: number, provider: 'webgpu' | 'cpu'): Promise<Peer> {
  const session = await ort.InferenceSession.create(model, {
    executionProviders: [provider],
    logSeverityLevel: 3,
    // Its idle threads would spin through everybody else's turn.
    intraOpNumThreads: provider === 'cpu' ? 2 : 1,
    extra: { session: { intra_op: { allow_spinning: '0' }, inter_op: { allow_spinning: '0' } } },
  });
  return {
    name,
    storage,
    detail: `onnxruntime-node ${version}`,
    async run(x) {
      const { y } = await session.run({ x: new ort.Tensor('float32', x, [x.length / hidden, hidden]) });
      const data = await y?.getData();
      if (!(data instanceof Float32Array)) throw new Error('no result');
      return data;
    },
    dispose: () => session.release(),
  };
}

export function onnxMixture(weights: LayerWeights, shape: Shape, name: Quantised, provider: 'webgpu' | 'cpu' = 'webgpu'): Promise<Peer> {
  const storage = name === 'int8_f32' ? 'int8' : 'int4';
  const where = provider === 'webgpu' ? 'WebGPU' : 'CPU';
  return onnxPeer(`ONNX Runtime ${where}, QMoE ${storage}`, storage, mixtureModel(weights, quantisedWeights(weights, shape, name), shape), shape.hidden, provider);
}

export const onnxDense = (weights: DenseWeights): Promise<Peer> => onnxPeer('ONNX Runtime WebGPU, f32', 'f32', denseModel(weights), weights.hidden, 'webgpu');
