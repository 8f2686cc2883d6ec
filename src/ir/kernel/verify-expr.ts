/** Types of kernel IR expressions: every rule a kernel's expressions must keep, whatever the target. */
import { assertNever } from '../../base/assert-never.ts';
import { printTy } from './print.ts';
import type { BinOp, Buffer, Elem, Expr, ExprOf, ScalarName, Ty } from './types.ts';
import { operands } from './walk.ts';

/** What an expression may refer to at the place where it stands. */
export interface Names {
  /** Type of a variable in scope. */
  variable(name: string): Ty | undefined;
  /** The buffer of that name, as declared. */
  buffer(name: string): Buffer | undefined;
  hasScalar(name: ScalarName): boolean;
  /** Whether all threads of the block pass here. */
  readonly uniform: boolean;
  /** Whether subgroup operations exist. */
  readonly subgroups: boolean;
}

const sameTy = (a: Ty, b: Ty): boolean => a.elem === b.elem && a.lanes === b.lanes;
const COMPARE: ReadonlySet<BinOp> = new Set<BinOp>(['<', '<=', '>', '>=', '==', '!=']);
/** A scalar may stand beside a vector in these. */
const MIXES: ReadonlySet<BinOp> = new Set<BinOp>(['+', '-', '*', '/', '%']);
const BITS: ReadonlySet<BinOp> = new Set<BinOp>(['&', '|', '^']);
const WORDS: ReadonlySet<Elem> = new Set<Elem>(['f32', 'u32', 'i32']);

/** Reports what is wrong with an expression and what it is made of; visits each node once. */
export function checkExpr(e: Expr, names: Names, report: (message: string) => void, seen: Set<Expr> = new Set()): void {
  if (seen.has(e)) return;
  seen.add(e);
  for (const a of operands(e)) checkExpr(a, names, report, seen);
  const wrong = checkNode(e, names);
  if (wrong !== undefined) report(wrong);
}

function checkNode(e: Expr, names: Names): string | undefined {
  switch (e.k) {
    case 'const':
      return checkConst(e);
    case 'var': {
      const t = names.variable(e.name);
      if (t === undefined) return `${e.name} is not bound here`;
      return sameTy(t, e.ty) ? undefined : `${e.name} is ${printTy(t)}, used as ${printTy(e.ty)}`;
    }
    case 'builtin': {
      if (!sameTy(e.ty, { elem: 'u32', lanes: 1 })) return `${e.id} is u32`;
      const needs = e.id === 'lane' || e.id === 'subgroup' || e.id === 'subgroup.size';
      return needs && !names.subgroups ? `${e.id} exists only with subgroups` : undefined;
    }
    case 'scalar':
      if (!names.hasScalar(e.name)) return `scalar ${e.name} is not declared by the kernel`;
      return sameTy(e.ty, { elem: 'u32', lanes: 1 }) ? undefined : `scalar ${e.name} is u32`;
    case 'un':
      return checkUn(e);
    case 'bin':
      return checkBin(e);
    case 'call':
      return checkCall(e);
    case 'cast':
      return e.a.ty.lanes === e.ty.lanes ? undefined : 'a cast keeps the number of lanes';
    case 'bitcast':
      if (!WORDS.has(e.ty.elem) || !WORDS.has(e.a.ty.elem)) {
        return `bitcast from ${e.a.ty.elem} to ${e.ty.elem}: only f32, u32 and i32 share bits`;
      }
      return e.a.ty.lanes === e.ty.lanes ? undefined : 'a bitcast keeps the number of lanes';
    case 'lane':
      if (e.ty.lanes !== 1 || e.ty.elem !== e.a.ty.elem) return `a lane of ${printTy(e.a.ty)} is ${e.a.ty.elem}`;
      return Number.isInteger(e.i) && e.i >= 0 && e.i < e.a.ty.lanes ? undefined : `${printTy(e.a.ty)} has no lane ${e.i}`;
    case 'splat':
      return e.a.ty.lanes === 1 && e.a.ty.elem === e.ty.elem ? undefined : `splat of ${printTy(e.a.ty)} to ${printTy(e.ty)}`;
    case 'pack':
      if (e.args.length !== e.ty.lanes) return `${e.args.length} components packed into ${printTy(e.ty)}`;
      if (e.args.every((a) => a.ty.lanes === 1 && a.ty.elem === e.ty.elem)) return undefined;
      return `components of ${printTy(e.ty)} must be ${e.ty.elem}`;
    case 'select':
      if (e.cond.ty.elem !== 'bool' || (e.cond.ty.lanes !== 1 && e.cond.ty.lanes !== e.ty.lanes)) {
        return 'the condition of a select is bool';
      }
      if (sameTy(e.a.ty, e.ty) && sameTy(e.b.ty, e.ty)) return undefined;
      return `select of ${printTy(e.a.ty)} and ${printTy(e.b.ty)} as ${printTy(e.ty)}`;
    case 'load':
      if (!sameTy(e.ty, e.buf)) return `a load of ${e.buf.name} is ${printTy(e.buf)}, not ${printTy(e.ty)}`;
      return checkAccess(e.buf, e.index, names);
    case 'subgroup':
      return checkSubgroup(e, names);
    default:
      return assertNever(e);
  }
}

