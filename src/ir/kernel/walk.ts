/** Traversal and rebuilding of kernel IR: everything passes and printers need to look at each part once. */
import { assertNever } from '../../base/assert-never.ts';
import type { Buffer, Expr, Kernel, MachineArg, Stmt, View } from './types.ts';

// ---------------------------------------------------------------- expressions

const NONE: readonly Expr[] = [];

/** Direct operands, in order of evaluation. */
export function operands(e: Expr): readonly Expr[] {
  switch (e.k) {
    case 'const':
    case 'var':
    case 'builtin':
    case 'scalar':
      return NONE;
    case 'un':
    case 'cast':
    case 'bitcast':
    case 'lane':
    case 'splat':
    case 'subgroup':
      return [e.a];
    case 'bin':
      return [e.a, e.b];
    case 'call':
    case 'pack':
      return e.args;
    case 'select':
      return [e.cond, e.a, e.b];
    case 'load':
      return [e.index];
    default:
      return assertNever(e);
  }
}

/** The same expression over other operands; `e` itself where none of them changed. */
export function mapOperands(e: Expr, f: (operand: Expr) => Expr): Expr {
  switch (e.k) {
    case 'const':
    case 'var':
    case 'builtin':
    case 'scalar':
      return e;
    case 'un':
    case 'cast':
    case 'bitcast':
    case 'lane':
    case 'splat':
    case 'subgroup': {
      const a = f(e.a);
      return a === e.a ? e : { ...e, a };
    }
    case 'bin': {
      const a = f(e.a);
      const b = f(e.b);
      return a === e.a && b === e.b ? e : { ...e, a, b };
    }
    case 'call':
    case 'pack': {
      const args = e.args.map(f);
      return args.every((a, i) => a === e.args[i]) ? e : { ...e, args };
    }
    case 'select': {
      const cond = f(e.cond);
      const a = f(e.a);
      const b = f(e.b);
      return cond === e.cond && a === e.a && b === e.b ? e : { ...e, cond, a, b };
    }
    case 'load': {
      const index = f(e.index);
      return index === e.index ? e : { ...e, index };
    }
    default:
      return assertNever(e);
  }
}

/** Rebuilds bottom-up: `f` sees each node with its operands already rebuilt. */
export function mapExpr(e: Expr, f: (e: Expr) => Expr): Expr {
  const rebuild = (x: Expr): Expr => f(mapOperands(x, rebuild));
  return rebuild(e);
}

/** Visits every node, operands first. */
export function visitExpr(e: Expr, f: (e: Expr) => void): void {
  for (const a of operands(e)) visitExpr(a, f);
  f(e);
}

/** Whether any node satisfies `p`. */
export const someExpr = (e: Expr, p: (e: Expr) => boolean): boolean => p(e) || operands(e).some((a) => someExpr(a, p));

/** Replaces variables by expressions. */
export function substitute(e: Expr, bindings: ReadonlyMap<string, Expr>): Expr {
  if (bindings.size === 0) return e;
  return mapExpr(e, (x) => (x.k === 'var' ? (bindings.get(x.name) ?? x) : x));
}

const keys = new WeakMap<Expr, string>();

/** Text equal for structurally equal expressions, and for no others. */
export function exprKey(e: Expr): string {
  const known = keys.get(e);
  if (known !== undefined) return known;
  const key = makeKey(e);
  keys.set(e, key);
  return key;
}

function makeKey(e: Expr): string {
  const t = `${e.ty.elem}${e.ty.lanes}`;
  const inner = operands(e).map(exprKey).join(',');
  switch (e.k) {
    case 'const':
      return `${t}#${Object.is(e.value, -0) ? '-0' : e.value}`;
    case 'var':
      return `${t}$${JSON.stringify(e.name)}`;
    case 'builtin':
      return `@${e.id}`;
    case 'scalar':
      return `%${e.name}`;
    case 'un':
    case 'bin':
      return `${t}(${e.op} ${inner})`;
    case 'call':
      return `${t}(${e.fn} ${inner})`;
    case 'lane':
      return `${t}(lane${e.i} ${inner})`;
    case 'load':
      return `${t}(load ${JSON.stringify(e.buf.name)} ${inner})`;
    case 'subgroup':
      return `${t}(sg.${e.op}${e.lane ?? ''} ${inner})`;
    case 'cast':
    case 'bitcast':
    case 'splat':
    case 'pack':
    case 'select':
      return `${t}(${e.k} ${inner})`;
    default:
      return assertNever(e);
  }
}

export const sameExpr = (a: Expr, b: Expr): boolean => a === b || (a.k === b.k && exprKey(a) === exprKey(b));

// ---------------------------------------------------------------- statements

const viewExprs = (v: View): readonly Expr[] => [
  ...(v.guard === undefined ? [] : [v.guard]),
  v.index,
  ...(v.matrix === undefined ? [] : [v.matrix.first]),
  ...(v.packed === undefined ? [] : [v.packed.scale]),
];

