import { describe, expect, it } from 'vitest';
import type { RouteAttrs } from '../../../src/ir/graph/types.ts';
import { route } from '../../../src/kernels/index.ts';
import type { RouteCrews, RouteProblem, RouteSchedule } from '../../../src/kernels/index.ts';
import { CUDA_SM80 } from '../../../src/target/cuda.ts';
import {
  CAPS as WEBGPU,
  NARROW as WEBGPU_NARROW,
  dataOf,
  expectClose,
  expectIds,
  expectSameBits,
  expectWeights,
  random,
  reference,
  remember,
  run,
  stored,
} from './harness.ts';
import type { Operands, Tensor } from './harness.ts';

type Rule = Pick<RouteProblem, 'experts' | 'slots'> & Partial<RouteProblem>;
const rule = (r: Rule): RouteProblem => ({
  score: 'softmax',
  select: { kind: 'top-k' },
  weights: 'scores',
  scale: 1,
  source: { kind: 'logits' },
  ...r,
});

const attrsOf = (p: RouteProblem): RouteAttrs => {
  const { experts, slots, score, groups, weights, renormalize, scale, select } = p;
  return {
    experts,
    slots,
    score,
    weights,
    scale,
    select: select.kind === 'hash' ? { kind: 'hash' } : select,
    ...(groups === undefined ? {} : { groups }),
    ...(renormalize === undefined ? {} : { renormalize }),
  };
};

const launchOf = remember(route);

interface Result {
  readonly weights: Float32Array;
  readonly ids: Uint32Array;
  readonly faults: Uint32Array;
}

const results = (p: RouteProblem, T: number): Result => ({
  weights: new Float32Array(T * p.slots),
  ids: new Uint32Array(T * p.slots),
  faults: new Uint32Array(4),
});

/** One block a token, and crews of 32 threads; the second device of each has grids that fold. */
const DEVICES = [
  ['blocks', WEBGPU, WEBGPU_NARROW],
  ['crews', CUDA_SM80, { ...CUDA_SM80, maxGrid: 3 }],
] as const;

