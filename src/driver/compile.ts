/**
 * compile(): the one place that knows the whole way, from a Spec to everything a package is made of.
 * Free of Node's modules; works in a browser.
 */
import type { Graph } from '../ir/graph/types.ts';
import { type BucketGraph, lowerGraph } from '../lower/graph-to-kernels.ts';
import type { GraphProgram } from '../lower/graph-program.ts';
import { lowerToGraphs } from '../lower/model-to-graph.ts';
import type { Program } from '../lower/program.ts';
import type { Spec } from '../model/types.ts';
import { GRAPH_PASSES, optimize } from '../passes/graph/pipeline.ts';
import type { PassEvent, PassOptions } from '../passes/pass.ts';
import type { Manifest } from '../runtime/core/abi.ts';
import { type Capabilities, WEBGPU_BASELINE } from '../target/types.ts';
import { compileKernels, type KernelTable } from './kernels.ts';
import { buildManifest } from './manifest.ts';

export const GENERATOR = 'moec 0.1.0';

/** Calls of at most this many tokens run the decode form. */
export const DECODE_TOKENS = 8;

export interface CompileOptions {
  readonly caps?: Capabilities;
  /** Names of passes to leave out. */
  readonly disabled?: ReadonlySet<string>;
}

/** What the passes did in one section and bucket. */
export interface SectionReport {
  readonly section: string;
  readonly maxTokens: number | undefined;
  readonly events: readonly PassEvent[];
  readonly graph: Graph;
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
  /** WGSL by its path in the package. */
  readonly texts: ReadonlyMap<string, string>;
}

/** The passes by name, in the order in which they run. */
export const PASS_NAMES: readonly string[] = GRAPH_PASSES.map((p) => p.name);

function passOptions(spec: Spec, maxTokens: number | undefined, options: CompileOptions): PassOptions {
  return {
    maxTokens,
    disabled: options.disabled ?? new Set(),
    caps: options.caps ?? WEBGPU_BASELINE,
    deterministicBatch: spec.deterministic === 'batch',
  };
}

/** With `deterministic batch` one form serves all calls: a token's bits cannot depend on how many others there are. */
const bucketsOf = (spec: Spec): readonly (number | undefined)[] => (spec.deterministic === 'batch' ? [undefined] : [DECODE_TOKENS, undefined]);

/** Spec → graphs → fused graphs per bucket → program. */
export function lowerSpec(spec: Spec, options: CompileOptions = {}): Lowered {
  const graphs = lowerToGraphs(spec);
  const reports: SectionReport[] = [];
  const sections = graphs.sections.map((section) => {
    const buckets = bucketsOf(spec).map((maxTokens): BucketGraph => {
      const { graph, report } = optimize(section, passOptions(spec, maxTokens, options));
      reports.push({ section: section.name, maxTokens, events: report, graph });
      return { maxTokens, graph };
    });
    return lowerGraph(buckets, options.caps ?? WEBGPU_BASELINE);
  });
  return { spec, graphs, program: { sections, sequence: graphs.sequence }, reports };
}

/** The whole way to WGSL and a manifest. */
export function compileSpec(spec: Spec, options: CompileOptions = {}): Compiled {
  const lowered = lowerSpec(spec, options);
  const kernels = compileKernels(lowered.program);
  const disabled = options.disabled ?? new Set();
  const manifest = buildManifest({
    spec,
    program: lowered.program,
    table: kernels,
    caps: options.caps ?? WEBGPU_BASELINE,
    passes: PASS_NAMES.filter((p) => !disabled.has(p)),
    generator: GENERATOR,
  });
  const texts = new Map<string, string>();
  kernels.kernels.forEach((k, i) => {
    k.variants.forEach((v, j) => {
      const file = manifest.kernels[i]?.variants[j]?.file;
      if (file !== undefined) texts.set(file, v.text);
    });
  });
  return { ...lowered, kernels, manifest, texts };
}
