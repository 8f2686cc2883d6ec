/** Numbers as the targets hold them: f16 and bf16 storage, conversions, and the one fma of every CPU evaluation. */

/**
 * a · b + c of f32 values, rounded to f32. The product is exact in f64 and the sum is rounded twice
 * (f64, then f32), which differs from a hardware fma by one unit in about one case of 2^29.
 */
export const fmaF32 = (a: number, b: number, c: number): number => Math.fround(a * b + c);

/** Value of f16 bits (IEEE binary16). */
export function f16ToNumber(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 31;
  const fraction = bits & 1023;
  if (exponent === 31) return fraction === 0 ? sign * Infinity : NaN;
  return sign * (exponent === 0 ? fraction * 2 ** -24 : (1 + fraction / 1024) * 2 ** (exponent - 15));
}

/** Nearest even f16 bits of a number. */
export function numberToF16(x: number): number {
  if (Number.isNaN(x)) return 0x7e00;
  const sign = x < 0 || Object.is(x, -0) ? 0x8000 : 0;
  const a = Math.abs(x);
  if (a >= 65520) return sign | 0x7c00;
  if (a < 2 ** -14) return sign | roundEven(a * 2 ** 24);
  const exponent = Math.floor(Math.log2(a));
  // log2 may be one off beside a power of two.
  const e = a < 2 ** exponent ? exponent - 1 : a >= 2 ** (exponent + 1) ? exponent + 1 : exponent;
  return sign | ((e + 15) * 1024 + roundEven((a / 2 ** e - 1) * 1024));
}

/** x ≥ 0 to the nearest integer, halves to even. */
function roundEven(x: number): number {
  const f = Math.floor(x);
  const d = x - f;
  return d > 0.5 || (d === 0.5 && f % 2 === 1) ? f + 1 : f;
}

const word = new Uint32Array(1);
const float = new Float32Array(word.buffer);

/** Value of bf16 bits: the upper half of an f32. */
export function bf16ToNumber(bits: number): number {
  word[0] = bits << 16;
  return float[0] ?? 0;
}

/** Nearest even bf16 bits of an f32. */
export function numberToBf16(x: number): number {
  float[0] = x;
  const bits = word[0] ?? 0;
  if (Number.isNaN(x)) return 0x7fc0;
  return ((bits + 0x7fff + ((bits >>> 16) & 1)) >>> 16) & 0xffff;
}

/** Truncates towards zero and saturates, NaN to 0, as WGSL and CUDA convert. */
export function toInteger(x: number, signed: boolean): number {
  if (Number.isNaN(x)) return 0;
  const [lo, hi] = signed ? [-2147483648, 2147483647] : [0, 4294967295];
  return Math.min(hi, Math.max(lo, Math.trunc(x)));
}
