/**
 * The program: sections of kernels over named buffers, and the order in which sections run.
 * What `lower` ends with and what the driver turns into a manifest. Plain data.
 */
import type { Size } from '../base/size.ts';
import type { DType, GraphParam } from '../ir/graph/types.ts';
import type { Elem, Kernel, ScalarName } from '../ir/kernel/types.ts';

/** A buffer a step binds: a parameter by name, a value of the section, or the section's in- and output. */
export type BufferRef =
  | { readonly kind: 'param'; readonly name: string }
  /** One of the section's scratch slots (values with disjoint lifetimes share a slot). */
  | { readonly kind: 'scratch'; readonly slot: number }
  /** A named input or output of the section: `x`, `y`, `ids`, `token_ids`, `topk_indices` … */
  | { readonly kind: 'io'; readonly name: string }
  /** Counters of the whole program: [0] rows whose router logits were not finite. */
  | { readonly kind: 'faults' };

export interface Step {
  readonly kernel: Kernel;
  /** One per `kernel.params`, in order. */
  readonly args: readonly BufferRef[];
  readonly grid: readonly [Size, Size, Size];
  /** Values of the constant scalars (`segment.*`) the kernel declares. */
  readonly constants: Readonly<Partial<Record<ScalarName, number>>>;
  /** Index of the segment of a split parameter that the step binds; the other steps of the family bind the other segments. */
  readonly segment?: { readonly param: string; readonly index: number };
  /** For reports: the graph op it came from and where it belongs (`router`, `experts`, `attention` …). */
  readonly op: string;
  readonly group: 'moe' | 'dense' | 'attention' | 'norm' | 'embed' | 'head';
}

export interface ScratchSlot {
  readonly elem: Elem;
  /** In elements. */
  readonly size: Size;
}

/** Devices that a bucket is for. */
export interface DeviceMatch {
  /** All subgroups of the device have so many lanes. */
  readonly subgroupSize?: number;
  /** The device itself, by the name that the runtime gives its adapter: what was measured there holds there. */
  readonly adapter?: string;
}

/** A section lowered for calls of at most `maxTokens` tokens (undefined: any number). */
export interface Bucket {
  /** Absent: any device. */
  readonly device?: DeviceMatch;
  readonly maxTokens: number | undefined;
  readonly steps: readonly Step[];
  readonly scratch: readonly ScratchSlot[];
}

export interface ParamDecl extends GraphParam {
  /** How it is stored; kernels see quantised matrices as words. */
  readonly elem: DType;
  /** In elements of the tensor. */
  readonly size: Size;
  /** Split along the first dim into runs of this many rows (experts of a bank), one buffer each, when one binding cannot hold it. */
  readonly segmentRows?: number;
}

export interface IoDecl {
  readonly name: string;
  readonly elem: Elem;
  readonly size: Size;
  /** Elements per token, for shaping what the caller gets. */
  readonly perToken: number;
}

export interface Section {
  readonly name: string;
  readonly params: readonly ParamDecl[];
  readonly inputs: readonly IoDecl[];
  readonly outputs: readonly IoDecl[];
  /** By device, the most particular first; of one device the smallest `maxTokens` first. The last one takes any number, on any device of the target. */
  readonly buckets: readonly Bucket[];
}

export interface Program {
  readonly sections: readonly Section[];
  /** Run order. `layer` fills `{l}` in parameter names. */
  readonly sequence: readonly { readonly section: number; readonly layer: number | undefined }[];
}
