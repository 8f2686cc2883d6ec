/** The emulator's part of the CUDA runtime: what hosts call. */
import { describe, expect, it } from 'vitest';
import { BUILDS, NEEDS_GCC, build, hasGcc, run } from './programs.ts';

const HELD = { status: 0, out: '', err: '' };

describe.skipIf(!hasGcc)(`the emulated CUDA runtime${NEEDS_GCC}`, () => {
  const program = (): string => build('runtime.cu', ['-O1', '-pthread']);

  it('replays graphs, times events, refuses bad launches and copies, takes calls from any thread', BUILDS, () => {
    expect(run(program(), ['all'])).toEqual(HELD);
  });
  it('is without a device where there shall be none', () => {
    expect(run(program(), ['devices'], { MOEC_EMULATE_DEVICES: '0' })).toEqual(HELD);
  });
  it('runs out of memory at its limit', () => {
    expect(run(program(), ['memory'], { MOEC_EMULATE_MEMORY: '1000000' })).toEqual(HELD);
  });
});

describe.skipIf(!hasGcc)(`the emulator under sanitizers${NEEDS_GCC}`, () => {
  const program = (): string => build('runtime.cu', ['-O1', '-g', '-pthread', '-fsanitize=address,alignment', '-fno-sanitize-recover=alignment']);
  const environment = { ASAN_OPTIONS: 'detect_leaks=0' };

  it('finds nothing where there is nothing', BUILDS, () => {
    expect(run(program(), ['all'], environment)).toEqual(HELD);
  });
  it('finds a load past an allocation, with its kernel', () => {
    const { status, err } = run(program(), ['read-beyond'], environment);
    expect(status).not.toBe(0);
    expect(err).toMatch(/heap-buffer-overflow[\s\S]*read_kernel[\s\S]*runtime\.cu/);
  });
  it('finds a load past the shared memory of a launch', () => {
    const { status, err } = run(program(), ['read-beyond-shared'], environment);
    expect(status).not.toBe(0);
    expect(err).toMatch(/use-after-poison[\s\S]*beyond_shared_kernel/);
  });
  it('finds a misaligned load', () => {
    const { status, err } = run(program(), ['read-misaligned'], environment);
    expect(status).not.toBe(0);
    expect(err).toMatch(/runtime\.cu:\d+:\d+: runtime error: .*misaligned address 0x[0-9a-f]+.*which requires 16 byte alignment/);
  });
});
