/** Translation units around the kernels of a program. */
import { execFileSync, spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { cudaFiles } from '../../../src/cli/runtime-files.ts';
import { cudaModule, type ModuleKernel } from '../../../src/codegen/cuda/module.ts';
import { compileSpec } from '../../../src/driver/compile.ts';
import { CUDA_ARCHITECTURES } from '../../../src/driver/profiles.ts';
import * as b from '../../../src/ir/kernel/build.ts';
import type { Kernel } from '../../../src/ir/kernel/types.ts';
import { compileFlags } from '../../../src/runtime/node/cuda-flags.ts';
import { layerOf } from '../../conformance/cases.ts';
import { LAYER_CASES } from '../../lower/specs.ts';

const kernel = (name: string, size: number, extra: Partial<Kernel> = {}): ModuleKernel => ({
  kernel: { name, family: 'test', params: [], scalars: [], block: 64, body: [], schedule: {}, ...extra },
  file: `kernels/${name}.cuh`,
  text: '/'.repeat(size),
});

describe('a module', () => {
  it('lists every kernel with what its launch needs', () => {
    const shared = b.buffer('s', 'shared', 'f32', 4, 8);
    const weight = b.buffer('w', 'global', 'bf16', 4);
    const tiles = kernel('k1_tiles', 10, {
      params: [b.buffer('x', 'global', 'f32', 4), weight], block: 384, body: [b.alloc(shared)],
      tensorMaps: [{ name: 'w_map', param: 'w', rows: 4096, cols: 2048, boxRows: 128 }],
    });
    const { parts, module, texts } = cudaModule([kernel('k0_norm', 10), tiles]);
    expect(parts).toEqual(['part0.cu']);
    expect(texts.get('part0.cu')).toMatchInlineSnapshot(`
      "#include "prelude.cuh"
      #include "kernel_table.cuh"
      #include "kernels/k0_norm.cuh"
      #include "kernels/k1_tiles.cuh"

      MOEC_PART(0,
        MOEC_KERNEL(k0_norm, "k0_norm", 64, 0),
        MOEC_KERNEL(k1_tiles, "k1_tiles", 384, 128, MOEC_MAP(1, 4096, 2048, 128, MOEC_BF16)))
      "
    `);
    expect(texts.get(module)).toMatchInlineSnapshot(`
      "#include "prelude.cuh"
      #include "kernel_table.cuh"

      MOEC_DECLARE_PART(0)
      MOEC_MODULE(MOEC_PART_ROW(0))

      #include "host.cuh"
      "
    `);
  });

  it('refuses a tensor map of what is no 16-bit matrix', () => {
    const map = { name: 'x_map', param: 'x', rows: 1, cols: 64, boxRows: 1 };
    expect(() => cudaModule([kernel('k', 1, { params: [b.buffer('x', 'global', 'f32', 4)], tensorMaps: [map] })])).toThrow(/no matrix of 16-bit elements/);
  });

  it('has one part for a small program and a few of about one size for a large one', () => {
    const many = Array.from({ length: 40 }, (_, i) => kernel(`k${i}`, 1000 + ((i * 7919) % 30_000)));
    const { parts, texts } = cudaModule(many);
    expect(parts).toHaveLength(4);
    const sizeOf = (part: string): number =>
      [...(texts.get(part) ?? '').matchAll(/kernels\/(k\d+)\.cuh/g)].reduce((n, [, name]) => n + (many.find((k) => k.kernel.name === name)?.text.length ?? NaN), 0);
    const sizes = parts.map(sizeOf);
    expect(sizes.reduce((x, y) => x + y)).toBe(many.reduce((n, k) => n + k.text.length, 0));
    expect(Math.max(...sizes)).toBeLessThan(1.1 * Math.min(...sizes));
    expect(cudaModule([...many]).texts).toEqual(texts);
    expect(cudaModule([]).parts).toHaveLength(1);
  });
});

/** Of 16-bit weights, so that both architectures use their tensor cores. */
const HALF = 'layer half {\n  hidden 256\n  dtype bf16\n  moe { experts 8 of swiglu 128  active 2  router softmax top-k }\n}\n';
const hasNvcc = spawnSync('nvcc', ['--version']).status === 0;

describe.skipIf(!hasNvcc)('nvcc takes', () => {
  const cases = CUDA_ARCHITECTURES.flatMap((caps) => [
    ['16-bit weights', caps, layerOf(HALF, 'half.moe')] as const,
    ...(caps.profile === 'sm_80' ? [['routing with groups', caps, LAYER_CASES['deepseek_v3_sigmoid_bias_group']] as const] : []),
  ]);
  it.each(cases.map(([name, caps, spec]) => [name, caps.profile, caps, spec] as const))('%s for %s', { timeout: 300_000 }, (_name, _profile, caps, spec) => {
    if (spec === undefined) throw new Error('no spec');
    const { manifest, texts } = compileSpec(spec, { caps });
    const arch = manifest.cuda?.arch ?? 'sm_80';
    const dir = mkdtempSync(join(tmpdir(), 'moec-nvcc-'));
    try {
      for (const [path, text] of [...texts, ...[...cudaFiles()].map(([f, t]): [string, string] => [`cuda/${f}`, t])]) {
        mkdirSync(dirname(join(dir, path)), { recursive: true });
        writeFileSync(join(dir, path), text);
      }
      for (const part of manifest.cuda?.parts ?? []) {
        // Warnings are told on stderr; kernels give none.
        const flags = [...compileFlags({ arch, emulate: false }).filter((f, i, all) => f !== '-v' && !(f === '-Xptxas' && all[i + 1] === '-v'))];
        execFileSync('nvcc', [...flags, '-Werror', 'all-warnings', '-I', 'cuda', '-c', part, '-o', 'part.o'], { cwd: dir, stdio: ['ignore', 'pipe', 'pipe'] });
      }
    } finally {
      rmSync(dir, { recursive: true, force: true });
    }
  });
});
