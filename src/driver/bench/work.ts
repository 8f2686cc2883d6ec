/** What a call has to do, from the IR: useful operations as the spec says them, and the bytes that the compiled form moves. */
import { evalSize } from '../../base/size.ts';
import { bytesMoved, flopsOf } from '../../ir/graph/ops.ts';
import type { Graph, Node, Value } from '../../ir/graph/types.ts';
import type { Manifest } from '../../runtime/core/abi.ts';
import { bucketFor, headEntryOf } from '../../runtime/core/needs.ts';
import type { Lowered } from '../compile.ts';
import type { SectionReport } from '../lower-program.ts';

export interface Work {
  /** Multiplications and additions of the spec itself, whatever the compiled form repeats or pads; a multiply-add is two. */
  readonly flops: number;
  /** Bytes that the compiled form's ops read and write, each operand of an op once, experts that no token chose not at all. */
  readonly bytes: number;
}

/** What is known of a call's routing. */
export interface Routed {
  /** (token, slot) pairs that were not dropped. */
  readonly rows: number;
  /** Experts that at least one token chose. */
  readonly touched: number;
}

const slotsOf = (graph: Graph): number => graph.nodes.reduce((n, node) => (node.op === 'moe.plan' ? node.attrs.slots : n), 0);

const withExperts = (weight: Value, experts: number): Value =>
  weight.type.kind === 'plan' ? weight : { ...weight, type: { ...weight.type, shape: [experts, ...weight.type.shape.slice(1)] } };

/** A grouped product reads the weights of the experts that were chosen. */
const touching = (node: Node, experts: number): Node =>
  node.op === 'moe.grouped_linear' ? { ...node, ins: { ...node.ins, weight: withExperts(node.ins.weight, experts) } } : node;

const expertsOf = (graph: Graph): number => graph.nodes.reduce((n, node) => (node.op === 'moe.plan' ? node.attrs.experts : n), 0);

function costOf(graph: Graph, of: typeof flopsOf, tokens: number, past: number, routed: Routed | undefined): number {
  const P = routed?.rows ?? tokens * slotsOf(graph);
  const experts = routed?.touched ?? Math.min(expertsOf(graph), P);
  const env = { T: tokens, past, seq: tokens, cap: past + tokens };
  return graph.nodes.reduce((n, node) => n + evalSize(of(touching(node, experts), { P }), env), 0);
}

type Bucket = Manifest['sections'][number]['buckets'][number];

const sameDevice = (a: SectionReport['device'], b: Bucket['device']): boolean => a?.subgroupSize === b?.subgroupSize && a?.adapter === b?.adapter;

/**
 * The work of one call.
 * @param served the manifest with the buckets of the device at hand, as a `Program` holds it
 * @param routed absent: every slot used, and as many experts touched as there can be
 * @throws Error where `served` is not of this compilation
 */
export function workOf({ graphs, reports }: Pick<Lowered, 'graphs' | 'reports'>, served: Manifest, tokens: number, routed?: Routed, past = 0): Work {
  const head = headEntryOf(served);
  let flops = 0;
  let bytes = 0;
  served.sequence.forEach(({ section: s }, entry) => {
    const section = served.sections[s];
    const plain = graphs.sections[s];
    // The head of a model gives the last token's logits.
    const T = entry === head ? 1 : tokens;
    if (section === undefined || plain === undefined) throw new Error(`there is no section ${s}`);
    const { bucket } = bucketFor(section, T);
    const report = reports.find((r) => r.section === section.name && (r.maxTokens ?? null) === bucket.maxTokens && sameDevice(r.device, bucket.device));
    if (report === undefined) throw new Error(`section ${section.name} was compiled without its bucket for ${T} tokens`);
    flops += costOf(plain, flopsOf, T, past, routed);
    bytes += costOf(report.graph, bytesMoved, T, past, routed);
  });
  return { flops, bytes };
}

/**
 * The steps that a call runs, with their texts: equal for two compilations exactly where they do the same on the device.
 * @param text of a kernel's file
 */
export function whatRuns(served: Manifest, text: (file: string) => string | undefined, tokens: number): string {
  const head = headEntryOf(served);
  return JSON.stringify(
    served.sequence.map(({ section: s }, entry) => {
      const section = served.sections[s];
      if (section === undefined) return [];
      const { bucket } = bucketFor(section, entry === head ? 1 : tokens);
      return [bucket.scratch, bucket.steps.map(({ kernel, args, grid, constants }) => [(served.kernels[kernel]?.variants ?? []).map((v) => text(v.file)), args, grid, constants])];
    }),
  );
}
