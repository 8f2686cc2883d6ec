/**
 * Builders for kernel IR expressions and statements: typed, folding constants and neutral elements
 * so that emitted kernels read as if written by hand. No builder knows a target.
 */
import type {
  BinOp, Block, BlockOperand, Buffer, Builtin, Elem, Expr, Fn, Lanes, MachineArg, PackedRows, ProductRows, ReduceOp, ScalarName, Scope, Stmt, SubgroupOp,
  Tile, Ty, View, MainloopSchedule,
} from './types.ts';

export const ty = (elem: Elem, lanes: Lanes = 1): Ty => ({ elem, lanes });
const U32: Ty = ty('u32');
const F32: Ty = ty('f32');
const BOOL: Ty = ty('bool');

// ---------------------------------------------------------------- leaves

export const u32 = (value: number): Expr => ({ k: 'const', ty: U32, value });
export const i32 = (value: number): Expr => ({ k: 'const', ty: ty('i32'), value });
export const f32 = (value: number): Expr => ({ k: 'const', ty: F32, value });
export const bool = (value: boolean): Expr => ({ k: 'const', ty: BOOL, value: value ? 1 : 0 });
export const variable = (name: string, t: Ty = U32): Expr => ({ k: 'var', ty: t, name });
export const builtin = (id: Builtin): Expr => ({ k: 'builtin', ty: U32, id });
export const scalar = (name: ScalarName): Expr => ({ k: 'scalar', ty: U32, name });
export const thread: Expr = builtin('thread');

export function buffer(name: string, scope: Scope, elem: Elem, lanes: Lanes = 1, size = 0): Buffer {
  return { name, scope, elem, lanes, size };
}

// ---------------------------------------------------------------- arithmetic

const isConst = (e: Expr, value: number): boolean => e.k === 'const' && e.value === value;
const COMPARE: ReadonlySet<BinOp> = new Set<BinOp>(['<', '<=', '>', '>=', '==', '!=', '&&', '||']);

/** u32 arithmetic as every target does it: wrapping at 2^32. */
function foldU32(op: BinOp, a: number, b: number): number | undefined {
  switch (op) {
    case '+': return (a + b) >>> 0;
    case '-': return (a - b) >>> 0;
    case '*': return Math.imul(a, b) >>> 0;
    case '/': return b === 0 ? undefined : Math.floor(a / b);
    case '%': return b === 0 ? undefined : a % b;
    case 'min': return Math.min(a, b);
    case 'max': return Math.max(a, b);
    case '<': return a < b ? 1 : 0;
    case '<=': return a <= b ? 1 : 0;
    case '>': return a > b ? 1 : 0;
    case '>=': return a >= b ? 1 : 0;
    case '==': return a === b ? 1 : 0;
    case '!=': return a !== b ? 1 : 0;
    case '&': return (a & b) >>> 0;
    case '|': return (a | b) >>> 0;
    case '^': return (a ^ b) >>> 0;
    case '<<': return (a << b) >>> 0;
    case '>>': return a >>> b;
    case '&&': case '||': return undefined;
  }
}

export function bin(op: BinOp, a: Expr, b: Expr): Expr {
  const lanes = a.ty.lanes > b.ty.lanes ? a.ty.lanes : b.ty.lanes;
  const t: Ty = COMPARE.has(op) ? ty('bool', lanes) : ty(a.ty.elem, lanes);
  const index = a.ty.elem === 'u32' && lanes === 1;
  if (index && a.k === 'const' && b.k === 'const') {
    const value = foldU32(op, a.value, b.value);
    if (value !== undefined) return { k: 'const', ty: t, value };
  }
  if (index) {
    if ((op === '+' || op === '-' || op === '|' || op === '<<' || op === '>>') && isConst(b, 0)) return a;
    if (op === '+' && isConst(a, 0)) return b;
    if ((op === '*' || op === '/') && isConst(b, 1)) return a;
    if (op === '*' && isConst(a, 1)) return b;
    if (op === '*' && (isConst(a, 0) || isConst(b, 0))) return u32(0);
    if (op === '%' && isConst(b, 1)) return u32(0);
  }
  if (op === '&&') {
    if (isConst(a, 1)) return b;
    if (isConst(b, 1)) return a;
  }
  if (op === '||') {
    if (isConst(a, 0)) return b;
    if (isConst(b, 0)) return a;
  }
  return { k: 'bin', ty: t, op, a, b };
}

