/** A piece of a graph as a job: lowered, compiled and sized for one number of tokens the way a package is. */
import { evalSize, type SizeEnv } from '../../base/size.ts';
import { ELEM_BYTES } from '../../ir/kernel/cost.ts';
import type { Graph } from '../../ir/graph/types.ts';
import type { ScheduleSource } from '../../kernels/schedule-source.ts';
import { lowerGraph } from '../../lower/graph-to-kernels.ts';
import type { BufferRef, Section, Step } from '../../lower/program.ts';
import { meets } from '../../runtime/core/for-device.ts';
import type { Capabilities } from '../../target/types.ts';
import type { Job, JobKernel, JobRef } from '../../tuner/job.ts';
import { compileKernels, type KernelTable, type KernelVariant } from '../kernels.ts';

export interface JobDevice {
  readonly features: readonly string[];
  readonly subgroupSize?: number;
}

/** A graph with what decides about its kernels. */
export interface Lowering {
  readonly graph: Graph;
  /** The bucket whose kernels these are. */
  readonly maxTokens: number | undefined;
  readonly caps: Capabilities;
  readonly schedules?: ScheduleSource | undefined;
}

export interface LoweredPiece {
  readonly section: Section;
  readonly table: KernelTable;
}

/** @throws Error where a family refuses its schedule */
export function lowerPiece({ graph, maxTokens, caps, schedules }: Lowering): LoweredPiece {
  const section = lowerGraph([{ graph, maxTokens, caps, schedules }], caps);
  const device = caps.subgroupSize === undefined ? {} : { device: { subgroupSize: caps.subgroupSize } };
  const program = { sections: [{ ...section, buckets: section.buckets.map((b) => ({ ...b, ...device })) }], sequence: [{ section: 0, layer: undefined }] };
  return { section, table: compileKernels(program, caps) };
}

/** As the runtime chooses: the first one that the device can run. */
function variantFor(variants: readonly KernelVariant[], device: JobDevice): KernelVariant {
  const found = variants.find((v) => meets(device, v));
  if (found === undefined) throw new Error(`no variant of ${variants[0]?.kernel.name ?? 'a kernel'} runs on this device`);
  return found;
}

const kernelOf = (v: KernelVariant, portable: KernelVariant): JobKernel => ({
  name: v.kernel.name,
  entry: v.kernel.name,
  code: v.text,
  block: v.kernel.block,
  access: portable.kernel.params.map((p) => p.access ?? 'read_write'),
  hasScalars: v.kernel.scalars.length > 0,
});

function wordsOf({ kernel, constants }: Step, env: SizeEnv): readonly number[] {
  return kernel.scalars.map((name) => {
    const value = name === 'T' || name === 'past' || name === 'seq' ? env[name] : constants[name];
    if (value === undefined) throw new Error(`no value for the scalar ${name}`);
    return value;
  });
}

/** @param given names of parameters that the unit feeds as inputs, such as caches */
export function jobOf({ section, table }: LoweredPiece, env: SizeEnv, device: JobDevice, given: ReadonlySet<string>): Job {
  const [bucket] = section.buckets;
  if (bucket === undefined) throw new Error('a section without a bucket');
  const refOf = (ref: BufferRef, step: Step): JobRef => {
    if (ref.kind !== 'param') return ref;
    return given.has(ref.name) ? { kind: 'io', name: ref.name } : { kind: 'param', name: ref.name, segment: step.segment?.param === ref.name ? step.segment.index : 0 };
  };
  return {
    kernels: table.kernels.map(({ variants }) => {
      const chosen = variantFor(variants, device);
      return kernelOf(chosen, variants.at(-1) ?? chosen);
    }),
    steps: bucket.steps.map((step) => ({
      kernel: table.indexOf(step.kernel),
      args: step.args.map((ref) => refOf(ref, step)),
      grid: [evalSize(step.grid[0], env), evalSize(step.grid[1], env), evalSize(step.grid[2], env)],
      words: wordsOf(step, env),
    })),
    scratch: bucket.scratch.map((s) => evalSize(s.size, env) * ELEM_BYTES[s.elem]),
  };
}
