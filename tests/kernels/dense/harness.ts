/** Runs a family's launch on the interpreter and compares with f64. */
import { expect } from 'vitest';
import { isQuantName, QUANT_GROUP } from '../../../src/base/quant.ts';
import { evalSize } from '../../../src/base/size.ts';
import { interpret } from '../../../src/ir/kernel/interpret.ts';
import type { TypedArray } from '../../../src/ir/kernel/interpret.ts';
import { bf16ToNumber, f16ToNumber, numberToBf16, numberToF16 } from '../../../src/ir/kernel/numerics.ts';
import type { Kernel, ScalarName } from '../../../src/ir/kernel/types.ts';
import type { WeightElem } from '../../../src/kernels/index.ts';
import type { Launch } from '../../../src/kernels/launch.ts';
import { finishKernel } from '../../../src/passes/kernel/pipeline.ts';
import { packRows, unpackRows } from '../../../src/runtime/core/quant.ts';
import { WEBGPU_BASELINE } from '../../../src/target/types.ts';
import type { Capabilities } from '../../../src/target/types.ts';

export const CAPS: Capabilities = WEBGPU_BASELINE;
/** A device with so few blocks per dimension that every grid of a test is folded. */
export const NARROW: Capabilities = { ...CAPS, maxGrid: 3 };
/** A device whose subgroups have one small size, as software has. */
export const FOURS: Capabilities = { ...CAPS, subgroups: true, subgroupSize: 4 };

export interface Call {
  readonly T: number;
  readonly past?: number;
  readonly constants?: Partial<Record<ScalarName, number>>;
  readonly subgroups?: boolean;
  /** Threads of a subgroup: known to the expansion too; 32 where not said. */
  readonly subgroupSize?: number | undefined;
}

/** By operand name; results are allocated by the caller and written in place. */
export type Operands = Readonly<Record<string, TypedArray>>;

export function gridOf(launch: Launch, T: number): [number, number, number] {
  const env = { T, past: 0, seq: T, cap: 0 };
  const [x, y, z] = launch.grid;
  return [evalSize(x, env), evalSize(y, env), evalSize(z, env)];
}

export function memoryOf(launch: Launch, operands: Operands): Record<string, TypedArray> {
  const memory: Record<string, TypedArray> = {};
  launch.kernel.params.forEach((p, i) => {
    const data = operands[launch.operands[i] ?? ''];
    if (data === undefined) throw new Error(`no operand for ${p.name}`);
    memory[p.name] = data;
  });
  return memory;
}

const finished = new Map<string, Kernel>();

/** `finishKernel`, each kernel once. */
export function finish(kernel: Kernel, subgroups: boolean, subgroupSize?: number): Kernel {
  const key = `${subgroups} ${subgroupSize} ${JSON.stringify(kernel)}`;
  const made = finished.get(key) ?? finishKernel(kernel, { subgroups, ...(subgroupSize !== undefined && { subgroupSize }) });
  finished.set(key, made);
  return made;
}

/** Runs on the interpreter; `y` counts as never written, and every cell of it must be, unless `partial`. */
export function run(launch: Launch, operands: Operands, call: Call, partial = false): void {
  const { T, past = 0, constants = {}, subgroups = false, subgroupSize } = call;
  const kernel = finish(launch.kernel, subgroups, subgroupSize);
  const poison = launch.kernel.params.some((p) => p.name === 'y') ? ['y'] : [];
  const outcome = interpret(kernel, {
    grid: gridOf(launch, T), memory: memoryOf(launch, operands), scalars: { T, past, ...constants }, poison, ...(subgroupSize !== undefined && { subgroupSize }),
  });
  if (!partial) for (const cells of Object.values(outcome.unwritten)) expect(cells).toEqual([]);
}

/** Deterministic numbers about −1 … 1. */
export function random(n: number, seed: number): Float32Array {
  let s = (seed * 2654435761 + 12345) >>> 0;
  return Float32Array.from({ length: n }, () => {
    s = (Math.imul(s, 1664525) + 1013904223) >>> 0;
    return (s / 2 ** 32) * 2 - 1;
  });
}

/** Stored as `elem`, and the numbers that are then read. */
export function stored(values: Float32Array, elem: WeightElem, k = QUANT_GROUP): { readonly data: TypedArray; readonly values: Float32Array } {
  if (isQuantName(elem)) {
    const words = packRows(elem, values, values.length / k, k, (i, v) => {
      throw new Error(`${v} at ${i}`);
    });
    return { data: words, values: Float32Array.from(unpackRows(elem, words, values.length / k, k)) };
  }
  if (elem === 'f32') return { data: values, values };
  const [encode, decode] = elem === 'f16' ? [numberToF16, f16ToNumber] : [numberToBf16, bf16ToNumber];
  const data = Uint16Array.from(values, encode);
  return { data, values: Float32Array.from(data, decode) };
}

/** Largest difference, in units of the larger of the reference's rms and the element itself. */
export function maxRelative(got: ArrayLike<number>, want: ArrayLike<number>): number {
  let energy = 0;
  for (let i = 0; i < want.length; i++) energy += (want[i] ?? 0) ** 2;
  const rms = Math.sqrt(energy / Math.max(1, want.length)) || 1e-30;
  let worst = 0;
  for (let i = 0; i < want.length; i++) {
    const [a, r] = [got[i] ?? NaN, want[i] ?? NaN];
    const error = Math.abs(a - r) / Math.max(rms, Math.abs(r));
    if (!(error <= worst)) worst = Number.isNaN(error) ? Infinity : error;
  }
  return worst;
}

export function expectClose(got: ArrayLike<number>, want: ArrayLike<number>, tolerance = 2e-6): void {
  expect(got.length).toBe(want.length);
  expect(maxRelative(got, want)).toBeLessThan(tolerance);
}

/** Same bits everywhere. */
export function expectSameBits(a: Float32Array, b: Float32Array): void {
  const bits = (x: Float32Array): readonly number[] => Array.from(new Uint32Array(x.buffer, x.byteOffset, x.length));
  expect(bits(a)).toEqual(bits(b));
}
