/**
 * Graph → steps: a kernel family with a schedule (its default, or one from outside) for every node, buffers for every value.
 * One graph per bucket goes in, one section of a program comes out.
 */
import { isQuantName } from '../base/quant.ts';
import { stableJson } from '../base/hash.ts';
import { mulSize, type Size } from '../base/size.ts';
import { operands, results } from '../ir/graph/rewrite.ts';
import type { Dim, Graph, GraphParam, Node, TensorType, Value } from '../ir/graph/types.ts';
import type { Elem } from '../ir/kernel/types.ts';
import type { Launch } from '../kernels/launch.ts';
import { planSize } from '../kernels/index.ts';
import type { LaunchGroup } from '../kernels/moe/index.ts';
import type { ScheduleSource } from '../kernels/schedule-source.ts';
import type { Capabilities } from '../target/types.ts';
import { groupsOf } from './groups.ts';
import { type KernelPool, kernelPool } from './kernel-pool.ts';
import { denseLaunches, type LaunchContext } from './launches-dense.ts';
import { moeLaunches } from './launches-moe.ts';
import { assignSlots, type LiveValue } from './lifetime.ts';
import type { Bucket, BufferRef, DeviceMatch, IoDecl, ParamDecl, Section, Step } from './program.ts';
import { segmentRowsOf, segmentsOf } from './segments.ts';

export interface BucketGraph {
  /** What kernel families may count on. */
  readonly maxTokens: number | undefined;
  /** Most tokens of the calls it serves, where there are fewer; absent: as many. */
  readonly serves?: number | undefined;
  readonly graph: Graph;
  /** Absent: any device. */
  readonly device?: DeviceMatch | undefined;
  /** What the devices of the bucket can do; absent: as the section's. */
  readonly caps?: Capabilities;
  readonly schedules?: ScheduleSource | undefined;
}

const isMoe = (node: Node): node is Extract<Node, { op: `moe.${string}` }> => node.op.startsWith('moe.');

/** Everything that decides what a node's kernels are, and nothing else: no names of values. */
function launchKey(node: Node, { caps, maxTokens, slots, segmentRows }: LaunchContext): string {
  const ins = operands(node).map(([name, value]) => [name, value.type, segmentRows(value)]);
  const outs = results(node).map(([name, value]) => [name, value.type]);
  return stableJson([node.op, node.attrs, ins, outs, maxTokens ?? 'any', slots, caps.subgroupSize ?? 'any']);
}

function launchesOf(node: Node, ctx: LaunchContext, pool: KernelPool): LaunchGroup {
  const make = (): LaunchGroup => (isMoe(node) ? moeLaunches(node, ctx) : denseLaunches(node, ctx));
  return pool.launches(ctx.schedules === undefined ? launchKey(node, ctx) : undefined, make);
}

const slotsOf = (graph: Graph): number => {
  for (const node of graph.nodes) if (node.op === 'moe.plan') return node.attrs.slots;
  return 0;
};

const elementCount = (shape: readonly Dim[], slots: number): Size =>
  shape.reduce<Size>((n, d) => mulSize(n, d === 'P' ? mulSize('T', slots) : d), 1);

/** Elements and element type of a value's buffer; a direct plan has none. */
function bufferOf(value: Value, slots: number): { readonly elem: Elem; readonly size: Size } | undefined {
  if (value.type.kind === 'plan') {
    const { experts, slots: own, mode, tileRows } = value.type;
    return mode === 'direct' ? undefined : { elem: 'u32', size: planSize({ experts, slots: own, tileRows }) };
  }
  const { dtype } = value.type;
  if (isQuantName(dtype)) throw new Error(`%${value.id} is quantised, which only weights are`);
  return { elem: dtype, size: elementCount(value.type.shape, slots) };
}

/** The value an operand of a launch names: an operand or a result of the node; `…Out` is a result that shares an operand's name. */
function valueFor(node: Node, name: string): Value {
  const ins = new Map(operands(node));
  const outs = new Map(results(node));
  const found = ins.get(name) ?? outs.get(name) ?? (name.endsWith('Out') ? outs.get(name.slice(0, -3)) : undefined);
  if (found === undefined) throw new Error(`${node.op} has no operand or result ${name}`);
  return found;
}

interface Draft {
  readonly node: Node;
  readonly launch: Launch;
  /** Value ids, private scratch ids, or `faults`. */
  readonly args: readonly string[];
}

