/**
 * Times the forward of whole models with random weights, in interleaved rounds where all fit at once:
 *
 *   node model.js PACKAGE... [--tokens 4096,1] [--rounds 5] [--seconds 200] [--results FILE]
 */
import { basename } from 'node:path';
import type { Manifest } from '../../src/runtime/core/abi.ts';
import { type OpenPackage, openPackage, runtimeOf } from './device.ts';
import { randomWeights } from './random-weights.ts';
import { firstLine, quantile, readOptions, rowWriter } from './rows.ts';

const { words, options } = readOptions(process.argv.slice(2));
const tokenCounts = (options.get('tokens') ?? '4096,1').split(',').map(Number);
const rounds = Number(options.get('rounds') ?? 5);
const end = performance.now() + 1000 * Number(options.get('seconds') ?? 200);
const write = rowWriter(options.get('results'), 'bench/gpu/run.sh model');
/** Calls of so few tokens are timed with a cold L2; a model's weights are far larger anyway. */
const COLD = 64;

interface Entrant {
  readonly name: string;
  readonly pack: OpenPackage;
}

/** Ids all over the vocabulary. */
const someIds = (tokens: number, vocab: number): Int32Array => Int32Array.from({ length: tokens }, (_, i) => Math.imul(i + 1, 40_503) % vocab).map(Math.abs);

async function open(directory: string): Promise<Entrant> {
  const runtime = await runtimeOf(directory);
  const pack = await openPackage(directory, runtime, (manifest: Manifest) => {
    process.stdout.write(`${basename(directory)}: ${(manifest.limits.weightBytes / 1e9).toFixed(1)} GB of weights\n`);
    return Promise.resolve(randomWeights(runtime.half.numberToF16));
  });
  process.stdout.write(`  on the device after ${(pack.session.stats().times.upload / 1000).toFixed(1)} s\n`);
  return { name: basename(directory), pack };
}

/** Runs a call twice, so that the second one's commands are the forward and nothing else, and leaves them to be timed. */
async function prepare({ pack }: Entrant, tokens: number): Promise<number> {
  const context = pack.session.acquire();
  const ids = someIds(tokens, pack.manifest.model.vocab ?? 1);
  for (let i = 0; i < 2; i++) await pack.call({ tokens, past: 0, ids, context, rows: 'last' });
  pack.session.release(context);
  return pack.session.stats().dispatches.last;
}

async function measure(entrants: readonly Entrant[], tokens: number): Promise<void> {
  const dispatches = new Map<string, number>();
  const times = new Map<string, number[]>();
  for (let round = 0; round < rounds; round++) {
    for (const e of entrants) {
      if (!dispatches.has(e.name)) dispatches.set(e.name, await prepare(e, tokens));
      const own = times.get(e.name) ?? [];
      own.push(...(await e.pack.time(tokens > COLD ? 2 : 10, tokens <= COLD)));
      times.set(e.name, own);
    }
    if (performance.now() > end) break;
  }
  for (const e of entrants) {
    const own = times.get(e.name) ?? [];
    const row = {
      kind: 'model', name: e.name, tokens, medianMs: quantile(own, 0.5), p10Ms: quantile(own, 0.1), p90Ms: quantile(own, 0.9), samples: own.length,
      dispatches: dispatches.get(e.name) ?? 0, weightBytes: e.pack.session.stats().memory.weights,
    };
    process.stdout.write(`  T = ${tokens}: ${e.name} ${row.medianMs.toFixed(3)} ms\n`);
    write(row);
  }
}

async function measureAll(entrants: readonly Entrant[]): Promise<void> {
  for (const tokens of tokenCounts) {
    if (performance.now() > end) {
      write({ kind: 'skip', shape: entrants.map((e) => e.name).join(', '), what: 'the model', tokens, routing: null, reason: 'the time of this stage is up' });
      continue;
    }
    await measure(entrants, tokens);
  }
}

const opened: Entrant[] = [];
const left = [...words];
for (let directory = left.shift(); directory !== undefined; directory = left.shift()) {
  try {
    opened.push(await open(directory));
  } catch (error) {
    // Too large beside the others: they are measured and make room, then it has the device to itself.
    if (opened.length > 0) {
      process.stdout.write(`  ${firstLine(error)}: one at a time\n`);
      await measureAll(opened);
      for (const e of opened.splice(0)) await e.pack.dispose();
      left.unshift(directory);
      continue;
    }
    write({ kind: 'skip', shape: basename(directory), what: 'the model', tokens: null, routing: null, reason: firstLine(error) });
  }
}
if (opened.length > 0) await measureAll(opened);
for (const e of opened) await e.pack.dispose();
