/**
 * compile(): the one place that knows the whole way, from a Spec to everything a package is made of.
 * Free of Node's modules; works in a browser.
 */
import { CUDA_DIRECTORY, cudaModule } from '../codegen/cuda/module.ts';
import type { GraphProgram } from '../lower/graph-program.ts';
import { type DevicePlan, type LowerOptions, lowerProgram, type SectionReport, specialisedPlans } from './lower-program.ts';
import { lowerToGraphs } from '../lower/model-to-graph.ts';
import type { Program } from '../lower/program.ts';
import { type FusionReport, fusionReport, REPORT_TOKENS } from './fusion-report.ts';
import type { Spec } from '../model/types.ts';
import { PASS_NAMES } from '../passes/graph/pipeline.ts';
import type { Manifest, ManifestTuned } from '../runtime/core/abi.ts';
import { type Capabilities, WEBGPU_BASELINE } from '../target/types.ts';
import { compileKernels, type KernelTable } from './kernels.ts';
import { buildManifest } from './manifest.ts';

export { PASS_NAMES, type FusionReport };

export const GENERATOR = 'moec 0.1.0';

export interface CompileOptions {
  readonly caps?: Capabilities;
  /** Names of passes to leave out. */
  readonly disabled?: ReadonlySet<string>;
  /** Buckets for particular devices, before those for any; default: devices whose subgroups have a known size. */
  readonly plans?: readonly DevicePlan[];
  /** Winners of tuning: buckets for single devices, before all others, and the evidence for them. */
  readonly tuned?: Tuned;
}

export interface Tuned {
  readonly plans: readonly DevicePlan[];
  readonly evidence: readonly ManifestTuned[];
}

export interface Lowered {
  readonly spec: Spec;
  /** Unfused, as the spec says. */
  readonly graphs: GraphProgram;
  readonly program: Program;
  readonly reports: readonly SectionReport[];
}

export interface Compiled extends Lowered {
  readonly kernels: KernelTable;
  readonly manifest: Manifest;
  /** WGSL or CUDA by its path in the package. */
  readonly texts: ReadonlyMap<string, string>;
}

const lowerOptions = (spec: Spec, { caps = WEBGPU_BASELINE, ...options }: CompileOptions): LowerOptions => ({
  caps,
  plans: [...(options.tuned?.plans ?? []), ...(options.plans ?? specialisedPlans(caps))],
  disabled: options.disabled ?? new Set(),
  deterministicBatch: spec.deterministic === 'batch',
});

/** Spec → graphs → fused graphs per bucket → program. */
export function lowerSpec(spec: Spec, options: CompileOptions = {}): Lowered {
  const graphs = lowerToGraphs(spec);
  return { spec, graphs, ...lowerProgram(graphs, lowerOptions(spec, options)) };
}

/** What fused, what did not and why, and what it is worth on any device, for calls of the given token counts. */
export const explainFusion = (spec: Spec, options: CompileOptions = {}, tokens: readonly number[] = REPORT_TOKENS): FusionReport =>
  fusionReport(lowerToGraphs(spec), lowerOptions(spec, { plans: [], ...options }), tokens);

/** Every kernel's text by its file. */
function kernelTexts({ kernels }: KernelTable, manifest: Manifest): Map<string, string> {
  const texts = new Map<string, string>();
  kernels.forEach((k, i) => {
    k.variants.forEach((v, j) => {
      const file = manifest.kernels[i]?.variants[j]?.file;
      if (file !== undefined) texts.set(file, v.text);
    });
  });
  return texts;
}

/** The translation units around the kernels, and what the manifest says of them. */
function withCudaModule(manifest: Manifest, { kernels }: KernelTable, texts: Map<string, string>): Manifest {
  const { profile: arch } = manifest.limits;
  if (arch !== 'sm_80' && arch !== 'sm_90a') throw new Error(`there is no CUDA architecture ${arch}`);
  const prefix = `${CUDA_DIRECTORY}/`;
  const { parts, module, texts: units } = cudaModule(
    kernels.flatMap(({ variants: [v] }, i) => (v === undefined ? [] : [{ kernel: v.kernel, text: v.text, file: manifest.kernels[i]?.variants[0]?.file.slice(prefix.length) ?? '' }])),
  );
  for (const [file, text] of units) texts.set(prefix + file, text);
  return { ...manifest, cuda: { arch, directory: CUDA_DIRECTORY, parts: parts.map((p) => prefix + p), module: prefix + module, sources: '' } };
}

/** The whole way to texts of kernels and a manifest. */
export function compileSpec(spec: Spec, options: CompileOptions = {}): Compiled {
  const caps = options.caps ?? WEBGPU_BASELINE;
  const lowered = lowerSpec(spec, options);
  const kernels = compileKernels(lowered.program, caps);
  const disabled = options.disabled ?? new Set();
  const manifest = buildManifest({
    spec,
    program: lowered.program,
    table: kernels,
    caps,
    passes: PASS_NAMES.filter((p) => !disabled.has(p)),
    generator: GENERATOR,
    tuned: options.tuned?.evidence ?? [],
  });
  const texts = kernelTexts(kernels, manifest);
  return { ...lowered, kernels, texts, manifest: caps.target === 'cuda' ? withCudaModule(manifest, kernels, texts) : manifest };
}
