/** Integer hashes and a small generator: the same bits on every engine. */

/** lowbias32 (Wellons 2018): a bijection of u32 with good avalanche. */
export function mix32(x: number): number {
  let h = x >>> 0;
  h = Math.imul(h ^ (h >>> 16), 0x7feb352d);
  h = Math.imul(h ^ (h >>> 15), 0x846ca68b);
  return (h ^ (h >>> 16)) >>> 0;
}

/** FNV-1a over the UTF-8 of a text, started from a seed. */
export function hashText(text: string, seed: number): number {
  let h = (0x811c9dc5 ^ mix32(seed)) >>> 0;
  for (const byte of new TextEncoder().encode(text)) h = Math.imul(h ^ byte, 0x01000193) >>> 0;
  return mix32(h);
}

/** The value of `index` in the stream `key`: a u32. */
export function hashAt(key: number, index: number): number {
  const high = Math.floor(index / 2 ** 32);
  return mix32(mix32(((index >>> 0) + 0x9e3779b9) ^ key) + Math.imul(high, 0x85ebca6b) + key);
}

/** In [−1, 1), a multiple of 2^-23: exact in f32. */
export const signedUnit = (key: number, index: number): number => (hashAt(key, index) >>> 8) / 2 ** 23 - 1;

/** Uniform numbers in [0, 1) with 53 random bits, from a seed (counter mode). */
export function uniforms(seed: number): () => number {
  const key = hashText('sampler', seed >>> 0) ^ mix32(Math.floor(seed / 2 ** 32));
  let at = 0;
  return () => {
    const high = hashAt(key, at++) >>> 5;
    const low = hashAt(key, at++) >>> 6;
    return (high * 2 ** 26 + low) / 2 ** 53;
  };
}
