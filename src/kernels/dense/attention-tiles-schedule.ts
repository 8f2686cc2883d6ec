/** How attention by tiles is cut up: what is legal on a device, and the default. */
import type { Capabilities, Verdict } from '../../target/types.ts';
import type { AttentionProblem } from './attention-problem.ts';

export type AttentionTiles = MmaAttention | FmaAttention;

interface TilesOfKeys {
  /** (token, query head) pairs of a block. */
  readonly rows: number;
  /** Keys of a chunk. */
  readonly keys: number;
  /** Parts of the value columns, a block each; every part computes the scores anew. */
  readonly split: number;
  /** Parts of the keys, a block each: the n-th has every chunk whose number is n modulo `parts`. Above 1, `attention_merge` joins them. */
  readonly parts: number;
}

/** Tensor cores of single warps, one above the other. */
export interface MmaAttention extends TilesOfKeys {
  readonly variant: 'mma-sync';
  readonly warps: number;
}

/** Each thread has `tm` rows, `across` threads share them. */
export interface FmaAttention extends TilesOfKeys {
  readonly variant: 'fma';
  readonly tm: number;
  readonly across: number;
}

/** Rows of a piece that a warp multiplies. */
export const PIECE = 16;
const WARP = 32;
/** Sums a thread may hold beside fragments, addresses and statistics; of 255 registers. */
const MAX_SUMS = 176;

const no = (why: string): Verdict => ({ ok: false, why });

export const columnsOf = (p: AttentionProblem, s: AttentionTiles): number => p.vDim / s.split;
export const attentionThreads = (s: AttentionTiles): number => (s.variant === 'mma-sync' ? WARP * s.warps : (s.rows / s.tm) * s.across);

/** Bytes of the blocks of queries, keys and values; fma keeps them in f32, rows padded, and the weights beside them. */
export function attentionSharedBytes(p: AttentionProblem, s: AttentionTiles): number {
  const cols = columnsOf(p, s);
  if (s.variant === 'mma-sync') return 2 * ((s.rows + s.keys) * p.qkDim + s.keys * cols);
  const sums = s.across === 1 ? 0 : s.rows * s.across;
  return 4 * ((s.rows + s.keys) * (p.qkDim + 1) + s.keys * (cols + 1) + s.rows * (s.keys + 1) - 4 + sums);
}

function legalMma(p: AttentionProblem, s: MmaAttention, caps: Capabilities): Verdict {
  const { qElem = 'f32', kvElem = 'f32' } = p;
  if (!caps.matrix.includes('mma-sync')) return no(`${caps.profile} has no mma-sync`);
  if (kvElem === 'f32' || qElem !== kvElem) return no(`mma-sync multiplies 16-bit numbers of one kind, not ${qElem} and ${kvElem}`);
  if (p.qkDim % PIECE !== 0 || p.vDim % PIECE !== 0 || columnsOf(p, s) % PIECE !== 0) {
    return no(`heads of ${p.qkDim} and ${p.vDim} columns are no multiples of ${PIECE}`);
  }
  if (s.rows % (PIECE * s.warps) !== 0) return no(`${s.warps} warps do not divide ${s.rows} rows into pieces of ${PIECE}`);
  if (s.keys % PIECE !== 0) return no(`${s.keys} keys are no multiple of ${PIECE}`);
  const sums = (s.rows * (columnsOf(p, s) + s.keys)) / attentionThreads(s);
  return sums > MAX_SUMS ? no(`${sums} sums a thread, at most ${MAX_SUMS} stay in registers`) : { ok: true };
}

function legalFma(p: AttentionProblem, s: FmaAttention): Verdict {
  if (s.rows % s.tm !== 0) return no(`tm ${s.tm} does not divide ${s.rows} rows`);
  const cols = columnsOf(p, s);
  if (s.keys % s.across !== 0 || cols % s.across !== 0) return no(`${s.across} threads do not divide ${s.keys} keys and ${cols} columns`);
  return { ok: true };
}

/** Whether a block can run the schedule on a device. */
export function legalAttentionTiles(p: AttentionProblem, s: AttentionTiles, caps: Capabilities): Verdict {
  for (const [name, value] of Object.entries(s)) {
    if (typeof value === 'number' && !(Number.isInteger(value) && value > 0)) {
      return no(`${name} is ${value}, not a whole number from 1 up`);
    }
  }
  if (!(p.scale > 0)) return no(`a scale of ${p.scale}: the largest product must have the largest score`);
  if (p.vDim % s.split !== 0) return no(`${p.vDim} columns of values in ${s.split} parts`);
  const own = s.variant === 'mma-sync' ? legalMma(p, s, caps) : legalFma(p, s);
  if (!own.ok) return own;
  const threads = attentionThreads(s);
  if (threads > caps.maxThreadsPerBlock) return no(`${threads} threads, the device has ${caps.maxThreadsPerBlock} a block`);
  const bytes = attentionSharedBytes(p, s);
  return bytes > caps.maxSharedBytes ? no(`${bytes} bytes of shared memory, the device has ${caps.maxSharedBytes}`) : { ok: true };
}

const CHUNKS = [64, 48, 32, 16] as const;
/** With 32 rows a warp, what it reads of keys and values serves twice as many products as with 16. */
const ROWS = [128, 64] as const;
const WARPS = 4;
const SPLITS = [1, 2, 4] as const;
const MAX_PARTS = 64;
/** Blocks a processor that hide each other's waiting, where shared memory has room for them. */
const BLOCKS_A_PROCESSOR = 4;
/** Calls of so few tokens read all keys for next to no products: the rows of one token fill a block, parts of the keys fill the device. */
const FEW_TOKENS = 8;

/**
 * The default for tensor cores, or nothing where device or problem allow none. Beyond a few tokens, their number decides about
 * rows and parts, not about chunks.
 */
export function attentionTilesSchedule(p: AttentionProblem, caps: Capabilities): AttentionTiles | undefined {
  const { maxTokens } = p;
  const few = maxTokens !== undefined && maxTokens <= FEW_TOKENS;
  const perGroup = p.heads / p.kvHeads;
  const forOne = Math.min(PIECE * WARPS, PIECE * Math.ceil(perGroup / PIECE));
  for (const split of SPLITS) {
    for (const most of few ? [forOne] : ROWS) {
      const of = (rows: number, keys: number): MmaAttention => {
        const warps = Math.min(WARPS, rows / PIECE);
        return { variant: 'mma-sync', rows, keys, split, parts: 1, warps };
      };
      const keys = CHUNKS.find((n) => legalAttentionTiles(p, of(most, n), caps).ok);
      if (keys === undefined) continue;
      const blocks = (rows: number, tokens: number): number => Math.ceil((tokens * perGroup) / rows) * p.kvHeads * split;
      const device = caps.multiprocessors ?? 1;
      const rows = maxTokens === undefined || few || blocks(most, maxTokens) >= 2 * device ? most : ROWS[1];
      if (maxTokens === undefined) return of(rows, keys);
      // What parts leave is written and read again: with many tokens, as few parts as give every processor a block.
      const room = few ? Math.min(BLOCKS_A_PROCESSOR, Math.floor(caps.maxSharedBytes / attentionSharedBytes(p, of(rows, keys)))) : 1;
      const parts = (room * device) / blocks(rows, few ? 1 : maxTokens);
      return { ...of(rows, keys), parts: parts < 2 ? 1 : Math.min(MAX_PARTS, 2 ** Math.floor(Math.log2(parts))) };
    }
  }
  return undefined;
}
