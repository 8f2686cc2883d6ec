/** The elements of resolved parameters: in bounded pieces for a device, or whole in f64 for the reference. */
import type { ElemName, StoredElem } from './abi.ts';
import { type Signal, WeightsError, quote, throwIfAborted } from './errors.ts';
import { bf16ToNumber, f16ToNumber, numberToBf16, numberToF16 } from './f16.ts';
import { type Floats, isQuant, packRows, quantiseRows, type Refuse, rowBytes as bytesOfRow } from './quant.ts';
import { DTYPE_BYTES } from './safetensors.ts';
import { type TensorSet, decodeInto } from './tensors.ts';
import { type Piece, type ResolvedParam, type WeightParam, type WeightProblem, placeOf, resolveParam, weightsError } from './weights.ts';

/** Largest piece of a weight that is held in memory at once. */
export const MAX_PIECE_BYTES: number = 64 << 20;

/** Rows of the canonical matrix: bank · n of them, k elements each. */
export interface WeightChunk {
  /** First row of the chunk, counted from the first row that was asked for. */
  readonly row: number;
  readonly rows: number;
  /** Packed little-endian elements, or quantised rows, of the parameter's own type. */
  readonly data: Uint8Array;
}

type Target = Float64Array | Float32Array | Uint32Array | Int32Array | Uint16Array;

function makeTarget(elem: ElemName | 'f64', length: number): Target {
  switch (elem) {
    case 'f64':
      return new Float64Array(length);
    case 'f32':
      return new Float32Array(length);
    case 'u32':
      return new Uint32Array(length);
    case 'i32':
      return new Int32Array(length);
    case 'f16':
    case 'bf16':
      return new Uint16Array(length);
  }
}

/** A value as the target stores it. Throws where a finite weight has no such value. */
function encoder(elem: ElemName | 'f64', name: string): (value: number) => number {
  const outside = (value: number): never => {
    throw new WeightsError(`weight ${quote(name)}: the value ${value} cannot be stored as ${elem}`, {
      details: { param: name, value, elem },
      fix: elem === 'f16' ? 'compile the spec with bf16 or f32 storage' : 'the tensor must hold whole numbers that are not negative',
    });
  };
  switch (elem) {
    case 'f16':
      return (value) => {
        const bits = numberToF16(value);
        return (bits & 0x7fff) === 0x7c00 && Number.isFinite(value) ? outside(value) : bits;
      };
    case 'bf16':
      return numberToBf16;
    case 'u32':
      return (value) => (value >>> 0 === value ? value : outside(value));
    case 'i32':
      return (value) => ((value | 0) === value ? value : outside(value));
    case 'f32':
    case 'f64':
      return (value) => value;
  }
}

const RAW: Readonly<Record<string, string>> = { F32: 'f32', F16: 'f16', BF16: 'bf16', I32: 'i32' };

interface Run {
  readonly piece: Piece;
  readonly bank: number;
  /** Rows [from, to) of the piece. */
  readonly from: number;
  readonly to: number;
  /** Where its first element goes. */
  readonly at: number;
}

interface Job {
  readonly set: TensorSet;
  readonly name: string;
  readonly elem: ElemName | 'f64';
  readonly k: number;
  readonly maxBytes: number;
  readonly signal: Signal | undefined;
}

/** Copies a run into `out`, reading its source in blocks of bounded size. */
async function fillRun(out: Target, run: Run, job: Job): Promise<void> {
  const { piece, bank, from, to, at } = run;
  const { k } = job;
  const rows = to - from;
  const tensor = piece.tensors.length > 1 ? (piece.tensors[bank] ?? '') : (piece.tensors[0] ?? '');
  const dtype = job.set.info(tensor)?.dtype ?? 'F32';
  const size = DTYPE_BYTES[dtype];
  const origin = piece.base + bank * piece.bankStride + from * piece.nStride;
  if (rows === 0 || k === 0) return;

  const contiguous = (k === 1 || piece.kStride === 1) && (rows === 1 || piece.nStride === k);
  if (contiguous && RAW[dtype] === job.elem) {
    const bytes = await job.set.read(tensor, origin * size, (origin + rows * k) * size, job.signal);
    new Uint8Array(out.buffer, out.byteOffset + at * size, bytes.length).set(bytes);
    return;
  }
  // The slower index goes outside, in blocks whose span in the file stays small.
  const rowsOutside = Math.abs(piece.nStride) * rows >= Math.abs(piece.kStride) * k;
  const outer = rowsOutside ? rows : k;
  const inner = rowsOutside ? k : rows;
  const outerStride = rowsOutside ? piece.nStride : piece.kStride;
  const innerStride = rowsOutside ? piece.kStride : piece.nStride;
  const outerOut = rowsOutside ? k : 1;
  const innerOut = rowsOutside ? 1 : k;
  const span = (inner - 1) * innerStride + 1;
  const block = Math.max(1, Math.min(outer, Math.floor((job.maxBytes / size - span) / Math.max(1, outerStride)) + 1));
  const encode = encoder(job.elem, job.name);
  for (let o = 0; o < outer; o += block) {
    const count = Math.min(block, outer - o);
    const first = origin + o * outerStride;
    const length = (count - 1) * outerStride + span;
    const bytes = await job.set.read(tensor, first * size, (first + length) * size, job.signal);
    const exact = dtype === 'F64' || dtype === 'I64' || dtype === 'I32';
    const values = exact ? new Float64Array(length) : new Float32Array(length);
    decodeInto(values, dtype, bytes);
    for (let i = 0; i < count; i++) {
      let source = i * outerStride;
      let target = at + (o + i) * outerOut;
      for (let j = 0; j < inner; j++) {
        out[target] = encode(values[source] ?? 0);
        source += innerStride;
        target += innerOut;
      }
    }
  }
}

