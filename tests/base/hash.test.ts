import { createHash } from 'node:crypto';
import { describe, expect, it } from 'vitest';
import { sha256, stableHash } from '../../src/base/hash.ts';

describe('sha256', () => {
  it('agrees with the platform on lengths around the block borders', () => {
    for (const n of [0, 1, 3, 55, 56, 57, 63, 64, 65, 119, 120, 1000, 100_000]) {
      const bytes = Uint8Array.from({ length: n }, (_, i) => (i * 31 + n) & 255);
      expect(sha256(bytes)).toBe(createHash('sha256').update(bytes).digest('hex'));
    }
  });
});

describe('stableHash', () => {
  it('does not depend on the order of keys', () => {
    expect(stableHash({ a: 1, b: [2, { d: 3, c: 4 }] })).toBe(stableHash({ b: [2, { c: 4, d: 3 }], a: 1 }));
    expect(stableHash({ a: 1 })).not.toBe(stableHash({ a: 2 }));
  });
});
