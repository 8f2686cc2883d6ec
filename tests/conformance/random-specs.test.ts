/** Random layers of every kind through the interpreter, against the evaluator. MOEC_FUZZ=n runs n of them, MOEC_SEED=s one. */
import { describe, expect, it } from 'vitest';
import { compileSpec } from '../../src/driver/compile.ts';
import { proceduralProvider } from '../../src/runtime/core/provider.ts';
import { INTERPRETER_GATE, deviceLayer, openSession } from './benches.ts';
import { layerOf } from './cases.ts';
import { InterpreterBackend } from './interpreter-backend.ts';
import { judgeOf } from './judge.ts';
import { expertsOf, proceduralLayerInput } from './procedural.ts';
import { type RandomLayer, randomLayer } from './random-layers.ts';

const COUNT = Number(process.env['MOEC_FUZZ'] ?? 60);
const ONLY = process.env['MOEC_SEED'];
const seeds = ONLY === undefined ? Array.from({ length: COUNT }, (_, i) => i + 1) : [Number(ONLY)];
/** Cases a test: one name each would drown the report. */
const BATCH = 10;

/** Problems of one spec, and in how many rows rounding decided. */
async function check({
  seed,
  text,
  calls,
}: RandomLayer): Promise<{ readonly problems: readonly string[]; readonly close: number; readonly rows: number }> {
  const spec = layerOf(text, `random ${seed}`);
  const compiled = compileSpec(spec);
  const backend = new InterpreterBackend(compiled, {
    variant: seed % 3 === 0 ? 'subgroups' : 'portable',
    subgroupSize: [32, 8, 16][(seed % 9) % 3] ?? 32,
  });
  const session = await openSession(compiled, backend, proceduralProvider(seed, expertsOf(spec)));
  const layer = deviceLayer(session);
  const judge = judgeOf(spec, seed);
  const problems: string[] = [];
  let close = 0;
  for (const { tokens, seq } of calls) {
    const input = proceduralLayerInput(spec, seed + tokens, tokens, seq);
    const actual = await layer.run(input);
    const verdict = judge.verdict(input, actual, INTERPRETER_GATE);
    problems.push(...verdict.problems.map((p) => `T = ${tokens}: ${p}`));
    close += verdict.close;
  }
  await layer.close();
  return { problems, close, rows: calls.reduce((n, c) => n + c.tokens, 0) };
}

describe('random layers', () => {
  const batches = Array.from({ length: Math.ceil(seeds.length / BATCH) }, (_, i) => seeds.slice(i * BATCH, (i + 1) * BATCH));
  it.each(batches.map((b) => [b[0] ?? 0, b[b.length - 1] ?? 0, b] as const))(
    'seeds %i to %i',
    async (_first, _last, batch) => {
      const failures: string[] = [];
      let close = 0;
      let rows = 0;
      for (const seed of batch) {
        const layer = randomLayer(seed);
        try {
          const found = await check(layer);
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
    },
    600_000,
  );
});
