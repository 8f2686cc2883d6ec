/** `moec demo`: a tiny DeepSeekMoE compiled, run on real input, checked against values that independent code computed. */
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { Spec } from '../../driver/analysis.ts';
import { explainFusion } from '../../driver/compile.ts';
import { buildPackage } from '../../driver/package.ts';
import { loadReference } from '../../driver/reference.ts';
import { lowerToGraphs } from '../../driver/stages.ts';
import { traceRouting } from '../../driver/trace.ts';
import { deviation, F32_GATE } from '../../runtime/core/metrics.ts';
import { readF64, readI32 } from '../../runtime/core/tensors.ts';
import { openPath } from '../../runtime/node/files.ts';
import { EXIT, type Io, makeIo, type CommonOptions } from '../io.ts';
import { loadSpec } from '../load-spec.ts';
import { importPackage } from '../open-runner.ts';
import { routingPicture } from '../picture.ts';
import { packageSources } from '../runtime-files.ts';
import { describeAdapter } from '../setup-driver.ts';
import { writePackage } from '../write-package.ts';
import { verifyLines } from './verify.ts';

interface Options extends CommonOptions {
  readonly out?: string;
}

const ROOT = join(dirname(fileURLToPath(import.meta.url)), '..', '..', '..');
const SPEC = join(ROOT, 'examples', 'tiny-deepseekmoe.moe');
const MODEL = join(ROOT, 'tests', 'golden', 'models', 'tiny_deepseekmoe_v1');

const title = (io: Io, text: string): void => io.out(`\n== ${text} ${'='.repeat(Math.max(0, 90 - text.length))}\n`);

function tellFusion(io: Io, spec: Spec): void {
  const report = explainFusion(spec);
  for (const { section, buckets } of report.sections) {
    for (const { maxTokens, events } of buckets) {
      const fired = events.filter((e) => e.kind === 'fired');
      if (section !== 'layer.1' || fired.length === 0) continue;
      io.out(`${section}, calls of ${maxTokens === undefined ? 'any number of tokens' : `at most ${maxTokens} tokens`}:`);
      for (const e of fired) io.out(`  + ${e.pass.padEnd(16)} ${e.what}`);
    }
  }
  io.out('\nthe whole model      unfused -> fused');
  for (const { tokens, before, after } of report.total) {
    const kib = (n: number): string => `${(n / 1024).toFixed(0)} KiB`;
    io.out(`  ${String(tokens).padStart(3)} tokens: ${before.dispatches} -> ${after.dispatches} dispatches, ${kib(before.bytes)} -> ${kib(after.bytes)} moved`);
  }
  io.out(`\nall of it, with what did not fuse and why: moec explain ${SPEC.slice(ROOT.length + 1)}`);
}

/** Logits on the device, or, where there is none, in the reference evaluator; which of them it says. */
async function logitsOf(io: Io, spec: Spec, directory: string, ids: Int32Array): Promise<ArrayLike<number>> {
  if (describeAdapter() === undefined) {
    io.out('NO WebGPU ADAPTER on this machine, and none could be fetched: this run falls back to the f64 reference evaluator.');
    const reference = await loadReference(lowerToGraphs(spec), await openPath(MODEL), { capacity: ids.length });
    return Float64Array.from(reference.run({ ids }).results['y'] ?? []);
  }
  const module = await importPackage(directory);
  const model = await module.load({ weights: MODEL });
  try {
    io.out(`device: ${model.stats().device.name}`);
    const logits = await model.forward(ids);
    const more: number[] = [];
    for await (const token of model.generate(ids, { maxTokens: 8 })) more.push(token);
    io.out(`input tokens:     ${[...ids].join(' ')}`);
    io.out(`generated tokens: ${more.join(' ')}`);
    for (const line of verifyLines(await model.verify())) io.out(`golden vectors of the package, ${line.trimStart()}`);
    return logits;
  } finally {
    await model.dispose();
  }
}

export async function run(_args: readonly string[], options: Options): Promise<number> {
  const io = makeIo(options);
  const { spec } = loadSpec(io, SPEC, undefined);
  const directory = options.out ?? mkdtempSync(join(tmpdir(), 'moec-demo-'));
  try {
    title(io, 'the spec');
    io.out(readFileSync(SPEC, 'utf8').trimEnd());
    title(io, 'compiled');
    const built = buildPackage(spec, {}, packageSources());
    await writePackage(directory, built.files);
    const { manifest } = built.compiled;
    io.out(`${manifest.kernels.length} kernels and their host code, ${built.files.size} files${options.out === undefined ? '' : ` in ${options.out}`}`);
    title(io, 'what fused');
    tellFusion(io, spec);
    title(io, 'run');
    const expected = await openPath(join(MODEL, 'expected.safetensors'));
    const ids = await readI32(expected, 'input_ids');
    const logits = await logitsOf(io, spec, directory, ids);
    title(io, 'where the tokens went');
    const routing = await traceRouting(lowerToGraphs(spec), await openPath(MODEL), ids);
    const shared = spec.kind === 'model' ? spec.kinds.flatMap((k) => (k.ffn.kind === 'moe' ? [k.ffn.shared?.count ?? 0] : [])) : [];
    for (const [i, layer] of routing.entries()) io.out(routingPicture(layer, ids, shared[i] ?? shared[0] ?? 0));
    title(io, 'checked');
    const observed = deviation(logits, await readF64(expected, 'logits'), ids.length);
    const ok = observed.nmse <= F32_GATE.nmse && observed.rowNmse <= F32_GATE.rowNmse;
    io.out(`logits [${ids.length} x 48] against independent f64 values: NMSE ${observed.nmse.toExponential(1)} (allowed ${F32_GATE.nmse}), worst row ${observed.rowNmse.toExponential(1)} (allowed ${F32_GATE.rowNmse})`);
    io.out(ok ? 'VERIFIED' : 'WRONG');
    return ok ? EXIT.ok : EXIT.verification;
  } finally {
    if (options.out === undefined) rmSync(directory, { recursive: true, force: true });
  }
}
