/** What compiling may cost: a budget for the largest example, and no growth with layers that are alike. Measured in cold processes. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import { compileCost } from '../../bench/measure.ts';
import { build, EXAMPLES, ROOT } from '../cli/moec.ts';

const DIST = join(ROOT, 'dist');
/** Several times what an idle machine of two cores needs: tests run beside each other. */
const MAX_CPU_MS = 3000;
const MAX_RSS_MIB = 300;

const stack = (layers: number): string => `
model stack {
  vocab 1000  hidden 512  context 4096  depth ${layers}
  norm rms 1e-5
  attention gqa { heads 8 x 64  kv 2  rope 10000 }
  moe { experts 16 of swiglu 256  active 2  router softmax top-k }
}`;

beforeAll(build);

describe('compiling', () => {
  it('takes DeepSeek-V3 within its budget of time and memory', () => {
    const cost = compileCost(DIST, readFileSync(join(EXAMPLES, 'deepseek-v3.moe'), 'utf8'), 2);
    expect(cost.layers).toBe(61);
    expect(cost.cpuMs).toBeLessThan(MAX_CPU_MS);
    expect(cost.rssMiB).toBeLessThan(MAX_RSS_MIB);
  });

  it('costs no more for 64 equal layers than for 4', () => {
    const few = compileCost(DIST, stack(4), 3);
    const many = compileCost(DIST, stack(64), 3);
    expect([few.layers, many.layers]).toEqual([4, 64]);
    expect([many.sections, many.kernels]).toEqual([few.sections, few.kernels]);
    // A layer more is an entry of the sequence.
    expect(many.manifestBytes - few.manifestBytes).toBeLessThan(60 * 40);
    expect(many.cpuMs / few.cpuMs).toBeLessThan(1.5);
  });
});