interface Drafts {
  readonly drafts: readonly Draft[];
  /** Buffers that live between the launches of one node. */
  readonly scratch: ReadonlyMap<string, { readonly elem: Elem; readonly size: Size }>;
}

function draftsOf(graph: Graph, ctx: LaunchContext, pool: KernelPool): Drafts {
  const drafts: Draft[] = [];
  const scratch = new Map<string, { readonly elem: Elem; readonly size: Size }>();
  graph.nodes.forEach((node, i) => {
    const group = launchesOf(node, ctx, pool);
    const own = new Map(group.scratch.map((s) => [s.name, `scratch ${i} ${s.name}`]));
    for (const s of group.scratch) scratch.set(`scratch ${i} ${s.name}`, { elem: s.elem, size: s.size });
    for (const launch of group.launches) {
      const args = launch.operands.map((name) => (name === 'faults' ? name : (own.get(name) ?? valueFor(node, name).id)));
      drafts.push({ node, launch, args });
    }
  });
  return { drafts, scratch };
}

/** Results that are the same storage as an operand: a cache after appending is the cache. */
function aliases(graph: Graph): ReadonlyMap<string, string> {
  return new Map(graph.nodes.flatMap((n) => (n.op === 'cache_append' ? [[n.outs.cache.id, n.ins.cache.id] as const] : [])));
}

function liveValues(graph: Graph, { drafts, scratch }: Drafts, bound: ReadonlySet<string>, slots: number): LiveValue[] {
  const byId = new Map(graph.nodes.flatMap((n) => results(n).map(([, v]) => [v.id, v] as const)));
  const ranges = new Map<string, { first: number; last: number }>();
  drafts.forEach(({ args }, step) => {
    for (const id of args) {
      if (bound.has(id)) continue;
      const range = ranges.get(id);
      if (range === undefined) ranges.set(id, { first: step, last: step });
      else range.last = step;
    }
  });
  return [...ranges].map(([id, range]) => {
    const value = byId.get(id);
    const buffer = scratch.get(id) ?? (value === undefined ? undefined : bufferOf(value, slots));
    if (buffer === undefined) throw new Error(`${graph.name}: %${id} is bound, but nothing makes it`);
    return { id, ...buffer, ...range };
  });
}

function lowerBucket(
  { graph, maxTokens, serves, device, caps: own, schedules }: BucketGraph,
  caps: Capabilities,
  segments: ReadonlyMap<string, number>,
  pool: KernelPool,
): Bucket {
  const slots = slotsOf(graph);
  const params = new Map(graph.params.map((p) => [p.value.id, p]));
  const ctx: LaunchContext = {
    caps: own ?? caps,
    schedules,
    maxTokens,
    slots,
    segmentRows: (value) => segments.get(params.get(value.id)?.name ?? ''),
  };
  const drafted = draftsOf(graph, ctx, pool);
  const groups = groupsOf(graph);
  const refs = new Map<string, BufferRef>([['faults', { kind: 'faults' }]]);
  for (const [id, p] of params) refs.set(id, p.role.kind === 'input' ? { kind: 'io', name: p.name } : { kind: 'param', name: p.name });
  for (const [name, value] of Object.entries(graph.results)) if (!refs.has(value.id)) refs.set(value.id, { kind: 'io', name });
  for (const [result, operand] of aliases(graph)) {
    const ref = refs.get(operand);
    if (ref !== undefined) refs.set(result, ref);
  }
  const plan = assignSlots(liveValues(graph, drafted, new Set(refs.keys()), slots));
  const refOf = (id: string): BufferRef => {
    const slot = plan.slotOf.get(id);
    const ref = slot === undefined ? refs.get(id) : ({ kind: 'scratch', slot } as const);
    if (ref === undefined) throw new Error(`${graph.name}: nothing is known of %${id}`);
    return ref;
  };
  const steps = drafted.drafts.flatMap(({ node, launch, args }) => {
    const step: Step = {
      kernel: launch.kernel,
      args: args.map(refOf),
      grid: launch.grid,
      constants: {},
      op: node.op,
      group: groups.get(node) ?? 'dense',
    };
    return segmented(step, args, params, segments);
  });
  return { ...(device === undefined ? {} : { device }), maxTokens: serves ?? maxTokens, steps, scratch: plan.slots };
}

