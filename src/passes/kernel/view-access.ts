/**
 * Reading the rows of a matrix view. What does not depend on the column is computed once before the
 * loop; a row whose guard is false reads as zeros and its index is not evaluated.
 */
import * as b from '../../ir/kernel/build.ts';
import type { Expr, Stmt, View } from '../../ir/kernel/types.ts';
import { exprKey, mapOperands, someExpr, substitute } from '../../ir/kernel/walk.ts';
import type { Fresh } from './fresh.ts';

/** A row made ready: `index` is over the variable `view.col` and cheap; `guard` is a boolean variable. */
export interface RowAccess {
  readonly view: View;
  readonly index: Expr;
  readonly guard: Expr | undefined;
}

const isLeaf = (e: Expr): boolean => e.k === 'var' || e.k === 'const' || e.k === 'builtin' || e.k === 'scalar';
/** What must not be computed for a row that is not there: reads, and divisions by what may be 0. */
const canFault = (e: Expr): boolean =>
  someExpr(e, (x) => x.k === 'load' || (x.k === 'bin' && (x.op === '/' || x.op === '%') && x.b.k !== 'const'));

/** The terms of a sum of u32. */
const terms = (e: Expr): readonly Expr[] =>
  e.k === 'bin' && e.op === '+' && e.ty.elem === 'u32' ? [...terms(e.a), ...terms(e.b)] : [e];

/** Statements that must stand before, each expression hoisted only once. */
export class Hoisted {
  readonly stmts: Stmt[] = [];
  readonly #made = new Map<string, Expr>();
  readonly #fresh: Fresh;

  constructor(fresh: Fresh) {
    this.#fresh = fresh;
  }

  /** A variable that holds `e`; where `guard` is false and `e` could fault it holds 0. */
  bind(e: Expr, guard: Expr | undefined, name: string): Expr {
    if (isLeaf(e)) return e;
    const guarded = guard !== undefined && canFault(e);
    const key = guarded ? `${exprKey(guard)} ? ${exprKey(e)}` : exprKey(e);
    const known = this.#made.get(key);
    if (known !== undefined) return known;
    const v = b.variable(this.#fresh(name), e.ty);
    this.#made.set(key, v);
    if (v.k !== 'var') return v;
    if (guarded) this.stmts.push(b.var_(v.name, b.u32(0)), b.if_(guard, [b.assign(v.name, e)]));
    else this.stmts.push(b.let_(v.name, e));
    return v;
  }

  /** `e` with the parts that `varies` does not hold of moved before the loop; sums are regrouped so that they stay one part. */
  split(e: Expr, varies: (e: Expr) => boolean, guard: Expr | undefined, name: string): Expr {
    if (!varies(e)) return e.ty.elem === 'u32' ? this.bind(e, guard, name) : e;
    const all = terms(e);
    if (all.length > 1) {
      const fixed = all.filter((x) => !varies(x));
      const rest = all.filter(varies).map((x) => this.split(x, varies, guard, name));
      const [first, ...more] = fixed.length === 0 ? rest : [this.bind(sum(fixed), guard, name), ...rest];
      return first === undefined ? b.u32(0) : b.add(first, ...more);
    }
    return mapOperands(e, (a) => this.split(a, varies, guard, name));
  }
}

const sum = (xs: readonly Expr[]): Expr => xs.reduce((x, y) => b.add(x, y), b.u32(0));

/** Prepares row `row` of a view; `name` begins the names of what is hoisted. */
export function rowAccess(view: View, row: Expr, hoisted: Hoisted, name: string): RowAccess {
  const at = new Map([[view.row, row]]);
  const raw = view.guard === undefined ? undefined : substitute(view.guard, at);
  const guard = raw === undefined || (raw.k === 'const' && raw.value !== 0) ? undefined : hoisted.bind(raw, undefined, `${name}_in`);
  const usesCol = (e: Expr): boolean => someExpr(e, (x) => x.k === 'var' && x.name === view.col);
  return { view, index: hoisted.split(substitute(view.index, at), usesCol, guard, `${name}_at`), guard };
}

/**
 * Statements that bind `name` to one access of the row at element column `col`, as f32 (a word of packed rows). A branch, not a
 * select, guards buffers that the kernel writes: another thread may be writing the cell a select would read.
 *
 * @param used false where nobody looks at the value: the access may lie beyond the row and is not made
 */
export function readRow(row: RowAccess, col: Expr, name: string, written: ReadonlySet<string>, used?: Expr): readonly Stmt[] {
  const { view, guard } = row;
  const index = substitute(row.index, new Map([[view.col, col]]));
  const reads = used === undefined ? guard : guard === undefined ? used : b.and(used, guard);
  // Packed rows are read as they are stored.
  const load = view.packed === undefined ? b.loadF32 : b.load;
  if (reads === undefined) return [b.let_(name, load(view.buf, index))];
  const zero = view.packed === undefined ? b.splat(view.buf.lanes, b.f32(0)) : b.u32(0);
  if (written.has(view.buf.name) || canFault(index)) {
    return [b.var_(name, zero), b.if_(reads, [b.assign(name, load(view.buf, index))])];
  }
  const safe = load(view.buf, b.select(reads, index, b.u32(0)));
  return [b.let_(name, guard === undefined ? safe : b.select(guard, safe, zero))];
}
