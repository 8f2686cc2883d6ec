/**
 * Lists of commands as the library's words, and which of them become CUDA graphs. A list that comes a second time is captured, and
 * replayed from then on: decoding asks for the same kernels with the same buffers and grids, token after token, and only what lies
 * in the buffers changes.
 */
import type { Address } from './library.ts';

/** A dispatch with its words made once; the grid is filled in per list. */
export interface BoundKernel {
  /** Never used for another. */
  readonly id: number;
  /** Of the kernel in the library. */
  readonly index: number;
  readonly arguments: readonly Address[];
  /** All memory that it touches. */
  readonly buffers: readonly Memory[];
}

/** A device buffer. */
export interface Memory {
  /** Never used for another. */
  readonly id: number;
  readonly address: Address;
}

export type Work =
  | { readonly k: 'dispatch'; readonly bound: BoundKernel; readonly grid: readonly [number, number, number] }
  | { readonly k: 'copy'; readonly from: Memory; readonly fromOffset: number; readonly to: Memory; readonly toOffset: number; readonly bytes: number }
  | { readonly k: 'clear'; readonly memory: Memory; readonly bytes: number };

export interface WordList {
  readonly words: BigUint64Array;
  /** 0: launch one by one. */
  readonly graph: number;
}

/** Lists that are remembered; the library keeps as many graphs. */
const MAX_LISTS = 64;
/** A graph of fewer commands saves nothing. */
const MIN_COMMANDS = 4;

interface Known {
  readonly key: readonly number[];
  readonly words: BigUint64Array;
  readonly memory: ReadonlySet<Memory>;
  graph: number;
  lastUse: number;
}

const DISPATCH = 0n;
const COPY = 1n;
const CLEAR = 2n;
const pair = (low: number, high: number): bigint => BigInt(low) | (BigInt(high) << 32n);

function wordsOf(list: readonly Work[]): BigUint64Array {
  const words: bigint[] = [];
  for (const w of list) {
    if (w.k === 'dispatch') {
      const { index, arguments: args } = w.bound;
      words.push(DISPATCH, BigInt(index), pair(w.grid[0], w.grid[1]), pair(w.grid[2], args.length), ...args);
    } else if (w.k === 'copy') {
      words.push(COPY, w.from.address + BigInt(w.fromOffset), w.to.address + BigInt(w.toOffset), BigInt(w.bytes));
    } else {
      words.push(CLEAR, w.memory.address, BigInt(w.bytes), 0n);
    }
  }
  return BigUint64Array.from(words);
}

/** Numbers that are equal where the words are, and only there. */
function keyOf(list: readonly Work[]): number[] {
  const key: number[] = [];
  for (const w of list) {
    if (w.k === 'dispatch') key.push(0, w.bound.id, w.grid[0], w.grid[1], w.grid[2]);
    else if (w.k === 'copy') key.push(1, w.from.id, w.fromOffset, w.to.id, w.toOffset, w.bytes);
    else key.push(2, w.memory.id, w.bytes);
  }
  return key;
}

/** FNV-1a over the numbers. */
function hashOf(key: readonly number[]): number {
  let hash = 0x811c9dc5;
  for (const n of key) hash = Math.imul(hash ^ (n % 0x1_0000_0000), 0x01000193);
  return hash >>> 0;
}

const memoryOf = (list: readonly Work[]): Set<Memory> =>
  new Set(list.flatMap((w) => (w.k === 'dispatch' ? w.bound.buffers : w.k === 'copy' ? [w.from, w.to] : [w.memory])));

const equal = (a: readonly number[], b: readonly number[]): boolean => a.length === b.length && a.every((n, i) => n === b[i]);

export class WordLists {
  readonly #known = new Map<number, Known[]>();
  readonly #drop: (graph: number) => void;
  #count = 0;
  #nextGraph = 1;
  #uses = 0;

  /** @param drop called for each graph that will not be used any more */
  constructor(drop: (graph: number) => void) {
    this.#drop = drop;
  }

  /** The words of a list. The first time it has no graph, from the second time on it has one of its own. */
  of(list: readonly Work[]): WordList {
    if (list.length < MIN_COMMANDS) return { words: wordsOf(list), graph: 0 };
    const key = keyOf(list);
    const hash = hashOf(key);
    const same = this.#known.get(hash)?.find((k) => equal(k.key, key));
    if (same === undefined) {
      if (this.#count >= MAX_LISTS) this.#forgetOldest();
      const added: Known = { key, words: wordsOf(list), memory: memoryOf(list), graph: 0, lastUse: ++this.#uses };
      this.#known.set(hash, [...(this.#known.get(hash) ?? []), added]);
      this.#count++;
      return { words: added.words, graph: 0 };
    }
    if (same.graph === 0) same.graph = this.#nextGraph++;
    same.lastUse = ++this.#uses;
    return { words: same.words, graph: same.graph };
  }

  /** Forgets every list that touches this memory. */
  forget(memory: Memory): void {
    this.#remove((k) => k.memory.has(memory));
  }

  #forgetOldest(): void {
    const oldest = Math.min(...[...this.#known.values()].flat().map((k) => k.lastUse));
    this.#remove((k) => k.lastUse === oldest);
  }

  #remove(goes: (known: Known) => boolean): void {
    for (const [hash, lists] of this.#known) {
      const staying: Known[] = [];
      for (const k of lists) {
        if (!goes(k)) staying.push(k);
        else if (k.graph !== 0) this.#drop(k.graph);
      }
      this.#count -= lists.length - staying.length;
      if (staying.length === 0) this.#known.delete(hash);
      else if (staying.length !== lists.length) this.#known.set(hash, staying);
    }
  }
}
