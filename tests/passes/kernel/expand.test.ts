import { describe, expect, it } from 'vitest';
import * as b from '../../../src/ir/kernel/build.ts';
import { interpret } from '../../../src/ir/kernel/interpret.ts';
import { fmaF32 } from '../../../src/ir/kernel/numerics.ts';
import { printKernel } from '../../../src/ir/kernel/print.ts';
import type { ReduceOp } from '../../../src/ir/kernel/types.ts';
import { walkStmts } from '../../../src/ir/kernel/walk.ts';
import { finishKernel } from '../../../src/passes/kernel/pipeline.ts';
import type { FinishOptions } from '../../../src/passes/kernel/pipeline.ts';
import { global, kernel, matmul, matmulGrid } from '../../ir/kernel/samples.ts';
import type { MatmulShape } from '../../ir/kernel/samples.ts';
import { expectEveryMutationCaught, simtMutations, survivors } from '../../ir/kernel/mutate.ts';
import type { MutationRun } from '../../ir/kernel/mutate.ts';

/** Small deterministic values with many different mantissas. */
const values = (n: number, seed: number): Float32Array => Float32Array.from({ length: n }, (_, i) => Math.sin(i * 12.9898 + seed) * 2);
const pad = (k: number, lanes: number): number => Math.ceil(k / lanes) * lanes;

function inputs(s: MatmulShape): { a: Float32Array; w: Float32Array; y: Float32Array; rows: Uint32Array } {
  return {
    a: values(s.m * pad(s.k, s.aLanes), 1),
    w: values(s.count * s.n * pad(s.k, s.bLanes), 2),
    y: new Float32Array(s.m * s.n).fill(NaN),
    rows: Uint32Array.from({ length: s.m }, (_, i) => s.m - 1 - i),
  };
}

/** The definition: ascending k, one fma after the other. */
function reference(s: MatmulShape, a: Float32Array, w: Float32Array, rows: Uint32Array): Float32Array {
  const at = (m: Float32Array, row: number, lanes: number, k: number): number => m[row * pad(s.k, lanes) + k] ?? NaN;
  return Float32Array.from({ length: s.m * s.n }, (_, i) => {
    const row = Math.floor(i / s.n);
    const col = i % s.n;
    let product = 1;
    for (let c = 0; c < s.count; c++) {
      let acc = 0;
      for (let k = 0; k < s.k; k++) {
        acc = fmaF32(at(a, s.gather === true ? (rows[row] ?? 0) : row, s.aLanes, k), at(w, c * s.n + col, s.bLanes, k), acc);
      }
      product = Math.fround(product * acc);
    }
    return product;
  });
}

const base: MatmulShape = {
  m: 5, n: 7, k: 12, rows: 4, cols: 4, block: 8, aLanes: 4, bLanes: 4, count: 1,
  schedule: { staging: 'register', tm: 2, tn: 1, bk: 4 },
};
const shared = (bk: number, tm = 2, tn = 1): MatmulShape['schedule'] => ({ staging: 'shared', tm, tn, bk });

const broadcast = (tm: number, tn: number): MatmulShape['schedule'] => ({ staging: 'broadcast', tm, tn, bk: 4 });
/** Subgroups of four threads. */
const FOUR = { subgroups: true, subgroupSize: 4 };

const BROADCASTS: readonly (readonly [string, MatmulShape])[] = [
  ['one subgroup', { ...base, aLanes: 1, cols: 4, block: 4, rows: 4, schedule: broadcast(4, 1) }],
  ['two subgroups with rows of their own, two columns a thread', { ...base, aLanes: 1, cols: 8, n: 9, schedule: broadcast(2, 2) }],
  ['two subgroups with the same rows', { ...base, aLanes: 1, cols: 8, n: 9, k: 8, schedule: broadcast(4, 1) }],
  ['tail of the depth below one round', { ...base, aLanes: 1, bLanes: 1, k: 3, block: 4, schedule: broadcast(4, 1) }],
  ['rounds, then a tail that lanes share unevenly', { ...base, aLanes: 1, bLanes: 2, k: 14, block: 4, schedule: broadcast(4, 1) }],
  ['whole accesses of a a lane', { ...base, aLanes: 4, bLanes: 4, k: 40, block: 4, schedule: broadcast(4, 1) }],
  ['accesses of b longer than a round', { ...base, aLanes: 1, bLanes: 4, k: 12, block: 2, cols: 2, schedule: broadcast(4, 1) }],
  ['two operands b, gathered rows', { ...base, aLanes: 1, count: 2, gather: true, block: 4, k: 20, schedule: broadcast(4, 1) }],
];