const argExprs = (a: MachineArg): readonly Expr[] => (a.k === 'value' ? [a.value] : a.k === 'address' ? [a.index] : NONE);

const mapArg = (a: MachineArg, f: (e: Expr) => Expr): MachineArg =>
  a.k === 'value' ? { ...a, value: f(a.value) } : a.k === 'address' ? { ...a, index: f(a.index) } : a;

/** Expressions that stand directly in a statement, in order of evaluation; not those of nested statements. */
export function exprsOf(s: Stmt): readonly Expr[] {
  switch (s.k) {
    case 'let':
    case 'var':
    case 'assign':
    case 'tile.reduce':
    case 'tile.row':
    case 'tile.fold':
      return [s.value];
    case 'tile.update':
      return s.to;
    case 'tile.stage':
      return viewExprs(s.view);
    case 'store':
    case 'atomic':
      return [s.index, s.value];
    case 'for':
      return [s.from, s.to];
    case 'if':
      return [s.cond];
    case 'tile.mainloop':
      return [s.a, ...s.b].flatMap(viewExprs);
    case 'machine':
      return s.args.flatMap(argExprs);
    case 'alloc':
    case 'barrier':
    case 'note':
    case 'tile.alloc':
    case 'tile.map':
    case 'tile.await':
    case 'tile.product':
      return NONE;
    default:
      return assertNever(s);
  }
}

const NO_BODIES: readonly (readonly Stmt[])[] = [];

/** Bodies nested in a statement. */
export function bodiesOf(s: Stmt): readonly (readonly Stmt[])[] {
  switch (s.k) {
    case 'for':
    case 'tile.map':
      return [s.body];
    case 'if':
      return [s.then, s.else];
    default:
      return NO_BODIES;
  }
}

/** Every statement, outer before inner, in text order. */
export function walkStmts(body: readonly Stmt[]): readonly Stmt[] {
  const all: Stmt[] = [];
  const collect = (stmts: readonly Stmt[]): void => {
    for (const s of stmts) {
      all.push(s);
      for (const inner of bodiesOf(s)) collect(inner);
    }
  };
  collect(body);
  return all;
}

/** Visits every expression node of a body. */
export function visitExprs(body: readonly Stmt[], f: (e: Expr) => void): void {
  for (const s of walkStmts(body)) for (const e of exprsOf(s)) visitExpr(e, f);
}

function mapView(v: View, f: (e: Expr) => Expr): View {
  const mapped = {
    ...v,
    index: f(v.index),
    ...(v.matrix !== undefined && { matrix: { ...v.matrix, first: f(v.matrix.first) } }),
    ...(v.packed !== undefined && { packed: { ...v.packed, scale: f(v.packed.scale) } }),
  };
  return v.guard === undefined ? mapped : { ...mapped, guard: f(v.guard) };
}

/**
 * The same statement with each of its own expressions replaced by `f` of it; nested bodies stay. Gives the
 * statement itself where nothing changed.
 */
export function mapExprsOf(s: Stmt, f: (e: Expr) => Expr): Stmt {
  switch (s.k) {
    case 'let':
    case 'var':
    case 'assign':
    case 'tile.reduce':
    case 'tile.row':
    case 'tile.fold': {
      const value = f(s.value);
      return value === s.value ? s : { ...s, value };
    }
    case 'store':
    case 'atomic': {
      const index = f(s.index);
      const value = f(s.value);
      return index === s.index && value === s.value ? s : { ...s, index, value };
    }
    case 'for': {
      const from = f(s.from);
      const to = f(s.to);
      return from === s.from && to === s.to ? s : { ...s, from, to };
    }
    case 'if': {
      const cond = f(s.cond);
      return cond === s.cond ? s : { ...s, cond };
    }
    case 'tile.mainloop':
      return { ...s, a: mapView(s.a, f), b: s.b.map((v) => mapView(v, f)) };
    case 'tile.stage':
      return { ...s, view: mapView(s.view, f) };
    case 'tile.update':
      return { ...s, to: s.to.map(f) };
    case 'machine':
      return { ...s, args: s.args.map((a) => mapArg(a, f)) };
    case 'alloc':
    case 'barrier':
    case 'note':
    case 'tile.alloc':
    case 'tile.map':
    case 'tile.await':
    case 'tile.product':
      return s;
    default:
      return assertNever(s);
  }
}

/** The same statement over other nested bodies. */
export function mapBodiesOf(s: Stmt, f: (body: readonly Stmt[]) => readonly Stmt[]): Stmt {
  switch (s.k) {
    case 'for':
    case 'tile.map':
      return { ...s, body: f(s.body) };
    case 'if':
      return { ...s, then: f(s.then), else: f(s.else) };
    default:
      return s;
  }
}

