/** A spec as the files of a package: compiled program, golden vectors, runtime. */
import { emitPackage, type PackageFiles } from '../codegen/package/emit.ts';
import { type ProgramFiles, withSources } from '../codegen/package/program-files.ts';
import type { Spec } from '../model/types.ts';
import { type CompileOptions, type Compiled, compileSpec } from './compile.ts';
import { gateOf, goldenVectors, needsTwin, roundedTo, twinOf } from './golden.ts';

export { compileRuntime } from '../codegen/package/transpile.ts';

export interface BuiltPackage {
  readonly compiled: Compiled;
  readonly files: PackageFiles;
  /** The golden vectors are those of a scaled-down twin. */
  readonly twin: boolean;
}

/** What a package holds beside the compiled program; by path inside of the package's folder of that name. */
export interface PackageSources {
  /** Compiled files of the runtime. */
  readonly runtime: ReadonlyMap<string, string>;
  /** The sources that all CUDA programs include. */
  readonly cuda: ReadonlyMap<string, string>;
}

/**
 * The twin of a spec, by default schedules: its sizes are its own, nobody tuned it. Where the spec's kernels round rows, its own do
 * so too, though its rows are narrow.
 */
export function compileTwin({ spec, kernels }: Compiled, { tuned: _tuned, caps, ...plain }: CompileOptions): Compiled {
  if (caps === undefined) return compileSpec(twinOf(spec), plain);
  return compileSpec(twinOf(spec), { ...plain, caps: roundedTo(kernels) === undefined ? caps : { ...caps, roundedWidth: 1 } });
}

export function buildPackage(spec: Spec, options: CompileOptions, { runtime, cuda }: PackageSources): BuiltPackage {
  const compiled = compileSpec(spec, options);
  const own = { manifest: compiled.manifest, kernels: compiled.texts, runtime, cuda };
  if (!needsTwin(spec)) return { compiled, twin: false, files: emitPackage({ ...own, golden: goldenVectors(spec, compiled.graphs, gateOf(spec, compiled.kernels)) }) };
  const twin = compileTwin(compiled, options);
  const golden = goldenVectors(twin.spec, twin.graphs, gateOf(twin.spec, twin.kernels, 'narrow'));
  return { compiled, twin: true, files: emitPackage({ ...own, golden, twin: { manifest: twin.manifest, kernels: twin.texts } }) };
}

/** A compiled CUDA program with all its sources, without the rest of a package. */
export const cudaSources = ({ manifest, texts }: Compiled, { cuda }: Pick<PackageSources, 'cuda'>): ProgramFiles =>
  withSources({ manifest, kernels: texts }, cuda);
