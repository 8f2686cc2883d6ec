/**
 * Prints kernel IR of the simt level as text of a C-like language. All spelling comes from the
 * dialect; the order of evaluation and every parenthesis come from here. Binary operators keep their
 * parentheses except where + - * / % nest in the usual way: WGSL refuses the other mixtures.
 */
import { assertNever } from '../../base/assert-never.ts';
import type { BinOp, Buffer, Builtin, Expr, Kernel, MachineArg, ScalarName, Stmt } from '../../ir/kernel/types.ts';
import type { Dialect, Namer } from './dialect.ts';
import { namer } from './names.ts';

const PRECEDENCE: Partial<Record<BinOp, number>> = { '+': 1, '-': 1, '*': 2, '/': 2, '%': 2 };
/** Operators that may stand in a chain of themselves without parentheses. */
const CHAINS: ReadonlySet<BinOp> = new Set<BinOp>(['&&', '||', '&', '|', '^']);

interface Context {
  readonly d: Dialect;
  readonly names: Namer;
  readonly shared: Buffer[];
  readonly builtins: Set<Builtin>;
  readonly scalars: Set<ScalarName>;
  /** Some parameter is both read and written. */
  readonly global: boolean;
  subgroups: boolean;
}

/** Text of a comment: printable ASCII, no way to end the comment early. */
export const commentText = (text: string): string =>
  text.replace(/[^\x20-\x7e]+/g, '?').replace(/\*\//g, '* /').replace(/\\$/, '').slice(0, 120);

function binary(c: Context, e: Extract<Expr, { k: 'bin' }>): string {
  const own = PRECEDENCE[e.op];
  const lanes = e.a.ty.lanes > e.b.ty.lanes ? e.a.ty.lanes : e.b.ty.lanes;
  const side = (x: Expr, right: boolean): string => {
    if (x.ty.lanes !== lanes) return c.d.splat({ elem: x.ty.elem, lanes }, argument(c, x));
    const text = expr(c, x);
    if (x.k !== 'bin' || x.op === 'min' || x.op === 'max') return text;
    const inner = PRECEDENCE[x.op];
    if (own !== undefined && inner !== undefined && (right ? inner > own : inner >= own)) return text;
    if (own === undefined && inner !== undefined && isComparison(e.op)) return text;
    if (x.op === e.op && !right && CHAINS.has(e.op)) return text;
    if ((e.op === '&&' || e.op === '||') && isComparison(x.op)) return text;
    return `(${text})`;
  };
  return `${side(e.a, false)} ${e.op} ${side(e.b, true)}`;
}

const isComparison = (op: BinOp): boolean =>
  op === '<' || op === '<=' || op === '>' || op === '>=' || op === '==' || op === '!=';

/** As an operand of a postfix or prefix operator. */
function tight(c: Context, e: Expr): string {
  const text = expr(c, e);
  const isOperator = (e.k === 'bin' && e.op !== 'min' && e.op !== 'max') || e.k === 'un' || text.startsWith('-');
  return isOperator ? `(${text})` : text;
}

/** As an argument of a call: comparisons keep parentheses, or `a < b, c > d` would read as a template. */
function argument(c: Context, e: Expr): string {
  const text = expr(c, e);
  return e.ty.elem === 'bool' && e.k === 'bin' ? `(${text})` : text;
}

function expr(c: Context, e: Expr): string {
  const { d } = c;
  switch (e.k) {
    case 'const':
      return e.ty.lanes === 1 ? d.literal(e.value, e.ty) : d.splat(e.ty, d.literal(e.value, { elem: e.ty.elem, lanes: 1 }));
    case 'var':
      return c.names.variable(e.name);
    case 'builtin':
      c.builtins.add(e.id);
      return d.builtins[e.id];
    case 'scalar':
      c.scalars.add(e.name);
      return d.scalar(e.name);
    case 'un':
      return `${e.op === 'neg' ? '-' : '!'}${tight(c, e.a)}`;
    case 'bin':
      return e.op === 'min' || e.op === 'max' ? d.call(e.op, e.ty, [argument(c, e.a), argument(c, e.b)]) : binary(c, e);
    case 'call':
      return d.call(e.fn, e.ty, e.args.map((a) => argument(c, a)));
    case 'cast':
      return d.cast(e.ty, e.a, expr(c, e.a));
    case 'bitcast':
      return d.bitcast(e.ty, e.a.ty, expr(c, e.a));
    case 'lane':
      return d.lane(tight(c, e.a), e.i);
    case 'splat':
      return d.splat(e.ty, argument(c, e.a));
    case 'pack':
      return d.pack(e.ty, e.args.map((a) => argument(c, a)));
    case 'select':
      return d.select(e.ty, argument(c, e.cond), argument(c, e.a), argument(c, e.b));
    case 'load':
      return d.load(e.buf, c.names.buffer(e.buf), expr(c, e.index));
    case 'subgroup':
      c.subgroups = true;
      return d.subgroup(e.op, e.ty, argument(c, e.a), e.lane);
    default:
      return assertNever(e);
  }
}

/** An operand of a machine instruction; immediates are printed apart. */
function argumentOf(c: Context, a: MachineArg): readonly string[] {
  switch (a.k) {
    case 'value':
      return [argument(c, a.value)];
    case 'address':
      return [c.d.address(a.buf, c.names.buffer(a.buf), expr(c, a.index))];
    case 'map':
      return [c.d.map(c.names.variable(a.name))];
    case 'immediate':
      return [];
  }
}

function block(c: Context, body: readonly Stmt[], pad: string): string[] {
  return body.flatMap((s) => stmt(c, s, pad));
}

function stmt(c: Context, s: Stmt, pad: string): string[] {
  const { d, names } = c;
  const inner = `${pad}  `;
  switch (s.k) {
    case 'note':
      return [`${pad}// ${commentText(s.text)}`];
    case 'let':
      return [pad + d.let(s.value.ty, names.variable(s.name), expr(c, s.value))];
    case 'var':
      return [pad + d.var(s.value.ty, names.variable(s.name), expr(c, s.value))];
    case 'assign':
      return [`${pad}${names.variable(s.name)} = ${expr(c, s.value)};`];
    case 'alloc':
      if (s.buf.scope === 'shared') {
        c.shared.push(s.buf);
        return [];
      }
      return [pad + d.local(s.buf, names.buffer(s.buf))];
    case 'store':
      return [pad + d.store(s.buf, names.buffer(s.buf), expr(c, s.index), expr(c, s.value))];
    case 'atomic': {
      const result = s.result === undefined ? undefined : names.variable(s.result);
      return [pad + d.atomic(s, names.buffer(s.buf), expr(c, s.index), expr(c, s.value), result)];
    }
    case 'barrier':
      return [pad + d.barrier(s.scope, c.global)];
    case 'if': {
      const lines = [`${pad}if (${expr(c, s.cond)}) {`, ...block(c, s.then, inner)];
      if (s.else.length > 0) lines.push(`${pad}} else {`, ...block(c, s.else, inner));
      return [...lines, `${pad}}`];
    }
    case 'for': {
      const head = d.for(names.variable(s.name), expr(c, s.from), expr(c, s.to), s.step, s.unroll).map((line) => pad + line);
      return [`${head.join('\n')} {`, ...block(c, s.body, inner), `${pad}}`];
    }
    case 'machine':
      return [pad + d.machine(s.op, s.args.filter((a) => a.k === 'immediate').map((a) => a.value), s.args.flatMap((a) => argumentOf(c, a)))];
    case 'tile.alloc':
    case 'tile.mainloop':
    case 'tile.map':
    case 'tile.reduce':
    case 'tile.stage':
    case 'tile.await':
    case 'tile.product':
    case 'tile.row':
    case 'tile.fold':
    case 'tile.update':
      throw new Error(`${s.k} reached the printer: the kernel passes must expand tile statements first`);
    default:
      return assertNever(s);
  }
}

/** The whole module of one kernel, ending in a newline. */
export function printKernel(kernel: Kernel, d: Dialect): string {
  const global = kernel.params.some((p) => p.access === 'read_write');
  const c: Context = { d, names: namer(kernel, d.reserved), shared: [], builtins: new Set(), scalars: new Set(), global, subgroups: false };
  const body = block(c, kernel.body, '  ').join('\n');
  return d.module({ kernel, names: c.names, shared: c.shared, builtins: c.builtins, scalars: c.scalars, subgroups: c.subgroups, body });
}
