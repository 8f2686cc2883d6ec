/** Sections of graphs → the program: every section optimised and lowered for its buckets, kernels shared by all of them. */
import type { Graph } from '../ir/graph/types.ts';
import type { GraphProgram } from '../lower/graph-program.ts';
import { lowerGraph } from '../lower/graph-to-kernels.ts';
import { kernelPool } from '../lower/kernel-pool.ts';
import type { Program } from '../lower/program.ts';
import { optimize } from '../passes/graph/pipeline.ts';
import { DECODE_TOKENS } from '../passes/graph/plan.ts';
import type { PassEvent } from '../passes/pass.ts';
import type { Capabilities } from '../target/types.ts';

export interface LowerOptions {
  readonly caps: Capabilities;
  /** Names of graph passes to leave out. */
  readonly disabled: ReadonlySet<string>;
  /** A token's result must not depend on the other tokens of the call. */
  readonly deterministicBatch: boolean;
}

/** What the passes did in one section and bucket. */
export interface SectionReport {
  readonly section: string;
  readonly maxTokens: number | undefined;
  readonly events: readonly PassEvent[];
  /** After all passes. */
  readonly graph: Graph;
}

export interface LoweredProgram {
  readonly program: Program;
  readonly reports: readonly SectionReport[];
}

/**
 * Most tokens of the calls each bucket serves, fewest first. With a deterministic batch one form serves all calls: a
 * token's bits cannot depend on how many others there are.
 */
export const bucketTokens = (deterministicBatch: boolean, caps: Capabilities): readonly (number | undefined)[] =>
  deterministicBatch ? [undefined] : [DECODE_TOKENS, ...caps.tokenBuckets, undefined];

/** @throws RangeError where one row of a weight, or one expert of a bank, is larger than a binding */
export function lowerProgram({ sections, sequence }: GraphProgram, options: LowerOptions): LoweredProgram {
  const { caps, deterministicBatch } = options;
  const pool = kernelPool();
  const reports: SectionReport[] = [];
  const lowered = sections.map((section) => {
    const buckets = bucketTokens(deterministicBatch, caps).map((maxTokens) => {
      const { graph, report } = optimize(section, { ...options, maxTokens });
      reports.push({ section: section.name, maxTokens, events: report, graph });
      return { maxTokens, graph };
    });
    return lowerGraph(buckets, caps, pool);
  });
  return { program: { sections: lowered, sequence }, reports };
}
