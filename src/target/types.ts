/** What a device can do, as data. Codegen reads it; nothing in here emits. */
import type { Kernel } from '../ir/kernel/types.ts';

export type TargetName = 'webgpu' | 'cuda';

export interface Capabilities {
  readonly target: TargetName;
  /** `baseline`, `desktop`, `sm_90a` … */
  readonly profile: string;
  readonly maxThreadsPerBlock: number;
  /** Bytes of shared memory one block may use. */
  readonly maxSharedBytes: number;
  /** Storage buffers one kernel may bind. */
  readonly maxBindings: number;
  /** Bytes of one binding. */
  readonly maxBindingBytes: number;
  readonly maxBufferBytes: number;
  /** Blocks per grid dimension. */
  readonly maxGrid: number;
  readonly subgroups: boolean;
  /** Arithmetic in f16; storage of f16 is always possible. */
  readonly f16: boolean;
  /** Lanes of a subgroup, where all devices of the profile have the same. */
  readonly subgroupSize?: number;
  /** Whether kernels may store f16 and bf16; loading them is always possible. */
  readonly stores16: boolean;
  /** Products of fewer columns, on either side, multiply rows of f32: such rows are rounded to 16 bits neither in memory nor for tensor cores. */
  readonly roundedWidth: number;
  /** Instructions that multiply small matrices, fastest first. */
  readonly matrix: readonly MatrixInstruction[];
  /** Most tokens of the calls that get kernels of their own, beside few tokens and any number. */
  readonly tokenBuckets: readonly number[];
  /** Blocks run on so many processors side by side, where the profile knows. */
  readonly multiprocessors?: number;
}

/**
 * Errors of rounding average out over a row. In bf16 the worst of 8192 random rows is off by an NMSE of 4e-4 where products have 16
 * columns, 8e-5 with 64, 4e-5 with 128 and 2.5e-5 with 256; 6e-5 is allowed. Half the bytes of narrower rows are not worth more.
 */
export const ROUNDED_WIDTH = 256;

export type MatrixInstruction = 'mma-sync' | 'wgmma';

/** WebGPU's guaranteed limits: what every conforming device offers. */
export const WEBGPU_BASELINE: Capabilities = {
  target: 'webgpu',
  profile: 'baseline',
  maxThreadsPerBlock: 256,
  maxSharedBytes: 16_384,
  maxBindings: 8,
  maxBindingBytes: 134_217_728,
  maxBufferBytes: 268_435_456,
  maxGrid: 65_535,
  subgroups: false,
  f16: false,
  stores16: false,
  roundedWidth: ROUNDED_WIDTH,
  matrix: [],
  tokenBuckets: [],
};

/** A desktop GPU in a browser. */
export const WEBGPU_DESKTOP: Capabilities = {
  ...WEBGPU_BASELINE,
  profile: 'desktop',
  maxBindingBytes: 1_073_741_824,
  maxBufferBytes: 1_073_741_824,
};

/** What current native implementations offer at most. */
export const WEBGPU_MAX: Capabilities = {
  ...WEBGPU_BASELINE,
  profile: 'max',
  maxBindingBytes: 2_147_483_644,
  maxBufferBytes: 4_294_967_292,
};

export const LIMIT_PROFILES: readonly Capabilities[] = [WEBGPU_BASELINE, WEBGPU_DESKTOP, WEBGPU_MAX];

/** Threads of every subgroup, where kernels may use subgroups and know their size. */
export const subgroupThreads = ({ subgroups, subgroupSize }: Capabilities): number | undefined => (subgroups ? subgroupSize : undefined);

/** Most threads of a subgroup that is a vector of a CPU. */
const SMALL_SUBGROUP = 16;

/** Threads of a subgroup where they are few: a CPU plays the GPU. Undefined on GPUs, and where no size is known. */
export function smallSubgroup(caps: Capabilities): number | undefined {
  const size = subgroupThreads(caps);
  return caps.target === 'webgpu' && size !== undefined && size <= SMALL_SUBGROUP ? size : undefined;
}

/** Sizes of subgroups that WebGPU packages have kernels for, beside those for any device: 8 lanes are a CPU's that plays a GPU. */
const SUBGROUP_SIZES: readonly number[] = [8];

/** Calls that get kernels of their own where a CPU plays the GPU: the rows of an expert's tiles follow their number. */
const SOFTWARE_BUCKETS = [32, 128] as const;

/** The same device where all subgroups have one size. */
export function withSubgroups(caps: Capabilities, subgroupSize: number): Capabilities {
  const known = { ...caps, subgroups: true, subgroupSize };
  return smallSubgroup(known) === undefined ? known : { ...known, tokenBuckets: SOFTWARE_BUCKETS };
}

/** The same device with what is known where all its subgroups have one size; none where the target's kernels know it anyway. */
export const specialisations = (caps: Capabilities): readonly Capabilities[] =>
  caps.target === 'webgpu' && caps.subgroupSize === undefined ? SUBGROUP_SIZES.map((size) => withSubgroups(caps, size)) : [];

/** Whether a variant can serve, with the reason where it cannot. */
export type Verdict = { readonly ok: true } | { readonly ok: false; readonly why: string };

/** One way to run a tile statement on a target. */
export interface Variant<Op> {
  readonly name: string;
  readonly target: TargetName | 'any';
  /** The variant that serves where this one does not; none for the portable one itself. */
  readonly portableTwin?: string;
  /** The row of `bench/` that justifies a non-portable variant. */
  readonly evidence?: string;
  accepts(op: Op, kernel: Kernel, caps: Capabilities): Verdict;
}