describe.each(DEVICES)('%s', (_device, CAPS, NARROW) => {
  /** Runs a rule on logits and compares with the reference; ids exactly. */
  function checkLogits(
    p: RouteProblem,
    logits: Float32Array,
    extra: Readonly<Record<string, Tensor>> = {},
    schedule?: RouteSchedule | RouteCrews,
    caps = CAPS,
  ): Result {
    const T = logits.length / p.experts;
    const r = results(p, T);
    const operands: Record<string, Operands[string]> = { logits, weights: r.weights, ids: r.ids, faults: r.faults };
    for (const [name, x] of Object.entries(extra)) if (!(x.data instanceof Float64Array)) operands[name] = x.data;
    run(launchOf(p, schedule, caps), operands, { T, subgroups: caps.subgroups }, ['weights', 'ids']);
    const want = reference('moe.route', { logits: { shape: ['T', p.experts], data: logits }, ...extra }, attrsOf(p), { T });
    expectIds(r.ids, dataOf(want, 'ids'));
    expectWeights(r.weights, dataOf(want, 'weights'));
    expect(r.faults[0]).toBe(want.faults);
    for (let t = 0; t < T; t++) {
      const row = Array.from(r.ids.subarray(t * p.slots, (t + 1) * p.slots));
      if (p.select.kind !== 'expert-choice') expect(new Set(row).size).toBe(p.slots);
    }
    return r;
  }

  const spread = (n: number, seed: number, by: number): Float32Array => random(n, seed).map((x) => x * by);

  describe('route: rules on logits', () => {
    const rules: Record<string, Rule> = {
      softmax: { experts: 7, slots: 3 },
      'one expert': { experts: 1, slots: 1 },
      'all experts': { experts: 5, slots: 5, renormalize: { p: 1, eps: 1e-20, epsMode: 'add' } },
      renormalised: { experts: 13, slots: 4, renormalize: { p: 1, eps: 0, epsMode: 'add' }, scale: 2.5 },
      'p-norm 2': { experts: 16, slots: 4, renormalize: { p: 2, eps: 0, epsMode: 'add' } },
      'p-norm 3, clamped': { experts: 9, slots: 4, renormalize: { p: 3, eps: 0.2, epsMode: 'clamp' } },
      'p-norm 1/2': { experts: 9, slots: 2, renormalize: { p: 0.5, eps: 0.1, epsMode: 'add' } },
      'top-k then softmax': { experts: 33, slots: 4, score: 'none', weights: 'softmax-selected' },
      'sigmoid, weight one': { experts: 10, slots: 2, score: 'sigmoid', weights: 'one' },
      'sqrt-softplus': { experts: 31, slots: 6, score: 'sqrt-softplus', renormalize: { p: 1, eps: 1e-20, epsMode: 'add' }, scale: 1.5 },
      'V2 groups': { experts: 24, slots: 5, groups: { count: 8, keep: 3, score: 'max' }, scale: 16 },
      'groups of one': { experts: 6, slots: 2, score: 'sigmoid', groups: { count: 6, keep: 2, score: 'top2-sum' } },
      'groups of two': { experts: 12, slots: 4, score: 'sigmoid', groups: { count: 6, keep: 3, score: 'top2-sum' } },
      'unbiased top-2 groups': { experts: 20, slots: 4, score: 'sigmoid', groups: { count: 4, keep: 2, score: 'top2-sum' } },
      'sparse mixer': { experts: 8, slots: 2, select: { kind: 'sparse-mixer', jitter: 0.01 } },
      'sparse mixer, wide': { experts: 40, slots: 5, select: { kind: 'sparse-mixer', jitter: 0.2 } },
      'sparse mixer, one': { experts: 3, slots: 3, select: { kind: 'sparse-mixer', jitter: 0.01 }, weights: 'one' },
      'more experts than threads': { experts: 300, slots: 8, renormalize: { p: 1, eps: 0, epsMode: 'add' } },
    };
    for (const [name, r] of Object.entries(rules)) {
      it(name, () => {
        for (const T of [1, 17]) checkLogits(rule(r), spread(T * r.experts, T, 4));
        checkLogits(rule(r), spread(7 * r.experts, 5, 3), {}, undefined, NARROW);
        checkLogits(rule(r), spread(2 * r.experts, 9, 60));
        // Logits of few values: ties everywhere, at the border too.
        checkLogits(
          rule(r),
          spread(7 * r.experts, 3, 2.4).map((x) => Math.round(x)),
        );
        checkLogits(rule(r), new Float32Array(2 * r.experts).fill(0.25));
      });
    }

    it('adds the bias for the choice only, and masks groups with less than any score', () => {
      for (const groups of [undefined, { count: 4, keep: 2, score: 'top2-sum' }, { count: 8, keep: 3, score: 'max' }] as const) {
        for (const score of ['sigmoid', 'softmax', 'sqrt-softplus'] as const) {
          const p = rule({
            experts: 32,
            slots: 6,
            score,
            selectionBiasElem: 'f32',
            scale: 2.5,
            renormalize: { p: 1, eps: 1e-20, epsMode: 'add' },
            ...(groups === undefined ? {} : { groups }),
          });
          for (const shift of [0, -3]) {
            const bias = random(32, 8).map((x) => x * 0.5 + shift);
            checkLogits(p, spread(9 * 32, 21, 3), { selectionBias: { shape: [32], data: bias } });
          }
        }
      }
    });

    it('survives bad logits', () => {
      const bad = [NaN, Infinity, -Infinity, 3e38, -1e38, -3.4e38, 0, -0, 1, 88, -88, 1e30];
      const E = 8;
      const T = 40;
      const pick = random(T * E, 77);
      const logits = Float32Array.from(pick, (x) => bad[Math.floor(((x + 1) / 2) * bad.length)] ?? 0);
      logits.fill(NaN, 0, E);
      logits.fill(-Infinity, E, 2 * E);
      logits.fill(Infinity, 2 * E, 3 * E);
      for (const r of [
        { experts: E, slots: 3 },
        { experts: E, slots: 3, score: 'sigmoid', renormalize: { p: 1, eps: 1e-20, epsMode: 'add' } },
        { experts: E, slots: 2, score: 'none', weights: 'softmax-selected' },
        { experts: E, slots: 8, renormalize: { p: 1, eps: 0, epsMode: 'add' } },
        { experts: E, slots: 3, groups: { count: 4, keep: 2, score: 'max' } },
        { experts: E, slots: 2, select: { kind: 'sparse-mixer', jitter: 0.01 } },
      ] satisfies Rule[]) {
        const got = checkLogits(rule(r), logits);
        expect(got.weights.every((w) => Number.isFinite(w))).toBe(true);
        expect(Array.from(got.ids.subarray(0, r.slots))).toEqual(Array.from({ length: r.slots }, (_, s) => s));
      }
    });

    it('keeps ids unique where the bias itself is broken', () => {
      const p = rule({ experts: 6, slots: 3, score: 'sigmoid', selectionBiasElem: 'f32' });
      const bias = Float32Array.from([NaN, 0, -Infinity, NaN, Infinity, 0]);
      const r = results(p, 2);
      run(route(p, undefined, CAPS), { logits: random(12, 1), selectionBias: bias, ...r }, { T: 2, subgroups: CAPS.subgroups }, ['weights', 'ids']);
      for (const t of [0, 1]) expect(new Set(r.ids.subarray(t * 3, t * 3 + 3)).size).toBe(3);
      expect(Math.max(...r.ids)).toBeLessThan(6);
    });

    it('tells logits apart whose sigmoids or softmaxes are equal in f32', () => {
      const logits = Float32Array.from([20, 21, 22, 20.5, 18, 19]);
      checkLogits(rule({ experts: 6, slots: 4, score: 'sigmoid' }), logits);
      checkLogits(
        rule({ experts: 6, slots: 4 }),
        logits.map((x) => (x - 18) * 60),
      );
    });
  });

  describe('route: tables', () => {
    it('looks experts up by token id, and weighs them by their scores', () => {
      const [vocab, experts, slots, T] = [11, 9, 3, 7];
      const table = Int32Array.from({ length: vocab * slots }, (_, i) => (i * 5 + Math.floor(i / 9)) % experts);
      const tokenIds = Int32Array.from({ length: T }, (_, t) => (t * 4) % vocab);
      const ins = { table: { shape: [vocab, slots], data: table }, tokenIds: { shape: ['T'] as const, data: tokenIds } };
      for (const score of ['softmax', 'sqrt-softplus', 'sigmoid'] as const) {
        const p = rule({
          experts,
          slots,
          score,
          select: { kind: 'hash', vocab },
          renormalize: { p: 1, eps: 1e-20, epsMode: 'add' },
          scale: 1.5,
        });
        const logits = spread(T * experts, 2, 3);
        logits.fill(NaN, experts, 2 * experts);
        checkLogits(p, logits, ins);
      }
    });

    it('needs no logits where the weight is one', () => {
      const [vocab, T] = [5, 4];
      const p = rule({ experts: 4, slots: 1, score: 'none', select: { kind: 'hash', vocab }, weights: 'one', source: { kind: 'none' } });
      const table = Int32Array.from([3, 1, 2, 0, 3]);
      const tokenIds = Int32Array.from([4, 0, 2, 3]);
      const r = results(p, T);
      run(route(p, undefined, CAPS), { table, tokenIds, ...r }, { T, subgroups: CAPS.subgroups }, ['weights', 'ids']);
      expect(Array.from(r.ids)).toEqual([3, 3, 2, 0]);
      expect(Array.from(r.weights)).toEqual([1, 1, 1, 1]);
      expect(Array.from(r.faults)).toEqual([0, 0, 0, 0]);
    });

    it('clamps and counts ids that are not there', () => {
      const p = rule({ experts: 4, slots: 2, score: 'none', select: { kind: 'hash', vocab: 3 }, weights: 'one', source: { kind: 'none' } });
      const table = Int32Array.from([0, 1, 2, 9, -5, 3]);
      const tokenIds = Int32Array.from([0, 1, 2, 3, -1]);
      const r = results(p, 5);
      run(route(p, undefined, CAPS), { table, tokenIds, ...r }, { T: 5, subgroups: CAPS.subgroups }, ['weights', 'ids']);
      expect(Array.from(r.ids)).toEqual([0, 1, 2, 3, 0, 3, 0, 3, 0, 1]);
      expect(Array.from(r.faults)).toEqual([0, 4, 0, 0]);
    });
  });

  describe('route: expert choice', () => {
    /** Rows of three kinds: tokens that are the same have the same scores, and the first ones go first. */
    const repeated = (T: number, experts: number): Float32Array => {
      const kinds = spread(3 * experts, 4, 2);
      return Float32Array.from({ length: T * experts }, (_, i) => kinds[((Math.floor(i / experts) * 7) % 3) * experts + (i % experts)] ?? 0);
    };
    for (const [experts, T, capacityFactor] of [
      [4, 16, 2],
      [5, 17, 1.5],
      [2, 300, 1.25],
      [1, 3, 1],
      [4, 3, 1],
      [2, 7, 4],
    ] as const) {
      it(`${experts} experts, ${T} tokens, factor ${capacityFactor}`, () => {
        const p = rule({ experts, slots: experts, select: { kind: 'expert-choice', capacityFactor } });
        checkLogits(p, spread(T * experts, 3, 2));
        checkLogits(p, repeated(T, experts));
        checkLogits({ ...p, renormalize: { p: 1, eps: 1e-9, epsMode: 'add' }, scale: 2, score: 'sigmoid' }, spread(T * experts, 5, 2));
        checkLogits({ ...p, weights: 'one', scale: 3 }, spread(T * experts, 6, 2), {}, undefined, NARROW);
      });
    }

    it('lets rows of bad logits take part with the lowest score', () => {
      const logits = spread(6 * 3, 9, 2);
      logits.fill(NaN, 3, 6);
      logits[9] = Infinity;
      checkLogits(rule({ experts: 3, slots: 3, select: { kind: 'expert-choice', capacityFactor: 2.5 } }), logits);
    });
  });

  describe('route: from the hidden state', () => {
    const T = 5;
    const schedules: (RouteSchedule | RouteCrews | undefined)[] = CAPS.subgroups
      ? [
          undefined,
          // Fewer crews than tokens, more, and as many; pieces that divide the depth or do not; a kernel of logits before.
          { block: 64, tokens: 4, chunk: 32, unroll: 1, guarded: 0, split: 0 },
          { block: 96, tokens: 2, chunk: 32, unroll: 2, guarded: 1, split: 0 },
          { block: 64, tokens: 8, chunk: 64, unroll: 3, guarded: 1, split: 1 },
        ]
      : [
          undefined,
          { block: 32, team: 1, per: 1 },
          { block: 32, team: 8, per: 3 },
          { block: 64, team: 2, per: 2 },
          { block: 32, team: 32, per: 1 },
        ];

    interface Form {
      readonly dim: number;
      readonly experts: number;
      readonly norm?: 'rms' | 'layer';
      readonly normBias?: boolean;
      readonly gateBias?: boolean;
      /** The shared gate: an operand, or the last row of the gate. */
      readonly shared?: boolean | 'row';
      readonly bias?: boolean;
      readonly elem?: 'f32' | 'f16' | 'bf16';
    }

    function checkHidden(
      f: Form,
      s: RouteSchedule | RouteCrews | undefined,
      caps = CAPS,
      select: RouteProblem['select'] = { kind: 'top-k' },
    ): Result & { launches: number } {
      const elem = f.elem ?? 'f32';
      const { dim, experts } = f;
      const p = rule({
        experts,
        slots: select.kind === 'expert-choice' ? experts : Math.min(3, experts),
        score: 'sigmoid',
        select,
        ...(f.bias === true ? { selectionBiasElem: elem } : {}),
        source: {
          kind: 'hidden',
          dim,
          gateElem: elem,
          ...(f.gateBias === true ? { gateBiasElem: elem } : {}),
          ...(f.shared === true ? { sharedGateElem: elem } : f.shared === 'row' ? { sharedGateRow: true } : {}),
          ...(f.norm === undefined
            ? {}
            : { norm: { kind: f.norm, eps: 1e-5, weightElem: elem, ...(f.normBias === true ? { biasElem: elem } : {}) } }),
        },
      });
      const r = results(p, T);
      const operands: Record<string, Operands[string]> = { weights: r.weights, ids: r.ids, faults: r.faults };
      const ins: Record<string, Tensor> = {};
      const add = (name: string, shape: Tensor['shape'], values: Float32Array, as: 'f32' | 'f16' | 'bf16' = elem): void => {
        const kept = stored(values, as);
        operands[name] = kept.data;
        ins[name] = { shape, data: kept.values };
      };
      add(
        'x',
        ['T', dim],
        random(T * dim, 1).map((x) => x * 3 + 0.5),
        'f32',
      );
      const gateRows = experts + (f.shared === 'row' ? 1 : 0);
      add('gate', [gateRows, dim], random(gateRows * dim, 2));
      if (f.norm !== undefined)
        add(
          'normWeight',
          [dim],
          random(dim, 3).map((x) => x + 1.5),
        );
      if (f.normBias === true) add('normBias', [dim], random(dim, 4));
      if (f.gateBias === true) add('gateBias', [experts], random(experts, 5));
      if (f.bias === true) add('selectionBias', [experts], random(experts, 6));
      if (f.shared === true) add('sharedGate', [1, dim], random(dim, 7));
      const [xn, gateOut] = [new Float32Array(T * dim), new Float32Array(T)];
      const outs = ['weights', 'ids', ...(f.norm === undefined ? [] : ['xn']), ...(f.shared === undefined ? [] : ['gateOut'])];
      const group = route(p, s, caps);
      run(group, { ...operands, xn, gateOut }, { T, subgroups: caps.subgroups }, outs);
      const attrs = { ...attrsOf(p), ...(f.norm === undefined ? {} : { norm: { kind: f.norm, eps: 1e-5 } }) };
      const want = reference('moe.route', ins, attrs, { T });
      expectIds(r.ids, dataOf(want, 'ids'));
      expectWeights(r.weights, dataOf(want, 'weights'));
      if (f.norm !== undefined) expectClose(xn, dataOf(want, 'xn'));
      if (f.shared !== undefined) expectClose(gateOut, dataOf(want, 'gate'), 5e-6);
      for (const l of group.launches) expect(l.kernel.params.length).toBeLessThanOrEqual(caps.maxBindings);
      return { ...r, launches: group.launches.length };
    }

    const forms: Record<string, Form> = {
      plain: { dim: 24, experts: 6 },
      'odd depth': { dim: 33, experts: 5, norm: 'rms' },
      'depth 10, layer norm': { dim: 10, experts: 3, norm: 'layer', normBias: true },
      'depth 1': { dim: 1, experts: 3, norm: 'rms' },
      biases: { dim: 40, experts: 7, norm: 'rms', gateBias: true, bias: true },
      'shared gate': { dim: 40, experts: 11, shared: true },
      'shared gate as a row': { dim: 40, experts: 11, norm: 'rms', shared: 'row' },
      'shared gate as a row, odd': { dim: 33, experts: 64, shared: 'row', gateBias: true, elem: 'f16' },
      f16: { dim: 24, experts: 6, norm: 'rms', elem: 'f16', gateBias: true },
      'bf16, odd': { dim: 31, experts: 70, norm: 'layer', elem: 'bf16' },
      everything: { dim: 12, experts: 9, norm: 'layer', normBias: true, gateBias: true, bias: true, shared: true },
    };
    for (const [name, f] of Object.entries(forms)) {
      it(name, () => {
        for (const s of schedules) checkHidden(f, s);
        checkHidden(f, undefined, NARROW);
      });
    }

    it('every rule, whatever makes its logits', () => {
      const f: Form = { dim: 40, experts: 11, norm: 'rms', shared: 'row' };
      for (const s of schedules) {
        checkHidden(f, s, CAPS, { kind: 'sparse-mixer', jitter: 0.1 });
        checkHidden(f, s, CAPS, { kind: 'expert-choice', capacityFactor: 2 });
      }
    });

    it.skipIf(CAPS.subgroups)('takes two kernels where one would bind too much, and one where the device allows it', () => {
      const f: Form = { dim: 16, experts: 6, norm: 'rms', shared: true };
      expect(checkHidden(f, undefined).launches).toBe(2);
      expect(checkHidden({ ...f, shared: 'row' }, undefined).launches).toBe(1);
      expect(checkHidden(f, undefined, { ...CAPS, maxBindings: 10 }).launches).toBe(1);
      expect(checkHidden({ dim: 16, experts: 6, norm: 'rms', bias: true }, undefined).launches).toBe(1);
      expect(
        checkHidden({ ...f, gateBias: true, normBias: true }, undefined, CAPS, { kind: 'expert-choice', capacityFactor: 2 }).launches,
      ).toBe(3);
    });

    it('gives a token the same bits whatever else the call holds', () => {
      const p = rule({ experts: 6, slots: 2, source: { kind: 'hidden', dim: 20, gateElem: 'f32' } });
      const x = random(9 * 20, 5);
      const gate = random(6 * 20, 6);
      const all = results(p, 9);
      run(route(p, undefined, CAPS), { x, gate, ...all }, { T: 9, subgroups: CAPS.subgroups }, ['weights', 'ids']);
      for (const t of [0, 4, 8]) {
        const one = results(p, 1);
        run(route(p, undefined, CAPS), { x: x.slice(t * 20, (t + 1) * 20), gate, ...one }, { T: 1, subgroups: CAPS.subgroups }, ['weights', 'ids']);
        expectSameBits(one.weights, all.weights.slice(t * 2, t * 2 + 2));
      }
    });
  });
});