const SHAPES: readonly (readonly [string, MatmulShape])[] = [
  ['registers', base],
  ['registers, one row', { ...base, m: 1, n: 3, rows: 1, cols: 8, schedule: { staging: 'register', tm: 1, tn: 1, bk: 4 } }],
  ['registers, scalar', { ...base, aLanes: 1, bLanes: 1, k: 5 }],
  ['registers, different lanes', { ...base, aLanes: 1, bLanes: 4 }],
  ['registers, tail of the depth', { ...base, k: 14, aLanes: 2, bLanes: 4 }],
  ['registers, depth below one access', { ...base, k: 3 }],
  ['registers, two operands b, gathered rows', { ...base, count: 2, gather: true }],
  ['registers, threads to spare', { ...base, block: 13 }],
  ['registers, 4 x 2 per thread', { ...base, rows: 8, cols: 8, block: 8, schedule: { staging: 'register', tm: 4, tn: 2, bk: 4 } }],
  ['shared', { ...base, schedule: shared(4) }],
  ['shared, whole depth in one slice', { ...base, schedule: shared(16) }],
  ['shared, tail slice', { ...base, k: 20, schedule: shared(8) }],
  ['shared, tail inside an access', { ...base, k: 14, schedule: shared(8) }],
  ['shared, different lanes', { ...base, aLanes: 4, bLanes: 2, k: 22, schedule: shared(8) }],
  ['shared, two operands b, gathered rows', { ...base, count: 2, gather: true, schedule: shared(8) }],
  ['shared, threads to spare', { ...base, block: 13, schedule: shared(4) }],
  ['shared, more copies than threads', { ...base, rows: 8, cols: 8, k: 40, block: 16, schedule: shared(16, 2, 2) }],
  ['shared, scalar', { ...base, aLanes: 1, bLanes: 1, k: 9, schedule: shared(4) }],
];

