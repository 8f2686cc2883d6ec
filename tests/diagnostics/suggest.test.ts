/** Did-you-mean. */
import fc from 'fast-check';
import { expect, it } from 'vitest';
import { editDistance, suggest } from '../../src/diagnostics/index.ts';

it('counts edits', () => {
  expect(editDistance('kitten', 'sitting', 9)).toBe(3);
  expect(editDistance('ab', 'ba', 9)).toBe(1);
  expect(editDistance('', 'abc', 9)).toBe(3);
  expect(editDistance('abcdef', 'x', 2)).toBe(3);
});

it('is a symmetric distance below its limit', () => {
  const word = fc.string({ unit: fc.constantFrom('a', 'b', 'c'), maxLength: 8 });
  fc.assert(
    fc.property(word, word, fc.nat(9), (a, b, limit) => {
      const d = editDistance(a, b, limit);
      expect(d).toBe(editDistance(b, a, limit));
      expect(d === 0).toBe(a === b);
      expect(d).toBe(Math.min(editDistance(a, b, 20), limit + 1));
    }),
    { numRuns: 500, seed: 1 },
  );
});

it('finds what was meant and nothing else', () => {
  const known = ['hidden', 'heads', 'experts', 'top-k', 'K', 'Ks', 'm', 'softmax', 'renormalize'];
  expect(suggest('hiden', known)).toEqual(['hidden']);
  expect(suggest('topk', known)).toEqual(['top-k']);
  expect(suggest('TOP_K', known)).toEqual(['top-k']);
  expect(suggest('Softmax', known)).toEqual(['softmax']);
  expect(suggest('renormalise', known)).toEqual(['renormalize']);
  expect(suggest('k', known)).toEqual(['K']);
  expect(suggest('zebra', known)).toEqual([]);
  expect(suggest('q', known)).toEqual([]);
  expect(suggest('h'.repeat(100_000), known)).toEqual([]);
});
