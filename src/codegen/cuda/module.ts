/**
 * A program's kernels as translation units: some parts that compile side by side, each with a table of its kernels, and the
 * module that lists the parts and holds the host's side.
 */
import type { Kernel } from '../../ir/kernel/types.ts';
import { launchBytes } from './layout.ts';

/** Where all CUDA texts of a program lie. */
export const CUDA_DIRECTORY = 'cuda';

/** More text than this goes into several parts: a compiler takes some seconds over it. */
const PART_CHARACTERS = 60_000;
const MAX_PARTS = 4;

export interface ModuleKernel {
  /** Finished: simt level, its name unique in the program. */
  readonly kernel: Kernel;
  /** Path inside the directory. */
  readonly file: string;
  readonly text: string;
}

export interface CudaModule {
  /** Paths inside the directory. */
  readonly parts: readonly string[];
  readonly module: string;
  readonly texts: ReadonlyMap<string, string>;
}

/** Parts of about equal size: the longest text first, each to the part that is shortest so far; in a part, in the program's order. */
function split(kernels: readonly ModuleKernel[]): ModuleKernel[][] {
  const total = kernels.reduce((n, k) => n + k.text.length, 0);
  const count = Math.max(1, Math.min(MAX_PARTS, kernels.length, Math.ceil(total / PART_CHARACTERS)));
  const parts = Array.from({ length: count }, (): { kernels: ModuleKernel[]; size: number } => ({ kernels: [], size: 0 }));
  for (const k of [...kernels].sort((a, b) => b.text.length - a.text.length)) {
    const shortest = parts.reduce((best, p) => (p.size < best.size ? p : best));
    shortest.kernels.push(k);
    shortest.size += k.text.length;
  }
  const order = new Map(kernels.map((k, i) => [k, i]));
  return parts.map((p) => p.kernels.sort((a, b) => (order.get(a) ?? 0) - (order.get(b) ?? 0)));
}

/** Its launch, as the table tells it; the matrices that its tensor maps view are parameters. */
function row({ kernel }: ModuleKernel): string {
  const { name, block, params, tensorMaps = [] } = kernel;
  const maps = tensorMaps.map((m) => {
    const argument = params.findIndex((p) => p.name === m.param);
    const elem = params[argument]?.elem;
    if (elem !== 'f16' && elem !== 'bf16') throw new Error(`${name}: the tensor map ${m.name} views ${m.param}, which is no matrix of 16-bit elements`);
    return `, MOEC_MAP(${argument}, ${m.rows ?? 0}, ${m.cols}, ${m.boxRows}, MOEC_${elem.toUpperCase()})`;
  });
  return `  MOEC_KERNEL(${name}, "${name}", ${block}, ${launchBytes(kernel)}${maps.join('')})`;
}

const INCLUDES = ['#include "prelude.cuh"', '#include "kernel_table.cuh"'];

const partText = (index: number, kernels: readonly ModuleKernel[]): string =>
  [...INCLUDES, ...kernels.map((k) => `#include "${k.file}"`), '', `MOEC_PART(${index},`, `${kernels.map(row).join(',\n')})`, ''].join('\n');

function moduleText(parts: number): string {
  const each = Array.from({ length: parts }, (_, i) => i);
  const rows = each.map((i) => `MOEC_PART_ROW(${i})`).join(', ');
  return [...INCLUDES, '', ...each.map((i) => `MOEC_DECLARE_PART(${i})`), `MOEC_MODULE(${rows})`, '', '#include "host.cuh"', ''].join('\n');
}

export function cudaModule(kernels: readonly ModuleKernel[]): CudaModule {
  const parts = split(kernels);
  const names = parts.map((_, i) => `part${i}.cu`);
  const texts = new Map(parts.map((part, i) => [`part${i}.cu`, partText(i, part)]));
  texts.set('module.cu', moduleText(parts.length));
  return { parts: names, module: 'module.cu', texts };
}