export const add = (a: Expr, ...rest: Expr[]): Expr => rest.reduce((x, y) => bin('+', x, y), a);
export const sub = (a: Expr, b: Expr): Expr => bin('-', a, b);
export const mul = (a: Expr, ...rest: Expr[]): Expr => rest.reduce((x, y) => bin('*', x, y), a);
export const div = (a: Expr, b: Expr): Expr => bin('/', a, b);
export const mod = (a: Expr, b: Expr): Expr => bin('%', a, b);
export const lt = (a: Expr, b: Expr): Expr => bin('<', a, b);
export const le = (a: Expr, b: Expr): Expr => bin('<=', a, b);
export const gt = (a: Expr, b: Expr): Expr => bin('>', a, b);
export const ge = (a: Expr, b: Expr): Expr => bin('>=', a, b);
export const eq = (a: Expr, b: Expr): Expr => bin('==', a, b);
export const ne = (a: Expr, b: Expr): Expr => bin('!=', a, b);
export const and = (a: Expr, ...rest: Expr[]): Expr => rest.reduce((x, y) => bin('&&', x, y), a);
export const or = (a: Expr, ...rest: Expr[]): Expr => rest.reduce((x, y) => bin('||', x, y), a);
export const min = (a: Expr, b: Expr): Expr => bin('min', a, b);
export const max = (a: Expr, b: Expr): Expr => bin('max', a, b);
export const not = (a: Expr): Expr => ({ k: 'un', ty: a.ty, op: 'not', a });
export const neg = (a: Expr): Expr => ({ k: 'un', ty: a.ty, op: 'neg', a });
/** ceil(a / b) of u32 */
export const ceilDiv = (a: Expr, b: Expr): Expr => div(add(a, sub(b, u32(1))), b);

const call = (fn: Fn, t: Ty, ...args: Expr[]): Expr => ({ k: 'call', ty: t, fn, args });
export const exp = (a: Expr): Expr => call('exp', a.ty, a);
export const exp2 = (a: Expr): Expr => call('exp2', a.ty, a);
export const log = (a: Expr): Expr => call('log', a.ty, a);
export const sqrt = (a: Expr): Expr => call('sqrt', a.ty, a);
export const rsqrt = (a: Expr): Expr => call('rsqrt', a.ty, a);
export const abs = (a: Expr): Expr => call('abs', a.ty, a);
export const floor = (a: Expr): Expr => call('floor', a.ty, a);
/** a · b + c; scalars are spread over the lanes of the others. */
export function fma(a: Expr, b: Expr, c: Expr): Expr {
  const lanes = Math.max(a.ty.lanes, b.ty.lanes, c.ty.lanes) as Lanes;
  return call('fma', ty(c.ty.elem, lanes), splat(lanes, a), splat(lanes, b), splat(lanes, c));
}

/** Two f32 as one word of 16-bit numbers, `a` in the low half, rounded to nearest even. */
export const packHalves = (elem: 'f16' | 'bf16', a: Expr, b: Expr): Expr => call(elem === 'f16' ? 'pack.f16' : 'pack.bf16', U32, a, b);

// ---------------------------------------------------------------- shapes of values

export const cast = (elem: Elem, a: Expr): Expr =>
  a.ty.elem === elem ? a : a.k === 'const' && a.ty.lanes === 1 && elem === 'f32' ? f32(a.value) : { k: 'cast', ty: ty(elem, a.ty.lanes), a };
export const bitcast = (elem: Elem, a: Expr): Expr =>
  a.ty.elem === elem ? a : { k: 'bitcast', ty: ty(elem, a.ty.lanes), a };
export const splat = (lanes: Lanes, a: Expr): Expr =>
  a.ty.lanes === lanes ? a : { k: 'splat', ty: ty(a.ty.elem, lanes), a };
export const lane = (a: Expr, i: number): Expr => (a.ty.lanes === 1 ? a : { k: 'lane', ty: ty(a.ty.elem), a, i });
export function pack(args: readonly Expr[]): Expr {
  const first = args[0];
  if (first === undefined) throw new Error('pack needs a component');
  return args.length === 1 ? first : { k: 'pack', ty: ty(first.ty.elem, args.length as Lanes), args };
}
export const select = (cond: Expr, a: Expr, b: Expr): Expr =>
  cond.k === 'const' ? (cond.value !== 0 ? a : b) : { k: 'select', ty: a.ty, cond, a, b };

/** True where the f32 `a` is NaN or ±∞: a bit test, because WGSL may assume such values away. */
export const isNonFinite = (a: Expr): Expr =>
  ge(bin('&', bitcast('u32', a), u32(0x7fff_ffff)), u32(0x7f80_0000));

/** Reads one access of `buf`; storage types come back as they are stored. */
export const load = (buf: Buffer, index: Expr): Expr => ({ k: 'load', ty: ty(buf.elem, buf.lanes), buf, index });
/** Reads one access as f32, whatever the storage. */
export const loadF32 = (buf: Buffer, index: Expr): Expr => cast('f32', load(buf, index));

export const subgroup = (op: SubgroupOp, a: Expr, laneIndex?: number): Expr =>
  laneIndex === undefined ? { k: 'subgroup', ty: a.ty, op, a } : { k: 'subgroup', ty: a.ty, op, a, lane: laneIndex };

// ---------------------------------------------------------------- statements

