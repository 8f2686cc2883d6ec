/** What goes to the process that measures: texts, sizes and numbers, no code. Everything in here survives structured cloning. */
import type { ManifestParam, ElemName } from '../runtime/core/abi.ts';
import type { Deviation } from '../runtime/core/metrics.ts';
import type { Segment } from '../runtime/core/limits.ts';
import type { WeightParam } from '../runtime/core/weights.ts';

export type JobRef =
  | { readonly kind: 'param'; readonly name: string; readonly segment: number }
  | { readonly kind: 'scratch'; readonly slot: number }
  | { readonly kind: 'io'; readonly name: string }
  | { readonly kind: 'faults' };

export interface JobKernel {
  readonly name: string;
  readonly entry: string;
  readonly code: string;
  readonly block: number;
  readonly access: readonly ('read' | 'write' | 'read_write')[];
  readonly hasScalars: boolean;
}

export interface JobStep {
  readonly kernel: number;
  readonly args: readonly JobRef[];
  readonly grid: readonly [number, number, number];
  /** Scalars in the order of the kernel's uniform struct. */
  readonly words: readonly number[];
}

/** Kernels that run one after another, for one number of tokens. */
export interface Job {
  readonly kernels: readonly JobKernel[];
  readonly steps: readonly JobStep[];
  /** Bytes of each scratch buffer. */
  readonly scratch: readonly number[];
}

export interface UnitParam {
  readonly name: string;
  readonly param: ManifestParam & WeightParam;
  readonly layer: number | null;
  readonly segments: readonly Segment[];
}

export interface NamedBytes {
  readonly name: string;
  readonly bytes: Uint8Array;
}

export interface UnitOutput {
  readonly name: string;
  readonly elem: ElemName;
  readonly rows: number;
  /** Elements of a row. */
  readonly width: number;
}

/** Rows of an output as the f64 reference has them; `columns` where it computed a part of them. */
export interface Expected {
  readonly output: string;
  readonly rows: readonly number[];
  readonly columns: readonly [from: number, to: number];
  /** [rows, columns] */
  readonly values: Float64Array;
}

export interface ScenarioData {
  readonly name: string;
  readonly weight: number;
  readonly inputs: readonly NamedBytes[];
  readonly expected: readonly Expected[];
}

/** Everything that all candidates of a unit have in common. */
export interface UnitData {
  /** Of the weights. */
  readonly seed: number;
  readonly experts: number;
  readonly params: readonly UnitParam[];
  /** The same in all scenarios. */
  readonly inputs: readonly NamedBytes[];
  readonly outputs: readonly UnitOutput[];
  readonly scenarios: readonly ScenarioData[];
  readonly gate: Deviation;
}
