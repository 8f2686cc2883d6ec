/** Quantised storage against an independent reading of its definition: bits by text, scales by DataView, roundings by comparing neighbours. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { QuantName } from '../../src/runtime/core/abi.ts';
import { WeightsError } from '../../src/runtime/core/errors.ts';
import { f16ToNumber, numberToBf16, numberToF16 } from '../../src/runtime/core/f16.ts';
import { packRows, QUANT_NAMES, rowBytes, storedBytes, unpackRows } from '../../src/runtime/core/quant.ts';
import { type NamedTensor, namedTensors } from '../../src/runtime/core/tensors.ts';
import { assembleF64, weightChunks } from '../../src/runtime/core/weight-data.ts';
import { resolveParam, type WeightParam } from '../../src/runtime/core/weights.ts';

const refuse = (index: number, value: number): never => {
  throw new RangeError(`${value} at ${index}`);
};
const bitsOf = (name: QuantName): 8 | 4 => (name.startsWith('int8') ? 8 : 4);
const isHalf = (name: QuantName): boolean => name.endsWith('f16');

interface Group {
  readonly values: readonly number[];
  readonly scale: number;
}

/** The groups of one row, read bit by bit from the text of its words. */
function groupsOf(name: QuantName, words: Uint32Array, k: number): readonly Group[] {
  const bits = bitsOf(name);
  const stream = [...words].map((w) => [...w.toString(2).padStart(32, '0')].reverse().join('')).join('');
  const field = (at: number, n: number): number => Number.parseInt([...stream.slice(at, at + n)].reverse().join(''), 2);
  return Array.from({ length: k / 32 }, (_, g) => {
    const values = Array.from({ length: 32 }, (_v, i) => {
      const raw = field((g * 32 + i) * bits, bits);
      return bits === 4 ? raw - 8 : raw < 128 ? raw : raw - 256;
    });
    const raw = field(k * bits + g * (isHalf(name) ? 16 : 32), isHalf(name) ? 16 : 32);
    const view = new DataView(new ArrayBuffer(4));
    view.setUint32(0, raw);
    return { values, scale: isHalf(name) ? f16ToNumber(raw) : view.getFloat32(0) };
  });
}

const name = fc.constantFrom(...QUANT_NAMES);
const magnitude = fc.oneof(fc.constant(1), fc.constantFrom(0, 1e-9, 1e-5, 0.02, 300, 40_000));
const row = fc.tuple(fc.integer({ min: 1, max: 5 }), magnitude).chain(([groups, size]) =>
  fc.array(fc.float({ min: -1, max: 1, noNaN: true }), { minLength: 32 * groups, maxLength: 32 * groups }).map((list) => Float32Array.from(list, (x) => x * size)),
);