export const let_ = (name: string, value: Expr): Stmt => ({ k: 'let', name, value });
export const var_ = (name: string, value: Expr): Stmt => ({ k: 'var', name, value });
export const assign = (name: string, value: Expr): Stmt => ({ k: 'assign', name, value });
export const alloc = (buf: Buffer): Stmt => ({ k: 'alloc', buf });
export const store = (buf: Buffer, index: Expr, value: Expr): Stmt => ({ k: 'store', buf, index, value });
/** Binds `value` to `name` in `stmts`; gives the variable. */
export function define(stmts: Stmt[], name: string, value: Expr): Expr {
  stmts.push(let_(name, value));
  return variable(name, value.ty);
}
export const note = (text: string): Stmt => ({ k: 'note', text });
export const barrier = (scope: 'subgroup' | 'block' = 'block'): Stmt => ({ k: 'barrier', scope });
export const if_ = (cond: Expr, then: readonly Stmt[], otherwise: readonly Stmt[] = []): Stmt => ({ k: 'if', cond, then, else: otherwise });

export function for_(name: string, from: Expr, to: Expr, step: number, body: (i: Expr) => readonly Stmt[], unroll: boolean | number = false): Stmt {
  return { k: 'for', name, from, to, step, unroll, body: body(variable(name)) };
}

export function atomic(op: 'add' | 'max', buf: Buffer, index: Expr, value: Expr, result?: string): Stmt {
  return result === undefined ? { k: 'atomic', op, buf, index, value } : { k: 'atomic', op, buf, index, value, result };
}

// ---------------------------------------------------------------- tile statements

export const tileAlloc = (tile: Tile): Stmt => ({ k: 'tile.alloc', tile });

export interface ViewMore {
  readonly matrix?: View['matrix'];
  readonly packed?: { readonly format: PackedRows['format']; scale(row: Expr, col: Expr): Expr } | undefined;
}

export function view(buf: Buffer, index: (row: Expr, col: Expr) => Expr, guard?: (row: Expr) => Expr, { matrix, packed }: ViewMore = {}): View {
  const row = variable('row');
  const col = variable('col');
  const v: View = {
    buf, row: 'row', col: 'col', index: index(row, col), ...(matrix !== undefined && { matrix }),
    ...(packed !== undefined && { packed: { format: packed.format, scale: packed.scale(row, col) } }),
  };
  return guard === undefined ? v : { ...v, guard: guard(row) };
}

export const mainloop = (tile: Tile, a: View, b: readonly View[], depth: number, schedule: MainloopSchedule): Stmt => ({
  k: 'tile.mainloop', tile, a, b, depth, schedule,
});

export function tileMap(tile: Tile, body: (row: Expr, col: Expr, values: readonly Expr[]) => readonly Stmt[], lanes: 1 | 2 = 1): Stmt {
  const values = valueNames(tile);
  return {
    k: 'tile.map', tile, row: 'r', col: 'c', lanes, values,
    body: body(variable('r'), variable('c'), values.map((v) => variable(v, ty('f32', lanes)))),
  };
}

export const reduce = (name: string, op: ReduceOp, value: Expr): Stmt => ({ k: 'tile.reduce', name, op, value });

// ---------------------------------------------------------------- products of blocks, values of rows

export const stage = (block: Block, v: View): Stmt => ({ k: 'tile.stage', block, view: v });

export const product = (tile: Tile, a: Block | Tile, b: readonly BlockOperand[], schedule: MainloopSchedule): Stmt => {
  const rows: ProductRows = 'variant' in a ? { k: 'block', block: a } : { k: 'tile', tile: a };
  return { k: 'tile.product', tile, a: rows, b, schedule };
};

const valueNames = (tile: Tile): readonly string[] => Array.from({ length: tile.count }, (_, i) => `v${i}`);
const valuesOf = (tile: Tile): readonly Expr[] => valueNames(tile).map((v) => variable(v, F32));

/** Binds the row value `name`. */
export const row = (tile: Tile, name: string, value: (row: Expr) => Expr): Stmt => ({
  k: 'tile.row', name, tile, row: 'r', value: value(variable('r')), assign: false,
});

export const assignRow = (tile: Tile, name: string, value: (row: Expr) => Expr): Stmt => ({
  k: 'tile.row', name, tile, row: 'r', value: value(variable('r')), assign: true,
});

export const fold = (tile: Tile, name: string, op: ReduceOp, of: (row: Expr, col: Expr, values: readonly Expr[]) => Expr): Stmt => ({
  k: 'tile.fold', name, op, tile, row: 'r', col: 'c', values: valueNames(tile), value: of(variable('r'), variable('c'), valuesOf(tile)),
});

export const update = (tile: Tile, to: (row: Expr, col: Expr, values: readonly Expr[]) => readonly Expr[]): Stmt => ({
  k: 'tile.update', tile, row: 'r', col: 'c', values: valueNames(tile), to: to(variable('r'), variable('c'), valuesOf(tile)),
});

// ---------------------------------------------------------------- instructions of one machine

export const machine = (op: string, ...args: readonly MachineArg[]): Stmt => ({ k: 'machine', op, args });
export const value = (e: Expr): MachineArg => ({ k: 'value', value: e });
export const address = (buf: Buffer, index: Expr): MachineArg => ({ k: 'address', buf, index });
export const immediate = (n: number): MachineArg => ({ k: 'immediate', value: n });
export const map = (name: string): MachineArg => ({ k: 'map', name });
