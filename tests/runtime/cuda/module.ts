/** A small module of kernels by hand, built for the emulator, and the library it becomes. */
import { mkdtempSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createHash } from 'node:crypto';
import type { ManifestCuda, ManifestKernel } from '../../../src/runtime/core/abi.ts';
import { cudaSourcesText } from '../../../src/runtime/core/cuda-sources.ts';
import { type BuiltLibrary, buildInCache } from '../../../src/runtime/node/cuda-builder.ts';
import { CUDA_CACHE, sharedSources } from '../../conformance/cuda-sources.ts';

const FIRST_KERNELS = `#pragma once
__global__ void __launch_bounds__(64) scale(const float* __restrict__ x, float* __restrict__ y, const uint32_t* __restrict__ scalars) {
  const uint32_t i = blockIdx.x * 64u + threadIdx.x;
  if (i < scalars[0]) y[i] = x[i] * float(scalars[1]);
}

__global__ void __launch_bounds__(64) add(const float* __restrict__ x, float* __restrict__ y) {
  const uint32_t i = blockIdx.x * 64u + threadIdx.x;
  y[i] = y[i] + x[i];
}

// Takes its time, so that others can be seen to go on.
__global__ void __launch_bounds__(32) slow(float* __restrict__ y, const uint32_t* __restrict__ scalars) {
  float sum = y[threadIdx.x];
  for (uint32_t i = 0; i < scalars[0]; i++) sum = sum * 0.5f + 1.0f;
  y[threadIdx.x] = sum;
}
`;

const SECOND_KERNELS = `#pragma once
// More shared memory than a kernel gets without asking.
__global__ void __launch_bounds__(64) turn(const float* __restrict__ x, float* __restrict__ y) {
  float* buffer = reinterpret_cast<float*>(moec_smem + 65536);
  buffer[threadIdx.x] = x[threadIdx.x];
  __syncthreads();
  y[threadIdx.x] = buffer[63u - threadIdx.x];
}
`;

const HOPPER = `#pragma once
// A box of 64 rows and 64 columns of 16 bits by the copy engine; the columns of 16 bytes of a row are swizzled.
__global__ void __launch_bounds__(128) box(const uint16_t* __restrict__ x, float* __restrict__ y, const uint32_t* __restrict__ scalars, const __grid_constant__ CUtensorMap x_map) {
  uint64_t* bar = reinterpret_cast<uint64_t*>(moec_smem + 8192);
  if (threadIdx.x == 0u) {
    moec_mbarrier_init(bar, 1u);
    moec_mbarrier_init_fence();
  }
  __syncthreads();
  if (threadIdx.x == 0u) {
    moec_mbarrier_expect(bar, 8192u);
    moec_tma_load_2d(moec_smem, &x_map, bar, int32_t(scalars[0]), int32_t(scalars[1]));
  }
  moec_mbarrier_wait(bar, 0u);
  for (uint32_t i = threadIdx.x; i < 4096u; i += 128u) {
    const uint32_t row = i / 64u;
    const uint32_t column = i % 64u;
    const uint32_t at = row * 128u + (((column / 8u) ^ (row % 8u)) * 16u) + (column % 8u) * 2u;
    y[i] = moec_f32_of_bf16(*reinterpret_cast<const uint16_t*>(moec_smem + at));
  }
}
`;

/** Rows and columns of the matrix that `box` reads from; `box_of_all` takes as many rows as its memory holds. */
export const BOX = { rows: 96, columns: 128 } as const;

const INCLUDES = '#include "prelude.cuh"\n#include "kernel_table.cuh"\n';
const MODULE = `${INCLUDES}MOEC_DECLARE_PART(0)
MOEC_DECLARE_PART(1)
MOEC_MODULE(MOEC_PART_ROW(0), MOEC_PART_ROW(1))
#include "host.cuh"
`;
const FIRST = `${INCLUDES}#include "kernels/first.cuh"
MOEC_PART(0,
  MOEC_KERNEL(scale, "scale", 64, 0),
  MOEC_KERNEL(add, "add", 64, 0),
  MOEC_KERNEL(slow, "slow", 32, 0))
`;
const secondPart = (hopper: boolean): string => `${INCLUDES}#include "kernels/second.cuh"
${hopper ? '#include "kernels/hopper.cuh"\n' : ''}MOEC_PART(1,
  MOEC_KERNEL(turn, "turn", 64, 66048)${hopper ? `,\n  MOEC_KERNEL(box, "box", 128, 8208, MOEC_MAP(0, ${BOX.rows}, ${BOX.columns}, 64, MOEC_BF16)),
  MOEC_KERNEL(box, "box_of_all", 128, 8208, MOEC_MAP(0, 0, ${BOX.columns}, 64, MOEC_BF16))` : ''})
`;

export interface TestModule {
  readonly cuda: ManifestCuda;
  readonly files: ReadonlyMap<string, string>;
}

/** @param change made to the texts, by path */
export function testModule(arch: ManifestCuda['arch'], change: (path: string, text: string) => string = (_, text) => text): TestModule {
  const hopper = arch === 'sm_90a';
  const own: readonly (readonly [string, string])[] = [
    ...[...sharedSources()].map(([name, text]) => [`cuda/${name}`, text] as const),
    ['cuda/kernels/first.cuh', FIRST_KERNELS],
    ['cuda/kernels/second.cuh', SECOND_KERNELS],
    ['cuda/kernels/hopper.cuh', HOPPER],
    ['cuda/part0.cu', FIRST],
    ['cuda/part1.cu', secondPart(hopper)],
    ['cuda/module.cu', MODULE],
  ];
  const files = new Map(own.map(([path, text]) => [path, change(path, text)]));
  const sources = createHash('sha256').update(cudaSourcesText(files)).digest('hex');
  return { files, cuda: { arch, directory: 'cuda', parts: ['cuda/part0.cu', 'cuda/part1.cu'], module: 'cuda/module.cu', sources } };
}

/** The module built for the emulator, or found from an earlier run. */
export async function builtModule(arch: ManifestCuda['arch']): Promise<BuiltLibrary & { readonly directory: string; readonly cuda: ManifestCuda }> {
  const { cuda, files } = testModule(arch);
  return { ...(await buildInCache(files, CUDA_CACHE, { cuda, emulate: true })), cuda };
}

/** An empty folder. */
export const emptyFolder = (): string => mkdtempSync(join(tmpdir(), 'moec-cuda-'));

/** Kernels of the module as a manifest tells of them. */
export const kernelOf = (name: string, pointers: number, scalars: readonly string[]): ManifestKernel => ({
  name,
  family: name,
  block: 64,
  sharedBytes: 0,
  scalars,
  access: Array.from({ length: pointers }, () => 'read_write'),
  variants: [{ file: `cuda/kernels/${name}.cuh`, entry: name, requires: { features: [] } }],
});
