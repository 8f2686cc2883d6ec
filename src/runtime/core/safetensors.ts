/**
 * The safetensors format, read as if the file were hostile and written so that every reader is pleased.
 *
 * A file is: u64 little-endian header length n, n bytes of JSON, then the data. The header maps names to
 * `{dtype, shape, data_offsets: [begin, end)}`; sorted by begin, the tensors tile the data exactly.
 */
import { SafetensorsError, quote } from './errors.ts';
import { JsonFault, JsonScanner } from './json-scanner.ts';

/** Bytes of one element of the dtypes that can be read. */
export const DTYPE_BYTES = { F64: 8, I64: 8, F32: 4, I32: 4, F16: 2, BF16: 2, I16: 2, I8: 1, U8: 1, BOOL: 1 } as const;
export type SafetensorsDType = keyof typeof DTYPE_BYTES;

/** Dtypes of the format that no part of this runtime computes with. */
const REFUSED_DTYPES: ReadonlySet<string> = new Set([
  'U64', 'U32', 'U16', 'C64', 'F8_E4M3', 'F8_E5M2', 'F8_E8M0', 'F8_E4M3FNUZ', 'F8_E5M2FNUZ', 'F6_E2M3', 'F6_E3M2', 'F4',
]);

export interface TensorEntry {
  readonly dtype: SafetensorsDType;
  readonly shape: readonly number[];
  /** Bytes from the start of the data. */
  readonly begin: number;
  readonly end: number;
}

export interface SafetensorsHeader {
  /** In the order of the data. */
  readonly tensors: ReadonlyMap<string, TensorEntry>;
  readonly metadata: ReadonlyMap<string, string>;
  /** Byte position of the data in the file. */
  readonly dataStart: number;
}

export const MAX_HEADER_BYTES = 25_000_000;
const MAX_NAME = 1024;
const MAX_METADATA_TEXT = 1 << 20;
const MAX_RANK = 32;

interface Place {
  readonly file: string;
  readonly tensor?: string;
  readonly position: number;
}

function refuse(reason: string, message: string, place: Place): never {
  const tensor = place.tensor === undefined ? '' : `, tensor ${quote(place.tensor)}`;
  throw new SafetensorsError(`${place.file}${tensor}, byte ${place.position}: ${message}`, {
    details: { ...place, reason },
    fix: 'the file is damaged or was not written as safetensors: fetch it again and compare its checksum',
  });
}

const isDType = (text: string): text is SafetensorsDType => Object.hasOwn(DTYPE_BYTES, text);

/** Length of the header from the first 8 bytes of a file of `fileBytes` bytes. */
export function headerBytes(first: Uint8Array, fileBytes: number, file: string): number {
  const place = { file, position: 0 };
  if (fileBytes < 8 || first.length < 8) {
    refuse('HeaderTooSmall', `the file has ${Math.min(fileBytes, first.length)} bytes, and a header length alone takes 8`, place);
  }
  const length = new DataView(first.buffer, first.byteOffset, 8).getBigUint64(0, true);
  if (length > BigInt(MAX_HEADER_BYTES)) refuse('HeaderTooLarge', `a header of ${length} bytes is over the cap of ${MAX_HEADER_BYTES}`, place);
  if (8n + length > BigInt(fileBytes)) refuse('InvalidHeaderLength', `a header of ${length} bytes does not fit in a file of ${fileBytes}`, place);
  if (length < 2n) refuse('HeaderTooSmall', `a header of ${length} bytes cannot hold an object`, place);
  return Number(length);
}

interface Parsed extends TensorEntry {
  readonly name: string;
  /** Where its description stands in the header. */
  readonly at: number;
}

function elementCount(shape: readonly number[]): bigint {
  let count = 1n;
  for (const dim of shape) count *= BigInt(dim);
  return count;
}

/** `name` and its members, the scanner standing before `{`. */
function parseTensor(scan: JsonScanner, name: string, at: number): Parsed {
  let dtype: SafetensorsDType | undefined;
  let shape: number[] | undefined;
  let offsets: number[] | undefined;
  scan.object((key, position) => {
    if (key === 'dtype') {
      const text = scan.string(64);
      if (REFUSED_DTYPES.has(text)) scan.fail(`dtype ${text} is known but not supported`, position, 'UnsupportedDtype');
      if (!isDType(text)) scan.fail(`unknown dtype ${quote(text)}`, position, 'UnknownDtype');
      dtype = text;
    } else if (key === 'shape') {
      const dims: number[] = [];
      scan.array(() => {
        if (dims.length >= MAX_RANK) scan.fail(`more than ${MAX_RANK} dimensions`, position, 'TensorInvalidInfo');
        dims.push(scan.integer('a dimension'));
      });
      shape = dims;
    } else if (key === 'data_offsets') {
      const pair: number[] = [];
      scan.array(() => {
        if (pair.length >= 2) scan.fail('data_offsets must have two numbers', position, 'TensorInvalidInfo');
        pair.push(scan.integer('an offset'));
      });
      offsets = pair;
    } else {
      scan.fail(`unknown member ${quote(key)}`, position, 'TensorInvalidInfo');
    }
  }, 64);
  const [begin, end] = offsets ?? [];
  if (dtype === undefined) scan.fail('no dtype', at, 'TensorInvalidInfo');
  if (shape === undefined) scan.fail('no shape', at, 'TensorInvalidInfo');
  if (begin === undefined || end === undefined) scan.fail('data_offsets must have two numbers', at, 'TensorInvalidInfo');
  if (begin > end) scan.fail(`data_offsets [${begin}, ${end}] run backwards`, at, 'InvalidOffset');
  const bytes = elementCount(shape) * BigInt(DTYPE_BYTES[dtype]);
  if (bytes > BigInt(Number.MAX_SAFE_INTEGER)) scan.fail(`shape [${shape.join(', ')}] overflows`, at, 'Overflow');
  if (bytes !== BigInt(end - begin)) {
    scan.fail(`${dtype} [${shape.join(', ')}] takes ${bytes} bytes, but its offsets span ${end - begin}`, at, 'TensorInvalidInfo');
  }
  return { name, at, dtype, shape, begin, end };
}

