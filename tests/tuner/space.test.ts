/** Spaces: legal, with the default among them, and the only place where schedules come from. */
import { describe, expect, it } from 'vitest';
import { finishKernel } from '../../src/passes/kernel/pipeline.ts';
import { costOf } from '../../src/ir/kernel/cost.ts';
import { attention, groupedLinear, headLinear, legalMatvec, legalTile, linear, tileThreads } from '../../src/kernels/index.ts';
import type { FmaTile } from '../../src/kernels/index.ts';
import { WEBGPU_BASELINE } from '../../src/target/types.ts';
import { rankByCounts, tileCounts } from '../../src/tuner/rank.ts';
import { type Asked, choicesOf, type Chosen, findChoice, withSameSums } from '../../src/tuner/space/index.ts';
import { CAPS, problem } from './fakes.ts';

const DENSE = { n: 96, k: 64, epilogue: { kind: 'none' as const }, scale: 1, residual: false, weightElem: 'f32' as const };
const ASKED: readonly (readonly [string, Asked])[] = [
  ['expert rows', { family: 'grouped-linear', problem: problem() }],
  ['expert rows, gated, shared', { family: 'grouped-linear', problem: problem({ epilogue: { kind: 'glu', activation: 'silu' }, shared: { n: 128, k: 128, weightElem: 'f32', ownX: false, gate: false } }) }],
  ['combining rows', { family: 'grouped-linear', problem: problem({ combine: true, gather: false, routeWeights: true }) }],
  ['tiles', { family: 'grouped-linear', problem: problem({ mode: 'sorted', tileRows: 8 }) }],
  ['tiles of f16', { family: 'grouped-linear', problem: problem({ mode: 'sorted', tileRows: 16, weightElem: 'f16' }) }],
  ['dense', { family: 'linear', problem: DENSE }],
  ['dense, few rows', { family: 'linear', problem: { ...DENSE, maxRows: 8 } }],
  ['dense, one row', { family: 'linear', problem: { ...DENSE, maxRows: 1 } }],
  ['dense, odd sizes', { family: 'linear', problem: { ...DENSE, n: 7, k: 3 } }],
  ['by head', { family: 'head_linear', problem: { heads: 4, n: 16, k: 32, weightElem: 'f32' } }],
  ['attention', { family: 'attention', problem: { heads: 4, kvHeads: 2, qkDim: 32, vDim: 32, scale: 0.2, vFromK: false } }],
];

function make(c: Chosen, caps = CAPS): void {
  switch (c.family) {
    case 'linear':
      return void linear(c.problem, c.schedule, caps);
    case 'head_linear':
      return void headLinear(c.problem, c.schedule, caps);
    case 'grouped-linear':
      return void groupedLinear(c.problem, c.schedule, caps);
    case 'attention':
      return void attention(c.problem, c.schedule, caps);
  }
}

describe.each(ASKED)('%s', (_name, asked) => {
  const { standard, all, considered } = choicesOf(asked, CAPS);

  it('has several schedules, each once, the default first', () => {
    expect(all.length).toBeGreaterThan(10);
    expect(all[0]).toEqual(standard);
    expect(new Set(all.map((c) => c.text)).size).toBe(all.length);
    expect(considered).toBeGreaterThanOrEqual(all.length - 1);
  });

  it('has only schedules that the family takes', () => {
    for (const c of all) expect(() => make(c.chosen), c.text).not.toThrow();
  });

  it('has an estimate for each', () => {
    for (const c of all) {
      const cost = rankByCounts(c.chosen, { tokens: 16, software: false, subgroupSize: 32 });
      expect(cost, c.text).toBeGreaterThan(0);
      expect(Number.isFinite(cost)).toBe(true);
    }
  });

  it('is the same each time, and smaller without subgroups', () => {
    expect(choicesOf(asked, CAPS).all.map((c) => c.text)).toEqual(all.map((c) => c.text));
    const plain = choicesOf(asked, WEBGPU_BASELINE);
    for (const c of plain.all) expect(() => make(c.chosen, WEBGPU_BASELINE), c.text).not.toThrow();
  });

  it('finds its own schedules by what a file says of them, and nothing else', () => {
    for (const c of all.slice(0, 20)) expect(findChoice(asked, JSON.parse(JSON.stringify(c.chosen.schedule)), CAPS)?.text).toBe(c.text);
    const [first] = all;
    const hostile: readonly unknown[] = [
      undefined, null, 7, 'x', [], {}, { block: 1e9, team: 1, cols: 1 }, { ...first?.chosen.schedule, bm: -1 }, { ...first?.chosen.schedule, extra: 1 },
      JSON.parse('{"__proto__":{"block":64},"team":1}'), { block: '64', team: '1', cols: '1' }, { block: NaN, team: 1, cols: 1 },
    ];
    for (const h of hostile) expect(findChoice(asked, h, CAPS)).toBeUndefined();
  });
});

