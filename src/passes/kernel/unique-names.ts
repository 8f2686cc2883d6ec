/** Gives every variable of a kernel a name of its own: what follows may look things up by name alone. */
import type { Expr, Kernel, Stmt } from '../../ir/kernel/types.ts';
import { mapExpr, mapExprsOf } from '../../ir/kernel/walk.ts';

/** Works on the simt level. The first binding of a name keeps it; later ones get `_2`, `_3` … */
export function uniqueNames(kernel: Kernel): Kernel {
  const taken = new Set<string>(kernel.params.map((p) => p.name));
  const fresh = (base: string): string => {
    let name = base;
    for (let i = 2; taken.has(name); i++) name = `${base}_${i}`;
    taken.add(name);
    return name;
  };
  const body = (stmts: readonly Stmt[], outer: ReadonlyMap<string, string>): readonly Stmt[] => {
    const scope = new Map(outer);
    const bind = (name: string): string => {
      const made = fresh(name);
      scope.set(name, made);
      return made;
    };
    const expr = (e: Expr): Expr =>
      mapExpr(e, (x) => {
        const name = x.k === 'var' ? (scope.get(x.name) ?? x.name) : undefined;
        return x.k === 'var' && name !== undefined && name !== x.name ? { ...x, name } : x;
      });
    return stmts.map((s): Stmt => {
      if (s.k === 'for') {
        const from = expr(s.from);
        const inner = new Map(scope);
        const name = fresh(s.name);
        inner.set(s.name, name);
        const outerScope = new Map(scope);
        scope.set(s.name, name);
        const to = expr(s.to);
        scope.clear();
        outerScope.forEach((v, k) => scope.set(k, v));
        return { ...s, name, from, to, body: body(s.body, inner) };
      }
      const t = mapExprsOf(s, expr);
      switch (t.k) {
        case 'let':
        case 'var':
          return { ...t, name: bind(t.name) };
        case 'assign':
          return { ...t, name: scope.get(t.name) ?? t.name };
        case 'atomic':
          return t.result === undefined ? t : { ...t, result: bind(t.result) };
        case 'if':
          return { ...t, then: body(t.then, scope), else: body(t.else, scope) };
        case 'alloc':
          taken.add(t.buf.name);
          return t;
        default:
          return t;
      }
    });
  };
  return { ...kernel, body: body(kernel.body, new Map()) };
}
