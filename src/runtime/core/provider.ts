/** Where a session's weights come from: a checkpoint, or arithmetic. */
import type { Manifest } from './abi.ts';
import type { Signal } from './errors.ts';
import { numberToBf16, numberToF16 } from './f16.ts';
import { exactWeight, proceduralParam, proceduralWeight } from './procedural.ts';
import type { TensorSet } from './tensors.ts';
import { ELEM_BYTES, isQuant, packRows } from './quant.ts';
import { MAX_PIECE_BYTES, type WeightChunk, weightChunks } from './weight-data.ts';
import { type WeightParam, requireWeights } from './weights.ts';

export interface WeightProvider {
  readonly label: string;
  /** Tensors that nothing reads. */
  readonly unused: readonly string[];
  /** Rows [first, first + rows) of the bank · n rows of a parameter of a layer. */
  chunks(param: WeightParam, name: string, layer: number | null, first: number, rows: number, signal: Signal | undefined): AsyncIterable<WeightChunk>;
  close(): Promise<void>;
}

/** @throws WeightsError naming all that is missing or wrong */
export function checkpointWeights(manifest: Manifest, set: TensorSet): WeightProvider {
  const report = requireWeights(manifest.sections, manifest.sequence, set);
  return {
    label: set.label,
    unused: report.unused,
    chunks(_param, name, _layer, first, rows, signal) {
      const resolved = report.resolved.get(name);
      if (resolved === undefined) throw new RangeError(`no weight ${name}`);
      return weightChunks(resolved, set, first, rows, { signal });
    },
    close: () => set.close(),
  };
}

/** See `procedural.ts`. */
export function proceduralProvider(seed: number, experts: number): WeightProvider {
  return {
    label: `procedural weights of seed ${seed}`,
    unused: [],
    async *chunks(param, _name, layer, first, rows) {
      const p = proceduralParam(param, layer);
      const step = Math.max(2, Math.floor(MAX_PIECE_BYTES / 8 / Math.max(1, p.k)) & ~1);
      for (let row = 0; row < rows; row += step) {
        const count = Math.min(step, rows - row);
        if (isQuant(p.elem)) {
          const exact = exactWeight(p, seed, experts, (first + row) * p.k, (first + row + count) * p.k);
          const refuse = (_index: number, value: number): never => {
            throw new RangeError(`a procedural weight is ${value}`);
          };
          yield { row, rows: count, data: new Uint8Array(packRows(p.elem, exact, count, p.k, refuse).buffer) };
          continue;
        }
        const values = proceduralWeight(p, seed, experts, (first + row) * p.k, (first + row + count) * p.k);
        const data = new Uint8Array(values.length * ELEM_BYTES[p.elem]);
        if (p.elem === 'f32') new Float32Array(data.buffer).set(values);
        else if (p.elem === 'u32' || p.elem === 'i32') new Uint32Array(data.buffer).set(values);
        else new Uint16Array(data.buffer).set(values.map(p.elem === 'f16' ? numberToF16 : numberToBf16));
        yield { row, rows: count, data };
      }
    },
    close: () => Promise.resolve(),
  };
}
