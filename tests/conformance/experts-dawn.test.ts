/** The expert families on Dawn against the same finished kernels on the interpreter. */
import { describe, expect, it } from 'vitest';
import { evalSize } from '../../src/base/size.ts';
import { interpret } from '../../src/ir/kernel/interpret.ts';
import type { TypedArray } from '../../src/ir/kernel/interpret.ts';
import type { ScalarName } from '../../src/ir/kernel/types.ts';
import { capacity, combine, groupedLinear, permute, plan, planSize, route } from '../../src/kernels/index.ts';
import type { GroupedProblem, Launch, LaunchGroup, RouteProblem } from '../../src/kernels/index.ts';
import { finishKernel } from '../../src/passes/kernel/pipeline.ts';
import { memoryOf } from '../kernels/dense/harness.ts';
import { CAPS, expectClose, gridOf, random, stored } from '../kernels/moe/harness.ts';
import { makeIds } from '../kernels/moe/plans.ts';
import { runOnDawn } from './dawn.ts';
import type { Memory } from './dawn.ts';

interface Call {
  readonly T: number;
  readonly seq?: number;
  readonly constants?: Partial<Record<ScalarName, number>>;
}

/** Runs the launches one after another on both; every buffer must come out equal: u32 exactly, f32 closely. */
async function onBoth(work: Launch | LaunchGroup, operands: Readonly<Record<string, TypedArray>>, call: Call): Promise<void> {
  const group: LaunchGroup = 'launches' in work ? work : { launches: [work], scratch: [] };
  const env = { T: call.T, past: 0, seq: call.seq ?? call.T, cap: 0 };
  const scratch = Object.fromEntries(group.scratch.map((s) => [s.name, new Float32Array(evalSize(s.size, env))]));
  const sides = [0, 1].map(() => Object.fromEntries(Object.entries({ ...operands, ...scratch }).map(([n, x]) => [n, x.slice()])));
  const [there = {}, here = {}] = sides;
  for (const launch of group.launches) {
    const kernel = finishKernel(launch.kernel, { subgroups: false });
    const scalars = { ...env, ...call.constants };
    const grid = gridOf(launch, call);
    await runOnDawn(kernel, { grid, memory: memoryOf(launch, there) as Memory, scalars });
    interpret(kernel, { grid, memory: memoryOf(launch, here), scalars });
  }
  const written = group.launches.flatMap((l) => {
    const kernel = finishKernel(l.kernel, { subgroups: false });
    return l.operands.filter((_, i) => kernel.params[i]?.access !== 'read');
  });
  for (const name of written) {
    const want = here[name] ?? new Float32Array(0);
    const got = there[name] ?? new Float32Array(0);
    if (want instanceof Float32Array) expectClose(got, want, 5e-6);
    else expect(Array.from(got), name).toEqual(Array.from(want));
  }
}

const base: RouteProblem = {
  experts: 24,
  slots: 4,
  score: 'softmax',
  select: { kind: 'top-k' },
  weights: 'scores',
  scale: 1,
  source: { kind: 'logits' },
};
const results = (p: RouteProblem, T: number): Record<string, TypedArray> => ({
  weights: new Float32Array(T * p.slots),
  ids: new Uint32Array(T * p.slots),
  faults: new Uint32Array(4),
});

