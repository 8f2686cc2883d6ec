/** Attention by tiles in the portable variant, on the interpreter. */
import { describe, expect, it } from 'vitest';
import { attention, attentionSchedule } from '../../../src/kernels/dense/attention.ts';
import type { AttentionProblem, AttentionSchedule } from '../../../src/kernels/dense/attention.ts';
import { legalAttentionTiles } from '../../../src/kernels/dense/attention-tiles-schedule.ts';
import type { FmaAttention, MmaAttention } from '../../../src/kernels/dense/attention-tiles-schedule.ts';
import { CUDA_SM80, CUDA_SM90A } from '../../../src/target/cuda.ts';
import { fullProblem as full, makeData, reference, runGroup } from './attention-reference.ts';
import type { Data, Small } from './attention-reference.ts';
import { CAPS, NARROW, expectClose, expectSameBits } from './harness.ts';

const SMALL: FmaAttention = { variant: 'fma', rows: 8, keys: 4, split: 1, parts: 1, tm: 2, across: 2 };
/** The keys of a chunk and the threads of a row decide about bits, the rest must not. */
const OTHERS: readonly FmaAttention[] = [{ ...SMALL, rows: 4, tm: 1 }, { ...SMALL, rows: 16, tm: 4 }];

function compute(p: AttentionProblem, d: Data, T: number, past: number, s = SMALL, caps = CAPS): Float32Array {
  const y = new Float32Array(T * p.heads * p.vDim);
  runGroup(attention(p, s, caps), { ...d, y }, { T, past });
  return y;
}

describe('attention by tiles', () => {
  const problems: readonly Small[] = [
    { heads: 1, kvHeads: 1, qkDim: 1, vDim: 2 },
    { heads: 3, kvHeads: 1, qkDim: 10, vDim: 4 },
    { heads: 4, kvHeads: 2, qkDim: 8, vDim: 6 },
    { heads: 3, kvHeads: 3, qkDim: 7, vDim: 10, window: 1 },
    { heads: 4, kvHeads: 4, qkDim: 4, vDim: 4, window: 4 },
    { heads: 4, kvHeads: 1, qkDim: 12, vDim: 8, vFromK: true },
    { heads: 4, kvHeads: 2, qkDim: 6, vDim: 6, sinksElem: 'f32' },
    { heads: 4, kvHeads: 1, qkDim: 5, vDim: 12, sinksElem: 'f32', window: 7 },
  ];
  for (const small of problems) {
    const p = full(small);
    it(JSON.stringify(small), () => {
      for (const T of [1, 2, 3, 7, 17]) {
        for (const past of [0, 5]) {
          const d = makeData(p, T, past);
          const first = compute(p, d, T, past, SMALL, T === 7 ? NARROW : CAPS);
          expectClose(first, reference(p, d, T, past), 3e-6);
          for (const s of T === 7 ? OTHERS : []) expectSameBits(compute(p, d, T, past, s), first);
        }
      }
    });
  }

  it('splits the columns of values over blocks, the same bits', () => {
    const p = full({ heads: 4, kvHeads: 2, qkDim: 6, vDim: 12 });
    for (const [T, past] of [[9, 3], [5, 0]] as const) {
      const d = makeData(p, T, past);
      const whole = compute(p, d, T, past);
      for (const split of [2, 3]) expectSameBits(compute(p, d, T, past, { ...SMALL, split }, NARROW), whole);
    }
  });

  it('joins parts of the keys', () => {
    for (const small of [{ heads: 4, kvHeads: 2, qkDim: 6, vDim: 12 }, { heads: 2, kvHeads: 1, qkDim: 4, vDim: 8, window: 9, sinksElem: 'f32' as const }]) {
      const p = full(small);
      for (const [T, past] of [[1, 0], [1, 18], [3, 13], [6, 30]] as const) {
        const d = makeData(p, T, past);
        for (const parts of [2, 3, 8]) expectClose(compute(p, d, T, past, { ...SMALL, rows: 4, parts, split: parts === 3 ? 2 : 1 }, NARROW), reference(p, d, T, past), 3e-6);
      }
    }
  });

  it('gives a token the same bits with parts, too', () => {
    const p = full({ heads: 2, kvHeads: 1, qkDim: 6, vDim: 4 });
    const d = makeData(p, 19, 0);
    const whole = compute(p, d, 19, 0, { ...SMALL, parts: 3 });
    for (const t of [0, 8, 18]) {
      const q = d.q.slice(t * 12, (t + 1) * 12);
      expectSameBits(compute(p, { ...d, q }, 1, t, { ...SMALL, parts: 3 }), whole.slice(t * 8, (t + 1) * 8));
    }
  });

  it('gives a token the same bits whatever else the call holds', () => {
    const p = full({ heads: 2, kvHeads: 1, qkDim: 6, vDim: 4, window: 11 });
    const d = makeData(p, 19, 0);
    const whole = compute(p, d, 19, 0);
    for (const t of [0, 3, 8, 18]) {
      const q = d.q.slice(t * 12, (t + 1) * 12);
      expectSameBits(compute(p, { ...d, q }, 1, t), whole.slice(t * 8, (t + 1) * 8));
    }
  });

  it('stays finite where the scores are huge', () => {
    const p = full({ heads: 1, kvHeads: 1, qkDim: 2, vDim: 2, scale: 1e6 });
    for (const spread of [1e6, 1e12, 1e18, 1e30]) {
      const d = makeData(p, 5, 5, spread);
      for (const x of compute(p, d, 5, 5)) expect(Number.isFinite(x)).toBe(true);
    }
  });
});

