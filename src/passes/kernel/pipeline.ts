/**
 * The kernel passes, in order. Every kernel, whatever its target, goes this way from the tile level to the
 * simt level; what differs between targets is whether subgroup operations may be used, and the variants of main loops.
 */
import type { Kernel } from '../../ir/kernel/types.ts';
import { assertValid } from '../../ir/kernel/verify.ts';
import { expandTiles } from './expand-tiles.ts';
import { inferAccess } from './infer-access.ts';
import { insertBarriers } from './insert-barriers.ts';
import { simplify } from './simplify.ts';
import { uniqueNames } from './unique-names.ts';
import type { MainloopVariant } from './variant.ts';

export interface FinishOptions {
  readonly subgroups: boolean;
  /** Threads of every subgroup, where that is known. */
  readonly subgroupSize?: number;
  /** The target's own variants of main loops; with any, its machine instructions may stand in the kernel. */
  readonly variants?: readonly MainloopVariant[];
}

/** Tile level → simt level, verified at both ends. Throws InvalidKernelError on a kernel that is not well formed. */
export function finishKernel(kernel: Kernel, options: FinishOptions): Kernel {
  const checks = { subgroups: options.subgroups, machine: options.variants !== undefined };
  assertValid(kernel, 'tile', 'before the kernel passes', checks);
  const expanded = expandTiles(kernel, options);
  // Names first: the passes after it lift bodies and look variables up by name.
  const named = uniqueNames(expanded);
  const simple = simplify(named);
  // After simplify: a loop of one iteration needs no barrier on its back edge.
  const ordered = insertBarriers(simple);
  const finished = inferAccess(ordered);
  assertValid(finished, 'simt', 'after the kernel passes', checks);
  return finished;
}
