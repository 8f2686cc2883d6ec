/** Weights at once: blocks of random normal numbers, each repeated from ever other places. For timing, where only zeros would be wrong. */
import type { ElemName } from '../../src/runtime/core/abi.ts';
import type { WeightProvider } from '../../src/runtime/core/provider.ts';

/** Numbers in a block; a prime, so that rows of any length begin at ever other places. */
const BLOCK = 1_048_573;
const CHUNK_BYTES = 64 << 20;

/** A block of N(0, 1) / √k, twice in a row, so that a chunk may begin anywhere in it. */
function normals(seed: number, scale: number): Float32Array {
  let state = seed >>> 0;
  const uniform = (): number => {
    // xorshift32: good enough for numbers that are only multiplied.
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return ((state >>> 0) + 0.5) / 4_294_967_296;
  };
  const out = new Float32Array(BLOCK);
  for (let i = 0; i < BLOCK; i += 2) {
    const radius = Math.sqrt(-2 * Math.log(uniform())) * scale;
    const angle = 2 * Math.PI * uniform();
    out[i] = radius * Math.cos(angle);
    if (i + 1 < BLOCK) out[i + 1] = radius * Math.sin(angle);
  }
  return out;
}

/** A block as an element type stores it; bf16 by rounding to nearest even. */
function stored(values: Float32Array, elem: ElemName, toF16: (x: number) => number): Uint8Array {
  if (elem === 'f32') return new Uint8Array(values.buffer);
  const bits = new Uint32Array(values.buffer);
  const out = new Uint16Array(values.length);
  for (let i = 0; i < out.length; i++) {
    const b = bits[i] ?? 0;
    out[i] = elem === 'bf16' ? (b + 0x7fff + ((b >>> 16) & 1)) >>> 16 : toF16(values[i] ?? 0);
  }
  return new Uint8Array(out.buffer);
}

/** @param toF16 bits of a number in f16 */
export function randomWeights(toF16: (x: number) => number): WeightProvider {
  const blocks = new Map<string, Uint8Array>();
  let start = 0;
  return {
    label: 'random weights',
    unused: [],
    async *chunks(param, name, _layer, _first, rows) {
      const { elem, shape } = param;
      const isVector = shape.length === 1;
      const k = Number(shape.at(-1) ?? 1);
      if (elem === 'u32' || elem === 'i32') throw new TypeError(`${name} holds whole numbers: give real weights`);
      // Norms near 1, other vectors small, matrices of variance 1 / k.
      const isNorm = isVector && name.includes('norm');
      const key = `${elem} ${isNorm ? 'norm' : isVector ? 'vector' : k}`;
      const block = blocks.get(key) ?? stored(isNorm ? normals(1, 0.05).map((x) => 1 + x) : normals(2, isVector ? 0.05 : 1 / Math.sqrt(k)), elem, toF16);
      blocks.set(key, block);
      const elementBytes = elem === 'f32' ? 4 : 2;
      const rowBytes = (isVector ? 1 : k) * elementBytes;
      const step = Math.max(2, Math.floor(CHUNK_BYTES / rowBytes) & ~1);
      for (let row = 0; row < rows; row += step) {
        const count = Math.min(step, rows - row);
        const data = new Uint8Array(count * rowBytes);
        let at = start * elementBytes;
        for (let filled = 0; filled < data.length; ) {
          const piece = block.subarray(at, Math.min(block.length, at + data.length - filled));
          data.set(piece, filled);
          filled += piece.length;
          at = (at + piece.length) % block.length;
        }
        start = (start + 7919) % BLOCK;
        yield { row, rows: count, data };
      }
    },
    close: () => Promise.resolve(),
  };
}