// A software adapter compiles each of these kernels for a second or more, and has to share its cores with other tests.
describe('on Dawn, as on the interpreter', { timeout: 300_000 }, () => {
  it('routes by every rule, bad logits included', async () => {
    const T = 19;
    const rules: RouteProblem[] = [
      base,
      {
        ...base,
        score: 'sigmoid',
        groups: { count: 4, keep: 2, score: 'top2-sum' },
        selectionBiasElem: 'f32',
        renormalize: { p: 1, eps: 1e-20, epsMode: 'add' },
        scale: 2.5,
      },
      { ...base, groups: { count: 6, keep: 3, score: 'max' }, renormalize: { p: 3, eps: 0.1, epsMode: 'clamp' } },
      { ...base, score: 'sqrt-softplus', renormalize: { p: 2, eps: 0, epsMode: 'add' } },
      { ...base, score: 'none', weights: 'softmax-selected' },
      { ...base, select: { kind: 'sparse-mixer', jitter: 0.05 } },
      { ...base, score: 'sigmoid', select: { kind: 'hash', vocab: 7 } },
      { ...base, slots: 24, select: { kind: 'expert-choice', capacityFactor: 1.5 } },
    ];
    const logits = random(T * 24, 3).map((x) => x * 4);
    logits.fill(NaN, 24, 48);
    for (const [i, v] of [NaN, Infinity, -Infinity, 3e38, -3e38].entries()) logits[72 + i] = v;
    const table = Int32Array.from({ length: 28 }, (_, i) => (i * 11) % 25);
    const tokenIds = Int32Array.from({ length: T }, (_, t) => (t % 9) - 1);
    for (const p of rules) {
      await onBoth(route(p, undefined, CAPS), { logits, selectionBias: random(24, 5), table, tokenIds, ...results(p, T) }, { T });
    }
  });

  it('routes from the hidden state, in one kernel and in two', async () => {
    const [T, dim] = [5, 40];
    for (const elem of ['f32', 'f16', 'bf16'] as const) {
      const operands: Record<string, TypedArray> = { x: random(T * dim, 1), xn: new Float32Array(T * dim), gateOut: new Float32Array(T) };
      const sizes: Record<string, number> = { gate: 24 * dim, normWeight: dim, normBias: dim, gateBias: 24, sharedGate: dim };
      for (const [i, [name, n]] of Object.entries(sizes).entries()) operands[name] = stored(random(n, i + 2), elem).data;
      const norm = { kind: 'layer', eps: 1e-5, weightElem: elem, biasElem: elem } as const;
      const p: RouteProblem = { ...base, source: { kind: 'hidden', dim, gateElem: elem, gateBiasElem: elem, norm, sharedGateElem: elem } };
      for (const caps of [CAPS, { ...CAPS, maxBindings: 12 }]) {
        if (caps.maxBindings > 8 && elem !== 'f32') continue;
        await onBoth(route(p, { block: 64, team: 4, per: 2 }, caps), { ...operands, ...results(p, T) }, { T });
      }
      await onBoth(
        route({ ...p, source: { kind: 'hidden', dim, gateElem: elem } }, undefined, CAPS),
        { ...operands, ...results(p, T) },
        { T },
      );
    }
  });

  it('plans, drops, permutes and combines', async () => {
    const [T, slots, experts, n] = [41, 3, 10, 12];
    const ids = makeIds(T, slots, experts, 4, 0.2);
    const words = evalSize(planSize({ experts, slots, tileRows: 4 }), { T, past: 0, seq: T, cap: 0 });
    const made = new Uint32Array(words);
    await onBoth(plan({ experts, slots, tileRows: 4 }, undefined, CAPS), { ids, plan: made }, { T });
    const first = plan({ experts, slots, tileRows: 4 }, { block: 32, team: 8 }, CAPS);
    interpret(finishKernel(first.kernel, { subgroups: false }), {
      grid: gridOf(first, { T }),
      memory: { ids, plan: made },
      scalars: { T },
    });
    for (const renormalize of ['none', 'before', 'after'] as const) {
      const out = { weightsOut: new Float32Array(T * slots), idsOut: new Uint32Array(T * slots) };
      const p = { experts, slots, limit: { kind: 'factor', factor: 1.1, min: 1 }, renormalize } as const;
      await onBoth(capacity(p, undefined, CAPS), { weights: random(T * slots, 1).map((x) => x + 1.5), ids, ...out }, { T, seq: 16 });
    }
    for (const mode of ['sorted', 'direct'] as const) {
      const planned = { experts, slots, mode, tileRows: 4 };
      await onBoth(
        permute({ ...planned, dim: n }, undefined, CAPS),
        { x: random(T * n, 2), plan: made, y: new Float32Array(T * slots * n) },
        { T },
      );
      const all = { ...planned, n, weights: true, shared: true, sharedGate: true, residual: true, scale: 0.5 };
      await onBoth(
        combine(all, undefined, CAPS),
        {
          x: random(T * slots * n, 3),
          plan: made,
          ids,
          weights: random(T * slots, 4),
          shared: random(T * n, 5),
          sharedGate: random(T, 6),
          residual: random(T * n, 7),
          y: new Float32Array(T * n),
        },
        { T },
      );
    }
  });

  it('multiplies by the experts of each row', async () => {
    const [slots, experts, n, k] = [2, 5, 20, 24];
    const common = { experts, slots, tileRows: 4, n, k, routeWeights: false, combine: false, scale: 1, residual: false } as const;
    const shared = { n: 28, k, weightElem: 'f32', ownX: false, gate: false } as const;
    const clamp = { limit: 1, alpha: 1.702, upOffset: 1 };
    const forms: GroupedProblem[] = [
      { ...common, mode: 'sorted', gather: true, epilogue: { kind: 'glu', activation: 'silu' }, weightElem: 'f32', shared },
      {
        ...common,
        mode: 'sorted',
        gather: false,
        epilogue: { kind: 'glu', activation: 'silu', clamp },
        weightElem: 'bf16',
        biasElem: 'bf16',
      },
      { ...common, mode: 'direct', gather: true, epilogue: { kind: 'glu', activation: 'gelu' }, weightElem: 'f16', shared },
      {
        ...common,
        mode: 'direct',
        gather: false,
        epilogue: { kind: 'act', activation: 'gelu-tanh' },
        weightElem: 'f32',
        routeWeights: true,
      },
      {
        ...common,
        mode: 'direct',
        gather: false,
        epilogue: { kind: 'none' },
        weightElem: 'f32',
        routeWeights: true,
        combine: true,
        shared: { ...shared, n, ownX: true },
      },
    ];
    for (const p of forms) {
      const T = p.mode === 'direct' ? 6 : 21;
      const ids = makeIds(T, slots, experts, 4, 0.2);
      const made = new Uint32Array(evalSize(planSize(p), { T, past: 0, seq: T, cap: 0 }));
      const planner = plan(p, undefined, CAPS);
      interpret(finishKernel(planner.kernel, { subgroups: false }), {
        grid: gridOf(planner, { T }),
        memory: { ids, plan: made },
        scalars: { T },
      });
      const m = n * (p.epilogue.kind === 'glu' ? 2 : 1);
      const operands: Record<string, TypedArray> = {
        ids,
        plan: made,
        x: random((p.gather ? T : T * slots) * k, 1),
        weight: stored(random(experts * m * k, 2), p.weightElem, k).data,
        bias: stored(random(experts * m, 3), p.biasElem ?? 'f32').data,
        routeWeights: random(T * slots, 4),
        sharedX: random(T * k, 5),
        sharedWeight: random(28 * 2 * k, 6),
        y: new Float32Array(p.combine ? T * n : T * slots * n),
        shared: new Float32Array(T * 28),
      };
      const staged = { tile: { bm: 4, bn: 16, bk: 8, tm: 2, tn: 2, staging: 'shared' } } as const;
      const schedules =
        p.mode === 'sorted'
          ? [p.shared === undefined ? staged : undefined]
          : [p.combine ? { matvec: { block: 32, team: 8, cols: 2 } } : undefined];
      for (const s of schedules) await onBoth(groupedLinear(p, s, CAPS), operands, { T });
    }
  });
});
