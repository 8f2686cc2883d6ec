/** Routers whose subgroups choose for a token each: the same bits in every form, and mutations of each. */
import { describe, expect, it } from 'vitest';
import type { TypedArray } from '../../../src/ir/kernel/interpret.ts';
import { route } from '../../../src/kernels/index.ts';
import type { RouteCrews, RouteProblem } from '../../../src/kernels/index.ts';
import { routeCrews } from '../../../src/kernels/moe/route-crews.ts';
import { CUDA_SM80, CUDA_SM90A } from '../../../src/target/cuda.ts';
import { WEBGPU_BASELINE } from '../../../src/target/types.ts';
import type { Capabilities } from '../../../src/target/types.ts';
import { expectEveryMutationCaught } from '../../ir/kernel/mutate.ts';
import { mutationRun, random, run } from './harness.ts';

const NORM = { kind: 'rms', eps: 1e-5, weightElem: 'f32' } as const;
const problem = (p: Partial<RouteProblem> & Pick<RouteProblem, 'source'>): RouteProblem => ({
  experts: 12, slots: 3, score: 'softmax', select: { kind: 'top-k' }, weights: 'scores', scale: 1, ...p,
});

const results = (p: RouteProblem, T: number, dim: number): Record<string, TypedArray> => ({
  weights: new Float32Array(T * p.slots), ids: new Uint32Array(T * p.slots), faults: new Uint32Array(4),
  xn: new Float32Array(T * dim), gateOut: new Float32Array(T),
});

describe('one result in all forms', () => {
  const dim = 300;
  const T = 9;
  for (const norm of [undefined, NORM, { ...NORM, kind: 'layer' } as const]) {
    it(norm?.kind ?? 'no norm', () => {
      const p = problem({ experts: 70, slots: 4, source: { kind: 'hidden', dim, gateElem: 'f32', sharedGateRow: true, xnElem: 'f32', ...(norm && { norm }) } });
      const inputs = { x: random(T * dim, 1), gate: random(71 * dim, 2), normWeight: random(dim, 3) };
      const outs = ['weights', 'ids', 'xn', 'gateOut'];
      const compute = (s: RouteCrews | undefined, tokens: number, maxTokens?: number): Record<string, TypedArray> => {
        const made = results(p, tokens, dim);
        const group = route({ ...p, ...(maxTokens !== undefined && { maxTokens }) }, s, CUDA_SM80);
        run(group, { ...inputs, ...made }, { T: tokens, subgroups: true }, outs);
        return made;
      };
      const first = compute(undefined, T);
      const schedules: RouteCrews[] = [
        { block: 32, tokens: 1, chunk: 32, unroll: 1, guarded: 1, split: 0 },
        { block: 64, tokens: 8, chunk: 64, unroll: 2, guarded: 0, split: 0 },
        { block: 128, tokens: 4, chunk: 96, unroll: 4, guarded: 1, split: 1 },
      ];
      for (const s of schedules) expect(compute(s, T)).toEqual(first);
      for (const maxTokens of [128, 1024]) expect(compute(undefined, T, maxTokens)).toEqual(first);
      for (const tokens of [1, 3, 8]) {
        const few = compute(undefined, tokens, 8);
        for (const name of outs) {
          const all = first[name] ?? [];
          expect(few[name]).toEqual(all.slice(0, (all.length / T) * tokens));
        }
      }
    });
  }
});

describe('schedules', () => {
  const hidden = (experts: number, dim: number, maxTokens?: number): RouteCrews => {
    const s = routeCrews(problem({ experts, slots: 2, source: { kind: 'hidden', dim, gateElem: 'f32' }, ...(maxTokens !== undefined && { maxTokens }) }), CUDA_SM90A);
    if (s === undefined) throw new Error('no schedule');
    return s;
  };

  it('share a gate among many tokens, and spread a large one over many blocks where tokens are few', () => {
    for (const [experts, dim] of [[64, 2048], [128, 2048], [256, 7168], [60, 2048]] as const) {
      expect(hidden(experts, dim).tokens).toBe(16);
      expect(hidden(experts, dim).split).toBe(0);
      expect(hidden(experts, dim, 8).split).toBe(1);
      // Sums of a thread.
      expect(Math.ceil(experts / (hidden(experts, dim).block / 8)) * 16).toBeLessThanOrEqual(64);
    }
    expect(hidden(8, 4096, 8).split).toBe(0);
    expect(hidden(8, 4096).tokens).toBe(16);
  });

  it('are for devices whose subgroups have one size', () => {
    expect(routeCrews(problem({ source: { kind: 'logits' } }), WEBGPU_BASELINE)).toBeUndefined();
    const s: RouteCrews = { block: 64, tokens: 2, chunk: 32, unroll: 1, guarded: 0, split: 0 };
    const p = problem({ source: { kind: 'hidden', dim: 16, gateElem: 'f32' } });
    expect(() => route(p, s, WEBGPU_BASELINE)).toThrow(/no known size/);
    expect(() => route(p, { ...s, block: 48 }, CUDA_SM80)).toThrow(/block \/ subgroup/);
    expect(() => route(p, { ...s, chunk: 8 }, CUDA_SM80)).toThrow(/pieces of 8 accesses/);
    expect(() => route(p, { ...s, tokens: 4096, chunk: 64 }, CUDA_SM80)).toThrow(/bytes of shared memory/);
  });
});

