/** The graph passes in their order, and the runner: every pass is verified after, and tells what it did. */
import type { Graph } from '../../ir/graph/types.ts';
import { assertValidGraph } from '../../ir/graph/verify.ts';
import type { Pass, PassEvent, PassOptions } from '../pass.ts';
import { deadCode } from './dead-code.ts';
import { foldConstants } from './fold-constants.ts';
import { fuseActivation } from './fuse-activation.ts';
import { fuseCombine } from './fuse-combine.ts';
import { fuseGateUp } from './fuse-gate-up.ts';
import { fuseGather } from './fuse-gather.ts';
import { fuseRouter } from './fuse-router.ts';
import { fuseShared } from './fuse-shared.ts';
import { narrowRows } from './narrow-rows.ts';
import { plan } from './plan.ts';

export const GRAPH_PASSES: readonly Pass<Graph>[] = [
  // First: every later pass then sees the same form of scales and groups.
  foldConstants,
  // Before the products are fused: it takes the normalised rows' other readers along by their value.
  fuseRouter,
  // Before whatever asks how many buffers a product binds: a sorted plan is one of them.
  plan,
  fuseGather,
  // Before fuse-activation, which finds the two halves it leaves.
  fuseGateUp,
  fuseActivation,
  // After the two, since a shared product joins a routed one of the same epilogue; before fuse-combine, since the
  // combine has one place for shared rows and one for the residual, and the shared rows are the inner sum.
  fuseShared,
  fuseCombine,
  // After the fusions: what they join is never stored, and who reads the rest is known.
  narrowRows,
  // Last: the others leave weights and slices behind that nobody reads.
  deadCode,
];

/** Passes that join ops; without them each op of the spec is a kernel. */
export const FUSION_PASSES: readonly string[] = GRAPH_PASSES.map((pass) => pass.name).filter((name) => name.startsWith('fuse-'));

export const PASS_NAMES: readonly string[] = GRAPH_PASSES.map((pass) => pass.name);

export interface Optimized {
  readonly graph: Graph;
  readonly report: readonly PassEvent[];
  /** The graph after each pass that ran. */
  readonly stages: readonly { readonly pass: string; readonly graph: Graph }[];
}

/**
 * Runs passes over a graph that verifies.
 * @throws Error when a pass leaves a graph that does not
 */
export function runPasses(graph: Graph, passes: readonly Pass<Graph>[], options: PassOptions): Optimized {
  const events: PassEvent[] = [];
  const stages: { readonly pass: string; readonly graph: Graph }[] = [];
  let current = graph;
  for (const pass of passes) {
    if (options.disabled.has(pass.name)) {
      events.push({ pass: pass.name, kind: 'refused', where: graph.name, what: 'switched off' });
      continue;
    }
    current = pass.run(current, options, (event) => events.push({ pass: pass.name, ...event }));
    assertValidGraph(current, `after ${pass.name}`);
    stages.push({ pass: pass.name, graph: current });
  }
  return { graph: current, report: events, stages };
}

/** All passes in their order. */
export const optimize = (graph: Graph, options: PassOptions): Optimized => runPasses(graph, GRAPH_PASSES, options);
