/** Finished kernels of a program with their WGSL, each distinct one once. */
import { emitWgsl } from '../codegen/wgsl/emit.ts';
import type { Kernel } from '../ir/kernel/types.ts';
import { walkStmts } from '../ir/kernel/walk.ts';
import type { Program } from '../lower/program.ts';
import { finishKernel } from '../passes/kernel/pipeline.ts';

export interface KernelVariant {
  /** `portable` needs no device feature. */
  readonly name: 'portable' | 'subgroups';
  readonly features: readonly string[];
  readonly kernel: Kernel;
  readonly text: string;
}

export interface CompiledKernel {
  /** As the families made it (tile level). */
  readonly source: Kernel;
  /** Best first; the last one is portable. */
  readonly variants: readonly KernelVariant[];
}

/** The portable text of a kernel and, where a reduction gains by it, one with subgroup operations. */
export function compileKernel(source: Kernel): CompiledKernel {
  const portable = finishKernel(source, { subgroups: false });
  const variants: KernelVariant[] = [{ name: 'portable', features: [], kernel: portable, text: emitWgsl(portable) }];
  if (walkStmts(source.body).some((s) => s.k === 'tile.reduce')) {
    const kernel = finishKernel(source, { subgroups: true });
    variants.unshift({ name: 'subgroups', features: ['subgroups'], kernel, text: emitWgsl(kernel) });
  }
  return { source, variants };
}

export interface KernelTable {
  readonly kernels: readonly CompiledKernel[];
  /** Index into `kernels`. */
  indexOf(kernel: Kernel): number;
}

/** Compiles the kernels of a program, which holds each distinct one once. */
export function compileKernels(program: Program): KernelTable {
  const byKernel = new Map<Kernel, number>();
  const kernels: CompiledKernel[] = [];
  for (const section of program.sections) {
    for (const bucket of section.buckets) {
      for (const { kernel } of bucket.steps) {
        if (byKernel.has(kernel)) continue;
        byKernel.set(kernel, kernels.length);
        kernels.push(compileKernel(kernel));
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