describe('spaces', () => {
  it('hold what discrete GPUs like and what software likes', () => {
    const { all } = choicesOf({ family: 'linear', problem: { ...DENSE, n: 512, k: 512 } }, CAPS);
    const stagings = new Set(all.map((c) => c.params['staging']));
    expect(stagings).toEqual(new Set(['register', 'broadcast', 'shared']));
    expect(all.some((c) => c.params['bm'] === 64 && c.params['bn'] === 64 && c.params['staging'] === 'shared')).toBe(true);
  });

  it('have broadcasts only where the size of subgroups is known', () => {
    const { all } = choicesOf({ family: 'linear', problem: DENSE }, WEBGPU_BASELINE);
    expect(all.some((c) => c.params['staging'] === 'broadcast')).toBe(false);
  });

  it('of specs that promise bits keep the order of sums', () => {
    const few = choicesOf({ family: 'linear', problem: { ...DENSE, maxRows: 8 } }, WEBGPU_BASELINE);
    for (const c of withSameSums(few).all) expect(c.params).not.toHaveProperty('team');
    const rows = choicesOf({ family: 'grouped-linear', problem: problem() }, WEBGPU_BASELINE);
    expect(rows.standard.params['team']).toBe(1);
    for (const c of withSameSums(rows).all) expect(c.params['team']).toBe(1);
  });

  it('are legal by the rules of schedules', () => {
    for (const c of choicesOf({ family: 'grouped-linear', problem: problem({ mode: 'sorted', tileRows: 8 }) }, CAPS).all) {
      if (c.chosen.family !== 'grouped-linear' || c.chosen.schedule.tile === undefined) throw new Error('no tile');
      expect(legalTile(c.chosen.schedule.tile, { k: 128, lanes: 4, count: 1 }, CAPS).ok).toBe(true);
    }
    for (const c of choicesOf({ family: 'grouped-linear', problem: problem() }, CAPS).all) {
      if (c.chosen.family !== 'grouped-linear' || c.chosen.schedule.matvec === undefined) throw new Error('no rows');
      expect(legalMatvec(c.chosen.schedule.matvec, 1, CAPS).ok).toBe(true);
    }
  });
});

describe('estimates', () => {
  const TILES: readonly FmaTile[] = [
    { bm: 16, bn: 32, bk: 8, tm: 4, tn: 4, staging: 'register' },
    { bm: 16, bn: 32, bk: 16, tm: 4, tn: 4, staging: 'shared' },
    { bm: 8, bn: 64, bk: 8, tm: 8, tn: 2, staging: 'broadcast' },
  ];

  it.each(TILES)('count what the kernel does: $staging', (s) => {
    const p = { ...DENSE, n: 64, k: 64 };
    const kernel = finishKernel(linear(p, { ...s, oneRow: 0 }, CAPS).kernel, { subgroups: s.staging === 'broadcast', subgroupSize: 8 });
    const { perThread, threads } = costOf(kernel);
    const counts = tileCounts(s, { k: p.k, count: 1 }, 8);
    expect(threads).toBe(tileThreads(s));
    expect(perThread.fma).toBe(s.tm * s.tn * p.k);
    expect(perThread.globalLoads / counts.loads).toBeCloseTo(1, 1);
    if (s.staging === 'shared') {
      expect((perThread.sharedLoads + perThread.sharedStores) / counts.shared).toBeCloseTo(1, 1);
      expect(perThread.barriers / counts.barriers).toBeCloseTo(1, 0);
    }
  });

  it('put barriers last in software, and shared memory before loads on a GPU', () => {
    const cost = (s: FmaTile, software: boolean): number => rankByCounts({ family: 'linear', problem: { ...DENSE, n: 512, k: 512 }, schedule: { ...s, oneRow: 0 } }, { tokens: 512, software, subgroupSize: software ? 8 : 32 });
    const [register, shared] = TILES;
    if (register === undefined || shared === undefined) throw new Error('no tiles');
    expect(cost(register, true)).toBeLessThan(cost(shared, true));
    expect(cost(shared, false)).toBeLessThan(cost(register, false));
  });
});
