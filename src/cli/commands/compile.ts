/** `moec compile FILE --target webgpu|cuda|all --out DIR` */
import { join } from 'node:path';
import { type Spec, shortBytes } from '../../driver/analysis.ts';
import { GENERATOR, type Tuned } from '../../driver/compile.ts';
import { type BuiltPackage, buildPackage } from '../../driver/package.ts';
import type { TargetName } from '../../driver/profiles.ts';
import type { Manifest } from '../../runtime/core/abi.ts';
import { requireWeights } from '../../runtime/core/weights.ts';
import { openPath } from '../../runtime/node/files.ts';
import { allTargets } from '../all-targets.ts';
import { type BuiltLibraries, prebuild } from '../cuda-prebuild.ts';
import type { EmulateOption } from '../cuda-program.ts';
import { CommandError, EXIT, makeIo, type CommonOptions, type Io } from '../io.ts';
import { loadSpec } from '../load-spec.ts';
import { disabledPasses } from '../passes-option.ts';
import { capsOf, type DeviceChoice } from '../profiles.ts';
import { packageSources } from '../runtime-files.ts';
import { readTuned } from '../tune/read-tuned.ts';
import { writePackage } from '../write-package.ts';

interface Options extends CommonOptions, EmulateOption, DeviceChoice {
  readonly target: TargetName | 'all';
  readonly out?: string;
  readonly weights?: string;
  readonly skipBuild?: boolean;
  readonly unit?: string;
  /** A store of `moec tune`; true: the usual one. */
  readonly tuned?: string | true;
}

/** Options that none of the targets knows would be passed over in silence. */
function refuseForeign(options: Options, targets: readonly TargetName[]): void {
  const given: readonly (readonly [string, boolean])[] = [['--arch', options.arch !== undefined], ['--emulate', options.emulate === true], ['--skip-build', options.skipBuild === true]];
  if (options.tuned !== undefined && !targets.includes('webgpu')) throw new CommandError(EXIT.usage, '--tuned is for --target webgpu', { fix: 'leave --tuned out' });
  const foreign = targets.includes('cuda') ? undefined : given.find(([, isGiven]) => isGiven)?.[0];
  if (foreign !== undefined) throw new CommandError(EXIT.usage, `${foreign} is for --target cuda`, { fix: `add --target cuda, or leave ${foreign} out` });
}

async function checkWeights(path: string, { sections, sequence }: Manifest): Promise<void> {
  const set = await openPath(path);
  requireWeights(sections, sequence, set);
  await set.close();
}

function compilePackages(spec: Spec, targets: readonly TargetName[], options: Options, tuned: Tuned | undefined): ReadonlyMap<TargetName, BuiltPackage> {
  const disabled = disabledPasses();
  const sources = packageSources();
  const build = (target: TargetName): BuiltPackage =>
    buildPackage(spec, { caps: capsOf(target, options), disabled, ...(tuned === undefined || target !== 'webgpu' ? {} : { tuned }) }, sources);
  return new Map(targets.map((target) => [target, build(target)]));
}

interface Facts {
  readonly target: TargetName;
  readonly out: string;
  readonly name: string;
  readonly kernels: number;
  readonly files: number;
  readonly bytes: number;
  readonly weightBytes: number;
  readonly goldenTwin: boolean;
}

function factsOf(target: TargetName, out: string, { compiled: { manifest }, files, twin }: BuiltPackage): Facts {
  const bytes = [...files.values()].reduce((n, f) => n + (typeof f === 'string' ? Buffer.byteLength(f) : f.length), 0);
  return { target, out, name: manifest.model.name, kernels: manifest.kernels.length, files: files.size, bytes, weightBytes: manifest.limits.weightBytes, goldenTwin: twin };
}

function tell(io: Io, packages: readonly Facts[], libraries: BuiltLibraries | undefined, milliseconds: number): void {
  if (io.json) {
    const [only] = packages;
    const built = libraries === undefined ? {} : { libraries: libraries.built };
    io.emit(packages.length === 1 ? { ...only, ...built, milliseconds } : { packages, ...built, milliseconds });
    return;
  }
  for (const f of packages) io.say(`${f.out}: ${f.kernels} kernels, ${f.files} files, ${shortBytes(f.bytes)}; weights on the device ${shortBytes(f.weightBytes)}; ${milliseconds} ms`);
  for (const line of libraries?.lines ?? []) io.say(line);
  for (const { target, out } of packages) {
    const isMissing = target === 'cuda' && (libraries === undefined || libraries.built.length === 0);
    io.say(`next: ${isMissing ? `node ${join(out, 'cuda', 'build.js')}, then ` : ''}moec verify ${out}${target === 'cuda' && libraries?.emulated === true ? ' --emulate' : ''}`);
  }
}

export async function run(args: readonly string[], options: Options): Promise<number> {
  const io = makeIo(options);
  const began = performance.now();
  const targets: readonly TargetName[] = options.target === 'all' ? ['webgpu', 'cuda'] : [options.target];
  disabledPasses();
  const { out } = options;
  if (out === undefined) throw new CommandError(EXIT.usage, '--out is missing', { fix: 'moec compile FILE --out DIR' });
  refuseForeign(options, targets);
  const { spec } = loadSpec(io, args[0] ?? '', options.unit);
  const tuned = options.tuned === undefined ? undefined : readTuned(io, spec, options.tuned, { caps: capsOf('webgpu', options), disabled: disabledPasses() });
  const packages = compilePackages(spec, targets, options, tuned);
  const [first] = packages.values();
  if (options.weights !== undefined && first !== undefined) await checkWeights(options.weights, first.compiled.manifest);
  const isAll = options.target === 'all';
  const directoryOf = (target: TargetName): string => (isAll ? join(out, target) : out);
  const files = new Map([...packages].map(([target, { files: own }]) => [target, own]));
  await writePackage(out, isAll ? allTargets(files, GENERATOR) : (first?.files ?? new Map()));
  const milliseconds = Math.round(performance.now() - began);
  const libraries = targets.includes('cuda') && options.skipBuild !== true ? await prebuild(io, directoryOf('cuda'), options.emulate === true) : undefined;
  tell(io, [...packages].map(([target, built]) => factsOf(target, directoryOf(target), built)), libraries, milliseconds);
  return EXIT.ok;
}
