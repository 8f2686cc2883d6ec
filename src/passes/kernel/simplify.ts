/**
 * Simplifies a kernel of the simt level: index algebra with known ranges, branches and loops that are decided,
 * names that nothing uses. Wants unique names, because bodies are lifted out of what encloses them.
 */
import * as b from '../../ir/kernel/build.ts';
import type { Expr, Kernel, Stmt } from '../../ir/kernel/types.ts';
import { mapExprsOf, mapStmts, visitExprs, walkStmts } from '../../ir/kernel/walk.ts';
import { rangeOf } from './range.ts';
import type { Range, Ranges } from './range.ts';
import { simplifyExpr } from './simplify-expr.ts';

export function simplify(kernel: Kernel): Kernel {
  const body = new Simplifier(kernel.block).body(kernel.body);
  return { ...kernel, body: dropUnused(body) };
}

const isEmpty = (body: readonly Stmt[]): boolean => body.every((s) => s.k === 'note');

class Simplifier {
  readonly #variables = new Map<string, Range>();
  readonly #constants = new Map<string, Expr>();
  readonly #ranges: Ranges;

  constructor(block: number) {
    this.#ranges = { block, variables: this.#variables, constants: this.#constants };
  }

  body(stmts: readonly Stmt[]): readonly Stmt[] {
    return stmts.flatMap((s) => this.#stmt(s));
  }

  #expr(e: Expr): Expr {
    return simplifyExpr(e, this.#ranges);
  }

  #stmt(s: Stmt): readonly Stmt[] {
    if (s.k === 'for') return this.#for(s);
    const t = mapExprsOf(s, (e) => this.#expr(e));
    if (t.k === 'let') {
      // let x = c; … x … = … c …
      if (t.value.k === 'const') {
        this.#constants.set(t.name, t.value);
        return [];
      }
      this.#variables.set(t.name, rangeOf(t.value, this.#ranges));
    }
    if (t.k === 'if') {
      // if true A else B = A; if false A else B = B
      if (t.cond.k === 'const') return this.body(t.cond.value !== 0 ? t.then : t.else);
      const then = this.body(t.then);
      const otherwise = this.body(t.else);
      if (isEmpty(then) && isEmpty(otherwise)) return [];
      // if c {} else B = if !c B
      if (isEmpty(then)) return [b.if_(this.#expr(b.not(t.cond)), otherwise)];
      return [{ ...t, then, else: otherwise }];
    }
    return [t];
  }

  #for(s: Extract<Stmt, { k: 'for' }>): readonly Stmt[] {
    const from = this.#expr(s.from);
    const to = this.#expr(s.to);
    const first = rangeOf(from, this.#ranges);
    const last = rangeOf(to, this.#ranges);
    // No iteration.
    if (first.lo >= last.hi) return [];
    // At most one: for (i = a; i < z; i += step) B = if (a < z) { let i = a; B } where a + step >= z.
    if (first.lo + s.step >= last.hi) {
      return this.#stmt(b.if_(b.lt(from, to), [b.let_(s.name, from), ...s.body]));
    }
    this.#variables.set(s.name, { lo: first.lo, hi: last.hi - 1 });
    const body = this.body(s.body);
    return isEmpty(body) ? [] : [{ ...s, from, to, body }];
  }
}

/** Removes names that nothing reads; their values have no effects. */
function dropUnused(body: readonly Stmt[]): readonly Stmt[] {
  for (let now = body; ; ) {
    const used = new Set<string>();
    visitExprs(now, (e) => {
      if (e.k === 'var') used.add(e.name);
    });
    // An assignment alone keeps nothing alive; a variable that a loop carries is read there.
    const isDead = (s: Stmt): boolean => (s.k === 'let' || s.k === 'var' || s.k === 'assign') && !used.has(s.name);
    const doesNothing = (s: Stmt): boolean =>
      s.k === 'if' ? isEmpty(s.then) && isEmpty(s.else) : s.k === 'for' ? isEmpty(s.body) : isDead(s);
    let dropped = false;
    for (const s of walkStmts(now)) dropped ||= isDead(s);
    if (!dropped) return now;
    now = mapStmts(now, (s) => (doesNothing(s) ? [] : [s]));
  }
}
