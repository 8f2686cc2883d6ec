/**
 * plan {direct} → plan {sorted, tileRows}: rows of one expert lie together and are cut into tiles, so that a tile
 * of rows shares each read of the expert's weights. One small kernel sorts on the device; no count is read back.
 * Legal always; worth it only where calls may be long: at most 8 tokens rarely share an expert, and the direct plan
 * needs no kernel at all. Saves, per expert, all but one read of its weights a tile.
 */
import { isQuantName, quantFormat } from '../../base/quant.ts';
import { makeNode } from '../../ir/graph/build.ts';
import { freshFor, replaceValues } from '../../ir/graph/rewrite.ts';
import type { Graph } from '../../ir/graph/types.ts';
import { smallSubgroup } from '../../target/types.ts';
import { definePass, type Pass, type PassOptions } from '../pass.ts';
import { rewriteAll } from './match.ts';

/** Calls of at most this many tokens are decoding. */
export const DECODE_TOKENS = 8;

/** A prefill whose tiles should be about full, where the bucket does not say more. */
const TYPICAL_TOKENS = 512;
const TYPICAL_TOKENS_TENSOR = 4096;

/** Fewest and most rows of a tile: what small register files hold, what cached slices feed, what tensor cores are built for. */
interface TileRange {
  readonly least: number;
  readonly most: number;
}

const REGISTERS: TileRange = { least: 8, most: 32 };
const STAGED: TileRange = { least: 16, most: 64 };
const TENSOR_CORES: TileRange = { least: 16, most: 128 };

/**
 * Rows of a tile, and of the block tile that the expert products run: the power of two just below the rows an expert
 * gets in a typical call. Larger tiles share more reads of the weights, but a last tile is half empty on average.
 */
export function tileRows(experts: number, slots: number, tokens: number = TYPICAL_TOKENS, { least, most }: TileRange = REGISTERS): number {
  const perExpert = (tokens * slots) / experts;
  return Math.min(most, Math.max(least, 2 ** Math.floor(Math.log2(perExpert))));
}

/**
 * The same where a CPU plays the GPU: all rows of a tile are one piece of a thread, whose weights come from caches. Taller ones pay
 * only where they are full, and not with weights in 4 bits, of which one load brings eight.
 */
export function softwareTileRows(experts: number, slots: number, tokens: number = TYPICAL_TOKENS, bits = 32): number {
  const perExpert = (tokens * slots) / experts;
  return perExpert < 3 ? 4 : perExpert < 12 || bits <= 4 ? 8 : 12;
}

/** The tile for the products over a plan: 16-bit weights go to tensor cores where there are any. */
function tileRowsFor(graph: Graph, { experts, slots }: { readonly experts: number; readonly slots: number }, { caps, maxTokens }: PassOptions): number {
  const stored = graph.nodes.flatMap((n) => (n.op === 'moe.grouped_linear' && n.ins.weight.type.kind === 'tensor' ? [n.ins.weight.type.dtype] : []));
  const halves = stored.some((dtype) => dtype === 'f16' || dtype === 'bf16');
  const tensor = halves && caps.matrix.length > 0;
  const range = tensor ? TENSOR_CORES : caps.target === 'cuda' ? STAGED : REGISTERS;
  const typical = tensor ? TYPICAL_TOKENS_TENSOR : TYPICAL_TOKENS;
  const tokens = maxTokens === undefined ? typical : Math.min(typical, maxTokens / 2);
  return smallSubgroup(caps) === undefined ? tileRows(experts, slots, tokens, range) : softwareTileRows(experts, slots, tokens, Math.min(...stored.map((dtype) => (isQuantName(dtype) ? quantFormat(dtype).bits : 32))));
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
      const rows = options.tileRows?.(node.attrs) ?? tileRowsFor(g, node.attrs, options);
      const sorted = makeNode(freshFor(g), 'moe.plan', node.ins, { ...node.attrs, mode: 'sorted', tileRows: rows }, node.span);
      const nodes = g.nodes.map((old) => (old === node ? sorted : old));
      return {
        graph: replaceValues({ ...g, nodes }, new Map([[node.outs.plan.id, sorted.outs.plan]])),
        what: `rows sorted by expert in tiles of ${rows}`,
      };
    }),
});
