import { describe, expect, it } from 'vitest';
import { attention, attentionSchedule } from '../../../src/kernels/dense/attention.ts';
import type { AttentionProblem, AttentionSchedule } from '../../../src/kernels/dense/attention.ts';
import { fullProblem as full, makeData, reference, runGroup } from './attention-reference.ts';
import type { Data, Small } from './attention-reference.ts';
import { CAPS, NARROW, expectClose, expectSameBits, stored } from './harness.ts';

function compute(p: AttentionProblem, d: Data, T: number, past: number, s?: AttentionSchedule, caps = CAPS): Float32Array {
  const y = new Float32Array(T * p.heads * p.vDim);
  runGroup(attention(p, s, caps), { ...d, y }, { T, past });
  return y;
}

/** The chunk decides about bits, the rest must not. */
const SMALL: readonly AttentionSchedule[] = [
  { block: 8, rows: 1, tn: 1 }, { block: 8, rows: 4, tn: 2 }, { block: 8, rows: 8, tn: 1 }, { block: 8, rows: 2, tn: 8 },
];

describe('attention', () => {
  const problems: readonly Small[] = [
    { heads: 1, kvHeads: 1, qkDim: 1, vDim: 1 },
    { heads: 3, kvHeads: 1, qkDim: 10, vDim: 3 },
    { heads: 4, kvHeads: 2, qkDim: 8, vDim: 33 },
    { heads: 3, kvHeads: 3, qkDim: 31, vDim: 10, window: 1 },
    { heads: 4, kvHeads: 4, qkDim: 4, vDim: 4, window: 4 },
    { heads: 4, kvHeads: 1, qkDim: 40, vDim: 32, vFromK: true },
    { heads: 4, kvHeads: 2, qkDim: 6, vDim: 6, sinksElem: 'f32' },
    { heads: 4, kvHeads: 1, qkDim: 5, vDim: 12, sinksElem: 'f32', window: 4 },
  ];
  for (const small of problems) {
    const p = full(small);
    it(JSON.stringify(small), () => {
      for (const T of [1, 2, 3, 7, 17]) {
        for (const past of [0, 5]) {
          const d = makeData(p, T, past);
          const want = reference(p, d, T, past);
          const first = compute(p, d, T, past, SMALL[0]);
          expectClose(first, want, 3e-6);
          const others = T === 7 ? SMALL.slice(1) : SMALL.slice(1, 2);
          for (const s of others) expectSameBits(compute(p, d, T, past, s), first);
        }
      }
    });
  }

  it('takes chunks, window and grouping as they come with the default schedules', () => {
    const p = full({ heads: 4, kvHeads: 2, qkDim: 6, vDim: 9, window: 70 });
    for (const [T, past] of [[3, 126], [2, 61], [1, 64]] as const) {
      const d = makeData(p, T, past);
      expectClose(compute(p, d, T, past), reference(p, d, T, past), 3e-6);
      expectClose(compute({ ...p, maxTokens: 8 }, d, T, past, undefined, NARROW), reference(p, d, T, past), 3e-6);
    }
  });

  it('serves latent attention: 576 columns of keys, 512 of values', () => {
    const p = full({ heads: 3, kvHeads: 1, qkDim: 576, vDim: 512, vFromK: true, scale: 1 / 24, maxTokens: 8 });
    const d = makeData(p, 2, 3);
    const s = attentionSchedule(p, CAPS);
    expect(s.rows).toBe(2);
    expectClose(compute(p, d, 2, 3), reference(p, d, 2, 3), 5e-6);
  });

  it('gives a token the same bits whatever else the call holds', () => {
    const p = full({ heads: 2, kvHeads: 1, qkDim: 6, vDim: 5, window: 11 });
    const d = makeData(p, 19, 0);
    const s = { block: 8, rows: 8, tn: 1 };
    const whole = compute(p, d, 19, 0, s);
    for (const t of [0, 7, 8, 18]) {
      const q = d.q.slice(t * 12, (t + 1) * 12);
      expectSameBits(compute(p, { ...d, q }, 1, t, { block: 8, rows: 1, tn: 1 }), whole.slice(t * 10, (t + 1) * 10));
    }
  });

  it('reads and writes 16-bit storage: arithmetic in f32, one rounding', () => {
    const p = full({ heads: 4, kvHeads: 2, qkDim: 8, vDim: 16 });
    for (const elem of ['f16', 'bf16'] as const) {
      const d = makeData(p, 7, 5);
      const [q, k, v] = [stored(d.q, elem), stored(d.k, elem), stored(d.v, elem)];
      const exact = compute(p, { ...d, q: q.values, k: k.values, v: v.values }, 7, 5, SMALL[1]);
      const y = new Uint16Array(exact.length);
      const launch = attention({ ...p, qElem: elem, kvElem: elem, yElem: elem }, SMALL[1], CAPS);
      runGroup(launch, { q: q.data, k: k.data, v: v.data, y }, { T: 7, past: 5 });
      expect(y).toEqual(stored(exact, elem).data);
    }
  });

  it('keeps what is not finite in later tokens out of earlier ones', () => {
    const p = full({ heads: 1, kvHeads: 1, qkDim: 2, vDim: 2 });
    const d = makeData(p, 4, 0);
    const want = compute(p, d, 4, 0, { block: 8, rows: 4, tn: 1 });
    d.k.fill(NaN, 6, 8);
    d.v.fill(Infinity, 6, 8);
    expectSameBits(compute(p, d, 4, 0, { block: 8, rows: 4, tn: 1 }).slice(0, 6), want.slice(0, 6));
  });

  it('stays finite where the scores are huge', () => {
    const p = full({ heads: 1, kvHeads: 1, qkDim: 2, vDim: 2, scale: 1e6 });
    for (const spread of [1e6, 1e12, 1e18]) {
      const d = makeData(p, 5, 5, spread);
      for (const x of compute(p, d, 5, 5, { block: 8, rows: 2, tn: 1 })) expect(Number.isFinite(x)).toBe(true);
    }
  });

  it('refuses what it cannot do', () => {
    const p = full({ heads: 4, kvHeads: 3, qkDim: 4, vDim: 4 });
    expect(() => attention(p, undefined, CAPS)).toThrow(/do not divide/);
    expect(() => attention({ ...p, kvHeads: 2, vFromK: true, vDim: 5 }, undefined, CAPS)).toThrow(/do not fit/);
    expect(() => attention({ ...p, kvHeads: 2 }, { block: 48, rows: 1, tn: 1 }, CAPS)).toThrow(/powers of two/);
    expect(() => attention({ ...p, kvHeads: 2 }, { block: 256, rows: 32, tn: 1 }, CAPS)).toThrow(/shared memory/);
    expect(() => attention({ ...p, kvHeads: 2 }, { block: 64, rows: 1, tn: 3 }, CAPS)).toThrow(/do not divide/);
  });
});
