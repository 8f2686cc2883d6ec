/** The real files that a CUDA package carries beside its kernels, in the order in which they include each other. */
export const CUDA_SOURCES: readonly string[] = [
  'prelude.cuh',
  'prelude_vectors.cuh',
  'prelude_sm90.cuh',
  'emulator.h',
  'emulator_types.h',
  'emulator_fibers.h',
  'emulator_schedule.h',
  'emulator_block.h',
  'emulator_warp.h',
  'emulator_shared.h',
  'emulator_copies.h',
  'emulator_products.h',
  'emulator_runtime.h',
  'emulator_memory.h',
  'host.cuh',
];
