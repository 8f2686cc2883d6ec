/** The manifest's own copies of the compiler's shapes: equal, as types and in what they mean. */
import fc from 'fast-check';
import { expect, expectTypeOf, it } from 'vitest';
import { type QuantName as BaseQuant, QUANT_GROUP as BASE_GROUP, QUANT_NAMES as BASE_NAMES, quantFormat, quantRowWords } from '../../src/base/quant.ts';
import { type Size as BaseSize, type SizeSymbol as BaseSymbol, evalSize as baseEval } from '../../src/base/size.ts';
import type { DType, TensorSource as GraphSource } from '../../src/ir/graph/types.ts';
import type { BufferRef } from '../../src/lower/program.ts';
import type { ManifestRef, QuantName, Size, SizeSymbol, StoredElem, TensorSource } from '../../src/runtime/core/abi.ts';
import { QUANT_GROUP, QUANT_NAMES, rowBytes } from '../../src/runtime/core/quant.ts';
import { evalSize } from '../../src/runtime/core/size.ts';

// Judged by the type check of the tests; at run time these say nothing.
it('is written down equally twice', () => {
  expectTypeOf<Size>().toEqualTypeOf<BaseSize>();
  expectTypeOf<SizeSymbol>().toEqualTypeOf<BaseSymbol>();
  expectTypeOf<TensorSource>().toEqualTypeOf<GraphSource>();
  expectTypeOf<StoredElem>().toEqualTypeOf<DType>();
  expectTypeOf<QuantName>().toEqualTypeOf<BaseQuant>();
  expectTypeOf<ManifestRef>().toEqualTypeOf<BufferRef>();
});

it('lays quantised rows out equally', () => {
  expect([QUANT_GROUP, QUANT_NAMES]).toEqual([BASE_GROUP, BASE_NAMES]);
  for (const name of QUANT_NAMES) for (const k of [32, 64, 96, 2880]) expect(rowBytes(name, k)).toBe(4 * quantRowWords(quantFormat(name), k));
});

const { size } = fc.letrec<{ size: Size }>((tie) => ({
  size: fc.oneof(
    { maxDepth: 4 },
    fc.nat(99),
    fc.constantFrom<SizeSymbol[]>('T', 'past', 'seq', 'cap'),
    fc.record({ op: fc.constantFrom<('+' | '*' | 'ceildiv' | 'min' | 'max')[]>('+', '*', 'ceildiv', 'min', 'max'), a: tie('size'), b: tie('size') }),
  ),
}));

it('gives sizes the same values', () => fc.assert(
  fc.property(size, fc.record({ T: fc.nat(600), past: fc.nat(600), seq: fc.integer({ min: 1, max: 600 }), cap: fc.nat(4096) }), (s, env) => {
    expect(evalSize(s, env)).toBe(baseEval(s, env));
  }),
));