describe('packed rows', () => {
  it('hold the nearest multiples of their rounded scale', () => fc.assert(
    fc.property(name, row, (format, values) => {
      const bits = bitsOf(format);
      const k = values.length;
      const words = packRows(format, values, 1, k, refuse);
      expect(words.byteLength).toBe(rowBytes(format, k));
      groupsOf(format, words, k).forEach(({ values: q, scale }, g) => {
        const group = [...values.slice(32 * g, 32 * g + 32)];
        const most = Math.max(...group.map(Math.abs));
        const extreme = group.find((v) => Math.abs(v) === most) ?? 0;
        const wanted = bits === 8 ? most / 127 : extreme / -8;
        // The nearest value of the scale's own type.
        const exact = isHalf(format) ? f16ToNumber(numberToF16(wanted)) : Math.abs(wanted) < 2 ** -126 ? 0 : Math.fround(wanted);
        expect(Object.is(scale, exact) || (scale === 0 && exact === 0)).toBe(true);
        if (isHalf(format)) {
          // Neighbouring halves differ by at least 2^-24.
          expect(Math.abs(scale - wanted)).toBeLessThanOrEqual(Math.max(2 ** -25, Math.abs(wanted) * 2 ** -11));
        }
        group.forEach((v, i) => {
          const at = q[i] ?? NaN;
          expect(at).toBeGreaterThanOrEqual(bits === 8 ? -127 : -8);
          expect(at).toBeLessThanOrEqual(bits === 8 ? 127 : 7);
          if (scale === 0) return expect(at).toBe(0);
          const off = Math.abs(v - at * scale);
          for (const other of [at - 1, at + 1]) {
            if (other < (bits === 8 ? -127 : -8) || other > (bits === 8 ? 127 : 7)) continue;
            const beside = Math.abs(v - other * scale);
            expect(off).toBeLessThanOrEqual(beside * (1 + 1e-12));
            // Exactly between two values the even one.
            if (v / scale === (at + other) / 2) expect(Math.abs(at % 2)).toBe(0);
          }
        });
      });
    }),
  ));

  it('mean what they are unpacked to, row by row', () => fc.assert(
    fc.property(name, fc.array(row, { minLength: 1, maxLength: 4 }), (format, given) => {
      const k = Math.min(...given.map((r) => r.length));
      const rows = given.length;
      const values = Float32Array.from(given.flatMap((r) => [...r.slice(0, k)]));
      const words = packRows(format, values, rows, k, refuse);
      const perRow = words.length / rows;
      const meant = Array.from({ length: rows }, (_, r) =>
        groupsOf(format, words.slice(r * perRow, (r + 1) * perRow), k).flatMap((g) => g.values.map((q) => q * g.scale)),
      ).flat();
      expect([...unpackRows(format, words, rows, k)].map((x) => x + 0)).toEqual(meant.map((x) => x + 0));
      // A second time nothing is lost that was not lost before, up to a rounding of the scale.
      const again = unpackRows(format, packRows(format, unpackRows(format, words, rows, k), rows, k, refuse), rows, k);
      again.forEach((x, i) => expect(Math.abs(x - (meant[i] ?? 0))).toBeLessThanOrEqual(Math.abs(meant[i] ?? 0) * 2 ** -10 + 1e-6));
    }),
  ));

  it('have the bits that the layout says', () => {
    const up = Float32Array.from({ length: 64 }, (_, i) => (i < 32 ? i - 16 : 0));
    // −16 is the extreme: scale 2, values −8 … 7, stored + 8, the earlier ones in the low bits; 2.0 in half precision is 0x4000.
    const nibbles = [...packRows('int4_f16', up, 1, 64, refuse)].map((w) => w.toString(16).padStart(8, '0'));
    // (i − 16) / 2 to the nearest, ties to even.
    const wanted = Array.from({ length: 32 }, (_, i) => {
      const half = (i - 16) / 2;
      const q = Number.isInteger(half) ? half : Math.floor(half) % 2 === 0 ? Math.floor(half) : Math.ceil(half);
      return (Math.min(7, q) + 8).toString(16);
    });
    expect(nibbles.slice(0, 4)).toEqual([0, 8, 16, 24].map((at) => wanted.slice(at, at + 8).reverse().join('')));
    expect(nibbles.slice(4)).toEqual(['88888888', '88888888', '88888888', '88888888', '00004000']);
    const bytes = packRows('int8_f32', Float32Array.from({ length: 32 }, (_, i) => (i === 5 ? -127 : i)), 1, 32, refuse);
    expect([...new Int8Array(bytes.buffer, 0, 32)]).toEqual(Array.from({ length: 32 }, (_, i) => (i === 5 ? -127 : i)));
    expect(new Float32Array(bytes.buffer)[8]).toBe(1);
  });

  it('refuse what cannot be stored, with its place', () => {
    const with_ = (at: number, x: number): Float32Array => Float32Array.from({ length: 64 }, (_, i) => (i === at ? x : 0.1));
    for (const x of [NaN, Infinity, -Infinity]) expect(() => packRows('int4_f16', with_(40, x), 1, 64, refuse)).toThrow(`${x} at 40`);
    // A scale beyond the largest half.
    expect(() => packRows('int4_f16', with_(7, -1e6), 1, 64, refuse)).toThrow('-1000000 at 7');
    expect(() => packRows('int4_f32', with_(7, -1e6), 1, 64, refuse)).not.toThrow();
    expect(() => packRows('int8_f16', with_(7, 8e6), 1, 64, refuse)).not.toThrow();
    expect(() => packRows('int8_f16', new Float32Array(33), 1, 33, refuse)).toThrow(RangeError);
  });

  it('lose what they are said to lose', () => {
    let state = 1;
    const unit = (): number => {
      state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
      return (state + 1) / 2 ** 32;
    };
    const values = Float64Array.from({ length: 64_000 }, () => 0.02 * Math.sqrt(-2 * Math.log(unit())) * Math.cos(2 * Math.PI * unit()));
    const nmse = (format: QuantName): number => {
      const got = unpackRows(format, packRows(format, values, 1000, 64, refuse), 1000, 64);
      return got.reduce((n, x, i) => n + (x - (values[i] ?? 0)) ** 2, 0) / values.reduce((n, x) => n + x * x, 0);
    };
    expect(nmse('int4_f16')).toBeCloseTo(0.0074, 3);
    expect(nmse('int4_f32')).toBeCloseTo(0.0074, 3);
    expect(nmse('int8_f16')).toBeLessThan(3.2e-5);
    expect(nmse('int8_f32')).toBeLessThan(3.2e-5);
  });
});

