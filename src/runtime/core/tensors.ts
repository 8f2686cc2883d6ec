/**
 * Sets of named tensors that are read in pieces: what weights, inputs and golden vectors come from.
 * Where the bytes lie (memory, a Blob, a URL, a file) is a `ByteSource`; what they mean is a `TensorSet`.
 */
import { InputError, SafetensorsError, type Signal, quote } from './errors.ts';
import { bf16ToNumber, f16ToNumber } from './f16.ts';
import { DTYPE_BYTES, type SafetensorsDType, headerBytes, parseHeader } from './safetensors.ts';

export interface ByteSource {
  /** For messages: a file name or URL. */
  readonly label: string;
  readonly size: number;
  /** Exactly the bytes [begin, end); throws when the source became shorter or changed. */
  read(begin: number, end: number, signal?: Signal): Promise<Uint8Array>;
  close(): Promise<void>;
}

export interface TensorInfo {
  readonly dtype: SafetensorsDType;
  readonly shape: readonly number[];
}

export interface TensorSet {
  readonly label: string;
  names(): Iterable<string>;
  info(name: string): TensorInfo | undefined;
  /** Bytes [begin, end) of the tensor's little-endian data. */
  read(name: string, begin: number, end: number, signal?: Signal): Promise<Uint8Array>;
  close(): Promise<void>;
}

export const elementsOf = (shape: readonly number[]): number => shape.reduce((n, dim) => n * dim, 1);
export const bytesOfTensor = (info: TensorInfo): number => elementsOf(info.shape) * DTYPE_BYTES[info.dtype];

/** A view of the bytes at an aligned offset; copies only where it must. */
function aligned(bytes: Uint8Array, size: number): Uint8Array {
  return bytes.byteOffset % size === 0 ? bytes : bytes.slice();
}

type FloatArray = Float32Array | Float64Array;

/** Little-endian elements of `dtype` as numbers, into `out`. Integers of 64 bits beyond 2^53 lose their last bits. */
export function decodeInto(out: FloatArray | Int32Array | Uint32Array, dtype: SafetensorsDType, source: Uint8Array): void {
  const bytes = aligned(source, DTYPE_BYTES[dtype]);
  const { buffer, byteOffset } = bytes;
  const n = out.length;
  switch (dtype) {
    case 'F64':
      return out.set(new Float64Array(buffer, byteOffset, n));
    case 'F32':
      return out.set(new Float32Array(buffer, byteOffset, n));
    case 'I32':
      return out.set(new Int32Array(buffer, byteOffset, n));
    case 'I16':
      return out.set(new Int16Array(buffer, byteOffset, n));
    case 'I8':
      return out.set(new Int8Array(buffer, byteOffset, n));
    case 'U8':
    case 'BOOL':
      return out.set(bytes.subarray(0, n));
    case 'I64': {
      const view = new BigInt64Array(buffer, byteOffset, n);
      for (let i = 0; i < n; i++) out[i] = Number(view[i] ?? 0n);
      return;
    }
    case 'F16':
    case 'BF16': {
      const view = new Uint16Array(buffer, byteOffset, n);
      const convert = dtype === 'F16' ? f16ToNumber : bf16ToNumber;
      for (let i = 0; i < n; i++) out[i] = convert(view[i] ?? 0);
      return;
    }
  }
}

async function readInto<A extends FloatArray | Int32Array>(set: TensorSet, name: string, make: (n: number) => A, signal?: Signal): Promise<A> {
  const info = set.info(name);
  if (info === undefined) throw new InputError(`${set.label} has no tensor ${quote(name)}`, { details: { file: set.label, tensor: name } });
  const out = make(elementsOf(info.shape));
  decodeInto(out, info.dtype, await set.read(name, 0, bytesOfTensor(info), signal));
  return out;
}

/** A whole tensor as f32, whatever floating-point or integer dtype it is stored in. */
export const readF32 = (set: TensorSet, name: string, signal?: Signal): Promise<Float32Array> =>
  readInto(set, name, (n) => new Float32Array(n), signal);
export const readF64 = (set: TensorSet, name: string, signal?: Signal): Promise<Float64Array> =>
  readInto(set, name, (n) => new Float64Array(n), signal);

/** A whole integer tensor as i32; values that do not fit, and floating-point tensors, are refused. */
export async function readI32(set: TensorSet, name: string, signal?: Signal): Promise<Int32Array> {
  const dtype = set.info(name)?.dtype ?? 'I32';
  if (dtype === 'F64' || dtype === 'F32' || dtype === 'F16' || dtype === 'BF16') {
    throw new InputError(`${set.label}: tensor ${quote(name)} holds ${dtype}, integers were expected`, { details: { tensor: name, dtype } });
  }
  const wide = await readInto(set, name, (n) => new Float64Array(n), signal);
  const bad = wide.findIndex((v) => v !== (v | 0));
  if (bad >= 0) {
    throw new InputError(`${set.label}: tensor ${quote(name)} holds ${wide[bad]} at ${bad}, which is not a 32-bit integer`, {
      details: { tensor: name, index: bad },
    });
  }
  return Int32Array.from(wide);
}