/** One step per segment where the kernel reads a split weight. */
function segmented(
  step: Step,
  args: readonly string[],
  params: ReadonlyMap<string, GraphParam>,
  segments: ReadonlyMap<string, number>,
): readonly Step[] {
  const splits = args.flatMap((id) => {
    const param = params.get(id);
    const rows = param === undefined ? undefined : segments.get(param.name);
    return param === undefined || rows === undefined ? [] : [{ param, rows }];
  });
  const [found, second] = splits;
  if (found === undefined) return [step];
  if (second !== undefined) throw new Error(`${step.op} reads two split weights: ${found.param.name} and ${second.param.name}`);
  if (!step.kernel.scalars.includes('segment.first')) throw new Error(`${step.op} cannot read ${found.param.name} in segments`);
  const total = tensorOf(found.param).shape[0];
  return segmentsOf(Number(total), found.rows).map(({ index, first, count }) => ({
    ...step,
    constants: { 'segment.first': first, 'segment.count': count },
    segment: { param: found.param.name, index },
  }));
}

function tensorOf(param: GraphParam): TensorType {
  if (param.value.type.kind !== 'tensor') throw new Error(`parameter ${param.name} is not a tensor`);
  return param.value.type;
}

/** Parameters of all buckets; a name means the same everywhere. */
function paramsOf(buckets: readonly BucketGraph[], segments: ReadonlyMap<string, number>): ParamDecl[] {
  const decls = new Map<string, ParamDecl>();
  for (const { graph } of buckets) {
    for (const param of graph.params) {
      if (param.role.kind === 'input') continue;
      const type = tensorOf(param);
      const known = decls.get(param.name);
      if (known !== undefined && JSON.stringify(tensorOf(known)) !== JSON.stringify(type)) {
        throw new Error(`${graph.name}: the buckets disagree about ${param.name}`);
      }
      const rows = segments.get(param.name);
      decls.set(param.name, {
        ...param,
        elem: type.dtype,
        size: elementCount(type.shape, 0),
        ...(rows === undefined ? {} : { segmentRows: rows }),
      });
    }
  }
  const params = [...decls.values()];
  assertStoredOnce(params);
  return params;
}

/** @throws Error where rows of a checkpoint would be stored in two parameters */
function assertStoredOnce(params: readonly ParamDecl[]): void {
  const owner = new Map<string, string>();
  for (const { name, role } of params) {
    for (const part of role.kind === 'weight' ? role.parts : []) {
      const text = stableJson(part);
      const other = owner.get(text);
      if (other !== undefined && other !== name) throw new Error(`${name} and ${other} would store the same rows`);
      owner.set(text, name);
    }
  }
}

/** Which weights of a graph are split, and into segments of how many rows. */
export function segmentTable(graph: Graph, caps: Capabilities): ReadonlyMap<string, number> {
  return new Map(
    graph.params.flatMap((p) => {
      const rows = segmentRowsOf(p, caps);
      return rows === undefined ? [] : [[p.name, rows] as const];
    }),
  );
}

function ioDecl(name: string, value: Value, slots: number): IoDecl {
  const buffer = bufferOf(value, slots);
  if (buffer === undefined || value.type.kind !== 'tensor') throw new Error(`${name} is not a tensor`);
  const perToken = value.type.shape.slice(1).reduce<number>((n, d) => n * Number(d), 1);
  return { name, elem: buffer.elem, size: buffer.size, perToken };
}

/**
 * Lowers the graphs of one section, buckets in the order of `Section.buckets`. Sections of one program share a `pool`.
 * @throws RangeError where a weight cannot be bound even in segments
 */
export function lowerGraph(buckets: readonly BucketGraph[], caps: Capabilities, pool: KernelPool = kernelPool()): Section {
  const [first] = buckets;
  if (first === undefined) throw new Error('a section needs a bucket');
  const segments = new Map(buckets.flatMap(({ graph }) => [...segmentTable(graph, caps)]));
  const { graph } = first;
  const slots = slotsOf(graph);
  return {
    name: graph.name,
    params: paramsOf(buckets, segments),
    inputs: graph.params.filter((p) => p.role.kind === 'input').map((p) => ioDecl(p.name, p.value, slots)),
    outputs: Object.entries(graph.results).map(([name, value]) => ioDecl(name, value, slots)),
    buckets: buckets.map((b) => lowerBucket(b, caps, segments, pool)),
  };
}
