/**
 * plan {direct} → plan {sorted, tileRows}: rows of one expert lie together and are cut into tiles, so that a tile
 * of rows shares each read of the expert's weights. One small kernel sorts on the device; no count is read back.
 * Legal always; worth it only where calls may be long: at most 8 tokens rarely share an expert, and the direct plan
 * needs no kernel at all. Saves, per expert, all but one read of its weights a tile.
 */
import { makeNode } from '../../ir/graph/build.ts';
import { freshFor, replaceValues } from '../../ir/graph/rewrite.ts';
import type { Graph } from '../../ir/graph/types.ts';
import { definePass, type Pass } from '../pass.ts';
import { rewriteAll } from './match.ts';

/** Calls of at most this many tokens are decoding. */
export const DECODE_TOKENS = 8;

/** A prefill whose tiles should be about full. */
const TYPICAL_TOKENS = 512;
const MOST_ROWS = 32;
const LEAST_ROWS = 8;

/**
 * Rows of a tile, and of the block tile that the expert products run: the power of two just below the rows an expert
 * gets in a typical call. Larger tiles share more reads of the weights, but a last tile is half empty on average.
 */
export function tileRows(experts: number, slots: number): number {
  const perExpert = (TYPICAL_TOKENS * slots) / experts;
  return Math.min(MOST_ROWS, Math.max(LEAST_ROWS, 2 ** Math.floor(Math.log2(perExpert))));
}

export const isDecode = (maxTokens: number | undefined): boolean => maxTokens !== undefined && maxTokens <= DECODE_TOKENS;

export const plan: Pass<Graph> = definePass({
  name: 'plan',
  doc: 'rows are sorted by expert on the device and cut into tiles',
  run: (graph, options, report) =>
    rewriteAll(graph, report, ({ graph: g }, node) => {
      if (node.op !== 'moe.plan' || node.attrs.mode === 'sorted') return undefined;
      if (isDecode(options.maxTokens))
        return { refused: `at most ${options.maxTokens} tokens: row = token × slots + slot needs no kernel` };
      const rows = tileRows(node.attrs.experts, node.attrs.slots);
      const sorted = makeNode(freshFor(g), 'moe.plan', node.ins, { ...node.attrs, mode: 'sorted', tileRows: rows }, node.span);
      const nodes = g.nodes.map((old) => (old === node ? sorted : old));
      return {
        graph: replaceValues({ ...g, nodes }, new Map([[node.outs.plan.id, sorted.outs.plan]])),
        what: `rows sorted by expert in tiles of ${rows}`,
      };
    }),
});
