/** Single stages of the way, for commands that need one alone. */
import type { Graph } from '../ir/graph/types.ts';
import { lowerToGraphs } from '../lower/model-to-graph.ts';
import type { Spec } from '../model/types.ts';
import { optimize } from '../passes/graph/pipeline.ts';
import { type Capabilities, WEBGPU_BASELINE } from '../target/types.ts';
import { bucketTokens } from './lower-program.ts';

export { lowerToGraphs };

export interface GraphStage {
  /** The form for few tokens, or the one for any number. */
  readonly bucket: 'decode' | 'prefill';
  /** The pass after which to look; undefined: after the last, `lower`: before the first. */
  readonly after: string | undefined;
  readonly disabled: ReadonlySet<string>;
  readonly caps?: Capabilities;
}

/** The graph of every section at one place of the pipeline. */
export function graphsAt(spec: Spec, { bucket, after, disabled, caps = WEBGPU_BASELINE }: GraphStage): readonly Graph[] {
  const deterministicBatch = spec.deterministic === 'batch';
  const buckets = bucketTokens(deterministicBatch, caps);
  const maxTokens = bucket === 'decode' ? buckets[0] : undefined;
  return lowerToGraphs(spec).sections.map((section) => {
    if (after === 'lower') return section;
    const { graph, stages } = optimize(section, { maxTokens, disabled, caps, deterministicBatch });
    return after === undefined ? graph : (stages.find((s) => s.pass === after)?.graph ?? graph);
  });
}
