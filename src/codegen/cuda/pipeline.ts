/** The kernel passes as CUDA runs them. */
import type { Kernel } from '../../ir/kernel/types.ts';
import { finishKernel } from '../../passes/kernel/pipeline.ts';
import type { MainloopVariant } from '../../passes/kernel/variant.ts';
import type { Capabilities } from '../../target/types.ts';
import { mmaSync } from './variants/mma-sync.ts';
import { specialise } from './variants/specialise.ts';

/** Beside the portable one, which is every target's. */
const VARIANTS: readonly MainloopVariant[] = [mmaSync];

/**
 * Tile level → simt level for the device. Throws InvalidKernelError on a kernel that is not well formed.
 * Subgroup operations name all 32 lanes: they need a block of whole warps.
 */
export function finishCuda(kernel: Kernel, caps: Capabilities): Kernel {
  const { subgroupSize } = caps;
  const subgroups = caps.subgroups && kernel.block % (subgroupSize ?? 1) === 0;
  return finishKernel(specialise(kernel), { subgroups, ...(subgroupSize !== undefined && { subgroupSize }), variants: VARIANTS });
}
