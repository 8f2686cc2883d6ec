/**
 * Where every canonical parameter comes from: holds a manifest's weights against the tensors at hand,
 * and either knows a place for each row of each parameter or reports everything that is wrong at once.
 */
import type { ManifestParam, ManifestSection, StoredElem, TensorSource } from './abi.ts';
import { WeightsError, quote } from './errors.ts';
import { nearestNames } from './nearest.ts';
import type { SafetensorsDType } from './safetensors.ts';
import type { TensorInfo, TensorSet } from './tensors.ts';

export interface WeightRole {
  readonly kind: 'weight';
  readonly parts: readonly { readonly rows: number; readonly sources: readonly TensorSource[] }[];
}

/** What is needed of a parameter; a `ManifestParam` with the role `weight` is one. */
export interface WeightParam {
  readonly name: string;
  readonly shape: readonly (number | 'cap')[];
  readonly elem: StoredElem;
  readonly role: WeightRole;
}

/** Rows [first, first + rows) of every matrix of the bank: element (b, n, k) lies at base + b·bankStride + n·nStride + k·kStride. */
export interface Piece {
  readonly first: number;
  readonly rows: number;
  /** One name, or one per expert. */
  readonly tensors: readonly string[];
  readonly base: number;
  readonly bankStride: number;
  readonly nStride: number;
  readonly kStride: number;
}

export interface ResolvedParam {
  readonly name: string;
  readonly elem: StoredElem;
  readonly bank: number;
  readonly n: number;
  readonly k: number;
  readonly pieces: readonly Piece[];
}

export interface WeightProblem {
  readonly kind: 'missing' | 'shape' | 'dtype';
  /** Canonical name. */
  readonly param: string;
  readonly tensor: string;
  readonly message: string;
}

export interface WeightsReport {
  readonly resolved: ReadonlyMap<string, ResolvedParam>;
  readonly problems: readonly WeightProblem[];
  /** Tensors that no parameter uses; not an error. */
  readonly unused: readonly string[];
}

export const layerName = (name: string, layer: number | null | undefined): string => name.replaceAll('{l}', String(layer ?? 0));

interface Matrix {
  /** Whether the first dim counts experts. */
  readonly banked: boolean;
  readonly bank: number;
  readonly n: number;
  readonly k: number;
}

/** A canonical shape as [bank, n, k], 1 where a dim is absent. */
export function matrixOf(param: WeightParam): Matrix {
  const dims = param.shape.map((d) => {
    if (d === 'cap') throw new RangeError(`weight ${param.name} has a run-time dim`);
    return d;
  });
  const [a = 1, b = 1, c = 1] = dims;
  if (dims.length <= 1) return { banked: false, bank: 1, n: a, k: 1 };
  if (dims.length === 3) return { banked: true, bank: a, n: b, k: c };
  return isVectorBank(param) ? { banked: true, bank: a, n: b, k: 1 } : { banked: false, bank: 1, n: a, k: b };
}

/** Whether the two dims of a canonical shape are [bank, n] (a vector per expert) and not [n, k]. */
const isVectorBank = (param: WeightParam): boolean => param.role.parts.some((p) => p.sources.some((s) => s.k.step === 0));

const same = (a: readonly number[], b: readonly number[]): boolean => a.length === b.length && a.every((d, i) => d === b[i]);
const showShape = (shape: readonly number[]): string => `[${shape.join(', ')}]`;

function looksTransposed(expected: readonly number[], got: readonly number[]): boolean {
  if (expected.length !== got.length || expected.length < 2) return false;
  const swapped = [...expected.slice(0, -2), ...expected.slice(-2).reverse()];
  return same(swapped, got) || same([...expected].reverse(), got);
}

const FLOATS: ReadonlySet<SafetensorsDType> = new Set(['F64', 'F32', 'F16', 'BF16']);
const isFloat = (elem: StoredElem): boolean => elem !== 'u32' && elem !== 'i32';

/** Names of the tensors that a source stands for. */
function tensorNames(source: TensorSource, layer: number | null | undefined, bank: number): string[] {
  const name = layerName(source.name, layer);
  return name.includes('{e}') ? Array.from({ length: bank }, (_, e) => name.replaceAll('{e}', String(e))) : [name];
}

