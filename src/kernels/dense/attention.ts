/**
 * Causal softmax attention over the KV cache, with grouped key heads, a sliding window, sinks and latent values (MLA): the form
 * that suits the device, the storage and the number of tokens.
 */
import type { Capabilities } from '../../target/types.ts';
import type { LaunchGroup } from '../launch.ts';
import { attentionMerge } from './attention-merge.ts';
import type { AttentionProblem } from './attention-problem.ts';
import { attentionByRows, attentionRowsSchedule } from './attention-rows.ts';
import type { AttentionRows } from './attention-rows.ts';
import { attentionByTiles, partStats, partSums } from './attention-tiles.ts';
import { attentionTilesSchedule } from './attention-tiles-schedule.ts';
import type { AttentionTiles } from './attention-tiles-schedule.ts';

export type { AttentionProblem } from './attention-problem.ts';

/** Rows by fma, or tiles by whatever multiplies them. */
export type AttentionSchedule = AttentionRows | AttentionTiles;

export const attentionSchedule = (p: AttentionProblem, caps: Capabilities): AttentionSchedule =>
  attentionTilesSchedule(p, caps) ?? attentionRowsSchedule(p, caps);

/**
 * q [T, heads · qkDim]; k [cap, kvHeads · qkDim], v [cap, kvHeads · vDim] (with vFromK: k again); sinks [heads];
 * y [T, heads · vDim]. Token t sees the keys 0 … past + t that the window leaves.
 */
export function attention(p: AttentionProblem, schedule: AttentionSchedule | undefined, caps: Capabilities): LaunchGroup {
  const s = schedule ?? attentionSchedule(p, caps);
  if (!('variant' in s)) return { launches: [attentionByRows(p, s, caps)], scratch: [] };
  const launch = attentionByTiles(p, s, caps);
  if (s.parts === 1) return { launches: [launch], scratch: [] };
  return {
    launches: [launch, attentionMerge(p, s.parts, caps)],
    scratch: [
      { name: 'sums', elem: 'f32', size: partSums(p, s.parts) },
      { name: 'stats', elem: 'f32', size: partStats(p, s.parts) },
    ],
  };
}
