/** Finished kernels on a WebGPU device: the text is accepted, barriers are where WGSL allows them, and the numbers agree. */
import { describe, expect, it } from 'vitest';
import * as b from '../../../src/ir/kernel/build.ts';
import { interpret } from '../../../src/ir/kernel/interpret.ts';
import type { ReduceOp } from '../../../src/ir/kernel/types.ts';
import { emitWgsl } from '../../../src/codegen/wgsl/emit.ts';
import { finishKernel } from '../../../src/passes/kernel/pipeline.ts';
import { runOnDawn, subgroupSize } from '../../conformance/dawn.ts';
import { global, kernel, matmul, matmulGrid } from '../../ir/kernel/samples.ts';
import type { MatmulShape } from '../../ir/kernel/samples.ts';

const base: Omit<MatmulShape, 'schedule'> = { m: 5, n: 7, k: 20, rows: 4, cols: 4, block: 8, aLanes: 4, bLanes: 4, count: 2, gather: true };
const wave = (n: number, seed: number): Float32Array => Float32Array.from({ length: n }, (_, i) => Math.sin(i * 1.7 + seed));

describe('on a device', () => {
  it.each(['register', 'shared'] as const)('a staged main loop, %s', async (staging) => {
    const s: MatmulShape = { ...base, schedule: { staging, tm: 2, tn: 1, bk: 8 } };
    const k = finishKernel(matmul(s), { subgroups: false });
    const make = (): Record<string, Float32Array | Uint32Array> => ({
      a: wave(100, 1), w: wave(280, 2), rows: Uint32Array.of(4, 2, 0, 1, 3), y: new Float32Array(35),
    });
    const here = make();
    const there = make();
    const launch = { grid: matmulGrid(s), scalars: { T: s.m } };
    interpret(k, { ...launch, memory: here });
    await runOnDawn(k, { ...launch, memory: there });
    const want = Array.from(here['y'] ?? []);
    Array.from(there['y'] ?? []).forEach((v, i) => expect(Math.abs(v - (want[i] ?? NaN))).toBeLessThan(1e-4));
  });

  it('a main loop that hands rows round, with the bits of the one that does not', async () => {
    const size = await subgroupSize();
    if (size === undefined) return;
    for (const [k, count] of [[20, 2], [67, 1]] as const) {
      const s: MatmulShape = {
        ...base, k, count, n: 2 * size - 1, rows: 8, cols: 2 * size, block: 2 * size, aLanes: 1, bLanes: k % 4 === 0 ? 4 : 1,
        schedule: { staging: 'broadcast', tm: 4, tn: 2, bk: 8 },
      };
      const make = (): Record<string, Float32Array | Uint32Array> => ({
        a: wave(5 * k, 1), w: wave(count * s.n * k, 2), rows: Uint32Array.of(4, 2, 0, 1, 3), y: new Float32Array(5 * s.n),
      });
      const launch = { grid: matmulGrid(s), scalars: { T: s.m } };
      const [shared, twin] = [make(), make()];
      const broadcasts = finishKernel(matmul(s), { subgroups: true, subgroupSize: size });
      expect(emitWgsl(broadcasts)).toMatch(/subgroupBroadcast\(.*, 1u\)/);
      await runOnDawn(broadcasts, { ...launch, memory: shared });
      await runOnDawn(finishKernel(matmul(s), { subgroups: false }), { ...launch, memory: twin });
      expect(shared['y']).toEqual(twin['y']);
    }
  });

  it.each([false, true])('reductions, subgroups: %s', async (subgroups) => {
    for (const block of [5, 64]) {
      for (const op of ['add', 'max', 'min'] as readonly ReduceOp[]) {
        const x = global('x', 'u32');
        const y = global('y', 'u32');
        const one = b.variable('one');
        const k = finishKernel(kernel([x, y], [
          b.reduce('one', op, b.load(x, b.thread)),
          b.reduce('two', 'add', b.add(one, b.thread)),
          b.store(y, b.thread, b.add(b.mul(one, b.u32(1000)), b.variable('two'))),
        ], { block }), { subgroups });
        const memory = { x: Uint32Array.from({ length: block }, (_, i) => 3 + ((i * 7) % 11)), y: new Uint32Array(block) };
        const here = { ...memory, y: new Uint32Array(block) };
        interpret(k, { grid: [1, 1, 1], memory: here });
        await runOnDawn(k, { grid: [1, 1, 1], memory });
        expect(memory.y).toEqual(here.y);
      }
    }
  });
});
