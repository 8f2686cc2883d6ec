/** What nvcc makes of the default kernels of sm_90a for the layers of known models: registers without spills, products that overlap. Needs no GPU. */
import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { emitCuda } from '../../../src/codegen/cuda/emit.ts';
import { finishCuda } from '../../../src/codegen/cuda/pipeline.ts';
import type { Kernel } from '../../../src/ir/kernel/types.ts';
import { groupedLinear } from '../../../src/kernels/index.ts';
import type { GroupedProblem } from '../../../src/kernels/index.ts';
import { compileFlags } from '../../../src/runtime/node/cuda-flags.ts';
import { CUDA_SM90A } from '../../../src/target/cuda.ts';
import { BUILDS, CUDA_FOLDER, NEEDS_NVCC, hasNvcc } from './programs.ts';

interface Layer {
  readonly hidden: number;
  readonly inner: number;
  readonly experts: number;
  readonly slots: number;
  /** Width of the shared experts together. */
  readonly shared?: number;
}

const LAYERS: Readonly<Record<string, Layer>> = {
  'DeepSeekMoE 16B': { hidden: 2048, inner: 1408, experts: 64, slots: 6, shared: 2816 },
  OLMoE: { hidden: 2048, inner: 1024, experts: 64, slots: 8 },
  'Qwen3 30B A3B': { hidden: 2048, inner: 768, experts: 128, slots: 8 },
  'Mixtral 8x7B': { hidden: 4096, inner: 14336, experts: 8, slots: 2 },
  'DeepSeek-V3': { hidden: 7168, inner: 2048, experts: 256, slots: 8, shared: 2048 },
};

/** Gate and up, and down, over tiles of `rows` rows; with the shared experts in the same grid where there are any. */
function kernels({ hidden, inner, experts, slots, shared }: Layer, rows: number): readonly Kernel[] {
  const form = {
    experts, slots, mode: 'sorted', tileRows: rows, weightElem: 'bf16', xElem: 'bf16', yElem: 'bf16', routeWeights: false, combine: false, scale: 1, residual: false,
  } as const;
  const beside = { weightElem: 'bf16', yElem: 'bf16', gate: false } as const;
  const up: GroupedProblem = {
    ...form, n: inner, k: hidden, gather: true, epilogue: { kind: 'glu', activation: 'silu' },
    ...(shared === undefined ? {} : { shared: { ...beside, n: shared, k: hidden, ownX: false } }),
  };
  const down: GroupedProblem = {
    ...form, n: hidden, k: inner, gather: false, epilogue: { kind: 'none' },
    ...(shared === undefined ? {} : { shared: { ...beside, n: hidden, k: shared, ownX: true, xElem: 'bf16' } }),
  };
  return [up, down].map((p, i) => finishCuda({ ...groupedLinear(p, undefined, CUDA_SM90A).kernel, name: `k${i}_${rows}` }, CUDA_SM90A));
}

describe.skipIf(!hasNvcc)(`wgmma under nvcc${NEEDS_NVCC}`, () => {
  it.each(Object.entries(LAYERS))('%s', BUILDS, (_name, layer) => {
    const all = [128, 64].flatMap((rows) => kernels(layer, rows));
    for (const k of all) expect(k.schedule['variant']).toBe('wgmma');
    const dir = mkdtempSync(join(tmpdir(), 'moec-wgmma-'));
    try {
      const texts = all.map((k) => emitCuda(k).replace('#pragma once', ''));
      writeFileSync(join(dir, 'all.cu'), ['#include "prelude.cuh"', ...texts].join('\n'));
      const flags = compileFlags({ arch: 'sm_90a', emulate: false });
      const { status, stderr } = spawnSync('nvcc', [...flags, '-I', CUDA_FOLDER, '-c', '-o', join(dir, 'all.o'), join(dir, 'all.cu')], { encoding: 'utf8' });
      expect(status, stderr).toBe(0);
      expect(stderr.match(/0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads/g)?.length, stderr).toBe(all.length);
      // Such as: wgmma.mma_async instructions are serialized.
      expect(stderr).not.toMatch(/warning|serialized/i);
    } finally {
      rmSync(dir, { recursive: true, force: true });
    }
  });
});
