/** Random layers of every kind through the interpreter, against the evaluator. MOEC_FUZZ=n runs n of them, MOEC_SEED=s one. */
import { describe, it } from 'vitest';
import { compileSpec } from '../../src/driver/compile.ts';
import { proceduralProvider } from '../../src/runtime/core/provider.ts';
import { deviceLayer, openSession } from './benches.ts';
import { InterpreterBackend } from './interpreter-backend.ts';
import { expertsOf } from './procedural.ts';
import { type OpenRandom, expectRandom, seedsToRun } from './random-check.ts';

/** Cases a test: one name each would drown the report. */
const BATCH = 10;

const open: OpenRandom = async (spec, seed) => {
  const compiled = compileSpec(spec);
  const backend = new InterpreterBackend(compiled, {
    variant: seed % 3 === 0 ? 'subgroups' : 'portable',
    subgroupSize: [32, 8, 16][(seed % 9) % 3] ?? 32,
  });
  return deviceLayer(await openSession(compiled, backend, proceduralProvider(seed, expertsOf(spec))));
};

describe('random layers', () => {
  const seeds = seedsToRun(60);
  const batches = Array.from({ length: Math.ceil(seeds.length / BATCH) }, (_, i) => seeds.slice(i * BATCH, (i + 1) * BATCH));
  it.each(batches.map((b) => [b[0] ?? 0, b[b.length - 1] ?? 0, b] as const))(
    'seeds %i to %i',
    (_first, _last, batch) => expectRandom(batch, open),
    600_000,
  );
});
