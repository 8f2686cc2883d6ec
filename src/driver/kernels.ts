/** Finished kernels of a program with their texts in the target's language, each distinct one once. */
import { emitCuda } from '../codegen/cuda/emit.ts';
import { launchBytes } from '../codegen/cuda/layout.ts';
import { finishCuda } from '../codegen/cuda/pipeline.ts';
import { emitWgsl } from '../codegen/wgsl/emit.ts';
import { sharedBytes } from '../ir/kernel/cost.ts';
import type { Kernel } from '../ir/kernel/types.ts';
import { walkStmts } from '../ir/kernel/walk.ts';
import type { Program } from '../lower/program.ts';
import { finishKernel } from '../passes/kernel/pipeline.ts';
import type { Capabilities } from '../target/types.ts';

export interface KernelVariant {
  /** `portable` needs no device feature; `cuda` needs the architecture of the package. */
  readonly name: 'portable' | 'subgroups' | 'cuda';
  readonly features: readonly string[];
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

/** The portable text of a kernel and, where a reduction gains by it, one with subgroup operations. */
function wgslVariants(source: Kernel): readonly KernelVariant[] {
  const make = (name: 'portable' | 'subgroups', features: readonly string[]): KernelVariant => {
    const kernel = finishKernel(source, { subgroups: name === 'subgroups' });
    return { name, features, kernel, text: emitWgsl(kernel), sharedBytes: sharedBytes(kernel) };
  };
  const reduces = walkStmts(source.body).some((s) => s.k === 'tile.reduce');
  return [...(reduces ? [make('subgroups', ['subgroups'])] : []), make('portable', [])];
}

/** One text: an architecture has all that its kernels use. All kernels of a package share one name space, so the index is in the name. */
function cudaVariants(source: Kernel, index: number, caps: Capabilities): readonly KernelVariant[] {
  const kernel = finishCuda({ ...source, name: `k${index}_${source.name}` }, caps);
  return [{ name: 'cuda', features: [], kernel, text: emitCuda(kernel), sharedBytes: launchBytes(kernel) }];
}

/** @param index of the kernel among those of its program */
export const compileKernel = (source: Kernel, index: number, caps: Capabilities): CompiledKernel => ({
  source,
  variants: caps.target === 'cuda' ? cudaVariants(source, index, caps) : wgslVariants(source),
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
    for (const bucket of section.buckets) {
      for (const { kernel } of bucket.steps) {
        if (byKernel.has(kernel)) continue;
        byKernel.set(kernel, kernels.length);
        kernels.push(compileKernel(kernel, kernels.length, caps));
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
