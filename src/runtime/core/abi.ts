/**
 * The manifest: the one contract between the compiler and the runtime that ships in generated packages.
 * The runtime imports nothing from the compiler, so the few shared shapes are written down again here;
 * a test holds them equal. Plain JSON, no user text outside `model`, and no meaning in names.
 */
export const ABI_VERSION = 2;

export type SizeSymbol = 'T' | 'past' | 'seq' | 'cap';
export type Size = number | SizeSymbol | { readonly op: '+' | '*' | 'ceildiv' | 'min' | 'max'; readonly a: Size; readonly b: Size };

export type ElemName = 'f32' | 'f16' | 'bf16' | 'u32' | 'i32';
/** Quantised matrices: values, then scales. See `quant.ts`; on the device they are words (u32). */
export type QuantName = 'int8_f16' | 'int8_f32' | 'int4_f16' | 'int4_f32';
/** How a parameter is stored. */
export type StoredElem = ElemName | QuantName;

/** See TensorSource of the graph IR: canonical[bank][n][k] inside a checkpoint's tensor. A step of 0 for k says that there is no k: a vector, or one per expert. */
export interface TensorSource {
  readonly name: string;
  /** Only where the checkpoint also holds this tensor. */
  readonly requires?: string;
  readonly shape: readonly number[];
  readonly bankRows?: number;
  readonly n: { readonly axis: 0 | 1; readonly start: number; readonly step: number };
  readonly k: { readonly start: number; readonly step: number };
}

export interface ManifestParam {
  readonly name: string;
  /** Canonical shape: [n], [n, k], [bank, n] or [bank, n, k]; `cap` first for state and rope tables. */
  readonly shape: readonly (number | 'cap')[];
  /** Quantised only for the role `weight`, a matrix or a bank of them. */
  readonly elem: StoredElem;
  readonly role:
    | { readonly kind: 'weight'; readonly parts: readonly { readonly rows: number; readonly sources: readonly TensorSource[] }[] }
    | { readonly kind: 'rope'; readonly inverseFrequencies: readonly number[]; readonly scale: number }
    | { readonly kind: 'state' };
  /** Leading-dim rows per buffer where the parameter is split; absent: one buffer. */
  readonly segmentRows?: number;
}

export type ManifestRef =
  | { readonly kind: 'param'; readonly name: string }
  | { readonly kind: 'scratch'; readonly slot: number }
  | { readonly kind: 'io'; readonly name: string }
  | { readonly kind: 'faults' };

export interface ManifestStep {
  /** Index into `kernels`. */
  readonly kernel: number;
  readonly args: readonly ManifestRef[];
  readonly grid: readonly [Size, Size, Size];
  readonly constants: Readonly<Record<string, number>>;
  readonly segment?: { readonly param: string; readonly index: number };
  readonly op: string;
  readonly group: string;
}

export interface ManifestIo {
  readonly name: string;
  readonly elem: ElemName;
  readonly size: Size;
  readonly perToken: number;
}

/** Devices that a bucket is for: all that is said must hold. */
export interface ManifestDevice {
  /** All subgroups have so many lanes. */
  readonly subgroupSize?: number;
  /** `DeviceInfo.adapter` of the one device that the bucket was measured on. */
  readonly adapter?: string;
}

export interface ManifestSection {
  readonly name: string;
  readonly params: readonly ManifestParam[];
  readonly inputs: readonly ManifestIo[];
  readonly outputs: readonly ManifestIo[];
  /** Of those for the device at hand the first that takes the tokens of a call serves it; the last one is for any device. */
  readonly buckets: readonly {
    readonly device?: ManifestDevice;
    /** null: any number of tokens. */
    readonly maxTokens: number | null;
    readonly steps: readonly ManifestStep[];
    readonly scratch: readonly { readonly elem: ElemName; readonly size: Size }[];
  }[];
}

/** One kernel; the first variant whose requirements the device meets is used, the last one needs nothing. */
export interface ManifestKernel {
  readonly name: string;
  readonly family: string;
  readonly block: number;
  readonly sharedBytes: number;
  /** Scalars in the order of the uniform struct. */
  readonly scalars: readonly string[];
  readonly access: readonly ('read' | 'write' | 'read_write')[];
  readonly variants: readonly {
    /** Path of the text inside the package. */
    readonly file: string;
    readonly entry: string;
    readonly requires: { readonly features: readonly string[]; readonly subgroupSize?: number };
  }[];
}

export interface ManifestModel {
  /** As the user wrote it; shown, never executed. */
  readonly name: string;
  readonly kind: 'model' | 'layer';
  readonly hidden: number;
  readonly vocab: number | null;
  readonly context: number | null;
  readonly layers: number;
  readonly params: { readonly total: number; readonly active: number };
  readonly needsTokenIds: boolean;
  readonly hasRouter: boolean;
  /** Slots per token of a layer package's router (columns of topk_indices); 0 without a router. */
  readonly slots: number;
  readonly experts: number;
}

/** The sources of a CUDA library, by paths from the folder that holds the manifest. */
export interface ManifestCuda {
  readonly arch: 'sm_80' | 'sm_90a';
  readonly directory: string;
  /** Translation units with kernels; `module` is the one with their table and the host. */
  readonly parts: readonly string[];
  readonly module: string;
  /** SHA-256 of the sources: see `cuda-sources.ts`. */
  readonly sources: string;
}

/** Why a device has buckets of its own: a kernel that was measured there beside the default one. */
export interface ManifestTuned {
  /** As in `ManifestDevice`. */
  readonly adapter: string;
  readonly kernel: string;
  /** Calls of more than `above` and at most so many tokens. */
  readonly tokens: number;
  readonly above: number;
  readonly defaultMs: number;
  readonly tunedMs: number;
  /** What the ratio of the two may be off by, relative. */
  readonly noise: number;
  readonly schedule: string;
}

export interface Manifest {
  readonly abi: typeof ABI_VERSION;
  readonly generator: string;
  readonly target: 'webgpu' | 'cuda';
  /** SHA-256 of the canonical spec. */
  readonly spec: string;
  readonly model: ManifestModel;
  readonly kernels: readonly ManifestKernel[];
  readonly sections: readonly ManifestSection[];
  readonly sequence: readonly { readonly section: number; readonly layer: number | null }[];
  /** What the compiled plan needs of the device. */
  readonly limits: {
    readonly profile: string;
    readonly maxBindingBytes: number;
    readonly maxBindings: number;
    readonly maxThreadsPerBlock: number;
    readonly maxSharedBytes: number;
    readonly weightBytes: number;
  };
  readonly passes: readonly string[];
  /** Evidence for the buckets of single devices; nothing runs by it. */
  readonly tuned?: readonly ManifestTuned[];
  /** Where the CUDA sources lie; packages for CUDA only. */
  readonly cuda?: ManifestCuda;
  readonly files: Readonly<Record<string, string>>;
}