/** Sorted, the tensors must cover the data without overlap, hole, or rest: nothing hides in such a file. */
function checkTiling(tensors: readonly Parsed[], dataBytes: number, dataStart: number, file: string): void {
  let at = 0;
  for (const t of tensors) {
    if (t.begin !== at) {
      const what = t.begin < at ? 'overlaps the tensor before it' : `leaves a hole of ${t.begin - at} bytes before it`;
      refuse('InvalidOffset', `begins at ${t.begin} where ${at} was due: it ${what}`, { file, tensor: t.name, position: 8 + t.at });
    }
    at = t.end;
  }
  if (at !== dataBytes) {
    const what = at < dataBytes ? `${dataBytes - at} bytes after the last tensor belong to none` : `the data ends ${at - dataBytes} bytes too early`;
    refuse('MetadataIncompleteBuffer', what, { file, position: dataStart + Math.min(at, dataBytes) });
  }
}

/**
 * Checks and reads a header.
 * @param header the `headerBytes` bytes after the first 8
 * @throws SafetensorsError naming file, tensor and byte position
 */
export function parseHeader(header: Uint8Array, fileBytes: number, file: string): SafetensorsHeader {
  if (header[0] !== 0x7b) refuse('InvalidHeaderStart', "the header does not start with '{'", { file, position: 8 });
  const scan = new JsonScanner(header);
  const tensors: Parsed[] = [];
  let metadata = new Map<string, string>();
  let current: string | undefined;
  try {
    scan.object((name, position) => {
      current = name;
      if (name === '__metadata__') {
        const entries = new Map<string, string>();
        scan.object((key, at) => {
          if (scan.peek() !== 0x22) scan.fail('a value of __metadata__ is not a string', at, 'InvalidMetadata');
          entries.set(key, scan.string(MAX_METADATA_TEXT));
        }, MAX_METADATA_TEXT);
        metadata = entries;
      } else {
        tensors.push(parseTensor(scan, name, position));
      }
      current = undefined;
    }, MAX_NAME);
    scan.end();
  } catch (error) {
    if (!(error instanceof JsonFault)) throw error;
    refuse(error.reason, error.message, { file, position: 8 + error.position, ...(current === undefined ? {} : { tensor: current }) });
  }
  tensors.sort((a, b) => a.begin - b.begin || a.end - b.end || a.at - b.at);
  const dataStart = 8 + header.length;
  checkTiling(tensors, fileBytes - dataStart, dataStart, file);
  const entries = tensors.map(({ name, dtype, shape, begin, end }): [string, TensorEntry] => [name, { dtype, shape, begin, end }]);
  return { tensors: new Map(entries), metadata, dataStart };
}

export interface NewTensor {
  readonly name: string;
  readonly dtype: SafetensorsDType;
  readonly shape: readonly number[];
  /** Little-endian elements. */
  readonly data: ArrayBufferView;
}

/** A whole file: widest dtype first, then by name, so that every tensor is aligned and equal input gives equal bytes. */
export function writeSafetensors(tensors: Iterable<NewTensor>, metadata: Readonly<Record<string, string>> = {}): Uint8Array<ArrayBuffer> {
  const order = (a: string, b: string): number => (a < b ? -1 : a > b ? 1 : 0);
  const sorted = [...tensors].sort((a, b) => DTYPE_BYTES[b.dtype] - DTYPE_BYTES[a.dtype] || order(a.name, b.name));
  const members: string[] = [];
  const meta = Object.entries(metadata).sort(([a], [b]) => order(a, b));
  if (meta.length > 0) {
    const text = meta.map(([k, v]) => `${JSON.stringify(k)}:${JSON.stringify(v)}`).join(',');
    members.push(`"__metadata__":{${text}}`);
  }
  let at = 0;
  for (const t of sorted) {
    const bytes = Number(elementCount(t.shape)) * DTYPE_BYTES[t.dtype];
    if (t.data.byteLength !== bytes) {
      throw new SafetensorsError(`tensor ${quote(t.name)}: ${t.dtype} [${t.shape.join(', ')}] takes ${bytes} bytes, not ${t.data.byteLength}`);
    }
    const shape = JSON.stringify(t.shape);
    members.push(`${JSON.stringify(t.name)}:{"dtype":"${t.dtype}","shape":${shape},"data_offsets":[${at},${at + bytes}]}`);
    at += bytes;
  }
  const json = new TextEncoder().encode(`{${members.join(',')}}`);
  const padded = Math.ceil(json.length / 8) * 8;
  const out = new Uint8Array(8 + padded + at);
  new DataView(out.buffer).setBigUint64(0, BigInt(padded), true);
  out.fill(0x20, 8, 8 + padded);
  out.set(json, 8);
  let position = 8 + padded;
  for (const t of sorted) {
    out.set(new Uint8Array(t.data.buffer, t.data.byteOffset, t.data.byteLength), position);
    position += t.data.byteLength;
  }
  return out;
}
