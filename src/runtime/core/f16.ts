/** Half-precision conversions on bit patterns, rounding to nearest, ties to even (Node 20 has no Float16Array). */

const f32 = new Float32Array(1);
const u32 = new Uint32Array(f32.buffer);

/** The value of a binary16 bit pattern; exact. */
export function f16ToNumber(bits: number): number {
  const sign = (bits & 0x8000) === 0 ? 1 : -1;
  const exponent = (bits >>> 10) & 0x1f;
  const fraction = bits & 0x3ff;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  if (exponent === 31) return fraction === 0 ? sign * Infinity : NaN;
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}

/** The binary16 nearest to an f32 value (what is not an f32 is rounded to one first). 65520 and more give infinity. */
export function numberToF16(value: number): number {
  f32[0] = value;
  const bits = u32[0] ?? 0;
  const sign = (bits >>> 16) & 0x8000;
  const magnitude = bits & 0x7fff_ffff;
  if (magnitude > 0x7f80_0000) return sign | 0x7e00;
  if (magnitude >= 0x477f_f000) return sign | 0x7c00;
  if (magnitude >= 0x3880_0000) {
    // Normal: drop 13 fraction bits; a carry runs into the exponent as it should.
    const odd = (magnitude >>> 13) & 1;
    return sign | ((magnitude - 0x3800_0000 + 0xfff + odd) >>> 13);
  }
  // Subnormal: units of 2^-24; |value| < 2^-14, so the product and the rounding are exact in f64.
  const units = Math.abs(f32[0] ?? 0) * 2 ** 24;
  const floor = Math.floor(units);
  const rest = units - floor;
  return sign | (rest > 0.5 || (rest === 0.5 && floor % 2 === 1) ? floor + 1 : floor);
}

/** The value of a bfloat16 bit pattern; exact. */
export function bf16ToNumber(bits: number): number {
  u32[0] = bits << 16;
  return f32[0] ?? 0;
}

/** The bfloat16 nearest to an f32 value (what is not an f32 is rounded to one first). */
export function numberToBf16(value: number): number {
  f32[0] = value;
  const bits = u32[0] ?? 0;
  if ((bits & 0x7fff_ffff) > 0x7f80_0000) return (bits >>> 16) | 0x40;
  return ((bits + 0x7fff + ((bits >>> 16) & 1)) >>> 16) & 0xffff;
}
