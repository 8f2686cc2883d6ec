/** Specs under weights made from integers: the same numbers on a device and, as stored there, in the evaluator. */
import { weightSections } from '../../src/driver/reference.ts';
import type { Data } from '../../src/ir/graph/evaluate/evaluate.ts';
import { lowerToGraphs } from '../../src/lower/model-to-graph.ts';
import type { LayerSpec, Spec } from '../../src/model/types.ts';
import { proceduralIds, proceduralInput, proceduralWeights } from '../../src/runtime/core/procedural.ts';
import { weightsOf } from '../../src/runtime/core/weights.ts';
import type { LayerInput } from './cases.ts';

export const expertsOf = (spec: Spec): number => {
  const ffns = spec.kind === 'model' ? spec.kinds.map((k) => k.ffn) : [spec.ffn];
  return Math.max(0, ...ffns.map((f) => (f.kind === 'moe' ? f.experts : 0)));
};

/** Weights of a layer by name, as stored on a device. */
export function proceduralLayerWeights(spec: LayerSpec, seed: number): Map<string, Data> {
  const weights = new Map<string, Data>();
  for (const { name, param } of weightsOf(weightSections(lowerToGraphs(spec).sections), [{ section: 0, layer: null }])) {
    const values = proceduralWeights(param, null, seed, expertsOf(spec));
    weights.set(name, param.elem === 'i32' || param.elem === 'u32' ? Int32Array.from(values) : values);
  }
  return weights;
}

export function proceduralLayerInput(spec: Spec, seed: number, tokens: number, seq?: number): LayerInput {
  const x = proceduralInput(seed, tokens, spec.hidden);
  const needsIds = spec.kind === 'layer' && spec.ffn.kind === 'moe' && spec.ffn.router.select.kind === 'hash';
  return {
    x,
    ...(seq === undefined ? {} : { seq }),
    ...(needsIds ? { tokenIds: proceduralIds(seed, tokens, spec.vocab ?? 1) } : {}),
  };
}
