/** The fusion report: what fused and what did not, and what that is worth in dispatches, bytes and scratch memory. Data. */
import { evalSize, type Size, type SizeEnv } from '../base/size.ts';
import { graphCost } from '../ir/graph/ops.ts';
import { ELEM_BYTES } from '../ir/kernel/cost.ts';
import type { Graph } from '../ir/graph/types.ts';
import type { GraphProgram } from '../lower/graph-program.ts';
import { mixtureNodes } from '../lower/groups.ts';
import type { Bucket, Program, Step } from '../lower/program.ts';
import { FUSION_PASSES } from '../passes/graph/pipeline.ts';
import type { PassEvent } from '../passes/pass.ts';
import { type LowerOptions, lowerProgram, type SectionReport } from './lower-program.ts';

/** What one run of a section takes. */
export interface SectionCost {
  /** Dispatches, those of a split weight counted once. */
  readonly dispatches: number;
  /** Dispatches beyond these, because weights are split over several bindings. */
  readonly splitDispatches: number;
  /** Dispatches of the mixture, with its norm and residual, counted as `dispatches`; absent without a mixture. */
  readonly mixtureDispatches?: number;
  /** Bytes that ops read and write, each operand once. */
  readonly bytes: number;
  /** Bytes of scratch memory. */
  readonly scratch: number;
}

export interface CallReport {
  /** Tokens of the call, with nothing in the cache before it. */
  readonly tokens: number;
  /** Every op of the spec a kernel of its own. */
  readonly before: SectionCost;
  readonly after: SectionCost;
}

export interface KernelReport {
  readonly kernel: string;
  readonly op: string;
  readonly group: Step['group'];
  /** Dispatches: more than one where the weight is split. */
  readonly dispatches: number;
}

export interface BucketReport {
  readonly maxTokens: number | undefined;
  readonly events: readonly PassEvent[];
  readonly kernels: readonly KernelReport[];
}

export interface SectionFusion {
  readonly section: string;
  /** How often a call runs it. */
  readonly runs: number;
  readonly calls: readonly CallReport[];
  readonly buckets: readonly BucketReport[];
}

export interface FusionReport {
  /** Limits the report is for. */
  readonly profile: string;
  readonly sections: readonly SectionFusion[];
  /** All sections as often as they run; scratch is that of the largest section. */
  readonly total: readonly CallReport[];
}

/** Tokens that stand for decoding one sequence, several of them, and prefilling. */
export const REPORT_TOKENS: readonly number[] = [1, 8, 512];

const bytesOf = (scratch: Bucket['scratch'], env: SizeEnv): number =>
  scratch.reduce((n, { elem, size }) => n + evalSize(size, env) * ELEM_BYTES[elem], 0);

/** Whether a step repeats the one before for another segment. */
const isRepeat = (step: Step): boolean => step.segment !== undefined && step.segment.index > 0;

const evaluate = (size: Size, tokens: number): number => evalSize(size, envOf(tokens));
const envOf = (tokens: number): SizeEnv => ({ T: tokens, past: 0, seq: tokens, cap: tokens });

/** The ops of the mixture by their place among the steps: the ops of both are in one order. */
function mixtureSteps(graph: Graph, steps: readonly Step[]): number | undefined {
  const mixture = mixtureNodes(graph);
  if (mixture.size === 0) return undefined;
  const norms = graph.nodes.filter((node) => node.op === 'norm' && mixture.has(node)).length;
  return steps.filter((step) => step.group === 'moe' && !isRepeat(step)).length + norms;
}

function costOf(graph: Graph, bucket: Bucket, tokens: number): SectionCost {
  const repeats = bucket.steps.filter(isRepeat).length;
  const mixture = mixtureSteps(graph, bucket.steps);
  return {
    dispatches: bucket.steps.length - repeats,
    splitDispatches: repeats,
    ...(mixture !== undefined && { mixtureDispatches: mixture }),
    bytes: evaluate(graphCost(graph).bytes, tokens),
    scratch: bytesOf(bucket.scratch, envOf(tokens)),
  };
}

/** One lowering with the graphs it came from. */
interface Lowering {
  readonly program: Program;
  readonly reports: readonly SectionReport[];
}

/** The first bucket that takes a call of so many tokens. */
const bucketFor = (buckets: readonly Bucket[], tokens: number): number =>
  buckets.findIndex((b) => b.maxTokens === undefined || tokens <= b.maxTokens);

function costsOf({ program, reports }: Lowering, section: number, tokens: number): SectionCost {
  const buckets = program.sections[section]?.buckets ?? [];
  const at = bucketFor(buckets, tokens);
  const bucket = buckets[at];
  const graph = reports[section * buckets.length + at]?.graph;
  if (bucket === undefined || graph === undefined) throw new Error(`section ${section} takes no call of ${tokens} tokens`);
  return costOf(graph, bucket, tokens);
}

function kernelsOf(bucket: Bucket): readonly KernelReport[] {
  const kernels: { kernel: string; op: string; group: Step['group']; dispatches: number }[] = [];
  for (const step of bucket.steps) {
    const last = kernels.at(-1);
    if (last !== undefined && isRepeat(step)) last.dispatches += 1;
    else kernels.push({ kernel: step.kernel.name, op: step.op, group: step.group, dispatches: 1 });
  }
  return kernels;
}

const sumOf = (costs: readonly (readonly [runs: number, cost: SectionCost])[]): SectionCost => {
  const sum = (of: (cost: SectionCost) => number): number => costs.reduce((n, [runs, cost]) => n + runs * of(cost), 0);
  return {
    dispatches: sum((c) => c.dispatches),
    splitDispatches: sum((c) => c.splitDispatches),
    ...(costs.some(([, c]) => c.mixtureDispatches !== undefined) && { mixtureDispatches: sum((c) => c.mixtureDispatches ?? 0) }),
    bytes: sum((c) => c.bytes),
    scratch: Math.max(0, ...costs.map(([, c]) => c.scratch)),
  };
};

/** Lowers a program with and without the fusion passes and compares. */
export function fusionReport(graphs: GraphProgram, options: LowerOptions, tokens: readonly number[] = REPORT_TOKENS): FusionReport {
  const after = lowerProgram(graphs, options);
  const before = lowerProgram(graphs, { ...options, disabled: new Set([...options.disabled, ...FUSION_PASSES]) });
  const sections = graphs.sections.map((graph, i): SectionFusion => {
    const buckets = after.program.sections[i]?.buckets ?? [];
    return {
      section: graph.name,
      runs: graphs.sequence.filter((s) => s.section === i).length,
      calls: tokens.map((t) => ({ tokens: t, before: costsOf(before, i, t), after: costsOf(after, i, t) })),
      buckets: buckets.map((bucket, j) => ({
        maxTokens: bucket.maxTokens,
        events: after.reports[i * buckets.length + j]?.events ?? [],
        kernels: kernelsOf(bucket),
      })),
    };
  });
  const total = tokens.map((t, k): CallReport => {
    const costs = (which: 'before' | 'after'): SectionCost =>
      sumOf(sections.flatMap(({ runs, calls }) => (calls[k] === undefined ? [] : [[runs, calls[k][which]] as const])));
    return { tokens: t, before: costs('before'), after: costs('after') };
  });
  return { profile: options.caps.profile, sections, total };
}
