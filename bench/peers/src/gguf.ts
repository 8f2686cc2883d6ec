/** Writes GGUF (version 3): metadata, then tensors, each on a boundary of 32 bytes. */
import { closeSync, openSync, writeSync } from 'node:fs';

export type Meta =
  | { readonly type: 'u32' | 'f32'; readonly value: number }
  | { readonly type: 'bool'; readonly value: boolean }
  | { readonly type: 'string'; readonly value: string }
  | { readonly type: 'strings'; readonly value: readonly string[] }
  | { readonly type: 'f32s' | 'i32s'; readonly value: readonly number[] };

/** Types of tensors, by their numbers in the format. */
export const GGML = { f32: 0, q4_0: 2, q8_0: 8 } as const;

export interface GgufTensor {
  readonly name: string;
  /** Fastest first: a matrix [n, k] is k, n. */
  readonly dims: readonly number[];
  readonly type: keyof typeof GGML;
  readonly data: Uint8Array;
}

const ALIGN = 32;
const TYPES = { u32: 4, i32: 5, f32: 6, bool: 7, string: 8, array: 9 } as const;

class Bytes {
  readonly #parts: Uint8Array[] = [];

  #number(bytes: number, set: (view: DataView) => void): void {
    const part = new Uint8Array(bytes);
    set(new DataView(part.buffer));
    this.#parts.push(part);
  }

  u32(v: number): void {
    this.#number(4, (view) => view.setUint32(0, v, true));
  }

  i32(v: number): void {
    this.#number(4, (view) => view.setInt32(0, v, true));
  }

  f32(v: number): void {
    this.#number(4, (view) => view.setFloat32(0, v, true));
  }

  u64(v: number): void {
    this.#number(8, (view) => view.setBigUint64(0, BigInt(v), true));
  }

  string(text: string): void {
    const bytes = new TextEncoder().encode(text);
    this.u64(bytes.length);
    this.#parts.push(bytes);
  }

  bool(v: boolean): void {
    this.#parts.push(Uint8Array.of(v ? 1 : 0));
  }

  join(): Uint8Array {
    return Buffer.concat(this.#parts);
  }
}

function putValue(out: Bytes, meta: Meta): void {
  switch (meta.type) {
    case 'u32':
      out.u32(TYPES.u32);
      return out.u32(meta.value);
    case 'f32':
      out.u32(TYPES.f32);
      return out.f32(meta.value);
    case 'bool':
      out.u32(TYPES.bool);
      return out.bool(meta.value);
    case 'string':
      out.u32(TYPES.string);
      return out.string(meta.value);
    case 'strings':
      out.u32(TYPES.array);
      out.u32(TYPES.string);
      out.u64(meta.value.length);
      for (const v of meta.value) out.string(v);
      return;
    case 'f32s':
    case 'i32s':
      out.u32(TYPES.array);
      out.u32(meta.type === 'f32s' ? TYPES.f32 : TYPES.i32);
      out.u64(meta.value.length);
      for (const v of meta.value) if (meta.type === 'f32s') out.f32(v);
      else out.i32(v);
  }
}

const padding = (at: number): Uint8Array => new Uint8Array((ALIGN - (at % ALIGN)) % ALIGN);

export function writeGguf(path: string, metadata: Readonly<Record<string, Meta>>, tensors: readonly GgufTensor[]): void {
  const head = new Bytes();
  head.u32(0x4655_4747); // GGUF
  head.u32(3);
  head.u64(tensors.length);
  head.u64(Object.keys(metadata).length);
  for (const [key, value] of Object.entries(metadata)) {
    head.string(key);
    putValue(head, value);
  }
  let offset = 0;
  for (const { name, dims, type, data } of tensors) {
    head.string(name);
    head.u32(dims.length);
    for (const d of dims) head.u64(d);
    head.u32(GGML[type]);
    head.u64(offset);
    offset += data.length + padding(data.length).length;
  }
  const fd = openSync(path, 'w');
  try {
    const bytes = head.join();
    writeSync(fd, bytes);
    writeSync(fd, padding(bytes.length));
    for (const { data } of tensors) {
      for (let at = 0; at < data.length;) at += writeSync(fd, data, at);
      writeSync(fd, padding(data.length));
    }
  } finally {
    closeSync(fd);
  }
}