describe('the default schedule', () => {
  const halves = { qElem: 'bf16', kvElem: 'bf16' } as const;
  const heads = full({ heads: 16, kvHeads: 16, qkDim: 128, vDim: 128, ...halves });
  const latent = full({ heads: 16, kvHeads: 1, qkDim: 576, vDim: 512, vFromK: true, ...halves });

  it('takes tensor cores where storage, heads and device allow them', () => {
    expect(attentionSchedule(heads, CUDA_SM80)).toMatchObject({ variant: 'mma-sync', rows: 128, keys: 48, split: 1, parts: 1, warps: 4 });
    expect(attentionSchedule(latent, CUDA_SM90A)).toMatchObject({ variant: 'mma-sync', rows: 64, keys: 64, split: 2, parts: 1 });
    for (const other of [{ kvElem: 'f32' }, { qElem: 'f16' }, { qkDim: 120 }, { vDim: 24 }, { scale: 0 }] as const) {
      expect(attentionSchedule({ ...heads, ...other }, CUDA_SM80)).not.toHaveProperty('variant');
    }
    expect(attentionSchedule(heads, CAPS)).toEqual({ block: 64, rows: 4, tn: 2 });
  });

  it('fills the device, the same chunks whatever the rows', () => {
    const of = (p: AttentionProblem, maxTokens: number): AttentionSchedule => attentionSchedule({ ...p, maxTokens }, CUDA_SM90A);
    expect(of(heads, 1024)).toMatchObject({ rows: 64, keys: 48, parts: 1 });
    expect(of(heads, 128)).toMatchObject({ rows: 64, keys: 48, parts: 4 });
    expect(of(heads, 8)).toMatchObject({ rows: 16, warps: 1, parts: 32 });
    expect(of(latent, 8)).toMatchObject({ rows: 16, split: 2, parts: 64 });
    expect(of({ ...latent, heads: 128 }, 8)).toMatchObject({ rows: 64, warps: 4, parts: 32 });
  });

  it('says why a schedule is not legal', () => {
    const s: MmaAttention = { variant: 'mma-sync', rows: 64, keys: 64, split: 1, parts: 1, warps: 4 };
    const cases: readonly (readonly [AttentionProblem, Partial<MmaAttention>, RegExp])[] = [
      [heads, { rows: 48 }, /do not divide 48 rows/],
      [heads, { keys: 24 }, /24 keys are no multiple/],
      [heads, { split: 3 }, /in 3 parts/],
      [heads, { parts: 0 }, /parts is 0/],
      [latent, {}, /sums a thread/],
      [latent, { split: 4, rows: 64, keys: 112 }, /bytes of shared memory/],
      [{ ...heads, scale: -1 }, {}, /a scale of -1/],
      [{ ...heads, kvElem: 'f32' }, {}, /16-bit numbers of one kind/],
    ];
    for (const [p, change, why] of cases) expect(legalAttentionTiles(p, { ...s, ...change }, CUDA_SM80)).toMatchObject({ ok: false, why: expect.stringMatching(why) });
    expect(legalAttentionTiles(heads, s, CAPS)).toMatchObject({ ok: false, why: 'baseline has no mma-sync' });
    expect(() => attention(heads, { ...s, keys: 24 }, CUDA_SM80)).toThrow(/attention: 24 keys/);
  });
});