/** Rebuilds bottom-up: `f` sees each statement with its bodies already rebuilt and gives what takes its place. */
export const mapStmts = (body: readonly Stmt[], f: (s: Stmt) => readonly Stmt[]): readonly Stmt[] =>
  body.flatMap((s) => f(mapBodiesOf(s, (inner) => mapStmts(inner, f))));

/** Replaces every expression of a body, whole expressions at a time. */
export const mapExprs = (body: readonly Stmt[], f: (e: Expr) => Expr): readonly Stmt[] =>
  mapStmts(body, (s) => [mapExprsOf(s, f)]);

/** Names a statement binds itself (not those bound in nested bodies, except what it binds for them). */
export function namesBoundBy(s: Stmt): readonly string[] {
  switch (s.k) {
    case 'let':
    case 'var':
    case 'for':
    case 'tile.reduce':
      return [s.name];
    case 'atomic':
      return s.result === undefined ? [] : [s.result];
    case 'tile.map':
    case 'tile.update':
      return [s.row, s.col, ...s.values];
    case 'tile.row':
      return s.assign ? [s.row] : [s.name, s.row];
    case 'tile.fold':
      return [s.name, s.row, s.col, ...s.values];
    default:
      return [];
  }
}

/**
 * A copy of a body in which every variable bound inside gets a new name and every variable bound outside
 * that `bindings` knows is replaced. Used where a body is written out several times.
 */
export function instantiate(body: readonly Stmt[], bindings: ReadonlyMap<string, Expr>, rename: (name: string) => string): readonly Stmt[] {
  const names = new Map<string, string>();
  for (const s of walkStmts(body)) for (const n of namesBoundBy(s)) if (!names.has(n)) names.set(n, rename(n));
  const nameOf = (n: string): string => names.get(n) ?? n;
  const expr = (e: Expr): Expr =>
    mapExpr(e, (x) => {
      if (x.k !== 'var') return x;
      const renamed = names.get(x.name);
      return renamed !== undefined ? { ...x, name: renamed } : (bindings.get(x.name) ?? x);
    });
  return mapStmts(body, (s) => {
    const t = mapExprsOf(s, expr);
    switch (t.k) {
      case 'let':
      case 'var':
      case 'assign':
      case 'for':
      case 'tile.reduce':
        return [{ ...t, name: nameOf(t.name) }];
      case 'atomic':
        return [t.result === undefined ? t : { ...t, result: nameOf(t.result) }];
      case 'tile.map':
      case 'tile.update':
        return [{ ...t, row: nameOf(t.row), col: nameOf(t.col), values: t.values.map(nameOf) }];
      case 'tile.row':
        return [{ ...t, name: nameOf(t.name), row: nameOf(t.row) }];
      case 'tile.fold':
        return [{ ...t, name: nameOf(t.name), row: nameOf(t.row), col: nameOf(t.col), values: t.values.map(nameOf) }];
      default:
        return [t];
    }
  });
}

// ---------------------------------------------------------------- kernels

/** Shared and register buffers of a body, in order of their `alloc`. */
export function allocated(body: readonly Stmt[]): readonly Buffer[] {
  const found: Buffer[] = [];
  for (const s of walkStmts(body)) if (s.k === 'alloc') found.push(s.buf);
  return found;
}

/** Replaces buffers wherever they stand: parameters, allocations, views, loads, stores and atomics. */
export function mapBuffers(kernel: Kernel, f: (buf: Buffer) => Buffer): Kernel {
  const expr = (e: Expr): Expr =>
    mapExpr(e, (x) => {
      const buf = x.k === 'load' ? f(x.buf) : undefined;
      return x.k === 'load' && buf !== undefined && buf !== x.buf ? { ...x, buf } : x;
    });
  const view = (v: View): View => ({ ...v, buf: f(v.buf) });
  const body = mapStmts(kernel.body, (s) => {
    const t = mapExprsOf(s, expr);
    switch (t.k) {
      case 'alloc':
      case 'store':
      case 'atomic':
        return [{ ...t, buf: f(t.buf) }];
      case 'tile.mainloop':
        return [{ ...t, a: view(t.a), b: t.b.map(view) }];
      case 'tile.stage':
        return [{ ...t, view: view(t.view) }];
      case 'machine':
        return [{ ...t, args: t.args.map((a) => (a.k === 'address' ? { ...a, buf: f(a.buf) } : a)) }];
      default:
        return [t];
    }
  });
  return { ...kernel, params: kernel.params.map(f), body };
}

/** Every name a kernel uses for buffers, tiles or variables. */
export function allNames(kernel: Kernel): Set<string> {
  const names = new Set<string>(kernel.params.map((p) => p.name));
  for (const s of walkStmts(kernel.body)) {
    for (const n of namesBoundBy(s)) names.add(n);
    if (s.k === 'alloc') names.add(s.buf.name);
    if (s.k === 'tile.alloc') names.add(s.tile.name);
    if (s.k === 'tile.stage') names.add(s.block.name);
  }
  return names;
}
