/** Numbers as the C-like languages write them. */

const MAX_F32 = 3.4028234663852886e38;

/** Shortest decimal that reads back as the same f32, with the suffix `f`. @throws Error where the value is not finite */
export function f32Literal(value: number): string {
  const x = Math.fround(value);
  if (!Number.isFinite(x)) throw new Error(`${value} has no f32 literal`);
  if (Object.is(x, -0)) return '-0.0f';
  let text = String(x);
  for (let digits = 1; digits <= 9; digits++) {
    const short = x.toPrecision(digits);
    // WGSL refuses a decimal beyond the largest f32 even where it rounds to it.
    if (Math.fround(Number(short)) === x && Math.abs(Number(short)) <= MAX_F32) {
      text = String(Number(short));
      break;
    }
  }
  return /[.e]/.test(text) ? `${text}f` : `${text}.0f`;
}
