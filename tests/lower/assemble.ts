/** Assembles a weight in f64 from a checkpoint's tensors, as `TensorSource` defines it. */
import type { GraphParam, TensorSource, WeightPart } from '../../src/ir/graph/types.ts';
import { sourceMatrix, type WeightLayout, weightLayout } from '../../src/ir/graph/weight.ts';
import type { Data } from '../../src/ir/graph/evaluate/evaluate.ts';

export interface CheckpointTensor {
  readonly shape: readonly number[];
  readonly data: Data;
}

/** A tensor of the checkpoint by its name, undefined where there is none. */
export type Checkpoint = (name: string) => CheckpointTensor | undefined;

const squeeze = (shape: readonly number[]): string => {
  const first = shape.findIndex((dim) => dim !== 1);
  return (first < 0 ? [] : shape.slice(first)).join(' ');
};

const fill = (name: string, layer: number | undefined): string => (layer === undefined ? name : name.replaceAll('{l}', String(layer)));

/** The tensors of a source, one per bank or one for all; undefined where one is missing or has another shape. */
function tensorsOf(
  source: TensorSource,
  layout: WeightLayout,
  layer: number | undefined,
  checkpoint: Checkpoint,
): readonly Data[] | undefined {
  if (source.requires !== undefined && checkpoint(fill(source.requires, layer)) === undefined) return undefined;
  const tensors: Data[] = [];
  for (let bank = 0; bank < (layout.bank ?? 1); bank++) {
    const tensor = checkpoint(fill(sourceMatrix(source, layout, bank).name, layer));
    if (tensor === undefined || squeeze(tensor.shape) !== squeeze(source.shape)) return undefined;
    tensors.push(tensor.data);
  }
  return tensors;
}

function copyPart(
  part: WeightPart,
  source: TensorSource,
  tensors: readonly Data[],
  layout: WeightLayout,
  firstRow: number,
  out: Data,
): void {
  const width = layout.k ?? 1;
  for (let bank = 0; bank < (layout.bank ?? 1); bank++) {
    const { offset, cols } = sourceMatrix(source, layout, bank);
    for (let n = 0; n < part.rows; n++) {
      for (let k = 0; k < width; k++) {
        const [i, j] = [source.n.start + n * source.n.step, source.k.start + k * source.k.step];
        const [row, col] = source.n.axis === 0 ? [i, j] : [j, i];
        out[(bank * layout.n + firstRow + n) * width + k] = tensors[bank]?.[offset + row * cols + col] ?? NaN;
      }
    }
  }
}

/**
 * The elements of a weight parameter for one layer: of each part the first source whose tensors are there.
 * @throws Error naming the tensors that were looked for
 */
export function assembleWeight(param: GraphParam, layer: number | undefined, checkpoint: Checkpoint): Data {
  if (param.role.kind !== 'weight' || param.value.type.kind !== 'tensor') throw new Error(`${param.name} is no weight`);
  const layout = weightLayout(param.value.type, param.role);
  if (layout === undefined) throw new Error(`${param.name} has no layout`);
  const count = (layout.bank ?? 1) * layout.n * (layout.k ?? 1);
  const isIndex = param.value.type.dtype === 'i32' || param.value.type.dtype === 'u32';
  const out = isIndex ? new Int32Array(count) : new Float64Array(count);
  let row = 0;
  for (const part of param.role.parts) {
    const found = part.sources
      .map((source) => ({ source, tensors: tensorsOf(source, layout, layer, checkpoint) }))
      .find(({ tensors }) => tensors !== undefined);
    if (found?.tensors === undefined) {
      const wanted = part.sources.map((s) => `${fill(s.name, layer)} [${s.shape.join(', ')}]`);
      throw new Error(`${param.name}: none of these tensors is in the checkpoint: ${wanted.join(', ')}`);
    }
    copyPart(part, found.source, found.tensors, layout, row, out);
    row += part.rows;
  }
  return out;
}
