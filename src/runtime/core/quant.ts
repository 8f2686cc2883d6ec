/**
 * Quantised storage of matrices, packed when weights are loaded. The one place that decides what a weight becomes: devices get
 * the words, the reference the numbers that these words stand for.
 *
 * 32 neighbouring values of a row (a group) share a scale; a weight is value · scale.
 * - int8: scale = (largest magnitude) / 127, values −127 … 127
 * - int4: scale = −(value of largest magnitude) / 8, so that this one becomes −8 exactly; the others reach from −8 to 7. Of the
 *   symmetric rules without a search this one is off least: the NMSE of normally distributed weights is 0.0074, that of
 *   (largest magnitude) / 7 is 0.0094.
 * The scale is rounded to its storage first; values are rounded to nearest, ties to even, with the rounded scale. Where it is
 * zero, or an f32 that devices may flush to zero, the whole group is.
 *
 * A row of depth k lies as k · bits / 32 words of values, then its scales: f32 words, or f16 in pairs, the earlier one in the low
 * half. Values of a word ascend from its low bits: int8 in two's complement, int4 as value + 8.
 */
import type { ElemName, QuantName, StoredElem } from './abi.ts';
import { f16ToNumber, numberToF16 } from './f16.ts';

export const QUANT_GROUP = 32;

interface Format {
  readonly bits: 8 | 4;
  readonly scales: 'f16' | 'f32';
}

const FORMATS: Readonly<Record<QuantName, Format>> = {
  int8_f16: { bits: 8, scales: 'f16' },
  int8_f32: { bits: 8, scales: 'f32' },
  int4_f16: { bits: 4, scales: 'f16' },
  int4_f32: { bits: 4, scales: 'f32' },
};
export const QUANT_NAMES: readonly QuantName[] = ['int8_f16', 'int8_f32', 'int4_f16', 'int4_f32'];

export const isQuant = (elem: StoredElem): elem is QuantName => Object.hasOwn(FORMATS, elem);

const valueWords = ({ bits }: Format, k: number): number => (k * bits) / 32;
const rowWords = (format: Format, k: number): number =>
  valueWords(format, k) + (format.scales === 'f32' ? k / QUANT_GROUP : Math.ceil(k / (2 * QUANT_GROUP)));

export const ELEM_BYTES: Readonly<Record<ElemName, number>> = { f32: 4, u32: 4, i32: 4, f16: 2, bf16: 2 };

/** Bytes of a row of `k` elements. */
export const rowBytes = (elem: StoredElem, k: number): number => (isQuant(elem) ? 4 * rowWords(FORMATS[elem], k) : k * ELEM_BYTES[elem]);

/** Bytes of a parameter; only the last dim of a quantised one has rows. */
export const storedBytes = (elem: StoredElem, shape: readonly number[]): number =>
  shape.slice(0, -1).reduce((n, d) => n * d, rowBytes(elem, shape.at(-1) ?? 1));

/** Told of an element that cannot be stored: not finite, or too large for the scale of its group. Does not return. */
export type Refuse = (index: number, value: number) => never;

export type Floats = Float32Array | Float64Array;

const F32_MIN_NORMAL = 2 ** -126;
/** Added and taken away again it leaves an f64 of magnitude below 2^51 rounded to nearest, ties to even. */
const ROUND = 1.5 * 2 ** 52;

const scaleWord = new Float32Array(1);
const scaleBits = new Uint32Array(scaleWord.buffer);

/** Index of the first value of largest magnitude in a group. */
function extremeOf(values: Floats, at: number, refuse: Refuse): number {
  let found = at;
  let most = 0;
  for (let i = at; i < at + QUANT_GROUP; i++) {
    const v = values[i] ?? 0;
    const size = Math.abs(v);
    if (!(size < Infinity)) refuse(i, v);
    if (size > most) {
      most = size;
      found = i;
    }
  }
  return found;
}

/** Packs `rows` rows of `k` values, `k` a multiple of the group. */
export function packRows(name: QuantName, values: Floats, rows: number, k: number, refuse: Refuse): Uint32Array<ArrayBuffer> {
  const format = FORMATS[name];
  const { bits, scales } = format;
  if (k % QUANT_GROUP !== 0) throw new RangeError(`rows of ${k} are not whole groups of ${QUANT_GROUP}`);
  const perRow = rowWords(format, k);
  const forValues = valueWords(format, k);
  const perWord = 32 / bits;
  const [low, high] = bits === 8 ? [-127, 127] : [-8, 7];
  const bias = bits === 8 ? 0 : 8;
  const mask = 2 ** bits - 1;
  const divisor = bits === 8 ? 127 : -8;
  const out = new Uint32Array(rows * perRow);
  for (let row = 0; row < rows; row++) {
    for (let group = 0; group < k / QUANT_GROUP; group++) {
      const at = row * k + group * QUANT_GROUP;
      const from = extremeOf(values, at, refuse);
      const extreme = values[from] ?? 0;
      const wanted = (bits === 8 ? Math.abs(extreme) : extreme) / divisor;
      let word: number;
      let scale: number;
      if (scales === 'f16') {
        word = numberToF16(wanted);
        scale = f16ToNumber(word);
      } else {
        scaleWord[0] = Math.abs(wanted) < F32_MIN_NORMAL ? 0 : wanted;
        scale = scaleWord[0];
        word = scaleBits[0] ?? 0;
      }
      if (scale === 0) word = 0;
      if (!Number.isFinite(scale)) refuse(from, extreme);
      const scaleAt = row * perRow + forValues + (scales === 'f16' ? group >> 1 : group);
      out[scaleAt] = scales === 'f16' && group % 2 === 1 ? ((out[scaleAt] ?? 0) | (word << 16)) >>> 0 : word;
      let to = row * perRow + (group * QUANT_GROUP) / perWord;
      for (let i = at; i < at + QUANT_GROUP; i += perWord) {
        let packed = 0;
        for (let j = 0; j < perWord; j++) {
          const q = scale === 0 ? 0 : (values[i + j] ?? 0) / scale + ROUND - ROUND;
          packed |= ((q < low ? low : q > high ? high : q) + bias & mask) << (j * bits);
        }
        out[to++] = packed >>> 0;
      }
    }
  }
  return out;
}

/** What packed rows stand for, exactly. */
export function unpackRows(name: QuantName, words: Uint32Array, rows: number, k: number): Float64Array {
  const format = FORMATS[name];
  const { bits, scales } = format;
  const perRow = rowWords(format, k);
  const forValues = valueWords(format, k);
  const out = new Float64Array(rows * k);
  for (let row = 0; row < rows; row++) {
    for (let i = 0; i < k; i++) {
      const group = Math.floor(i / QUANT_GROUP);
      const word = words[row * perRow + Math.floor((i * bits) / 32)] ?? 0;
      const field = word << (32 - bits - ((i * bits) % 32));
      const q = bits === 8 ? field >> 24 : (field >>> 28) - 8;
      const scaleAt = words[row * perRow + forValues + (scales === 'f16' ? group >> 1 : group)] ?? 0;
      if (scales === 'f32') scaleBits[0] = scaleAt;
      const scale = scales === 'f32' ? (scaleWord[0] ?? 0) : f16ToNumber(group % 2 === 0 ? scaleAt & 0xffff : scaleAt >>> 16);
      out[row * k + i] = q * scale;
    }
  }
  return out;
}

/** Replaces values by what they are stored as. */
export const quantiseRows = (name: QuantName, values: Float64Array, k: number, refuse: Refuse): void => {
  const rows = values.length / k;
  values.set(unpackRows(name, packRows(name, values, rows, k, refuse), rows, k));
};