/** Rows [first, first + rows) of the flattened bank · n rows. */
async function fillRows(out: Target, param: ResolvedParam, first: number, rows: number, job: Job): Promise<void> {
  for (let row = first; row < first + rows; ) {
    const bank = Math.floor(row / param.n);
    const inBank = row - bank * param.n;
    const piece = param.pieces.find((p) => inBank >= p.first && inBank < p.first + p.rows);
    if (piece === undefined) throw new RangeError(`${param.name} has no row ${row}`);
    const from = inBank - piece.first;
    const to = Math.min(piece.rows, from + first + rows - row);
    await fillRun(out, { piece, bank, from, to, at: (row - first) * param.k }, job);
    row += to - from;
  }
}

/**
 * Rows [first, first + rows) in chunks of at most `maxBytes` (one row where a row is larger).
 * All chunks but the last hold an even number of rows, so that packed halves end on a word.
 */
export async function* weightChunks(
  param: ResolvedParam,
  set: TensorSet,
  first: number,
  rows: number,
  options: { readonly signal?: Signal | undefined; readonly maxBytes?: number } = {},
): AsyncGenerator<WeightChunk> {
  const maxBytes = options.maxBytes ?? MAX_PIECE_BYTES;
  const { elem, k } = param;
  const rowBytes = bytesOfRow(elem, k);
  // Quantised rows are gathered as floating-point numbers first.
  const gathered = isQuant(elem) ? widestOf(param, set) : elem;
  const fit = Math.max(1, Math.floor(maxBytes / Math.max(1, rowBytes, isQuant(elem) ? 8 * k : 0)));
  const step = rowBytes % 4 === 0 ? fit : Math.max(2, fit - (fit % 2));
  const job: Job = { set, name: param.name, elem: gathered, k, maxBytes, signal: options.signal };
  for (let row = 0; row < rows; row += step) {
    throwIfAborted(options.signal);
    const count = Math.min(step, rows - row);
    const out = makeTarget(gathered, count * k);
    await fillRows(out, param, first + row, count, job);
    const stored = isQuant(elem) && isFloats(out) ? packRows(elem, out, count, k, refusing(param, set, first + row)) : out;
    yield { row, rows: count, data: new Uint8Array(stored.buffer) };
  }
}

const isFloats = (values: Target): values is Floats => values instanceof Float32Array || values instanceof Float64Array;

/** f32 where it holds all values of a parameter's tensors. */
const widestOf = ({ pieces }: ResolvedParam, set: TensorSet): 'f32' | 'f64' =>
  pieces.some((p) => p.tensors.some((t) => set.info(t)?.dtype === 'F64')) ? 'f64' : 'f32';

/** Tells which element of a checkpoint cannot be quantised; values begin with row `first`. */
const refusing = (param: ResolvedParam, set: TensorSet, first: number): Refuse => (index, value) => {
  const { tensor, at } = placeOf(param, set, first + Math.floor(index / param.k), index % param.k);
  throw new WeightsError(`weight ${quote(param.name)}: ${value} at [${at.join(', ')}] of tensor ${quote(tensor)} cannot be stored as ${param.elem}`, {
    details: { param: param.name, tensor, at, value, elem: param.elem },
    fix: Number.isFinite(value) ? 'compile the spec with `scales f32`' : 'the checkpoint is damaged: fetch it again, or compile the spec without quantised experts',
  });
};

/** Rounds rows of `k` in place to the values that `elem` can hold. */
export function roundTo(values: Float64Array, elem: StoredElem, k: number, refuse: Refuse): void {
  if (elem === 'u32' || elem === 'i32') return;
  if (isQuant(elem)) return quantiseRows(elem, values, k, refuse);
  for (let i = 0; i < values.length; i++) {
    const v = values[i] ?? 0;
    values[i] = elem === 'f16' ? f16ToNumber(numberToF16(v)) : elem === 'bf16' ? bf16ToNumber(numberToBf16(v)) : Math.fround(v);
  }
}

/**
 * A whole parameter, row-major in its canonical shape, as the reference evaluator wants it.
 * `stored`: rounded to the parameter's storage type first, as the device will have it; otherwise as exact as the file.
 * @throws WeightsError
 */
export async function assembleF64(
  param: WeightParam,
  set: TensorSet,
  layer: number | null | undefined,
  options: { readonly stored?: boolean; readonly signal?: Signal } = {},
): Promise<Float64Array> {
  const problems: WeightProblem[] = [];
  const resolved = resolveParam(param, layer, set, problems);
  if (resolved === undefined) throw weightsError({ resolved: new Map(), problems, unused: [...set.names()] }, set.label);
  const rows = resolved.bank * resolved.n;
  const out = new Float64Array(rows * resolved.k);
  const job: Job = { set, name: resolved.name, elem: 'f64', k: resolved.k, maxBytes: MAX_PIECE_BYTES, signal: options.signal };
  await fillRows(out, resolved, 0, rows, job);
  if (options.stored === true) roundTo(out, param.elem, resolved.k, refusing(resolved, set, 0));
  return out;
}
