/**
 * What differs between the C-like kernel languages, gathered in one typed table per target.
 * The printer in `print.ts` walks the kernel IR and asks the dialect for every spelling.
 */
import type { Buffer, Builtin, Expr, ExprOf, Fn, Kernel, ScalarName, StmtOf, SubgroupOp, Ty } from '../../ir/kernel/types.ts';

/** Gives names of the printed text to things of the IR. */
export interface Namer {
  buffer(buf: Buffer): string;
  variable(name: string): string;
}

/** A set of words, or a rule that tells them. */
export type Words = Pick<ReadonlySet<string>, 'has'>;

export interface Dialect {
  /** Words that no printed identifier may be. */
  readonly reserved: Words;
  ty(t: Ty): string;
  literal(value: number, t: Ty): string;
  readonly builtins: Readonly<Record<Builtin, string>>;
  scalar(name: ScalarName): string;
  call(fn: Fn | 'min' | 'max', t: Ty, args: readonly string[]): string;
  cast(t: Ty, from: Expr, a: string): string;
  bitcast(t: Ty, from: Ty, a: string): string;
  splat(t: Ty, a: string): string;
  pack(t: Ty, args: readonly string[]): string;
  lane(a: string, i: number): string;
  select(t: Ty, cond: string, a: string, b: string): string;
  subgroup(op: SubgroupOp, t: Ty, a: string, lane: number | undefined): string;
  load(buf: Buffer, name: string, index: string): string;
  /** A whole statement, as are the next ones. */
  store(buf: Buffer, name: string, index: string, value: string): string;
  atomic(s: StmtOf<'atomic'>, buffer: string, index: string, value: string, result: string | undefined): string;
  let(t: Ty, name: string, value: string): string;
  var(t: Ty, name: string, value: string): string;
  /** A register array. */
  local(buf: Buffer, name: string): string;
  /** The lines before the loop's brace. */
  for(name: string, from: string, to: string, step: number, unroll: boolean | number): readonly string[];
  /** `global`: the kernel also hands global memory from thread to thread. */
  barrier(scope: 'subgroup' | 'block', global: boolean): string;
  /** The address of one access. */
  address(buf: Buffer, name: string, index: string): string;
  /** One of the kernel's tensor maps. */
  map(name: string): string;
  /** A call of the prelude's wrapper of one instruction. */
  machine(op: string, immediates: readonly number[], args: readonly string[]): string;
  /** The whole text around a printed body. */
  module(parts: ModuleParts): string;
}

export interface ModuleParts {
  readonly kernel: Kernel;
  readonly names: Namer;
  readonly shared: readonly Buffer[];
  /** Those that the body reads. */
  readonly builtins: ReadonlySet<Builtin>;
  readonly scalars: ReadonlySet<ScalarName>;
  /** Whether any subgroup operation is used. */
  readonly subgroups: boolean;
  readonly body: string;
}

export type LoadExpr = ExprOf<'load'>;