// ---------------------------------------------------------------- from checkpoints

const E = 3;
const N = 4;
const K = 64;
const value = (i: number): number => Math.sin(i * 12.9898) / (1 + (i % 7));
const stored: Readonly<Record<string, (x: readonly number[]) => NamedTensor['data']>> = {
  F32: (x) => Float32Array.from(x),
  F64: (x) => Float64Array.from(x),
  F16: (x) => Uint16Array.from(x, numberToF16),
  BF16: (x) => Uint16Array.from(x, numberToBf16),
};
const plain = { start: 0, step: 1 };
const fused = (e: number): string => `experts.${e}.gate_up`;
/** A bank whose gate and up rows alternate in one tensor an expert. */
const bank = (elem: WeightParam['elem']): WeightParam => ({
  name: 'experts.gate_up.weight', shape: [E, 2 * N, K], elem,
  role: { kind: 'weight', parts: [0, 1].map((start) => ({ rows: N, sources: [{ name: 'experts.{e}.gate_up', shape: [2 * N, K], n: { axis: 0 as const, start, step: 2 }, k: plain }] })) },
});
const tensors = (dtype: 'F32' | 'F64' | 'F16' | 'BF16', bad?: readonly [number, number, number]): readonly (readonly [string, NamedTensor])[] =>
  Array.from({ length: E }, (_, e) => {
    const list = Array.from({ length: 2 * N * K }, (_v, i) => (bad !== undefined && bad[0] === e && bad[1] === i ? bad[2] : value(e * 1000 + i)));
    const data = stored[dtype]?.(list);
    if (data === undefined) throw new Error(dtype);
    return [fused(e), { data, shape: [2 * N, K], dtype }];
  });

async function words(format: QuantName, set: ReturnType<typeof namedTensors>, maxBytes: number): Promise<Uint32Array> {
  const resolved = resolveParam(bank(format), null, set, []);
  if (resolved === undefined) throw new Error('not resolved');
  const bytes: number[] = [];
  for await (const chunk of weightChunks(resolved, set, 0, E * 2 * N, { maxBytes })) {
    expect(chunk.row * rowBytes(format, K)).toBe(bytes.length);
    bytes.push(...chunk.data);
  }
  return new Uint32Array(Uint8Array.from(bytes).buffer);
}

describe('quantised weights of a checkpoint', () => {
  it.each(['F32', 'F64', 'F16', 'BF16'] as const)('from %s are what the reference has, in pieces of any size', async (dtype) => {
    const set = namedTensors(tensors(dtype));
    for (const format of QUANT_NAMES) {
      const whole = await words(format, set, 1 << 20);
      expect(await words(format, set, 700)).toEqual(whole);
      expect(whole.byteLength).toBe(storedBytes(format, [E, 2 * N, K]));
      const reference = await assembleF64(bank(format), set, null, { stored: true });
      expect([...unpackRows(format, whole, E * 2 * N, K)]).toEqual([...reference]);
      const exact = await assembleF64(bank(format), set, null);
      expect(exact[N * K]).toBe((await assembleF64({ ...bank(format), elem: 'f32' }, set, null))[N * K]);
      expect(exact).not.toEqual(reference);
    }
  });

  it.each([
    ['NaN', NaN],
    ['an infinity', -Infinity],
  ])('with %s are refused by tensor and place', async (_what, bad) => {
    // Row 5 of the second expert's tensor: an up row.
    const set = namedTensors(tensors('BF16', [1, 5 * K + 33, bad]));
    for (const load of [words('int4_f16', set, 1 << 20), words('int8_f32', set, 700), assembleF64(bank('int8_f16'), set, null, { stored: true })]) {
      const error: unknown = await load.catch((e: unknown) => e);
      expect(error).toBeInstanceOf(WeightsError);
      expect(String(error)).toMatch(/at \[5, 33\] of tensor "experts\.1\.gate_up" cannot be stored as int/);
    }
  });

  it('whose scale is too large for half precision ask for f32 scales', async () => {
    const set = namedTensors(tensors('F32', [2, 3, 1e30]));
    const error: unknown = await words('int8_f16', set, 1 << 20).catch((e: unknown) => e);
    expect(error).toBeInstanceOf(WeightsError);
    expect(error).toMatchObject({ fix: expect.stringContaining('scales f32') });
    await expect(words('int8_f32', set, 1 << 20)).resolves.toBeInstanceOf(Uint32Array);
  });
});
