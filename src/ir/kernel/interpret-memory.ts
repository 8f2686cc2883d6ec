/**
 * Memory as the interpreter sees it: cells with bounds, with a note of which were ever written, and with a
 * note of who touched them since the last barrier. A cell is one access of its buffer.
 */
import { bf16ToNumber, f16ToNumber, numberToBf16, numberToF16 } from './numerics.ts';
import type { Buffer, Elem } from './types.ts';

export type TypedArray = Float32Array | Uint32Array | Int32Array | Uint16Array | Uint8Array;

/** Who is running: changed by the driver, read by every access. */
export interface Clock {
  /** Number of the block. */
  block: number;
  /** Grows at every barrier and at every new block. */
  epoch: number;
}

/** The kinds of access a race is judged by. Atomic updates agree with each other and with nothing else. */
export const READ = 0;
export const WRITE = 1;
export const UPDATE = 2;
export type AccessKind = typeof READ | typeof WRITE | typeof UPDATE;
const KIND_WORDS = ['read', 'wrote', 'updated'] as const;
const CONFLICTS: readonly (readonly AccessKind[])[] = [[WRITE, UPDATE], [READ, WRITE, UPDATE], [READ, WRITE]];

const NONE = -1;
const MANY = -2;

/** For one kind of access: per cell the last epoch, the threads of that epoch, and the blocks of all time. */
interface Trace {
  readonly epoch: Int32Array;
  readonly thread: Int32Array;
  readonly block: Int32Array;
}

/** Finds conflicting accesses of two threads without a barrier between, and of two blocks at any time. */
export class RaceDetector {
  readonly #traces: readonly Trace[];
  readonly #acrossBlocks: boolean;

  constructor(cells: number, acrossBlocks: boolean) {
    this.#traces = KIND_WORDS.map(() => ({
      epoch: new Int32Array(cells).fill(NONE),
      thread: new Int32Array(cells).fill(NONE),
      block: new Int32Array(cells).fill(NONE),
    }));
    this.#acrossBlocks = acrossBlocks;
  }

  /** Notes an access; says with whom it races, if with anyone. */
  touch(kind: AccessKind, cell: number, thread: number, clock: Clock): string | undefined {
    for (const other of CONFLICTS[kind] ?? []) {
      const trace = this.#traces[other];
      if (trace === undefined) continue;
      const block = trace.block[cell] ?? NONE;
      if (this.#acrossBlocks && block !== NONE && block !== clock.block) {
        return `what ${block === MANY ? 'several blocks' : `block number ${block}`} ${KIND_WORDS[other]}`;
      }
      const t = trace.thread[cell] ?? NONE;
      if (trace.epoch[cell] === clock.epoch && t !== thread) {
        return `what ${t === MANY ? 'several threads' : `thread ${t}`} ${KIND_WORDS[other]} with no barrier between`;
      }
    }
    const own = this.#traces[kind];
    if (own !== undefined) {
      const fresh = own.epoch[cell] !== clock.epoch;
      own.thread[cell] = fresh || own.thread[cell] === thread ? thread : MANY;
      own.epoch[cell] = clock.epoch;
      const block = own.block[cell];
      own.block[cell] = block === NONE || block === clock.block ? clock.block : MANY;
    }
    return undefined;
  }
}

type Decode = (stored: number) => number;
const IDENTITY: Decode = (x) => x;
const DECODE: Partial<Record<Elem, Decode>> = { f16: f16ToNumber, bf16: bf16ToNumber };
const ENCODE: Partial<Record<Elem, Decode>> = { f16: numberToF16, bf16: numberToBf16 };

/** A buffer with its contents. Register buffers have `size` cells per thread. */
export interface Cells {
  readonly buf: Buffer;
  readonly data: TypedArray;
  /** In accesses. */
  readonly size: number;
  readonly decode: Decode;
  readonly encode: Decode;
  /** 1 where a cell was written; undefined where all cells count as written. */
  readonly written: Uint8Array | undefined;
  /** Undefined where no race is possible: registers, and global buffers that nothing writes. */
  readonly races: RaceDetector | undefined;
}

function arrayFor(elem: Elem, length: number): TypedArray {
  switch (elem) {
    case 'f32':
      return new Float32Array(length);
    case 'u32':
      return new Uint32Array(length);
    case 'i32':
      return new Int32Array(length);
    case 'f16':
    case 'bf16':
      return new Uint16Array(length);
    case 'bool':
      return new Uint8Array(length);
  }
}

/** Whether an array from outside can be the contents of a buffer. */
export const holds = (data: TypedArray, elem: Elem): boolean => arrayFor(elem, 0).constructor === data.constructor;

/** A global buffer over the caller's array; `poisoned`: nothing was written to it yet. */
export function globalCells(buf: Buffer, data: TypedArray, tracked: boolean, poisoned: boolean): Cells {
  const size = Math.floor(data.length / buf.lanes);
  return {
    buf, data, size,
    decode: DECODE[buf.elem] ?? IDENTITY,
    encode: ENCODE[buf.elem] ?? IDENTITY,
    written: poisoned ? new Uint8Array(size) : undefined,
    races: tracked ? new RaceDetector(size, true) : undefined,
  };
}

/** A shared buffer, or a register buffer for each of `threads` threads. */
export function localCells(buf: Buffer, threads: number): Cells {
  const cells = buf.scope === 'shared' ? buf.size : buf.size * threads;
  return {
    buf,
    data: arrayFor(buf.elem, cells * buf.lanes),
    size: buf.size,
    decode: DECODE[buf.elem] ?? IDENTITY,
    encode: ENCODE[buf.elem] ?? IDENTITY,
    written: new Uint8Array(cells),
    races: buf.scope === 'shared' ? new RaceDetector(buf.size, false) : undefined,
  };
}
