/**
 * Causal softmax attention over the KV cache, with grouped key heads, a sliding window, sinks and latent values (MLA): the form
 * that suits the device, the storage and the number of tokens.
 */
import type { Capabilities } from '../../target/types.ts';
import type { Launch } from '../launch.ts';
import type { AttentionProblem } from './attention-problem.ts';
import { attentionByRows, attentionRowsSchedule } from './attention-rows.ts';
import type { AttentionRows } from './attention-rows.ts';
import { attentionByTiles, attentionTilesSchedule } from './attention-tiles.ts';
import type { AttentionTiles } from './attention-tiles.ts';

export type { AttentionProblem } from './attention-problem.ts';

/** Rows by fma, or tiles by whatever multiplies them. */
export type AttentionSchedule = AttentionRows | AttentionTiles;

/** Calls of so few tokens are not worth tiles of 64 rows. */
const FEW_TOKENS = 8;

export function attentionSchedule(p: AttentionProblem, caps: Capabilities): AttentionSchedule {
  const tiles = p.maxTokens !== undefined && p.maxTokens <= FEW_TOKENS ? undefined : attentionTilesSchedule(p, caps);
  return tiles ?? attentionRowsSchedule(p, caps);
}

/**
 * q [T, heads · qkDim]; k [cap, kvHeads · qkDim], v [cap, kvHeads · vDim] (with vFromK: k again); sinks [heads];
 * y [T, heads · vDim]. Token t sees the keys 0 … past + t that the window leaves.
 */
export function attention(p: AttentionProblem, schedule: AttentionSchedule | undefined, caps: Capabilities): Launch {
  const s = schedule ?? attentionSchedule(p, caps);
  return 'variant' in s ? attentionByTiles(p, s, caps) : attentionByRows(p, s, caps);
}
