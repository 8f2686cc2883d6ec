/** Sections of graphs → the program: every section optimised and lowered for its buckets, kernels shared by all of them. */
import type { Graph } from '../ir/graph/types.ts';
import type { GraphProgram } from '../lower/graph-program.ts';
import { type BucketGraph, lowerGraph } from '../lower/graph-to-kernels.ts';
import type { ScheduleSource } from '../kernels/schedule-source.ts';
import { kernelPool } from '../lower/kernel-pool.ts';
import type { DeviceMatch, Program } from '../lower/program.ts';
import { optimize } from '../passes/graph/pipeline.ts';
import { DECODE_TOKENS } from '../passes/graph/plan.ts';
import type { PassEvent } from '../passes/pass.ts';
import { type Capabilities, specialisations } from '../target/types.ts';

/** Buckets for some devices. */
export interface DevicePlan {
  readonly device: DeviceMatch;
  readonly caps: Capabilities;
  /** Fewest tokens first; absent: as the capabilities say, up to any number. */
  readonly buckets?: readonly PlanBucket[];
}

export interface PlanBucket {
  /** Most tokens of the calls it serves. */
  readonly maxTokens: number | undefined;
  /** What passes and kernel families are told instead, so that the bucket has the forms of one for more tokens. */
  readonly like?: { readonly maxTokens: number | undefined };
  /** Schedules of a section, by its name. */
  readonly schedules?: (section: string) => ScheduleSource | undefined;
}

export interface LowerOptions {
  readonly caps: Capabilities;
  /** Buckets that go before those for any device, the most particular first. */
  readonly plans: readonly DevicePlan[];
  /** Names of graph passes to leave out. */
  readonly disabled: ReadonlySet<string>;
  /** A token's result must not depend on the other tokens of the call. */
  readonly deterministicBatch: boolean;
}

/** What the passes did in one section and bucket. */
export interface SectionReport {
  readonly section: string;
  /** Absent: any device. */
  readonly device: DeviceMatch | undefined;
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

/** Buckets for devices whose subgroups all have one size, where the target's capabilities leave that open. */
export const specialisedPlans = (caps: Capabilities): readonly DevicePlan[] =>
  specialisations(caps).map((own) => ({ device: deviceOf(own) ?? {}, caps: own }));

/** Devices that buckets for `caps` are for; undefined: all of the target. */
function deviceOf({ target, subgroupSize }: Capabilities): DeviceMatch | undefined {
  return target === 'webgpu' && subgroupSize !== undefined ? { subgroupSize } : undefined;
}

/** @throws RangeError where one row of a weight, or one expert of a bank, is larger than a binding */
export function lowerProgram({ sections, sequence }: GraphProgram, options: LowerOptions): LoweredProgram {
  const { caps, plans, disabled, deterministicBatch } = options;
  const pool = kernelPool();
  const reports: SectionReport[] = [];
  const all = [...plans, { device: deviceOf(caps), caps }];
  const lowered = sections.map((section) => {
    const buckets = all.flatMap((plan: Omit<DevicePlan, 'device'> & { readonly device: DeviceMatch | undefined }) => {
      const standard = bucketTokens(deterministicBatch, plan.caps).map((maxTokens): PlanBucket => ({ maxTokens }));
      return (plan.buckets ?? standard).map((bucket): BucketGraph => {
        const schedules = bucket.schedules?.(section.name);
        const { maxTokens } = bucket.like ?? bucket;
        const own = { caps: plan.caps, disabled, deterministicBatch, maxTokens, tileRows: schedules?.tileRows?.bind(schedules) };
        const { graph, report } = optimize(section, own);
        reports.push({ section: section.name, device: plan.device, maxTokens: bucket.maxTokens, events: report, graph });
        return { maxTokens, serves: bucket.maxTokens, graph, device: plan.device, caps: plan.caps, schedules };
      });
    });
    return lowerGraph(buckets, caps, pool);
  });
  return { program: { sections: lowered, sequence }, reports };
}
