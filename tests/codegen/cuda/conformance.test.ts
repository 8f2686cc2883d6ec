/** Each function of the CUDA prelude against its definition, under the emulator. The same program runs on a GPU when there is one. */
import { readFileSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { BUILDS, CUDA_FOLDER, NEEDS_GCC, NEEDS_NVCC, SETTINGS, build, compileForDevices, hasGcc, hasNvcc, run } from './programs.ts';

/** All texts of a folder whose names begin so. */
const texts = (dir: string, prefix: string): string =>
  readdirSync(dir).filter((f) => f.startsWith(prefix) && !f.endsWith('.ts')).map((f) => readFileSync(join(dir, f), 'utf8')).join('\n');

describe('the conformance program', () => {
  it('calls every function of the prelude', () => {
    const defined = [...texts(CUDA_FOLDER, 'prelude').matchAll(/MOEC_INLINE \w+ (moec_\w+)\(|MOEC_(?:MAP[123]|CONVERT)\((moec_\w+)/g)].map((m) => m[1] ?? m[2] ?? '');
    const called = new Set(texts(import.meta.dirname, 'conformance').match(/\bmoec_\w+/g));
    // Parts of others: the wait of an mbarrier, one lane of exp2.
    const parts = ['moec_mbarrier_try_wait', 'moec_exp2_lane'];
    expect(defined.length).toBeGreaterThan(60);
    expect(defined.filter((name) => !called.has(name) && !parts.includes(name))).toEqual([]);
  });
});

describe.skipIf(!hasGcc)(`the CUDA prelude under the emulator${NEEDS_GCC}`, () => {
  it('computes what each function says, in every order', BUILDS, () => {
    const program = build('conformance.cu', ['-Og']);
    for (const setting of SETTINGS) {
      const { status, out, err } = run(program, [], setting);
      const lines = out.trim().split('\n');
      expect({ status, err, wrong: lines.filter((l) => !l.endsWith(' ok')) }, JSON.stringify(setting)).toEqual({ status: 0, err: '', wrong: ['0 failures'] });
      expect(lines.length).toBeGreaterThan(140);
    }
  });

  it('leaves out what the device lacks', BUILDS, () => {
    const { status, out } = run(build('conformance.cu', ['-Og']), [], { MOEC_EMULATE_ARCH: '80' });
    expect(status).toBe(0);
    expect(out).toContain('mma_m16n8k16_bf16');
    expect(out).not.toContain('wgmma');
    expect(out).toContain('the instructions of sm_90a are skipped: this device has compute capability 8');
  });
});

describe.skipIf(!hasNvcc)(`the CUDA prelude for devices${NEEDS_NVCC}`, () => {
  it('compiles for sm_80 and sm_90a without a warning', BUILDS, () => {
    expect(compileForDevices('conformance.cu')).toBe('');
  });
});