describe('tile.mainloop', () => {
  const cases = [
    ...SHAPES.map(([name, s]) => ({ name, s, options: { subgroups: false } as FinishOptions })),
    ...BROADCASTS.map(([name, s]) => ({ name: `broadcasts, ${name}`, s, options: { ...FOUR, subgroupSize: Math.min(4, s.cols) } })),
  ];
  for (const { name, s, options } of cases) {
    const finished = finishKernel(matmul(s), options);
    const { subgroupSize } = options;

    it(`${name}: the bits of the definition`, () => {
      const memory = inputs(s);
      const { unwritten } = interpret(finished, { grid: matmulGrid(s), scalars: { T: s.m }, memory, poison: ['y'], ...(subgroupSize !== undefined && { subgroupSize }) });
      expect(unwritten['y']).toEqual([]);
      expect(memory.y).toEqual(reference(s, memory.a, memory.w, memory.rows));
    });

    it(`${name}: every barrier, guard and bound matters`, () => {
      const runs = [1, 2, 3, 4, 5].map((m): MutationRun => {
        const part = { ...s, m };
        const [x, y] = matmulGrid(part);
        // Blocks beyond the last row and column: guards must turn them away.
        return { grid: [x + 1, y + 1, 1], scalars: { T: m }, memory: () => inputs(part), poison: ['y'], ...(subgroupSize !== undefined && { subgroupSize }) };
      });
      expectEveryMutationCaught(matmul(s), runs, options);
      // The loops over the depth, and the lanes that hand values round, as the expansion wrote them.
      const own = simtMutations(finished).filter((m) => (m.kind === 'loop' && / in 0 /.test(m.what)) || m.kind === 'lane' || (m.kind === 'bound' && /lane </.test(m.what)));
      if (s.schedule.staging === 'broadcast') expect(own.some((m) => m.kind === 'lane')).toBe(true);
      expect(survivors(finished, own, runs).map((m) => m.what)).toEqual([]);
    });
  }

  it('broadcasts only where all threads have a piece and subgroups share rows; else it is the form of registers', () => {
    const text = (s: MatmulShape, options: FinishOptions): string => printKernel(finishKernel(matmul(s), options));
    const s: MatmulShape = { ...base, aLanes: 1, block: 8, cols: 8, rows: 2, schedule: broadcast(2, 1) };
    const twin: MatmulShape = { ...s, schedule: { ...s.schedule, staging: 'register' } };
    const plain = text(twin, { subgroups: false });
    expect(text(s, FOUR)).toMatch(/broadcast/);
    expect(text(s, { subgroups: true, subgroupSize: 8 })).toMatch(/broadcast/);
    for (const options of [{ subgroups: false }, { subgroups: true }, { subgroups: false, subgroupSize: 4 }, { subgroups: true, subgroupSize: 16 }])
      expect(text(s, options)).toBe(plain);
    const spare = { ...s, block: 12 };
    expect(text(spare, FOUR)).toBe(text({ ...spare, schedule: twin.schedule }, FOUR));
  });

  it('reads packed halves through f32', () => {
    const s: MatmulShape = { ...base, elem: 'f16' };
    const { a, y, rows } = inputs(s);
    const w = Uint16Array.from({ length: s.n * 12 }, (_, i) => 0x3c00 + i);
    interpret(finishKernel(matmul(s), { subgroups: false }), { grid: matmulGrid(s), scalars: { T: s.m }, memory: { a, w, y } });
    const wide = Float32Array.from(w, (bits) => 1 + (bits - 0x3c00) / 1024);
    expect(y).toEqual(reference(s, a, wide, rows));
  });

  it('multiplies d = 64, T = 16, E = 16 in well under a second', () => {
    const s: MatmulShape = { ...base, m: 64, n: 256, k: 64, rows: 8, cols: 32, block: 64, schedule: { staging: 'register', tm: 2, tn: 2, bk: 4 } };
    const finished = finishKernel(matmul(s), { subgroups: false });
    const memory = inputs(s);
    const start = performance.now();
    interpret(finished, { grid: matmulGrid(s), scalars: { T: s.m }, memory, poison: ['y'] });
    expect(performance.now() - start).toBeLessThan(700);
  });

  it('refuses what does not fit', () => {
    const bad = (s: Partial<MatmulShape>): (() => unknown) => () => finishKernel(matmul({ ...base, ...s }), { subgroups: false });
    expect(bad({ block: 4 })).toThrow(/more pieces than threads/);
    expect(bad({ schedule: { staging: 'register', tm: 3, tn: 1, bk: 4 } })).toThrow(/do not divide the tile/);
    expect(bad({ schedule: shared(6) })).toThrow(/no whole number of accesses/);
  });

  it('prints as one would write it', () => {
    expect(printKernel(finishKernel(matmul({ ...base, m: 8, n: 8 }), { subgroups: false }))).toMatchInlineSnapshot(`
      "kernel k // test
        block 8, scalars T
        param a: f32x4 global read
        param w: f32x4 global read
        param y: f32 global write
      {
        let acc_row: u32 = (thread / 4) * 2
        let acc_col: u32 = thread % 4
        var acc0_0_0: f32 = 0.0
        var acc0_1_0: f32 = 0.0
        let a_in: bool = ((block.y * 4) + acc_row) < %T
        let a_at: u32 = ((block.y * 4) + acc_row) * 3
        let a_in_2: bool = (((block.y * 4) + acc_row) + 1) < %T
        let a_at_2: u32 = (((block.y * 4) + acc_row) + 1) * 3
        let w_in: bool = ((block.x * 4) + acc_col) < 8
        let w_at: u32 = ((block.x * 4) + acc_col) * 3
        for k in 0 .. 3 step 1 {
          let a0: f32x4 = select(a_in, a[select(a_in, a_at + k, 0)], f32x4(0.0))
          let a1: f32x4 = select(a_in_2, a[select(a_in_2, a_at_2 + k, 0)], f32x4(0.0))
          let w0: f32x4 = select(w_in, w[select(w_in, w_at + k, 0)], f32x4(0.0))
          acc0_0_0 = fma(a0.x, w0.x, acc0_0_0)
          acc0_1_0 = fma(a1.x, w0.x, acc0_1_0)
          acc0_0_0 = fma(a0.y, w0.y, acc0_0_0)
          acc0_1_0 = fma(a1.y, w0.y, acc0_1_0)
          acc0_0_0 = fma(a0.z, w0.z, acc0_0_0)
          acc0_1_0 = fma(a1.z, w0.z, acc0_1_0)
          acc0_0_0 = fma(a0.w, w0.w, acc0_0_0)
          acc0_1_0 = fma(a1.w, w0.w, acc0_1_0)
        }
        let row_0_0: u32 = (block.y * 4) + acc_row
        let col_0_0: u32 = (block.x * 4) + acc_col
        if (row_0_0 < %T) && (col_0_0 < 8) {
          y[(row_0_0 * 8) + col_0_0] = acc0_0_0 * 1.0
        }
        let row_1_0: u32 = ((block.y * 4) + acc_row) + 1
        let col_1_0: u32 = (block.x * 4) + acc_col
        if (row_1_0 < %T) && (col_1_0 < 8) {
          y[(row_1_0 * 8) + col_1_0] = acc0_1_0 * 1.0
        }
      }
      "
    `);
  });
});

