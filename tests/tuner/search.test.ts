/** The search: the same candidates for the same seed, near the optimum with few of them, and never in the way of failures. */
import { describe, expect, it } from 'vitest';
import { rankByCounts } from '../../src/tuner/rank.ts';
import { random } from '../../src/tuner/random.ts';
import { ridge } from '../../src/tuner/search/regression.ts';
import { listedChoices, type Scored, search, spaceSize } from '../../src/tuner/search/search.ts';
import { spaceOf, standardConfig } from '../../src/tuner/tune-unit.ts';
import { type Config, configText } from '../../src/tuner/unit.ts';
import { CAPS, fakeUnit, type FakeUnitOptions, type Landscape, valley } from './fakes.ts';

const AT = { tokens: 4, seed: 1 };

async function run(options: FakeUnitOptions, ms: (text: string) => number | undefined, part: number, seed = 1): Promise<{ readonly best: Scored; readonly order: readonly string[]; readonly size: number; readonly standardMs: number }> {
  const unit = fakeUnit(options);
  const space = spaceOf(unit, CAPS);
  const standard = standardConfig(unit, space);
  const standardMs = ms(configText(standard)) ?? 1;
  const order: string[] = [];
  const evaluate = (config: Config): Promise<number | undefined> => {
    order.push(configText(config));
    const found = ms(configText(config));
    return Promise.resolve(found === undefined ? undefined : found / standardMs);
  };
  const size = options.kind === 'layer' ? listedChoices(space) : spaceSize(space);
  const estimate = (c: Parameters<NonNullable<Parameters<typeof search>[3]['estimate']>>[0]): number => rankByCounts(c.chosen, { tokens: unit.tokens, software: true, subgroupSize: 8 });
  const scored = await search(space, standard, evaluate, { seed, evaluations: Math.ceil(part * size), estimate, stop: () => false });
  const [best] = scored;
  if (best === undefined) throw new Error('nothing was measured');
  return { best, order, size, standardMs };
}

const optimum = (landscape: Landscape): number => {
  const space = spaceOf(fakeUnit(), CAPS);
  return Math.min(...space.choices(undefined).flatMap((c) => c.all.map((x) => landscape(`|${x.text}`, AT))));
};

describe('the order of candidates', () => {
  it.each(['rows', 'layer'] as const)('is that of the seed (%s)', async (kind) => {
    const ms = (text: string): number => valley(3)(text, AT);
    const [a, b, c] = [await run({ kind }, ms, 0.2, 7), await run({ kind }, ms, 0.2, 7), await run({ kind }, ms, 0.2, 8)];
    expect(a.order).toEqual(b.order);
    expect(a.order).not.toEqual(c.order);
    expect(new Set(a.order).size).toBe(a.order.length);
  });

  it('begins with what the counts favour', async () => {
    const { order, best } = await run({}, (text) => valley(3)(text, AT), 0.01);
    expect(order.length).toBeLessThanOrEqual(2);
    expect(best.score).toBeLessThanOrEqual(1);
  });

  it('goes on without candidates that fail', async () => {
    const ms = (text: string): number | undefined => (text.includes('"team":1') ? valley(3)(text, AT) : undefined);
    const { best } = await run({}, ms, 0.3);
    expect(configText(best.config)).toContain('"team":1');
  });

  it('keeps the standard configuration where all else fails, or is slower', async () => {
    const unit = fakeUnit();
    const standard = configText(standardConfig(unit, spaceOf(unit, CAPS)));
    for (const other of [undefined, 2]) {
      const { best } = await run({}, (text) => (text === standard ? 1 : other), 0.2);
      expect(configText(best.config)).toBe(standard);
      expect(best.score).toBe(1);
    }
  });

  it('ends when there is nothing left', async () => {
    const { order, size } = await run({}, () => 1, 2);
    expect(order.length).toBe(size - 1);
  });
});

describe('small spaces', () => {
  it('are known to within 5 % with 15 % of the measurements', async () => {
    const seeds = Array.from({ length: 60 }, (_, i) => i + 1);
    const off: number[] = [];
    for (const seed of seeds) {
      const landscape = valley(seed);
      const { best, standardMs } = await run({}, (text) => landscape(text, AT), 0.15, seed);
      off.push((best.score * standardMs) / optimum(landscape) - 1);
    }
    expect(off.filter((x) => x > 0.05).length, off.map((x) => x.toFixed(3)).join(' ')).toBeLessThanOrEqual(3);
  });
});

describe('units of several kernels', () => {
  it('come down to a few percent of a longer search', async () => {
    const gaps: number[] = [];
    for (const seed of [1, 2, 3, 4, 5, 6]) {
      const landscape = valley(seed);
      const ms = (text: string): number => landscape(text, AT);
      const few = await run({ kind: 'layer' }, ms, 0.05, seed);
      const many = await run({ kind: 'layer' }, ms, 0.5, seed);
      gaps.push((few.best.score * few.standardMs) / (many.best.score * many.standardMs) - 1);
      expect(few.best.score).toBeLessThan(1);
    }
    expect([...gaps].sort((a, b) => a - b)[3]).toBeLessThan(0.1);
  });
});

describe('what the search stands on', () => {
  it('ridge regression finds the weights of a plane', () => {
    const rows = Array.from({ length: 20 }, (_, i) => [1, i % 5, Math.floor(i / 5)]);
    const w = ridge(rows, rows.map(([a = 0, b = 0, c = 0]) => 2 * a - 3 * b + 0.5 * c), 1e-9);
    expect(w.map((x) => Math.round(x * 1e4) / 1e4)).toEqual([2, -3, 0.5]);
  });

  it('random numbers are of the seed and the stream', () => {
    const draw = (seed: number, stream: string): number[] => Array.from({ length: 5 }, ((r) => () => r.below(1000))(random(seed, stream)));
    expect(draw(1, 'a')).toEqual(draw(1, 'a'));
    expect(draw(1, 'a')).not.toEqual(draw(2, 'a'));
    expect(draw(1, 'a')).not.toEqual(draw(1, 'b'));
  });
});