function pieceOf(source: TensorSource, tensors: readonly string[], banked: boolean, first: number, rows: number): Piece {
  const leading = banked && !source.name.includes('{e}') && source.bankRows === undefined;
  const dims = leading ? source.shape.slice(1) : source.shape;
  const columns = dims.length >= 2 ? (dims[dims.length - 1] ?? 1) : 1;
  // Of a vector only one index moves: the one along axis 0.
  const axisStride = (axis: 0 | 1): number => (axis === 0 ? columns : dims.length <= 1 ? 0 : 1);
  const n = axisStride(source.n.axis);
  const k = axisStride(source.n.axis === 0 ? 1 : 0);
  return {
    first,
    rows,
    tensors,
    base: source.n.start * n + source.k.start * k,
    bankStride: leading ? dims.reduce((a, b) => a * b, 1) : (source.bankRows ?? 0) * columns,
    nStride: source.n.step * n,
    kStride: source.k.step * k,
  };
}

interface PartFound {
  readonly source: TensorSource;
  readonly tensors: readonly string[];
  readonly problems: readonly WeightProblem[];
}

/** Tries the sources of one part in order: the first that is wholly there and fits, or else the one of which most is there, with what is wrong. */
function resolvePart(param: WeightParam, part: WeightRole['parts'][number], layer: number | null | undefined, set: TensorSet, bank: number): PartFound {
  const name = layerName(param.name, layer);
  let best: (PartFound & { readonly found: number }) | undefined;
  for (const source of part.sources) {
    if (source.requires !== undefined && set.info(layerName(source.requires, layer).replaceAll('{e}', '0')) === undefined) continue;
    const tensors = tensorNames(source, layer, bank);
    const problems = tensors.flatMap((tensor) => problemsOf(name, param.elem, tensor, set.info(tensor), source.shape));
    if (problems.length === 0) return { source, tensors, problems };
    const found = tensors.filter((t) => set.info(t) !== undefined).length;
    if (best === undefined || found > best.found) best = { source, tensors, problems, found };
  }
  if (best === undefined) {
    const [first] = part.sources;
    if (first === undefined) throw new RangeError(`${param.name} has a part without sources`);
    const tensors = tensorNames(first, layer, bank);
    return { source: first, tensors, problems: tensors.flatMap((t) => problemsOf(name, param.elem, t, undefined, first.shape)) };
  }
  if (best.found > 0 || part.sources.length === 1) return best;
  const others = part.sources.slice(1).map((s) => quote(tensorNames(s, layer, bank)[0] ?? ''));
  return { ...best, problems: best.problems.map((p) => ({ ...p, message: `${p.message} (nor ${others.join(', ')})` })) };
}

function problemsOf(param: string, elem: StoredElem, tensor: string, info: TensorInfo | undefined, expected: readonly number[]): WeightProblem[] {
  if (info === undefined) return [{ kind: 'missing', param, tensor, message: `no tensor ${quote(tensor)} ${showShape(expected)}` }];
  if (!same(info.shape, expected)) {
    const hint = looksTransposed(expected, info.shape) ? '; it looks transposed' : '';
    return [{ kind: 'shape', param, tensor, message: `tensor ${quote(tensor)} is ${showShape(info.shape)}, expected ${showShape(expected)}${hint}` }];
  }
  if (FLOATS.has(info.dtype) !== isFloat(elem)) {
    const wanted = isFloat(elem) ? 'floating-point numbers' : 'integers';
    return [{ kind: 'dtype', param, tensor, message: `tensor ${quote(tensor)} holds ${info.dtype}, expected ${wanted}` }];
  }
  return [];
}

/** Which tensor element (row, column) of the bank · n rows lies in, and where in it. */
export function placeOf(param: ResolvedParam, set: TensorSet, row: number, column: number): { readonly tensor: string; readonly at: readonly number[] } {
  const bank = Math.floor(row / param.n);
  const inBank = row - bank * param.n;
  const piece = param.pieces.find((p) => inBank >= p.first && inBank < p.first + p.rows);
  if (piece === undefined) throw new RangeError(`${param.name} has no row ${row}`);
  const tensor = piece.tensors[piece.tensors.length > 1 ? bank : 0] ?? '';
  let offset = piece.base + bank * piece.bankStride + (inBank - piece.first) * piece.nStride + column * piece.kStride;
  const at: number[] = [];
  for (const dim of [...(set.info(tensor)?.shape ?? [])].reverse()) {
    at.unshift(offset % dim);
    offset = Math.floor(offset / dim);
  }
  return { tensor, at };
}

