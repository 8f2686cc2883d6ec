/** Products with 16-bit operands, ready to run as printed CUDA, and their results in f64 from the operands as they are stored. */
import { evalSize } from '../../../src/base/size.ts';
import type { PlanData } from '../../../src/ir/graph/evaluate/data.ts';
import type { TypedArray } from '../../../src/ir/kernel/interpret.ts';
import { bf16ToNumber, f16ToNumber } from '../../../src/ir/kernel/numerics.ts';
import { DROPPED, groupedLinear, headLinear, linear } from '../../../src/kernels/index.ts';
import type { GroupedProblem, Launch, LinearProblem, TileSchedule } from '../../../src/kernels/index.ts';
import type { Capabilities } from '../../../src/target/types.ts';
import { memoryOf, random, stored } from '../../kernels/dense/harness.ts';
import { dataOf, reference } from '../../kernels/moe/harness.ts';
import type { Tensor } from '../../kernels/moe/harness.ts';
import { makePlan } from '../../kernels/moe/plans.ts';

export type Half = 'f16' | 'bf16';
type Memory = Record<string, TypedArray>;

/** What a run must give: rows of the result `name`; rows that nobody may write are left out. */
interface Wanted {
  readonly name: string;
  readonly elem: Half | 'f32';
  readonly columns: number;
  readonly rows: readonly number[];
  readonly values: ArrayLike<number>;
}

export interface Product {
  readonly launch: Launch;
  readonly T: number;
  readonly grid: readonly [number, number, number];
  /** Fresh memory for a run; results hold a mark that no product gives. */
  memory(): Memory;
  readonly wanted: readonly Wanted[];
}

/** What results hold before a run, in f32 and in 16 bits: NaN. */
const MARK = NaN;
const MARK_HALF = 0x7fff;

const results = (n: number, elem: Half | 'f32'): TypedArray =>
  elem === 'f32' ? new Float32Array(n).fill(MARK) : new Uint16Array(n).fill(MARK_HALF);

const numbers = (a: TypedArray, elem: Half | 'f32'): ArrayLike<number> =>
  elem === 'f32' ? a : Float64Array.from(a, elem === 'f16' ? f16ToNumber : bf16ToNumber);

export interface Errors {
  /** Σ (got − want)² / Σ want² over all results together, and the largest of any single row. */
  readonly nmse: number;
  readonly rowNmse: number;
  /** Rows that the product must leave alone and did not. */
  readonly strayRows: number;
}

export function errorsOf(p: Product, memory: Memory): Errors {
  let [error, energy, worst, stray] = [0, 0, 0, 0];
  for (const { name, elem, columns, rows, values } of p.wanted) {
    const got = numbers(memory[name] ?? new Float32Array(0), elem);
    const used = new Set(rows);
    for (let row = 0; row < got.length / columns; row++) {
      let [e, n] = [0, 0];
      for (let c = 0; c < columns; c++) {
        const [a, w] = [got[row * columns + c] ?? NaN, values[row * columns + c] ?? 0];
        if (!used.has(row)) stray += Number.isNaN(a) ? 0 : 1;
        else {
          e += (a - w) ** 2;
          n += w * w;
        }
      }
      if (!used.has(row)) continue;
      error += e;
      energy += n;
      worst = Math.max(worst, Number.isNaN(e) ? Infinity : e / n);
    }
  }
  return { nmse: Number.isNaN(error) ? Infinity : error / energy, rowNmse: worst, strayRows: stray };
}

function gridOf(launch: Launch, T: number): readonly [number, number, number] {
  const env = { T, past: 0, seq: T, cap: 0 };
  const [x, y, z] = launch.grid;
  return [evalSize(x, env), evalSize(y, env), evalSize(z, env)];
}

/** Ids of a call in which the first expert gets most rows, the last but one none; every ninth slot is dropped where `drop` says so. */
export const skewedIds = (T: number, slots: number, experts: number, drop: boolean): Uint32Array =>
  Uint32Array.from({ length: T * slots }, (_, i) => {
    const [token, slot] = [Math.floor(i / slots), i % slots];
    if (drop && i % 9 === 4) return DROPPED;
    const other = 1 + ((token * 7 + slot) % (experts - 1));
    const expert = slot === 0 && token % 8 !== 3 ? 0 : other;
    return experts > 2 && expert === experts - 2 ? experts - 1 : expert;
  });

export interface GroupedCase extends Partial<GroupedProblem> {
  readonly T: number;
  readonly tile: TileSchedule;
  readonly elem?: Half;
}