/** Bytes in memory, such as a fetched file. */
export function memoryBytes(data: ArrayBuffer | Uint8Array, label = 'memory'): ByteSource {
  const bytes = data instanceof Uint8Array ? data : new Uint8Array(data);
  return {
    label,
    size: bytes.byteLength,
    read: (begin, end) => Promise.resolve(bytes.subarray(begin, end)),
    close: () => Promise.resolve(),
  };
}

/** The part of a browser's Blob or File that is used. */
export interface BlobLike {
  readonly size: number;
  readonly name?: string;
  slice(begin: number, end: number): { arrayBuffer(): Promise<ArrayBuffer> };
}

/** A Blob, such as a file that the user chose in a browser. */
export function blobBytes(blob: BlobLike): ByteSource {
  return {
    label: blob.name ?? 'blob',
    size: blob.size,
    read: async (begin, end) => new Uint8Array(await blob.slice(begin, end).arrayBuffer()),
    close: () => Promise.resolve(),
  };
}

/** Reads and checks the header; tensors are read when asked for. */
export async function openSafetensors(source: ByteSource, signal?: Signal): Promise<TensorSet & { readonly metadata: ReadonlyMap<string, string> }> {
  const first = await source.read(0, Math.min(8, source.size), signal);
  const length = headerBytes(first, source.size, source.label);
  const header = parseHeader(await source.read(8, 8 + length, signal), source.size, source.label);
  return {
    label: source.label,
    metadata: header.metadata,
    names: () => header.tensors.keys(),
    info: (name) => header.tensors.get(name),
    async read(name, begin, end, inner) {
      const entry = header.tensors.get(name);
      if (entry === undefined || begin < 0 || end > entry.end - entry.begin) throw new RangeError(`${quote(name)}: no bytes [${begin}, ${end})`);
      if (begin === end) return new Uint8Array(0);
      const from = header.dataStart + entry.begin;
      const bytes = await source.read(from + begin, from + end, inner);
      if (bytes.length !== end - begin) {
        throw new SafetensorsError(`${source.label}, tensor ${quote(name)}: got ${bytes.length} of ${end - begin} bytes at ${from + begin}`, {
          details: { file: source.label, tensor: name, position: from + begin, reason: 'ShortRead' },
          fix: 'the file became shorter while it was read: fetch it again',
        });
      }
      return bytes;
    },
    close: () => source.close(),
  };
}

export type TensorData = Float32Array | Float64Array | Int32Array | Int16Array | Int8Array | Uint8Array | Uint16Array | BigInt64Array;

/** A tensor in memory. Without a shape it is a vector; a Uint16Array needs `dtype` to say F16 or BF16. */
export interface NamedTensor {
  readonly data: TensorData;
  readonly shape?: readonly number[];
  readonly dtype?: SafetensorsDType;
}

function dtypeOf(data: TensorData): SafetensorsDType | undefined {
  if (data instanceof Float32Array) return 'F32';
  if (data instanceof Float64Array) return 'F64';
  if (data instanceof Int32Array) return 'I32';
  if (data instanceof Int16Array) return 'I16';
  if (data instanceof Int8Array) return 'I8';
  if (data instanceof Uint8Array) return 'U8';
  if (data instanceof BigInt64Array) return 'I64';
  return undefined;
}

/** Tensors given by name. */
export function namedTensors(tensors: Iterable<readonly [string, NamedTensor | TensorData]>, label = 'named tensors'): TensorSet {
  const held = new Map<string, TensorInfo & { readonly bytes: Uint8Array }>();
  for (const [name, given] of tensors) {
    const tensor: NamedTensor = ArrayBuffer.isView(given) ? { data: given } : given;
    const { data } = tensor;
    const dtype = tensor.dtype ?? dtypeOf(data);
    const shape = tensor.shape ?? [data.length];
    if (dtype === undefined || DTYPE_BYTES[dtype] !== data.BYTES_PER_ELEMENT) {
      throw new InputError(`tensor ${quote(name)}: ${data.constructor.name} is not the data of dtype ${dtype ?? '(not given)'}`, {
        fix: "a Uint16Array needs dtype: 'F16' or 'BF16'",
      });
    }
    if (elementsOf(shape) !== data.length) {
      throw new InputError(`tensor ${quote(name)}: shape [${shape.join(', ')}] has ${elementsOf(shape)} elements, its data ${data.length}`);
    }
    held.set(name, { dtype, shape, bytes: new Uint8Array(data.buffer, data.byteOffset, data.byteLength) });
  }
  return {
    label,
    names: () => held.keys(),
    info: (name) => held.get(name),
    read(name, begin, end) {
      const tensor = held.get(name);
      if (tensor === undefined) return Promise.reject(new RangeError(`no tensor ${quote(name)}`));
      return Promise.resolve(tensor.bytes.subarray(begin, end));
    },
    close: () => Promise.resolve(),
  };
}