describe('tile.reduce', () => {
  const OPS: readonly ReduceOp[] = ['add', 'max', 'min'];
  const reduceTwice = (op: ReduceOp, block: number): ReturnType<typeof kernel> => {
    const x = global('x');
    const y = global('y', 'f32', 2);
    const at = b.add(b.mul(b.builtin('block.x'), b.u32(block)), b.thread);
    return kernel([x, y], [
      b.reduce('one', op, b.load(x, at)),
      b.reduce('two', op, b.mul(b.load(x, at), b.variable('one', b.ty('f32')))),
      b.reduce('three', op, b.add(b.load(x, at), b.variable('two', b.ty('f32')))),
      b.store(y, at, b.pack([b.variable('one', b.ty('f32')), b.variable('three', b.ty('f32'))])),
    ], { block });
  };
  const fold = (op: ReduceOp, xs: readonly number[]): number =>
    xs.reduce((p, q) => (op === 'add' ? p + q : op === 'max' ? Math.max(p, q) : Math.min(p, q)));

  for (const block of [1, 2, 3, 5, 8, 13, 32, 33, 64, 100]) {
    for (const subgroups of [false, true]) {
      it(`of ${block} threads${subgroups ? ' by subgroups' : ''}`, () => {
        for (const op of OPS) {
          const x = Float32Array.from({ length: 2 * block }, (_, i) => ((i * 7) % 11) - 4);
          const y = new Float32Array(4 * block);
          const finished = finishKernel(reduceTwice(op, block), { subgroups });
          for (const subgroupSize of subgroups ? [4, 8, 32, 128] : [32]) {
            interpret(finished, { grid: [2, 1, 1], memory: { x, y }, subgroupSize, poison: ['y'] });
            for (const g of [0, 1]) {
              const xs = Array.from(x.subarray(g * block, (g + 1) * block));
              const one = fold(op, xs);
              const two = fold(op, xs.map((v) => v * one));
              for (let t = 0; t < block; t++) {
                expect(y[2 * (g * block + t)]).toBe(one);
                expect(y[2 * (g * block + t) + 1]).toBe(fold(op, xs.map((v) => v + two)));
              }
            }
          }
        }
      });
    }
  }

  it('needs every barrier and bound it has', () => {
    for (const block of [3, 8, 13, 20, 64]) {
      const memory = (): Record<string, Float32Array> => ({ x: values(block, 3), y: new Float32Array(2 * block) });
      const runs: MutationRun[] = [{ grid: [1, 1, 1], memory, poison: ['y'] }];
      const finished = finishKernel(reduceTwice('add', block), { subgroups: false });
      expect(survivors(finished, simtMutations(finished), runs).map((m) => m.what)).toEqual([]);
      expect([...walkStmts(finished.body)].filter((x) => x.k === 'barrier').length).toBe(block > 16 ? 6 : 3);
    }
  });

  it('reduces unsigned integers', () => {
    const y = global('y', 'u32');
    const k = kernel([y], [b.reduce('n', 'add', b.thread), b.store(y, b.thread, b.variable('n'))], { block: 6 });
    const out = new Uint32Array(6);
    interpret(finishKernel(k, { subgroups: false }), { grid: [1, 1, 1], memory: { y: out } });
    expect(Array.from(out)).toEqual([15, 15, 15, 15, 15, 15]);
  });
});
