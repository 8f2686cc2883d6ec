/** ONNX models of the two layers, written as protobuf. */
import { createRequire } from 'node:module';
import type { onnx as Onnx } from 'onnx-proto';
import type { DenseWeights, LayerWeights, QuantisedBank, Shape } from './numbers.ts';

const { onnx } = createRequire(import.meta.url)('onnx-proto') as { readonly onnx: typeof Onnx };
const { FLOAT, UINT8 } = onnx.TensorProto.DataType;
const { INT } = onnx.AttributeProto.AttributeType;

const bytesOf = (data: Float32Array | Uint8Array): Uint8Array => new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
const tensor = (name: string, data: Float32Array | Uint8Array, dims: readonly number[]): Onnx.ITensorProto => ({
  name, dims: [...dims], dataType: data instanceof Float32Array ? FLOAT : UINT8, rawData: bytesOf(data),
});

const rows = (name: string, hidden: number): Onnx.IValueInfoProto => ({
  name, type: { tensorType: { elemType: FLOAT, shape: { dim: [{ dimParam: 'T' }, { dimValue: hidden }] } } },
});

const integer = (name: string, i: number): Onnx.IAttributeProto => ({ name, type: INT, i });
const node = (opType: string, input: readonly string[], output: string, more: Partial<Onnx.INodeProto> = {}): Onnx.INodeProto => ({
  opType, name: output, input: [...input], output: [output], ...more,
});

function model(hidden: number, nodes: readonly Onnx.INodeProto[], initializer: readonly Onnx.ITensorProto[]): Uint8Array {
  const graph: Onnx.IGraphProto = { name: 'layer', node: [...nodes], initializer: [...initializer], input: [rows('x', hidden)], output: [rows('y', hidden)] };
  const opsetImport = [{ domain: '', version: 17 }, { domain: 'com.microsoft', version: 1 }];
  return onnx.ModelProto.encode(onnx.ModelProto.create({ irVersion: 8, producerName: 'moec-peers', opsetImport, graph })).finish();
}

/** [n, k] → [k, n] */
function transposed(data: Float32Array, n: number, k: number): Float32Array {
  const out = new Float32Array(data.length);
  for (let i = 0; i < n; i++) for (let j = 0; j < k; j++) out[j * n + i] = data[i * k + j] ?? 0;
  return out;
}

/** Two banks of the same shape with their rows in turns: gate, up, gate, up … */
function interleaved<T extends Uint8Array | Float32Array>(a: T, b: T, perRow: number, into: T): T {
  for (let row = 0; row * perRow < a.length; row++) {
    into.set(a.subarray(row * perRow, (row + 1) * perRow), 2 * row * perRow);
    into.set(b.subarray(row * perRow, (row + 1) * perRow), (2 * row + 1) * perRow);
  }
  return into;
}

/** Whole numbers as ONNX Runtime stores them without zero points: shifted to be positive, two to a byte in 4 bits, the earlier one low. */
function packed({ bits, values }: QuantisedBank): Uint8Array {
  if (bits === 8) return Uint8Array.from(values, (v) => v + 128);
  return Uint8Array.from({ length: values.length / 2 }, (_, i) => ((values[2 * i] ?? 0) + 8) | (((values[2 * i + 1] ?? 0) + 8) << 4));
}

/** The mixture as ONNX Runtime's own operator: a product for the router, then QMoE. */
export function mixtureModel({ router }: LayerWeights, banks: Readonly<Record<'gate' | 'up' | 'down', QuantisedBank>>, { experts, active, hidden, width }: Shape): Uint8Array {
  const { gate, up, down } = banks;
  const { bits } = gate;
  const per = 8 / bits;
  const [gateBytes, upBytes] = [packed(gate), packed(up)];
  const fc1 = interleaved(gateBytes, upBytes, hidden / per, new Uint8Array(2 * gateBytes.length));
  const fc1Scales = interleaved(gate.scales, up.scales, hidden / 32, new Float32Array(2 * gate.scales.length));
  const names = ['fc1', 'fc1_scales', 'fc2', 'fc2_scales'];
  return model(
    hidden,
    [
      node('MatMul', ['x', 'router'], 'logits'),
      node('QMoE', ['x', 'logits', names[0] ?? '', names[1] ?? '', '', names[2] ?? '', names[3] ?? ''], 'y', {
        domain: 'com.microsoft',
        attribute: [
          integer('k', active),
          integer('expert_weight_bits', bits),
          integer('block_size', 32),
          integer('normalize_routing_weights', 1),
          integer('swiglu_fusion', 1),
          { name: 'activation_type', type: onnx.AttributeProto.AttributeType.STRING, s: new TextEncoder().encode('swiglu') },
        ],
      }),
    ],
    [
      tensor('router', transposed(router, experts, hidden), [hidden, experts]),
      tensor('fc1', fc1, [experts, 2 * width, hidden / per]),
      tensor('fc1_scales', fc1Scales, [experts, 2 * width, hidden / 32]),
      tensor('fc2', packed(down), [experts, hidden, width / per]),
      tensor('fc2_scales', down.scales, [experts, hidden, width / 32]),
    ],
  );
}

/** SwiGLU from the standard's operators. */
export function denseModel({ hidden, width, gate, up, down }: DenseWeights): Uint8Array {
  return model(
    hidden,
    [
      node('MatMul', ['x', 'gate'], 'g'),
      node('MatMul', ['x', 'up'], 'u'),
      node('Sigmoid', ['g'], 's'),
      node('Mul', ['g', 's'], 'a'),
      node('Mul', ['a', 'u'], 'h'),
      node('MatMul', ['h', 'down'], 'y'),
    ],
    [
      tensor('gate', transposed(gate, width, hidden), [hidden, width]),
      tensor('up', transposed(up, width, hidden), [hidden, width]),
      tensor('down', transposed(down, hidden, width), [width, hidden]),
    ],
  );
}
