/** What NVIDIA's GPUs can do, by the architecture that kernels are built for. */
import { type Capabilities, ROUNDED_WIDTH } from './types.ts';

/** Ampere and everything after it: what every GPU from there on offers. An A100 has more shared memory than its smaller kin. */
export const CUDA_SM80: Capabilities = {
  target: 'cuda',
  profile: 'sm_80',
  maxThreadsPerBlock: 1024,
  maxSharedBytes: 101_376,
  maxBindings: 64,
  // An index is a u32 that counts accesses: so far it reaches into a buffer of single f32.
  maxBindingBytes: 2 ** 34,
  maxBufferBytes: 2 ** 40,
  maxGrid: 65_535,
  subgroups: true,
  f16: true,
  subgroupSize: 32,
  stores16: true,
  roundedWidth: ROUNDED_WIDTH,
  matrix: ['mma-sync'],
  tokenBuckets: [128, 1024],
  multiprocessors: 108,
};

/** Hopper alone: the `a` stands for instructions that no other generation has. */
export const CUDA_SM90A: Capabilities = {
  ...CUDA_SM80,
  profile: 'sm_90a',
  maxSharedBytes: 232_448,
  matrix: ['wgmma', 'mma-sync'],
  multiprocessors: 132,
};

/** Columns that one wgmma can have, of the instruction's multiples of 8 up to 256 those that the prelude wraps. */
export const isWgmmaWidth = (columns: number): boolean => columns === 8 || columns === 16 || (columns % 32 === 0 && columns <= 256);

export const CUDA_ARCHITECTURES: readonly Capabilities[] = [CUDA_SM80, CUDA_SM90A];
