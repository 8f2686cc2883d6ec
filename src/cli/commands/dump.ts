/** `moec dump FILE --stage …` */
import { stableJson } from '../../base/hash.ts';
import { compileSpec } from '../../driver/compile.ts';
import { printGraph, printKernel } from '../../driver/print.ts';
import type { TargetName } from '../../driver/profiles.ts';
import { graphsAt } from '../../driver/stages.ts';
import { CommandError, EXIT, makeIo, type CommonOptions, type Io } from '../io.ts';
import { loadSpec, readSpecFile, tell } from '../load-spec.ts';
import { disabledPasses, requirePass } from '../passes-option.ts';
import { capsOf, type DeviceChoice } from '../profiles.ts';

interface Options extends CommonOptions, DeviceChoice {
  readonly target?: TargetName;
  readonly stage: 'ast' | 'model' | 'graph' | 'kernels' | 'wgsl' | 'cuda' | 'manifest';
  readonly after?: string;
  readonly bucket: 'decode' | 'prefill';
  readonly unit?: string;
}

const pretty = (value: unknown): string => JSON.stringify(value, null, 2);

/** The stages that are texts of one target say which one. */
function targetOf({ stage, target }: Options): TargetName {
  const own = stage === 'cuda' ? 'cuda' : stage === 'wgsl' ? 'webgpu' : undefined;
  if (own !== undefined && target !== undefined && own !== target) {
    throw new CommandError(EXIT.usage, `--stage ${stage} is a text of ${own}, not of ${target}`, { fix: 'leave --target out' });
  }
  return own ?? target ?? 'webgpu';
}

function dumpGraph(io: Io, options: Options, path: string): void {
  const { after, bucket } = options;
  if (after !== undefined) requirePass(after, ['lower']);
  const { spec } = loadSpec(io, path, options.unit);
  const graphs = graphsAt(spec, { bucket, after, disabled: disabledPasses(), caps: capsOf(targetOf(options), options) });
  if (io.json) io.emit(graphs);
  else io.out(graphs.map(printGraph).join('\n\n'));
}

export function run(args: readonly string[], options: Options): number {
  const io = makeIo(options);
  const path = args[0] ?? '';
  if (options.stage === 'ast') {
    const file = readSpecFile(path);
    io.out(pretty(file.front.ast ?? null));
    tell(io, file, file.front.diagnostics);
    return file.front.diagnostics.some((d) => d.severity === 'error') ? EXIT.diagnostics : EXIT.ok;
  }
  if (options.stage === 'graph') {
    dumpGraph(io, options, path);
    return EXIT.ok;
  }
  const { spec } = loadSpec(io, path, options.unit);
  if (options.stage === 'model') {
    io.out(pretty(spec));
    return EXIT.ok;
  }
  const compiled = compileSpec(spec, { caps: capsOf(targetOf(options), options), disabled: disabledPasses() });
  if (options.stage === 'manifest') io.out(io.json ? stableJson(compiled.manifest) : pretty(compiled.manifest));
  else if (options.stage === 'wgsl' || options.stage === 'cuda') {
    if (io.json) io.emit(compiled.texts);
    else io.out([...compiled.texts].map(([file, text]) => `// ${file}\n${text}`).join('\n'));
  } else {
    const kernels = compiled.kernels.kernels.map((k) => k.source);
    if (io.json) io.emit(kernels);
    else io.out(kernels.map(printKernel).join('\n\n'));
  }
  return EXIT.ok;
}
