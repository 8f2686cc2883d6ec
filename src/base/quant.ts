/**
 * How quantised matrices lie in memory. A row of depth k is k · bits / 32 words of values, then its scales, one for each group
 * of 32 neighbouring values: f32 words, or f16 in pairs, the earlier one in the low half. Values of a word ascend from its low
 * bits: int8 in two's complement, int4 as value + 8. A weight is value · scale.
 */

/** Neighbouring values of a row that share a scale. */
export const QUANT_GROUP = 32;

/** Values, then scales. */
export type QuantName = 'int8_f16' | 'int8_f32' | 'int4_f16' | 'int4_f32';

export interface QuantFormat {
  readonly bits: 8 | 4;
  readonly scales: 'f16' | 'f32';
}

const FORMATS: Readonly<Record<QuantName, QuantFormat>> = {
  int8_f16: { bits: 8, scales: 'f16' },
  int8_f32: { bits: 8, scales: 'f32' },
  int4_f16: { bits: 4, scales: 'f16' },
  int4_f32: { bits: 4, scales: 'f32' },
};

export const QUANT_NAMES: readonly QuantName[] = ['int8_f16', 'int8_f32', 'int4_f16', 'int4_f32'];
export const isQuantName = (name: string): name is QuantName => Object.hasOwn(FORMATS, name);
export const quantFormat = (name: QuantName): QuantFormat => FORMATS[name];
export const quantName = (values: 'int8' | 'int4', scales: 'f16' | 'f32'): QuantName => `${values}_${scales}`;

/** Words of values in a row of depth `k`, a multiple of the group. */
export const valueWords = ({ bits }: QuantFormat, k: number): number => (k * bits) / 32;
/** Words of a row of depth `k`, its scales included. */
export const quantRowWords = (format: QuantFormat, k: number): number =>
  valueWords(format, k) + (format.scales === 'f32' ? k / QUANT_GROUP : Math.ceil(k / (2 * QUANT_GROUP)));
