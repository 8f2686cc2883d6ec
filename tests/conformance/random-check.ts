/** Runs a random layer on a backend and judges it: what `random-*.test.ts` have in common. */
import { expect } from 'vitest';
import type { Spec } from '../../src/model/types.ts';
import type { Deviation } from '../../src/runtime/core/metrics.ts';
import { type RunningLayer, INTERPRETER_GATE } from './benches.ts';
import { layerOf } from './cases.ts';
import { judgeOf } from './judge.ts';
import { proceduralLayerInput } from './procedural.ts';
import { type RandomLayer, randomLayer } from './random-layers.ts';

/** A random layer made ready to run over procedural weights of its seed. */
export type OpenRandom = (spec: Spec, seed: number) => Promise<RunningLayer>;
/** How far a result may be off, by the storage of the weights. */
export type GateOf = (spec: Spec) => Deviation;

interface Found {
  readonly problems: readonly string[];
  /** Rows in which rounding decided. */
  readonly close: number;
  readonly rows: number;
}

async function check({ seed, text, calls }: RandomLayer, open: OpenRandom, gateOf: GateOf): Promise<Found> {
  const spec = layerOf(text, `random ${seed}`);
  const layer = await open(spec, seed);
  const judge = judgeOf(spec, seed);
  const problems: string[] = [];
  let close = 0;
  for (const { tokens, seq } of calls) {
    const input = proceduralLayerInput(spec, seed + tokens, tokens, seq);
    const actual = await layer.run(input);
    const verdict = judge.verdict(input, actual, gateOf(spec));
    problems.push(...verdict.problems.map((p) => `T = ${tokens}: ${p}`));
    close += verdict.close;
  }
  await layer.close();
  return { problems, close, rows: calls.reduce((n, c) => n + c.tokens, 0) };
}

/** Seeds from the environment: MOEC_FUZZ=n runs n of them, MOEC_SEED=s one; `count` where neither is said. */
export function seedsToRun(count: number): readonly number[] {
  const only = process.env['MOEC_SEED'];
  return only === undefined ? Array.from({ length: Number(process.env['MOEC_FUZZ'] ?? count) }, (_, i) => i + 1) : [Number(only)];
}

/** All of a batch; one failing test tells every seed that failed, each with how to run it alone. */
export async function expectRandom(seeds: readonly number[], open: OpenRandom, gateOf: GateOf = () => INTERPRETER_GATE, make: (seed: number) => RandomLayer = randomLayer): Promise<void> {
  const failures: string[] = [];
  let close = 0;
  let rows = 0;
  for (const seed of seeds) {
    const layer = make(seed);
    try {
      const found = await check(layer, open, gateOf);
      close += found.close;
      rows += found.rows;
      if (found.problems.length > 0) failures.push(`MOEC_SEED=${seed}\n${layer.text}${found.problems.join('\n')}`);
    } catch (error) {
      const told = error instanceof Error ? (error.stack ?? error.message) : String(error);
      failures.push(`MOEC_SEED=${seed}\n${layer.text}${told}`);
    }
  }
  expect(failures.join('\n\n')).toBe('');
  // Where rounding decides more often than that, it is an excuse.
  expect(close).toBeLessThanOrEqual(Math.ceil(rows / 20));
}