/** One parameter of one layer; `problems` grows where something is wrong, `used` by the tensors it reads or would read. */
export function resolveParam(
  param: WeightParam,
  layer: number | null | undefined,
  set: TensorSet,
  problems: WeightProblem[],
  used?: Set<string>,
): ResolvedParam | undefined {
  const { banked, bank, n, k } = matrixOf(param);
  const pieces: Piece[] = [];
  let first = 0;
  let good = true;
  for (const part of param.role.parts) {
    const found = resolvePart(param, part, layer, set, bank);
    problems.push(...found.problems);
    for (const t of found.tensors) used?.add(t);
    if (found.problems.length > 0) good = false;
    else pieces.push(pieceOf(found.source, found.tensors, banked, first, part.rows));
    first += part.rows;
  }
  if (first !== n) throw new RangeError(`the parts of ${param.name} have ${first} rows, not ${n}`);
  return good ? { name: layerName(param.name, layer), elem: param.elem, bank, n, k, pieces } : undefined;
}

const isWeight = (p: ManifestParam): p is ManifestParam & WeightParam => p.role.kind === 'weight';

/** Every weight of the program once, with its layer. */
export function* weightsOf(
  sections: readonly ManifestSection[],
  sequence: readonly { readonly section: number; readonly layer: number | null }[],
): Generator<{ readonly name: string; readonly param: ManifestParam & WeightParam; readonly layer: number | null }> {
  const seen = new Set<string>();
  for (const { section, layer } of sequence) {
    for (const param of sections[section]?.params ?? []) {
      const name = layerName(param.name, layer);
      if (!isWeight(param) || seen.has(name)) continue;
      seen.add(name);
      yield { name, param, layer };
    }
  }
}

/** Resolves all weights; does not throw. */
export function checkWeights(
  sections: readonly ManifestSection[],
  sequence: readonly { readonly section: number; readonly layer: number | null }[],
  set: TensorSet,
): WeightsReport {
  const problems: WeightProblem[] = [];
  const resolved = new Map<string, ResolvedParam>();
  const used = new Set<string>();
  for (const { name, param, layer } of weightsOf(sections, sequence)) {
    const found = resolveParam(param, layer, set, problems, used);
    if (found !== undefined) resolved.set(name, found);
  }
  return { resolved, problems, unused: [...set.names()].filter((n) => !used.has(n)) };
}

const MAX_SHOWN = 20;

/** One error that tells all problems; missing tensors come with the unused names that look like them. */
export function weightsError(report: WeightsReport, label: string): WeightsError {
  const { problems, unused } = report;
  const lines = problems.slice(0, MAX_SHOWN).map((p) => {
    const near = p.kind === 'missing' ? nearestNames(p.tensor, unused) : [];
    return `  ${p.message}${near.length === 0 ? '' : `; is it ${near.map((n) => quote(n)).join(' or ')}?`}`;
  });
  if (problems.length > MAX_SHOWN) lines.push(`  … and ${problems.length - MAX_SHOWN} more`);
  if (unused.length > 0) {
    const shown = unused.slice(0, 8).map((n) => quote(n)).join(', ');
    lines.push(`  not used: ${shown}${unused.length > 8 ? ` and ${unused.length - 8} more` : ''}`);
  }
  const count = problems.length === 1 ? 'one problem' : `${problems.length} problems`;
  return new WeightsError(`${label} does not hold the weights of this model: ${count}\n${lines.join('\n')}`, {
    details: { file: label, problems, unused },
    fix: 'compare the spec with the checkpoint: number of experts, widths, layers; `moec init --from` writes a spec from its config.json',
  });
}

/** As `checkWeights`, but throws `WeightsError` where anything is wrong. */
export function requireWeights(
  sections: readonly ManifestSection[],
  sequence: readonly { readonly section: number; readonly layer: number | null }[],
  set: TensorSet,
): WeightsReport {
  const report = checkWeights(sections, sequence, set);
  if (report.problems.length > 0) throw weightsError(report, set.label);
  return report;
}
