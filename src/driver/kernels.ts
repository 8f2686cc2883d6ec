/** Finished kernels of a program with their texts in the target's language, each distinct one once. */
import { emitCuda } from '../codegen/cuda/emit.ts';
import { launchBytes } from '../codegen/cuda/layout.ts';
import { finishCuda } from '../codegen/cuda/pipeline.ts';
import { emitWgsl } from '../codegen/wgsl/emit.ts';
import { sharedBytes } from '../ir/kernel/cost.ts';
import type { Kernel } from '../ir/kernel/types.ts';
import { visitExprs, walkStmts } from '../ir/kernel/walk.ts';
import type { Program } from '../lower/program.ts';
import { finishKernel } from '../passes/kernel/pipeline.ts';
import type { Capabilities } from '../target/types.ts';

export interface KernelVariant {
  /** `portable` needs no device feature; `cuda` needs the architecture of the package. */
  readonly name: 'portable' | 'subgroups' | 'cuda';
  readonly features: readonly string[];
  /** Absent: of any size. */
  readonly subgroupSize?: number;
  readonly kernel: Kernel;
  readonly text: string;
  /** Of one block. */
  readonly sharedBytes: number;
}

export interface CompiledKernel {
  /** As the families made it (tile level). */
  readonly source: Kernel;
  /** Best first; the last one is portable. */
  readonly variants: readonly KernelVariant[];
}

/**
 * The portable text of a kernel and, where it gains by it, one with subgroup operations. Kernels made for subgroups of one size
 * from the start have that one alone.
 */
function wgslVariants(source: Kernel, subgroupSize: number | undefined): readonly KernelVariant[] {
  const make = (name: 'portable' | 'subgroups', size?: number): KernelVariant => {
    const subgroups = name === 'subgroups';
    const kernel = finishKernel(source, { subgroups, ...(size === undefined ? {} : { subgroupSize: size }) });
    const features = subgroups ? ['subgroups'] : [];
    return { name, features, ...(size === undefined ? {} : { subgroupSize: size }), kernel, text: emitWgsl(kernel), sharedBytes: sharedBytes(kernel) };
  };
  if (usesSubgroups(source)) return [make('subgroups', subgroupSize)];
  const stmts = [...walkStmts(source.body)];
  const broadcasts = stmts.some((s) => (s.k === 'tile.mainloop' || s.k === 'tile.product') && s.schedule.variant === 'fma' && s.schedule.staging === 'broadcast');
  const special = broadcasts ? subgroupSize : undefined;
  const gains = special !== undefined || stmts.some((s) => s.k === 'tile.reduce');
  return [...(gains ? [make('subgroups', special)] : []), make('portable')];
}

/** Whether a kernel has subgroup operations before any expansion. */
function usesSubgroups({ body }: Kernel): boolean {
  let found = false;
  visitExprs(body, (e) => {
    if (e.k === 'subgroup' || (e.k === 'builtin' && (e.id === 'lane' || e.id === 'subgroup' || e.id === 'subgroup.size'))) found = true;
  });
  return found;
}

/** One text: an architecture has all that its kernels use. All kernels of a package share one name space, so the index is in the name. */
function cudaVariants(source: Kernel, index: number, caps: Capabilities): readonly KernelVariant[] {
  const kernel = finishCuda({ ...source, name: `k${index}_${source.name}` }, caps);
  return [{ name: 'cuda', features: [], kernel, text: emitCuda(kernel), sharedBytes: launchBytes(kernel) }];
}

/**
 * @param index of the kernel among those of its program
 * @param subgroupSize of the devices that it is for, where they all have one
 */
export const compileKernel = (source: Kernel, index: number, caps: Capabilities, subgroupSize?: number): CompiledKernel => ({
  source,
  variants: caps.target === 'cuda' ? cudaVariants(source, index, caps) : wgslVariants(source, subgroupSize),
});

export interface KernelTable {
  readonly kernels: readonly CompiledKernel[];
  /** Index into `kernels`. */
  indexOf(kernel: Kernel): number;
}

/** Compiles the kernels of a program, which holds each distinct one once. */
export function compileKernels(program: Program, caps: Capabilities): KernelTable {
  const byKernel = new Map<Kernel, number>();
  const kernels: CompiledKernel[] = [];
  for (const section of program.sections) {
    for (const { device, steps } of section.buckets) {
      for (const { kernel } of steps) {
        if (byKernel.has(kernel)) continue;
        byKernel.set(kernel, kernels.length);
        kernels.push(compileKernel(kernel, kernels.length, caps, device?.subgroupSize));
      }
    }
  }
  return {
    kernels,
    indexOf(kernel) {
      const index = byKernel.get(kernel);
      if (index === undefined) throw new Error(`kernel ${kernel.name} is not of this program`);
      return index;
    },
  };
}
