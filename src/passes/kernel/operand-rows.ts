/**
 * What main loops read of the rows of an operand, step by step along the depth, whatever way the rows are stored. Expansions
 * know runs of f32 values only; a storage form is one more reader here.
 */
import * as b from '../../ir/kernel/build.ts';
import type { Expr, Lanes, Stmt, View } from '../../ir/kernel/types.ts';
import type { Fresh } from './fresh.ts';
import { packedRows } from './packed-rows.ts';
import { readRow, rowAccess } from './view-access.ts';
import type { Hoisted } from './view-access.ts';

/** Neighbouring elements of a row in f32: element k is lane k % lanes of value k / lanes. */
export interface Run {
  readonly lanes: Lanes;
  readonly values: readonly Expr[];
}

export interface ReadRun extends Run {
  /** Bind what the values are made of. */
  readonly stmts: readonly Stmt[];
}

/** A row made ready: what does not depend on the depth is computed before the loop. */
export interface OperandRow {
  /** Binds what the elements of k's group share. `read` and the loops over a group's elements stand where that is in scope. */
  begin(k: Expr): readonly Stmt[];
  /**
   * Elements k … k + count − 1: k is a multiple of `unit`; the last access may hold more than the row has. Where the row's guard is
   * false they are zeros; where `used` is false nobody looks at them, and they may lie beyond the row. Neither reads that memory.
   */
  read(k: Expr, count: number, used?: Expr): ReadRun;
}

export interface OperandRows {
  /** Elements of one access: the smallest run. */
  readonly unit: number;
  /** Elements that share what `begin` binds: a multiple of `unit`. */
  readonly group: number;
  /** Lanes of the values of a run. */
  readonly lanes: Lanes;
  row(row: Expr, hoisted: Hoisted, index?: number): OperandRow;
}

/** How the rows of a view are read. */
export function operandRows(view: View, fresh: Fresh, written: ReadonlySet<string>): OperandRows {
  return view.packed === undefined ? plainRows(view, fresh, written) : packedRows(view, view.packed, fresh, written);
}

/** Rows of f32, f16 or bf16: an access is `lanes` elements, and nothing is shared between accesses. */
function plainRows(view: View, fresh: Fresh, written: ReadonlySet<string>): OperandRows {
  const { lanes, name } = view.buf;
  return {
    unit: lanes,
    group: lanes,
    lanes,
    row(row, hoisted, index) {
      const access = rowAccess(view, row, hoisted, name);
      return {
        begin: () => [],
        read(k, count, used) {
          const stmts: Stmt[] = [];
          const values = Array.from({ length: Math.ceil(count / lanes) }, (_, j) => {
            const value = fresh(`${name}${index ?? '_next'}`);
            stmts.push(...readRow(access, b.add(k, b.u32(j * lanes)), value, written, used));
            return b.variable(value, b.ty('f32', lanes));
          });
          return { lanes, values, stmts };
        },
      };
    },
  };
}

/** Element k of a run. */
export function element(run: Run, k: number): Expr {
  const value = run.values[Math.floor(k / run.lanes)];
  if (value === undefined) throw new Error('the step is longer than what was read for it');
  return b.lane(value, k % run.lanes);
}

/** The least depth that is a whole number of accesses of every operand: all their units are powers of two. */
export const stepDepth = (operands: readonly OperandRows[]): number => Math.max(...operands.map((o) => o.unit));

export interface Walk {
  readonly depth: number;
  /** Elements of one step: a whole number of accesses of every operand. */
  readonly step: number;
  /** First element, where it is not the row's first; a multiple of every group. */
  readonly from?: Expr;
  readonly unroll?: boolean;
  /** Of the loop variable. */
  readonly name?: string;
}

/**
 * Steps along the depth: `body` for each whole step and for what is left, each element once, in ascending order; what the
 * elements of a group share is bound before the steps of the group.
 */
export function alongDepth(
  { depth, step, from = b.u32(0), unroll = false, name = 'k' }: Walk, fresh: Fresh,
  operands: readonly { readonly rows: OperandRows; readonly ready: readonly OperandRow[] }[],
  body: (k: Expr, count: number) => readonly Stmt[],
): readonly Stmt[] {
  const group = Math.max(...operands.map((o) => o.rows.group));
  const begin = (k: Expr): readonly Stmt[] => operands.flatMap((o) => o.ready.flatMap((row) => row.begin(k)));
  /** Steps over `length` elements from `k0` on, each of which `each` makes. */
  const steps = (k0: Expr, length: number, size: number, each: (k: Expr, count: number) => readonly Stmt[], hint: boolean): readonly Stmt[] => {
    const full = Math.floor(length / size);
    const tail = length % size;
    const loop = full === 0 ? [] : [b.for_(fresh(name), b.u32(0), b.u32(full), 1, (i) => each(b.add(k0, b.mul(i, b.u32(size))), size), hint)];
    return [...loop, ...(tail === 0 ? [] : each(b.add(k0, b.u32(full * size)), tail))];
  };
  if (group <= step) return steps(from, depth, step, (k, count) => [...begin(k), ...body(k, count)], unroll);
  return steps(from, depth, group, (k, count) => [...begin(k), ...steps(k, count, step, body, unroll)], false);
}
