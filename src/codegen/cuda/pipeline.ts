/** The kernel passes as CUDA runs them. */
import type { Kernel } from '../../ir/kernel/types.ts';
import { finishKernel } from '../../passes/kernel/pipeline.ts';
import type { Capabilities } from '../../target/types.ts';

/** Tile level → simt level for the device. Throws InvalidKernelError on a kernel that is not well formed. */
export const finishCuda = (kernel: Kernel, caps: Capabilities): Kernel => finishKernel(kernel, { subgroups: caps.subgroups });
