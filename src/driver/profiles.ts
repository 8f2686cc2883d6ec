/** Limit profiles and architectures that a spec can be compiled for. */
export { CUDA_ARCHITECTURES, CUDA_SM80 } from '../target/cuda.ts';
export { type Capabilities, LIMIT_PROFILES, type TargetName } from '../target/types.ts';
