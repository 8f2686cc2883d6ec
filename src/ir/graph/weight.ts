/** How the shape of a weight and its sources are to be read: banks, rows, columns. */
import { isQuantName, QUANT_GROUP } from '../../base/quant.ts';
import type { ParamRole, TensorSource, TensorType, Type, WeightPart } from './types.ts';

export type WeightRole = Extract<ParamRole, { readonly kind: 'weight' }>;

/** Whether a weight has no k index (a bias, or a bank of them): its sources have `k.step` 0. */
export const isVector = (role: WeightRole): boolean => role.parts.some((part) => part.sources.some((source) => source.k.step === 0));

/** Extents of the canonical index [bank][n][k]; `bank` or `k` undefined where the weight has no such index. */
export interface WeightLayout {
  readonly bank: number | undefined;
  readonly n: number;
  readonly k: number | undefined;
  /** Which dim of the shape is n. */
  readonly axis: number;
}

/** Reads a weight's shape. Undefined where no reading fits (symbolic dims, too many of them). */
export function weightLayout(type: Type, role: WeightRole): WeightLayout | undefined {
  if (type.kind !== 'tensor') return undefined;
  const dims = type.shape.filter((dim) => typeof dim === 'number');
  if (dims.length !== type.shape.length) return undefined;
  const [a, b, c] = dims;
  const vector = isVector(role);
  if (dims.length === 1 && vector && a !== undefined) return { bank: undefined, n: a, k: undefined, axis: 0 };
  if (dims.length === 2 && vector && a !== undefined && b !== undefined) return { bank: a, n: b, k: undefined, axis: 1 };
  if (dims.length === 2 && !vector && a !== undefined && b !== undefined) return { bank: undefined, n: a, k: b, axis: 0 };
  if (dims.length === 3 && !vector && a !== undefined && b !== undefined && c !== undefined) return { bank: a, n: b, k: c, axis: 1 };
  return undefined;
}

/** Where bank `bank` of a source begins and the rows and columns of its matrix; a vector is one column. */
export interface SourceMatrix {
  /** Tensor name for this bank, `{l}` still in it. */
  readonly name: string;
  readonly offset: number;
  readonly rows: number;
  readonly cols: number;
}

/** The matrix (or vector) that holds bank `bank` inside `source`. @throws Error where the source's rank does not fit */
export function sourceMatrix(source: TensorSource, layout: WeightLayout, bank: number): SourceMatrix {
  const rank = layout.k === undefined ? 1 : 2;
  const named = layout.bank !== undefined && source.name.includes('{e}');
  const leading = layout.bank !== undefined && !named && source.bankRows === undefined;
  const shape = leading ? source.shape.slice(1) : source.shape;
  // A vector may be stored with a dim of one beside it, [n, 1] or [1, n]; then `n.axis` says which dim is n.
  const isFit = rank === 2 ? shape.length === 2 : shape.length === 1 || (shape.length === 2 && shape.includes(1));
  const [rows = 1, cols = 1] = shape;
  if (!isFit) throw new Error(`${source.name}: shape [${source.shape.join(', ')}] is not that of ${rank === 1 ? 'vectors' : 'matrices'}`);
  const offset = leading ? bank * rows * cols : (source.bankRows ?? 0) * cols * bank;
  return { name: named ? source.name.replaceAll('{e}', String(bank)) : source.name, offset, rows: source.bankRows ?? rows, cols };
}

/** Tells where a part's source would leave its tensor. */
function sourceProblem(part: WeightPart, source: TensorSource, layout: WeightLayout): string | undefined {
  const { rows, cols } = sourceMatrix(source, layout, 0);
  const lastN = source.n.start + (part.rows - 1) * source.n.step;
  const lastK = source.k.start + ((layout.k ?? 1) - 1) * source.k.step;
  const [row, col] = source.n.axis === 0 ? [lastN, lastK] : [lastK, lastN];
  if (row >= rows || col >= cols || source.n.start < 0 || source.k.start < 0)
    return `index [${row}, ${col}] leaves the ${rows} × ${cols} matrix`;
  const banks = layout.bank ?? 1;
  if (source.bankRows !== undefined && (source.shape[0] ?? 0) !== banks * source.bankRows)
    return `${source.shape[0] ?? 0} rows are not ${banks} banks of ${source.bankRows}`;
  const leading = layout.bank !== undefined && source.bankRows === undefined && !source.name.includes('{e}');
  if (leading && source.shape[0] !== banks) return `${source.shape[0] ?? 0} banks, not ${banks}`;
  return undefined;
}

/** What is wrong with the parts of a weight: rows that do not add up, sources that reach outside their tensor. */
export function weightProblems(type: TensorType, role: WeightRole): readonly string[] {
  const layout = weightLayout(type, role);
  if (layout === undefined) return [`a weight cannot have the shape [${type.shape.join(', ')}]`];
  const problems: string[] = [];
  if (isQuantName(type.dtype) && (layout.k === undefined || layout.k % QUANT_GROUP !== 0)) problems.push(`${type.dtype} is for rows of whole groups of ${QUANT_GROUP}`);
  const rows = role.parts.reduce((n, part) => n + part.rows, 0);
  if (rows !== layout.n) problems.push(`parts have ${rows} rows, the weight ${layout.n}`);
  for (const part of role.parts) {
    if (part.sources.length === 0) problems.push('a part has no source');
    for (const source of part.sources) {
      try {
        const problem = sourceProblem(part, source, layout);
        if (problem !== undefined) problems.push(`${source.name}: ${problem}`);
      } catch (error) {
        problems.push(error instanceof Error ? error.message : String(error));
      }
    }
  }
  return problems;
}
