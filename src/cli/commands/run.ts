/** `moec run FILE|PACKAGE`: tensors in, tensors out, on a device or in the reference evaluator. */
import { statSync } from 'node:fs';
import { loadReference } from '../../driver/reference.ts';
import { lowerToGraphs } from '../../driver/stages.ts';
import type { Spec } from '../../driver/analysis.ts';
import type { NewTensor } from '../../runtime/core/safetensors.ts';
import type { TensorSet } from '../../runtime/core/tensors.ts';
import { openPath } from '../../runtime/node/files.ts';
import type { EmulateOption } from '../cuda-program.ts';
import { CommandError, EXIT, makeIo, type CommonOptions, type Io } from '../io.ts';
import { loadSpec } from '../load-spec.ts';
import { emulation, openCudaSpec, openPackage, openSpec, type Runner } from '../open-runner.ts';
import { disabledPasses } from '../passes-option.ts';
import { type InputShape, readInputs, resultTensor, type RunInputs, traceTensors, writeTensors } from '../run-io.ts';
import { capsOf, type DeviceChoice } from '../profiles.ts';

interface Options extends CommonOptions, EmulateOption, DeviceChoice {
  readonly weights?: string;
  readonly input?: string;
  readonly output?: string;
  readonly target?: 'webgpu' | 'cuda' | 'reference';
  readonly trace?: boolean;
  readonly unit?: string;
}

/** Reading `--weights` lazily from a file that is replaced meanwhile would mix two checkpoints; losing it would be worse. */
function refuseSameFile(output: string, inputs: readonly string[]): void {
  const [to, ...from] = [output, ...inputs].map((p) => statSync(p, { throwIfNoEntry: false }));
  const same = from.findIndex((f) => f !== undefined && to !== undefined && f.dev === to.dev && f.ino === to.ino);
  if (same >= 0) throw new CommandError(EXIT.usage, `--output is the same file as ${inputs[same] ?? ''}, which is read`, { fix: 'write to another file' });
}

function required(value: string | undefined, option: string): string {
  if (value === undefined) throw new CommandError(EXIT.usage, `${option} is missing`, { fix: 'moec run --help shows an example' });
  return value;
}

const inputShape = (spec: Spec): InputShape => ({
  kind: spec.kind,
  hidden: spec.hidden,
  needsTokenIds: spec.kind === 'layer' && spec.ffn.kind === 'moe' && spec.ffn.router.select.kind === 'hash',
  vocab: spec.vocab ?? null,
});

/** The f64 evaluator: the result is F64, the trace too. */
async function runReference(spec: Spec, weights: TensorSet, inputs: RunInputs, trace: boolean): Promise<NewTensor[]> {
  const width = spec.kind === 'model' ? spec.vocab : spec.hidden;
  const name = spec.kind === 'model' ? 'logits' : 'y';
  const shape = [...inputs.lead, width];
  if (inputs.tokens === 0) return [resultTensor(name, shape, new Float64Array(0))];
  const reference = await loadReference(lowerToGraphs(spec), weights, { capacity: inputs.tokens });
  const { results } = reference.run({
    seq: inputs.seq,
    ...(inputs.ids === undefined ? {} : { ids: inputs.ids }),
    ...(inputs.x === undefined ? {} : { x: Float64Array.from(inputs.x) }),
  });
  const { y, topk_indices: indices, topk_weights: scores } = results;
  const tensors = [resultTensor(name, shape, Float64Array.from(y ?? []))];
  if (!trace || indices === undefined || scores === undefined || spec.kind !== 'layer' || spec.ffn.kind !== 'moe') return tensors;
  const slots = indices.length / inputs.tokens;
  return [...tensors, ...traceTensors({ slots, experts: spec.ffn.experts, indices: Uint32Array.from(indices), weights: Float64Array.from(scores) }, inputs.lead)];
}

async function runOn(runner: Runner, inputs: RunInputs, trace: boolean): Promise<NewTensor[]> {
  try {
    const { y, trace: traced } = await runner.forward(inputs, trace);
    const tensors = [resultTensor(runner.outputName, [...inputs.lead, runner.outputWidth], y)];
    return traced === undefined ? tensors : [...tensors, ...traceTensors(traced, inputs.lead)];
  } finally {
    await runner.dispose();
  }
}

const isDirectory = (path: string): boolean => statSync(path, { throwIfNoEntry: false })?.isDirectory() === true;

async function produce(io: Io, path: string, options: Options): Promise<{ readonly tensors: NewTensor[]; readonly where: string }> {
  const { target } = options;
  const trace = options.trace === true;
  const weightsPath = required(options.weights, '--weights');
  const inputPath = required(options.input, '--input');
  const isPackage = isDirectory(path);
  // A package knows its own target.
  if (options.emulate === true && target !== 'cuda' && !isPackage) {
    throw new CommandError(EXIT.usage, '--emulate is for --target cuda', { fix: 'add --target cuda, or leave --emulate out' });
  }
  const input = await openPath(inputPath);
  if (isPackage) {
    if (target === 'reference') throw new CommandError(EXIT.usage, 'a package runs on its own target', { fix: 'give the .moe file to run the reference evaluator' });
    disabledPasses();
    const runner = await openPackage(path, weightsPath, { ...emulation(options), target });
    const inputs = await readInputs(input, runner.input);
    return { tensors: await runOn(runner, inputs, trace), where: runner.device };
  }
  const { spec } = loadSpec(io, path, options.unit);
  const disabled = disabledPasses();
  const inputs = await readInputs(input, inputShape(spec));
  const weights = await openPath(weightsPath);
  if (target === 'reference') return { tensors: await runReference(spec, weights, inputs, trace), where: 'the reference evaluator (f64)' };
  const compile = { caps: capsOf(target ?? 'webgpu', options), disabled };
  const runner = target === 'cuda' ? await openCudaSpec(io, spec, weights, { ...compile, ...emulation(options) }) : await openSpec(spec, weights, compile);
  return { tensors: await runOn(runner, inputs, trace), where: runner.device };
}

export async function run(args: readonly string[], options: Options): Promise<number> {
  const io = makeIo(options);
  const output = required(options.output, '--output');
  refuseSameFile(output, [args[0] ?? '', required(options.weights, '--weights'), required(options.input, '--input')]);
  const { tensors, where } = await produce(io, args[0] ?? '', options);
  writeTensors(output, tensors);
  const described = tensors.map((t) => ({ name: t.name, dtype: t.dtype, shape: t.shape }));
  if (io.json) io.emit({ output, device: where, tensors: described });
  else io.say(`${output}: ${described.map((t) => `${t.name} ${t.dtype} [${t.shape.join(', ')}]`).join(', ')} from ${where}`);
  return EXIT.ok;
}