describe('no mutation goes unnoticed', () => {
  /** So few blocks a dimension that some are left over. */
  const FEW: Capabilities = { ...CUDA_SM80, maxGrid: 2 };
  // A piece of 32 accesses and one of 5; experts of which each thread has two, in equal pairs; three blocks of tokens, the last one not full.
  const dim = 37;
  const experts = 40;
  const T = 9;
  const inputs = { x: random(T * dim, 1), gate: random((experts + 1) * dim, 2), normWeight: random(dim, 3) };
  // Most tokens choose expert 7, then its equal, the last one.
  for (let i = 0; i < dim; i++) inputs.gate[7 * dim + i] = Array.from({ length: T }, (_, t) => inputs.x[t * dim + i] ?? 0).reduce((a, x) => a + x, 0);
  inputs.gate.copyWithin(32 * dim, 0, 8 * dim);
  // Logits that are bad come from x: in the first row, and in the one that crews without a token repeat.
  inputs.x.fill(NaN, 0, dim);
  inputs.x.fill(NaN, (T - 1) * dim);
  const EQUIVALENT: readonly RegExp[] = [
    // Differs for a NaN only, which no score is; that the largest number is no bad one is held on logits.
    /max\(select\(bits/,
    /is_bad/,
    // A thread more has no experts of its own.
    /for taken/,
  ];
  // A round more finds no tokens.
  const ROUNDS = /for crew_round/;
  // A subgroup without a token repeats the norm of the last one, or has nothing to multiply; blocks without results to give may make them.
  const LOOPS = [/for norm_t0/, /for (whole|last)_shared/];
  const GUARDED = [/for (whole|last)_copy/, /for (whole|last)_gate_(round|tail)_token/];
  const OTHERS = /if block\.z == 0/;

  function check(p: RouteProblem, s: RouteCrews, which: number, equivalent: readonly RegExp[], more: Record<string, TypedArray> = {}): void {
    const group = route(p, s, FEW);
    const launch = group.launches[which];
    if (launch === undefined) throw new Error('no launch');
    const made = { ...results(p, T, dim), logits: new Float32Array(T * experts), ...more };
    const poison = ['weights', 'ids', 'xn', 'gateOut', ...(which === 0 && group.launches.length > 1 ? ['logits'] : [])];
    const there = poison.filter((o) => launch.operands.includes(o));
    expectEveryMutationCaught(launch.kernel, [mutationRun(launch, { ...inputs, ...made }, { T }, there)], { subgroups: true, equivalent });
  }

  const source = { kind: 'hidden', dim, gateElem: 'f32', norm: NORM, sharedGateRow: true } as const;
  it('in one kernel, tokens beyond the last one as zeros', () => {
    const s: RouteCrews = { block: 96, tokens: 4, chunk: 32, unroll: 1, guarded: 0, split: 0 };
    check(problem({ experts, score: 'sigmoid', source }), s, 0, [...EQUIVALENT, ROUNDS, ...LOOPS]);
  });
  it('in one kernel, tokens beyond the last one left out', () => {
    const s: RouteCrews = { block: 96, tokens: 4, chunk: 32, unroll: 1, guarded: 1, split: 0 };
    check(problem({ experts, score: 'none', weights: 'softmax-selected', source }), s, 0, [...EQUIVALENT, ROUNDS, ...LOOPS, ...GUARDED]);
  });
  it('in two kernels', () => {
    const s: RouteCrews = { block: 96, tokens: 4, chunk: 32, unroll: 1, guarded: 1, split: 1 };
    const p = problem({ experts, score: 'sigmoid', source });
    check(p, s, 0, [...LOOPS, ...GUARDED, OTHERS]);
    const logits = random(T * experts, 6);
    for (let t = 0; t < T; t++) {
      logits[t * experts + 7] = 2;
      logits.copyWithin(t * experts + 32, t * experts, t * experts + 8);
    }
    logits.fill(NaN, (T - 1) * experts);
    check(p, s, 1, EQUIVALENT, { logits });
  });
});
