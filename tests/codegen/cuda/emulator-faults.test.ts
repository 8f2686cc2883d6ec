/**
 * Kernels with the mistakes that pipelined kernels have: each must be found in some order of threads, by a message or by a wrong
 * result, and the kernels without a mistake must be right in all of them.
 */
import { describe, expect, it } from 'vitest';
import { BUILDS, NEEDS_GCC, SETTINGS, build, hasGcc, run } from './programs.ts';

/** `wrong`: only the result tells. Otherwise a message that at least one order gives. */
type Found = 'wrong' | RegExp;

const MISTAKES: Readonly<Record<'mma' | 'wgmma' | 'reduce', Readonly<Record<string, Found>>>> = {
  mma: {
    'no-barrier': 'wrong',
    'load-before-barrier': /ldmatrix: reads shared offset \d+, which a copy in flight will write/,
    'wait-for-one-group-less': /ldmatrix: reads shared offset \d+, which a copy in flight will write/,
    'no-commit-without-load': /ldmatrix: reads shared offset \d+, which a copy in flight will write/,
    'misaligned-copy': /cp\.async: shared offset \d+ is not aligned to 16 bytes/,
    'lane-skips-product': /diverged warp: lane 31 is in ldmatrix, others in mma\.sync/,
    'too-little-shared': /is not in the 11456 bytes of shared memory of this launch/,
  },
  wgmma: {
    'no-empty-wait': /mbarrier\.arrive: the mbarrier at shared offset \d+ has had all 129 arrivals of this phase/,
    'early-release': /writes shared offset \d+, which a product in flight will read/,
    'expect-too-little': /deadlock: no thread can run/,
    'expect-too-much': /deadlock: no thread can run/,
    'no-swizzle': 'wrong',
    'wrong-advance': 'wrong',
    'arrive-before-copies': /wgmma: reads shared offset \d+, which a copy in flight will write/,
    'no-full-wait': /wgmma: reads shared offset \d+, which a copy in flight will write/,
    'no-product-wait': /writes shared offset \d+, which a product in flight will read/,
    'read-before-wait': 'wrong',
    'no-proxy-fence': /wgmma: reads shared offset \d+, written by thread \d+ without fence\.proxy\.async/,
    'stores-without-fence': /wgmma: reads shared offset \d+, stored to without fence\.proxy\.async/,
    'no-product-fence': /wgmma: no wgmma\.fence since its registers may have been touched/,
    'no-init-fence': /TMA load: the mbarrier at shared offset \d+ was made without its fence/,
    'no-product-commit': /writes shared offset \d+, which a product in flight will read/,
    'wrong-parity': /deadlock: no thread can run/,
    'misaligned-stage': /TMA load: shared offset \d+ is not aligned to 1024 bytes/,
    'arrive-twice': /has had all 129 arrivals of this phase/,
    'descriptors-differ': /wgmma: thread 77 of the warpgroup has other descriptors than thread 0/,
    'copy-left-behind': /the block ends while 1 copies are in flight/,
    'barrier-overwritten': /the mbarrier at shared offset \d+ was overwritten/,
  },
  reduce: {
    'no-barrier-before': 'wrong',
    'no-barrier-after': 'wrong',
    'divergent-barrier': /barrier 0: lanes of warp 0 wait at lines \d+ and \d+/,
    'barrier-counts-differ': /barrier 1: one thread expects \d+ threads, another \d+/,
    'half-warp-exits': /lane \d+ exits while its warp waits for it in a shuffle/,
    'store-beyond-shared': /shared memory: a store at offset 28, beyond the 16 bytes of this launch/,
    'store-beyond-memory': /kernel reduce stored \d+ bytes past an allocation of 1024 bytes/,
    'spin-wait': /a thread polls memory without end/,
    'too-many-registers': /setmaxnreg: the warpgroups take \d+ registers, there are 65536/,
  },
};

describe.skipIf(!hasGcc)(`the emulator of CUDA${NEEDS_GCC}`, () => {
  const program = (): string => build('faults.cu', ['-O1']);

  it.each([['mma', 'none'], ['wgmma', 'none'], ['wgmma', 'plain-stores'], ['reduce', 'none']])('finds nothing in %s, %s', BUILDS, (kernel, bug) => {
    for (const setting of [...SETTINGS, { MOEC_EMULATE_ORDER: 'step', MOEC_EMULATE_LATE: '1' }, { MOEC_EMULATE_ORDER: 'rand:99', MOEC_EMULATE_LATE: '1' }]) {
      expect(run(program(), [kernel, bug], setting), JSON.stringify(setting)).toEqual({ status: 0, out: 'right\n', err: '' });
    }
  });

  const rows = Object.entries(MISTAKES).flatMap(([kernel, bugs]) => Object.entries(bugs).map(([bug, found]) => ({ kernel, bug, found })));
  it.each(rows)('finds $bug in $kernel', ({ kernel, bug, found }) => {
    const ran = SETTINGS.map((setting) => run(program(), [kernel, bug], setting));
    // Nothing else than a right result, a wrong one, or a fault.
    for (const { status, out, err } of ran) {
      if (status === null) expect(err).toMatch(/^moec emulator: /);
      else expect(out).toBe(status === 0 ? 'right\n' : 'wrong\n');
    }
    if (found === 'wrong') expect(ran.some((r) => r.out === 'wrong\n')).toBe(true);
    else expect(ran.map((r) => r.err).join('\n')).toMatch(found);
  });

  it('says where a deadlock stands', () => {
    const { status, err } = run(program(), ['wgmma', 'expect-too-much']);
    expect(status).toBe(null);
    expect(err).toMatch(/in kernel wgmma_tile, block \(0, 0, 0\)\n {2}threads 0\.\.127: wait for the mbarrier at shared offset \d+\n {2}threads 128\.\.255: wait for/);
  });

  it('refuses an order that it does not know', () => {
    const { status, err } = run(program(), ['mma', 'none'], { MOEC_EMULATE_ORDER: 'random' });
    expect(status).toBe(null);
    expect(err).toContain('MOEC_EMULATE_ORDER=random: want fwd, rev, rand, rand:<seed> or step');
  });
});