export function grouped({ T, tile, elem = 'bf16', ...form }: GroupedCase, caps: Capabilities): Product {
  const p: GroupedProblem = {
    experts: 6, slots: 2, mode: 'sorted', tileRows: tile.bm, n: 72, k: 200, gather: true, epilogue: { kind: 'glu', activation: 'silu' },
    weightElem: elem, xElem: elem, routeWeights: false, combine: false, scale: 1, residual: false, ...form,
  };
  const launch = groupedLinear(p, { tile }, caps);
  const operands: Memory = {};
  const ins: Record<string, Tensor | PlanData> = {};
  const add = (name: string, shape: Tensor['shape'], values: Float32Array, as: Half | 'f32' = elem): void => {
    const kept = stored(values, as);
    operands[name] = kept.data;
    ins[name] = { shape, data: kept.values };
  };
  const { buffer, want: plan } = makePlan(skewedIds(T, p.slots, p.experts, !p.gather), p.experts, p.slots, p.tileRows);
  operands['plan'] = buffer;
  ins['plan'] = plan;
  const products = p.epilogue.kind === 'glu' ? 2 : 1;
  const x = random((p.gather ? T : T * p.slots) * p.k, 1);
  // Rows without an expert are never read into a result.
  if (!p.gather) plan.expertOf.forEach((e, row) => e < 0 && x.fill(NaN, row * p.k, (row + 1) * p.k));
  add('x', [p.gather ? 'T' : 'P', p.k], x);
  add('weight', [p.experts, products * p.n, p.k], random(p.experts * products * p.n * p.k, 2));
  if (p.biasElem !== undefined) add('bias', [p.experts, products * p.n], random(p.experts * products * p.n, 3));
  if (p.routeWeights) add('routeWeights', ['T', p.slots], random(T * p.slots, 4), 'f32');
  const { shared } = p;
  if (shared !== undefined) {
    if (shared.ownX) add('sharedX', ['T', shared.k], random(T * shared.k, 5));
    add('sharedWeight', [products * shared.n, shared.k], random(products * shared.n * shared.k, 6));
    if (shared.biasElem !== undefined) add('sharedBias', [products * shared.n], random(products * shared.n, 7));
  }
  const want = reference('moe.grouped_linear', ins, { epilogue: p.epilogue, gather: p.gather, scale: 1, combine: false, weighted: false }, { T });
  const rows = Array.from(plan.expertOf.keys()).filter((row) => (plan.expertOf[row] ?? -1) >= 0);
  const wanted: Wanted[] = [{ name: 'y', elem: p.yElem ?? 'f32', columns: p.n, rows, values: dataOf(want, 'y') }];
  if (shared !== undefined) {
    const tokens = Array.from({ length: T }, (_, t) => t);
    wanted.push({ name: 'shared', elem: shared.yElem ?? 'f32', columns: shared.n, rows: tokens, values: dataOf(want, 'shared') });
  }
  const memory = (): Memory => {
    const fresh: Memory = { y: results(T * p.slots * p.n, p.yElem ?? 'f32'), shared: results(T * (shared?.n ?? 0), shared?.yElem ?? 'f32') };
    for (const [name, data] of Object.entries(operands)) fresh[name] = data.slice();
    return memoryOf(launch, fresh);
  };
  return { launch, T, grid: gridOf(launch, T), memory, wanted };
}

export interface DenseCase extends Partial<LinearProblem> {
  readonly T: number;
  readonly tile: TileSchedule;
  readonly elem?: Half;
  /** More than 1: each multiplies its columns of x by a matrix of its own; no bias then, and no residual. */
  readonly heads?: number;
}

/** y = scale · (x · weightᵀ + bias) + residual, without an activation. */
export function dense({ T, tile, elem = 'bf16', heads = 1, ...form }: DenseCase, caps: Capabilities): Product {
  const p: LinearProblem = {
    n: 72, k: 200, epilogue: { kind: 'none' }, scale: 1, residual: false, weightElem: elem, xElem: elem, ...form,
  };
  const schedule = { ...tile, oneRow: 0 } as const;
  const launch = heads === 1 ? linear(p, schedule, caps) : headLinear({ ...p, weightElem: elem, heads }, schedule, caps);
  const x = stored(random(T * heads * p.k, 1), elem);
  const weight = stored(random(heads * p.n * p.k, 2), elem);
  const bias = stored(random(p.n, 3), elem);
  const residual = random(T * p.n, 4);
  const columns = heads * p.n;
  const values = new Float64Array(T * columns);
  for (let t = 0; t < T; t++) {
    for (let c = 0; c < columns; c++) {
      const from = (t * heads + Math.floor(c / p.n)) * p.k;
      let sum = p.biasElem === undefined ? 0 : (bias.values[c] ?? 0);
      for (let k = 0; k < p.k; k++) sum += (x.values[from + k] ?? 0) * (weight.values[c * p.k + k] ?? 0);
      values[t * columns + c] = sum * p.scale + (p.residual ? (residual[t * columns + c] ?? 0) : 0);
    }
  }
  const rows = Array.from({ length: T }, (_, t) => t);
  const memory = (): Memory => {
    const y = results(T * columns, p.yElem ?? 'f32');
    return memoryOf(launch, { x: x.data.slice(), weight: weight.data.slice(), bias: bias.data.slice(), residual: residual.slice(), y });
  };
  return { launch, T, grid: gridOf(launch, T), memory, wanted: [{ name: 'y', elem: p.yElem ?? 'f32', columns, rows, values }] };
}
