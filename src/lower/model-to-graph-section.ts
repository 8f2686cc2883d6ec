/** What the parts of the lowering share: the section being built and how it declares its weights. */
import { quantName } from '../base/quant.ts';
import { tensor } from '../ir/graph/op-spec.ts';
import { type GraphBuilder, graphBuilder } from '../ir/graph/build.ts';
import type { DType, TensorSource, Value } from '../ir/graph/types.ts';
import type { Norm, Spec, StorageDType } from '../model/types.ts';
import type { Scope } from './weights/scope.ts';
import { weight } from './weights/source.ts';

export interface SectionBuilder {
  readonly graph: GraphBuilder;
  readonly scope: Scope;
  readonly hidden: number;
  /** Storage of the large matrices. Norms, biases and routers are kept in f32: they are small and the router must be exact. */
  readonly dtype: StorageDType;
  /** Of the matrices of experts. */
  readonly expertDType: DType;
}

export const newSection = (name: string, scope: Scope, { hidden, dtype, expertStorage: experts }: Spec): SectionBuilder => ({
  graph: graphBuilder(name),
  scope,
  hidden,
  dtype,
  expertDType: experts === undefined ? dtype : quantName(experts.values, experts.scales),
});

/** A matrix [n, k] in the spec's storage type. */
export const matrixParam = (s: SectionBuilder, name: string, n: number, k: number, sources: readonly TensorSource[]): Value =>
  s.graph.param(name, tensor(s.dtype, n, k), weight(n, sources));

/** A matrix of experts that are stored as one. */
export const expertMatrixParam = (s: SectionBuilder, name: string, n: number, k: number, sources: readonly TensorSource[]): Value =>
  s.graph.param(name, tensor(s.expertDType, n, k), weight(n, sources));

/** A bank of experts [banks, n, k]. */
export const expertBankParam = (s: SectionBuilder, name: string, banks: number, n: number, k: number, sources: readonly TensorSource[]): Value =>
  s.graph.param(name, tensor(s.expertDType, banks, n, k), weight(n, sources));

/** A matrix that stays f32: a router's. */
export const exactMatrixParam = (s: SectionBuilder, name: string, n: number, k: number, sources: readonly TensorSource[]): Value =>
  s.graph.param(name, tensor('f32', n, k), weight(n, sources));

/** A bank [banks, n, k] in the spec's storage type. */
export const bankParam = (s: SectionBuilder, name: string, banks: number, n: number, k: number, sources: readonly TensorSource[]): Value =>
  s.graph.param(name, tensor(s.dtype, banks, n, k), weight(n, sources));

export const vectorParam = (s: SectionBuilder, name: string, n: number, sources: readonly TensorSource[]): Value =>
  s.graph.param(name, tensor('f32', n), weight(n, sources));

export const bankVectorParam = (s: SectionBuilder, name: string, banks: number, n: number, sources: readonly TensorSource[]): Value =>
  s.graph.param(name, tensor('f32', banks, n), weight(n, sources));

/** A value under a key, or nothing: optional operands are left out, never undefined. */
export const maybe = <K extends string>(key: K, value: Value | undefined): { readonly [N in K]?: Value } =>
  (value === undefined ? {} : { [key]: value }) as { readonly [N in K]?: Value };

export const PLAIN_LINEAR = { epilogue: { kind: 'none' }, scale: 1 } as const;

/** x · weightᵀ + bias */
export const plainLinear = (s: SectionBuilder, x: Value, w: Value, bias?: Value): Value =>
  s.graph.add('linear', { x, weight: w, ...maybe('bias', bias) }, PLAIN_LINEAR).y;

/** A norm of the hidden state. `sources` gives the places of its weight and bias. */
export function hiddenNorm(
  s: SectionBuilder,
  x: Value,
  norm: Norm,
  name: string,
  sources: (which: 'weight' | 'bias') => readonly TensorSource[],
): Value {
  const w = vectorParam(s, `${name}.weight`, s.hidden, sources('weight'));
  const bias = norm.bias ? vectorParam(s, `${name}.bias`, s.hidden, sources('bias')) : undefined;
  return s.graph.add('norm', { x, weight: w, ...maybe('bias', bias) }, { kind: norm.kind, eps: norm.eps, groups: 1 }).y;
}
