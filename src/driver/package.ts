/** A spec as the files of a package: compiled program, golden vectors, runtime. */
import { emitPackage, type PackageFiles } from '../codegen/package/emit.ts';
import type { Spec } from '../model/types.ts';
import { type CompileOptions, type Compiled, compileSpec } from './compile.ts';
import { goldenVectors, needsTwin, twinOf } from './golden.ts';

export { compileRuntime } from '../codegen/package/transpile.ts';

export interface BuiltPackage {
  readonly compiled: Compiled;
  readonly files: PackageFiles;
  /** The golden vectors are those of a scaled-down twin. */
  readonly twin: boolean;
}

/** @param runtime compiled runtime files by path inside `runtime/` */
export function buildPackage(spec: Spec, options: CompileOptions, runtime: ReadonlyMap<string, string>): BuiltPackage {
  const compiled = compileSpec(spec, options);
  const program = { manifest: compiled.manifest, kernels: compiled.texts };
  if (!needsTwin(spec)) {
    return { compiled, twin: false, files: emitPackage({ ...program, runtime, golden: goldenVectors(spec, compiled.graphs) }) };
  }
  const small = twinOf(spec);
  const twin = compileSpec(small, options);
  const golden = goldenVectors(small, twin.graphs);
  return { compiled, twin: true, files: emitPackage({ ...program, runtime, golden, twin: { manifest: twin.manifest, kernels: twin.texts } }) };
}
