/**
 * Runs calls of a layer package with random weights, for a sanitizer or a profiler to watch:
 *
 *   node exercise.js PACKAGE [--tokens 1,8,40,200] [--calls 1]
 */
import { openPackage, runtimeOf } from './device.ts';
import { randomWeights } from './random-weights.ts';
import { readOptions } from './rows.ts';

const { words, options } = readOptions(process.argv.slice(2));
const [directory = ''] = words;
const runtime = await runtimeOf(directory);
const layer = await openPackage(directory, runtime, () => Promise.resolve(randomWeights(runtime.half.numberToF16)));
const { hidden } = layer.manifest.model;
for (const tokens of (options.get('tokens') ?? '1,8,40,200').split(',').map(Number)) {
  const x = runtime.procedural.proceduralInput(tokens, tokens, hidden);
  for (let i = 0; i < Number(options.get('calls') ?? 1); i++) {
    const { y } = await layer.call({ tokens, past: 0, x });
    const bad = y.findIndex((v) => !Number.isFinite(v));
    if (bad >= 0) throw new Error(`T = ${tokens}: the result is ${y[bad]} at ${bad}`);
  }
  process.stdout.write(`T = ${tokens}: ${layer.session.stats().dispatches.last} dispatches\n`);
}
await layer.dispose();
