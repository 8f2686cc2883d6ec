/** The dense kernel families on Dawn against the same finished kernels on the interpreter. */
import { describe, expect, it } from 'vitest';
import { interpret } from '../../src/ir/kernel/interpret.ts';
import type { ScalarName } from '../../src/ir/kernel/types.ts';
import * as k from '../../src/kernels/dense/index.ts';
import type { Launch } from '../../src/kernels/launch.ts';
import { WEBGPU_BASELINE } from '../../src/target/types.ts';
import { single } from '../kernels/dense/attention-reference.ts';
import { expectClose, expectSameBits, finish, gridOf, memoryOf, random, stored } from '../kernels/dense/harness.ts';
import type { Operands } from '../kernels/dense/harness.ts';
import { dawnDevice, runOnDawn } from './dawn.ts';
import type { Memory } from './dawn.ts';

const CAPS = WEBGPU_BASELINE;
const NARROW = { ...CAPS, maxGrid: 5 };

interface Call {
  readonly T: number;
  readonly past?: number;
  readonly constants?: Partial<Record<ScalarName, number>>;
}

/** Runs on Dawn; `operands` are left as they are, the written ones come back. */
async function onDawn(launch: Launch, operands: Operands, call: Call, subgroups = false): Promise<Memory> {
  const kernel = finish(launch.kernel, subgroups);
  const memory: Memory = {};
  for (const [name, data] of Object.entries(memoryOf(launch, operands))) memory[name] = data.slice() as Memory[string];
  await runOnDawn(kernel, { grid: gridOf(launch, call.T), memory, scalars: { T: call.T, past: call.past ?? 0, ...call.constants } });
  return memory;
}

function onInterpreter(launch: Launch, operands: Operands, call: Call): Memory {
  const kernel = finish(launch.kernel, false);
  const memory: Memory = {};
  for (const [name, data] of Object.entries(memoryOf(launch, operands))) memory[name] = data.slice() as Memory[string];
  interpret(kernel, { grid: gridOf(launch, call.T), memory, scalars: { T: call.T, past: call.past ?? 0, ...call.constants } });
  return memory;
}

/** Compares one written operand; `tolerance` 0 asks for the same bits. */
async function agree(launch: Launch, operands: Operands, call: Call, tolerance: number, name = 'y'): Promise<Float32Array> {
  const got = (await onDawn(launch, operands, call))[name];
  const want = onInterpreter(launch, operands, call)[name];
  if (!(got instanceof Float32Array) || !(want instanceof Float32Array)) throw new Error(`${name} is not f32`);
  if (tolerance === 0) expectSameBits(got, want);
  else expectClose(got, want, tolerance);
  return got;
}

const NONE = { kind: 'none' } as const;
const SWIGLU = { kind: 'glu', activation: 'silu' } as const;
const f32 = (n: number): Float32Array => new Float32Array(n).fill(NaN);