/** Whether a buffer is declared as it is used, and its index an index. */
export function checkAccess(buf: Buffer, index: Expr, names: Names): string | undefined {
  const declared = names.buffer(buf.name);
  if (declared === undefined) return `buffer ${buf.name} is neither a parameter nor allocated here`;
  const sameShape = declared.scope === buf.scope && sameTy(declared, buf) && declared.size === buf.size;
  if (!sameShape || (declared.atomic === true) !== (buf.atomic === true)) return `buffer ${buf.name} is used otherwise than it is declared`;
  return index.ty.elem === 'u32' && index.ty.lanes === 1 ? undefined : `an index is u32, not ${printTy(index.ty)}`;
}

function checkConst(e: ExprOf<'const'>): string | undefined {
  const { value } = e;
  switch (e.ty.elem) {
    case 'u32':
      return Number.isInteger(value) && value >= 0 && value <= 0xffff_ffff ? undefined : `${value} is no u32`;
    case 'i32':
      return Number.isInteger(value) && value >= -2147483648 && value <= 2147483647 ? undefined : `${value} is no i32`;
    case 'bool':
      return value === 0 || value === 1 ? undefined : `${value} is no bool`;
    case 'f32':
      return Number.isFinite(Math.fround(value)) ? undefined : `${value} is no finite f32`;
    case 'f16':
    case 'bf16':
      return `constants are not ${e.ty.elem}: it is a storage type`;
  }
}

function checkUn(e: ExprOf<'un'>): string | undefined {
  if (!sameTy(e.ty, e.a.ty)) return `${e.op} of ${printTy(e.a.ty)} as ${printTy(e.ty)}`;
  const fits = e.op === 'not' ? e.ty.elem === 'bool' : e.ty.elem === 'f32' || e.ty.elem === 'i32';
  return fits ? undefined : `${e.op} has no meaning on ${printTy(e.ty)}`;
}

function checkBin(e: ExprOf<'bin'>): string | undefined {
  const a = e.a.ty;
  const b = e.b.ty;
  const what = `${printTy(a)} ${e.op} ${printTy(b)}`;
  if (a.elem === 'f16' || a.elem === 'bf16') return `${what}: ${a.elem} is a storage type; cast it first`;
  const shift = e.op === '<<' || e.op === '>>';
  if (shift ? b.elem !== 'u32' : a.elem !== b.elem) return `${what}: operands of different types`;
  const lanes = Math.max(a.lanes, b.lanes);
  if (a.lanes !== b.lanes && (!MIXES.has(e.op) || Math.min(a.lanes, b.lanes) !== 1)) return `${what}: operands of different width`;
  if (e.ty.lanes !== lanes) return `${what} as ${printTy(e.ty)}`;
  if (e.op === '&&' || e.op === '||') {
    return a.elem === 'bool' && e.ty.elem === 'bool' && lanes === 1 ? undefined : `${what}: logic is on bool`;
  }
  if (COMPARE.has(e.op)) {
    const ordered = e.op !== '==' && e.op !== '!=';
    return e.ty.elem === 'bool' && !(ordered && a.elem === 'bool') ? undefined : `${what} as ${printTy(e.ty)}`;
  }
  if (e.ty.elem !== a.elem) return `${what} as ${printTy(e.ty)}`;
  if (BITS.has(e.op)) return a.elem === 'f32' ? `${what}: bits of f32 need a bitcast` : undefined;
  if (shift) return a.elem === 'u32' || a.elem === 'i32' ? undefined : `${what}: shifts are of integers`;
  return a.elem === 'bool' ? `${what}: arithmetic on bool` : undefined;
}

function checkCall(e: ExprOf<'call'>): string | undefined {
  if (e.fn === 'pack.f16' || e.fn === 'pack.bf16') {
    const two = e.args.length === 2 && e.args.every((a) => sameTy(a.ty, { elem: 'f32', lanes: 1 }));
    return two && sameTy(e.ty, { elem: 'u32', lanes: 1 }) ? undefined : `${e.fn} makes u32 of two f32`;
  }
  const arity = e.fn === 'fma' ? 3 : 1;
  if (e.args.length !== arity) return `${e.fn} takes ${arity} argument${arity === 1 ? '' : 's'}, not ${e.args.length}`;
  if (!e.args.every((a) => sameTy(a.ty, e.ty))) return `${e.fn} of ${e.args.map((a) => printTy(a.ty)).join(', ')} as ${printTy(e.ty)}`;
  return e.ty.elem === 'f32' || (e.fn === 'abs' && e.ty.elem === 'i32') ? undefined : `${e.fn} has no meaning on ${printTy(e.ty)}`;
}

function checkSubgroup(e: ExprOf<'subgroup'>, names: Names): string | undefined {
  if (!names.subgroups) return `subgroup.${e.op} exists only with subgroups`;
  if (!names.uniform) return `subgroup.${e.op} in control flow that is not uniform`;
  if (!sameTy(e.ty, e.a.ty) || !WORDS.has(e.ty.elem)) return `subgroup.${e.op} of ${printTy(e.a.ty)}`;
  const wantsLane = e.op === 'broadcast';
  if (wantsLane !== (e.lane !== undefined)) return `subgroup.${e.op} ${wantsLane ? 'needs' : 'takes no'} lane`;
  return e.lane === undefined || (Number.isInteger(e.lane) && e.lane >= 0) ? undefined : `no lane ${e.lane}`;
}
