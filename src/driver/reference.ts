/** The reference evaluator over a checkpoint: a spec run in f64, section by section, without any kernel. */
import { createReference, type Reference } from '../ir/graph/evaluate/reference.ts';
import type { Data } from '../ir/graph/evaluate/evaluate.ts';
import type { Dim, Graph, GraphParam } from '../ir/graph/types.ts';
import type { GraphProgram } from '../lower/graph-program.ts';
import type { ManifestParam, ManifestSection } from '../runtime/core/abi.ts';
import type { Signal } from '../runtime/core/errors.ts';
import { isQuant } from '../runtime/core/quant.ts';
import type { TensorSet } from '../runtime/core/tensors.ts';
import { assembleF64 } from '../runtime/core/weight-data.ts';
import { requireWeights, weightsOf, type WeightParam } from '../runtime/core/weights.ts';

const numericShape = (shape: readonly Dim[]): readonly number[] =>
  shape.map((d) => {
    if (typeof d !== 'number') throw new Error(`a weight cannot have the run-time dim ${d}`);
    return d;
  });

function weightParam(param: GraphParam): (ManifestParam & WeightParam)[] {
  const { role, value, name } = param;
  if (role.kind !== 'weight' || value.type.kind !== 'tensor') return [];
  return [{ name, role, elem: value.type.dtype, shape: numericShape(value.type.shape) }];
}

/** The weights of graphs, in the form in which the runtime resolves them. */
export function weightSections(sections: readonly Graph[]): readonly ManifestSection[] {
  return sections.map((g) => ({ name: g.name, params: g.params.flatMap(weightParam), inputs: [], outputs: [], buckets: [] }));
}

export interface ReferenceOptions {
  /** Tokens the KV caches and rotary tables hold. */
  readonly capacity: number;
  /**
   * Weights rounded to the spec's storage type, as a device has them, or as exact as the files. Where it is not said only what the spec
   * quantises is rounded: a quantised weight is value · scale.
   */
  readonly stored?: boolean;
  readonly signal?: Signal;
}

/**
 * Loads every weight in f64 and returns the evaluator.
 * @throws WeightsError telling everything that is missing or misshapen
 */
export async function loadReference(program: GraphProgram, set: TensorSet, options: ReferenceOptions): Promise<Reference> {
  const sections = weightSections(program.sections);
  const sequence = program.sequence.map((s) => ({ section: s.section, layer: s.layer ?? null }));
  requireWeights(sections, sequence, set);
  const weights = new Map<string, Data>();
  for (const { name, param, layer } of weightsOf(sections, sequence)) {
    const values = await assembleF64(param, set, layer, {
      stored: options.stored ?? isQuant(param.elem),
      ...(options.signal === undefined ? {} : { signal: options.signal }),
    });
    const isIndex = param.elem === 'i32' || param.elem === 'u32';
    weights.set(name, isIndex ? Int32Array.from(values) : values);
  }
  const lookup = (name: string): Data => {
    const data = weights.get(name);
    if (data === undefined) throw new Error(`weight ${name} was not loaded`);
    return data;
  };
  return createReference(program, lookup, options.capacity);
}