describe('dense kernels on Dawn', () => {
  it('move data without changing a bit', async () => {
    const T = 7;
    const faults = new Uint32Array(4);
    for (const tableElem of ['f32', 'f16', 'bf16'] as const) {
      for (const dim of [10, 33, 40]) {
        const launch = k.embed({ vocab: 11, dim, scale: 1, tableElem }, undefined, NARROW);
        const ids = Int32Array.of(3, 10, -5, 11, 0, 2147483647, 4);
        const operands = { ids, table: stored(random(11 * dim, 1), tableElem).data, y: f32(T * dim), faults };
        await agree(launch, operands, { T }, 0);
        expect((await onDawn(launch, operands, { T }))['faults']).toEqual(Uint32Array.of(0, 3, 0, 0));
      }
    }
    await agree(k.sliceHeads({ heads: 3, stride: 10, start: 2, length: 8 }, undefined, NARROW), { x: random(T * 30, 1), y: f32(T * 24) }, { T }, 0);
    await agree(k.concatHeads({ heads: 3, aDim: 10, bDim: 3 }, undefined, NARROW), { a: random(T * 30, 1), b: random(T * 9, 2), y: f32(T * 39) }, { T }, 0);
    await agree(k.cacheAppend({ width: 33 }, undefined, NARROW), { x: random(T * 33, 1), cache: random(15 * 33, 2) }, { T, past: 5 }, 0, 'cache');
  });

  it('compute element by element', async () => {
    const T = 17;
    for (const activation of ['silu', 'gelu', 'gelu-tanh', 'relu'] as const) {
      const x = random(T * 33, 1).map((v) => v * 8);
      await agree(k.act({ width: 33, activation }, undefined, NARROW), { x, y: f32(T * 33) }, { T }, 2e-5);
      await agree(k.glu({ width: 40, activation }, undefined, NARROW), { gate: random(T * 40, 1), up: random(T * 40, 2), y: f32(T * 40) }, { T }, 2e-5);
    }
    const clamp = { limit: 1.5, alpha: 1.702, upOffset: 1 };
    await agree(k.glu({ width: 10, activation: 'silu', clamp }, undefined, NARROW), { gate: random(T * 10, 1), up: random(T * 10, 2), y: f32(T * 10) }, { T }, 2e-5);
    await agree(k.add({ width: 31, scale: 0.5 }, undefined, NARROW), { a: random(T * 31, 1), b: random(T * 31, 2), y: f32(T * 31) }, { T }, 1e-6);
    await agree(k.gateMul({ width: 12 }, undefined, NARROW), { x: random(T * 12, 1), gate: random(T, 2), y: f32(T * 12) }, { T }, 2e-5);
    for (const style of ['half', 'interleaved'] as const) {
      const launch = k.rope({ heads: 3, headDim: 10, dim: 8, style }, undefined, NARROW);
      await agree(launch, { x: random(T * 30, 1), table: random((T + 5) * 8, 2), y: f32(T * 30) }, { T, past: 5 }, 1e-6);
    }
  });

  it('normalise, with and without subgroups', async () => {
    const subgroups = (await dawnDevice()).features.has('subgroups');
    for (const [kind, dim, groups, weightElem] of [['rms', 1000, 1, 'f32'], ['rms', 96, 3, 'bf16'], ['layer', 33, 1, 'f16'], ['rms', 2048, 1, 'f16']] as const) {
      const p = { kind, dim, groups, weightElem, eps: 1e-6, ...(kind === 'layer' ? { biasElem: 'f32' as const } : {}) };
      const launch = k.norm(p, undefined, NARROW);
      const operands = { x: random(7 * dim, 1), weight: stored(random(dim / groups, 2), weightElem).data, bias: random(dim, 3), y: f32(7 * dim) };
      const portable = await agree(launch, operands, { T: 7 }, 1e-5);
      if (subgroups) expectClose((await onDawn(launch, operands, { T: 7 }, true))['y'] as Float32Array, portable, 1e-5);
    }
  });

  // Few kernels, short loops, small pieces: what a software adapter compiles quickly.
  it('multiply matrices, every form with the same bits', async () => {
    const tile = { bm: 4, bn: 8, tm: 2, tn: 2, bk: 8, oneRow: 0 } as const;
    for (const [T, n, depth, weightElem] of [[5, 20, 8, 'f16'], [8, 9, 10, 'bf16'], [17, 20, 12, 'f32']] as const) {
      for (const epilogue of depth === 10 ? [SWIGLU] : [NONE]) {
        const rows = epilogue.kind === 'glu' ? 2 * n : n;
        const p: k.LinearProblem = { n, k: depth, epilogue, scale: 0.5, residual: true, weightElem, biasElem: 'f32' };
        const operands = {
          x: random(T * depth, 1), weight: stored(random(rows * depth, 2), weightElem).data,
          bias: random(rows, 3), residual: random(T * n, 4), y: f32(T * n),
        };
        const first = await agree(k.linear(p, { ...tile, staging: 'register' }, NARROW), operands, { T }, 1e-5);
        expectSameBits(await agree(k.linear(p, { ...tile, staging: 'shared' }, NARROW), operands, { T }, 1e-5), first);
        if (T <= 8) expectSameBits(await agree(k.linear({ ...p, maxRows: 8 }, undefined, NARROW), operands, { T }, 1e-5), first);
      }
    }
    const p: k.LinearProblem = { n: 70, k: 132, epilogue: NONE, scale: 1, residual: false, weightElem: 'f32' };
    await agree(k.linear(p, undefined, NARROW), { x: random(40 * 132, 1), weight: random(70 * 132, 2), y: f32(40 * 70) }, { T: 40 }, 1e-5);
    const heads = k.headLinear({ heads: 3, n: 10, k: 12, weightElem: 'f32' }, { ...tile, staging: 'register' }, NARROW);
    await agree(heads, { x: random(7 * 36, 1), weight: random(360, 2), y: f32(210) }, { T: 7 }, 1e-5);
  }, 240_000);

  it('attend, every form with the same bits', async () => {
    const problems: readonly Omit<k.AttentionProblem, 'scale'>[] = [
      { heads: 4, kvHeads: 2, qkDim: 10, vDim: 33, vFromK: false },
      { heads: 4, kvHeads: 1, qkDim: 20, vDim: 16, vFromK: true },
      { heads: 3, kvHeads: 3, qkDim: 8, vDim: 8, vFromK: false, window: 20, sinksElem: 'f32' },
    ];
    for (const some of problems) {
      const p = { ...some, scale: 0.3 };
      for (const [T, past] of [[1, 70], [7, 60]] as const) {
        const rows = T + past;
        const operands = {
          q: random(T * p.heads * p.qkDim, 1), k: random(rows * p.kvHeads * p.qkDim, 2), v: random(rows * p.kvHeads * p.vDim, 3),
          sinks: random(p.heads, 4), y: f32(T * p.heads * p.vDim),
        };
        const first = await agree(single(k.attention(p, undefined, NARROW)), operands, { T, past }, 2e-5);
        if (p.heads > 2 * p.kvHeads || p.window !== undefined) continue;
        const other = (await onDawn(single(k.attention(p, { block: 64, rows: 1, tn: 1 }, NARROW)), operands, { T, past }))['y'];
        expectSameBits(other as Float32Array, first);
      }
    }
  }, 240_000);
});
