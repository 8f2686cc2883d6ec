/**
 * Mutation of kernels: every barrier, guard, bound and buffer size must matter. A kernel family is
 * tested well when the interpreter, or its outputs, notice each single change.
 */
import { expect } from 'vitest';
import * as b from '../../../src/ir/kernel/build.ts';
import { KernelFault, interpret } from '../../../src/ir/kernel/interpret.ts';
import type { FaultKind, Launched, TypedArray } from '../../../src/ir/kernel/interpret.ts';
import { printHead } from '../../../src/ir/kernel/print.ts';
import type { Expr, Kernel, Stmt, View } from '../../../src/ir/kernel/types.ts';
import { InvalidKernelError } from '../../../src/ir/kernel/verify.ts';
import { allocated, bodiesOf, exprsOf, mapBuffers, mapExprsOf, mapOperands, operands } from '../../../src/ir/kernel/walk.ts';
import { finishKernel } from '../../../src/passes/kernel/pipeline.ts';
import type { FinishOptions } from '../../../src/passes/kernel/pipeline.ts';

export interface Mutation {
  readonly kind: 'barrier' | 'bound' | 'guard' | 'lane' | 'loop' | 'size';
  /** What was changed, and where. */
  readonly what: string;
  readonly kernel: Kernel;
}

/** One launch to try mutants on; `memory` makes fresh arrays each time. */
export interface MutationRun extends Omit<Launched, 'memory'> {
  readonly memory: () => Record<string, TypedArray>;
}

/** A statement addressed by its place in the nested bodies. */
type Path = readonly (readonly [body: number, index: number])[];

function* places(body: readonly Stmt[], at: Path = [], bodyIndex = 0): Generator<{ path: Path; stmt: Stmt }> {
  for (const [i, stmt] of body.entries()) {
    const path: Path = [...at, [bodyIndex, i]];
    yield { path, stmt };
    for (const [j, inner] of bodiesOf(stmt).entries()) yield* places(inner, path, j);
  }
}

/** The body with the statement at `path` replaced. */
function replaceAt(body: readonly Stmt[], path: Path, f: (s: Stmt) => readonly Stmt[]): readonly Stmt[] {
  const [here, ...rest] = path;
  if (here === undefined) return body;
  return body.flatMap((s, i) => {
    if (i !== here[1]) return [s];
    const next = rest[0];
    if (next === undefined) return f(s);
    if (s.k === 'if') return [next[0] === 0 ? { ...s, then: replaceAt(s.then, rest, f) } : { ...s, else: replaceAt(s.else, rest, f) }];
    return s.k === 'for' || s.k === 'tile.map' ? [{ ...s, body: replaceAt(s.body, rest, f) }] : [s];
  });
}

/** The expression once for each node that `f` changes, with that node alone changed. */
function* changedOnce(e: Expr, f: (e: Expr) => Expr | undefined): Generator<Expr> {
  const own = f(e);
  if (own !== undefined) yield own;
  for (const i of operands(e).keys()) {
    for (const changed of changedOnce(operands(e)[i] ?? e, f)) {
      let n = -1;
      yield mapOperands(e, (a) => (++n === i ? changed : a));
    }
  }
}

/** x < y becomes x < y + 1, y > x becomes y + 1 > x; of u32. */
function widen(e: Expr): Expr | undefined {
  if (e.k !== 'bin' || e.a.ty.elem !== 'u32') return undefined;
  if (e.op === '<' || e.op === '<=') return { ...e, b: b.add(e.b, b.u32(1)) };
  if (e.op === '>' || e.op === '>=') return { ...e, a: b.add(e.a, b.u32(1)) };
  return undefined;
}

/** A broadcast reads another lane. */
const elsewhere = (e: Expr): Expr | undefined =>
  e.k === 'subgroup' && e.lane !== undefined ? { ...e, lane: e.lane === 0 ? 1 : e.lane - 1 } : undefined;

type Put = (kind: Mutation['kind'], what: string, path: Path, f: (s: Stmt) => readonly Stmt[]) => void;

/** Conditions made true and bounds made one larger, of the statement at `path`. */
function mutateBounds(path: Path, stmt: Stmt, put: Put): void {
  const where = `${printHead(stmt)} @ ${path.map((p) => p.join('.')).join('/')}`;
  if (stmt.k === 'if') put('guard', `always true: ${where}`, path, () => [{ ...stmt, cond: b.bool(true) }]);
  if (stmt.k === 'let' && stmt.value.ty.elem === 'bool') put('guard', `always true: ${where}`, path, () => [{ ...stmt, value: b.bool(true) }]);
  if (stmt.k === 'tile.mainloop') {
    const open = (v: View): View => (v.guard === undefined ? v : { ...v, guard: b.bool(true) });
    if (stmt.a.guard !== undefined) put('guard', `a always true: ${where}`, path, () => [{ ...stmt, a: open(stmt.a) }]);
    if (stmt.b.some((v) => v.guard !== undefined)) put('guard', `b always true: ${where}`, path, () => [{ ...stmt, b: stmt.b.map(open) }]);
    put('loop', `depth + 1: ${where}`, path, () => [{ ...stmt, depth: stmt.depth + 1 }]);
  }
  if (stmt.k === 'tile.stage' && stmt.view.guard !== undefined) {
    put('guard', `always true: ${where}`, path, () => [{ ...stmt, view: { ...stmt.view, guard: b.bool(true) } }]);
  }
  if (stmt.k === 'for') {
    // One iteration more: with a step above 1, adding 1 to the bound might not make one.
    const more = stmt.step === 1 || stmt.from.k !== 'const' ? 1 : stmt.step;
    put('loop', `to + ${more}: ${where}`, path, () => [{ ...stmt, to: b.add(stmt.to, b.u32(more)) }]);
  }
  for (const [i, e] of exprsOf(stmt).entries()) {
    const replace = (changed: Expr) => (s: Stmt): readonly Stmt[] => {
      let n = -1;
      return [mapExprsOf(s, (x) => (++n === i ? changed : x))];
    };
    for (const changed of changedOnce(e, widen)) put('bound', `bound + 1 in expression ${i}: ${where}`, path, replace(changed));
    for (const changed of changedOnce(e, elsewhere)) put('lane', `another lane in expression ${i}: ${where}`, path, replace(changed));
  }
}

/** Every barrier, guard, bound and buffer size of a finished kernel (simt level) changed, one at a time. */
export function simtMutations(finished: Kernel): readonly Mutation[] {
  const found: Mutation[] = [];
  const put: Put = (kind, what, path, f) => void found.push({ kind, what, kernel: { ...finished, body: replaceAt(finished.body, path, f) } });
  for (const { path, stmt } of places(finished.body)) {
    mutateBounds(path, stmt, put);
    if (stmt.k === 'barrier') put('barrier', `deleted @ ${path.map((p) => p.join('.')).join('/')}`, path, () => []);
  }
  for (const buf of allocated(finished.body)) {
    if (buf.size < 2) continue;
    const shrink = mapBuffers(finished, (x) => (x.name === buf.name ? { ...x, size: x.size - 1 } : x));
    found.push({ kind: 'size', what: `${buf.scope} ${buf.name}[${buf.size}] one cell smaller`, kernel: shrink });
  }
  return found;
}

/**
 * Every single change that a well-tested kernel must not survive: guards and bounds as its family wrote them
 * (changed at the tile level, then finished), barriers and buffer sizes as the passes made them. Mutants that the verifier
 * refuses are left out: they are caught already.
 */
export function mutations(kernel: Kernel, options: FinishOptions = { subgroups: false }): readonly Mutation[] {
  const found: Mutation[] = [];
  const put: Put = (kind, what, path, f) => {
    try {
      found.push({ kind, what, kernel: finishKernel({ ...kernel, body: replaceAt(kernel.body, path, f) }, options) });
    } catch (error) {
      if (!(error instanceof InvalidKernelError)) throw error;
    }
  };
  for (const { path, stmt } of places(kernel.body)) mutateBounds(path, stmt, put);
  const finished = finishKernel(kernel, options);
  return [...found, ...simtMutations(finished).filter((m) => m.kind === 'barrier' || m.kind === 'size')];
}

interface Seen {
  readonly fault: FaultKind | undefined;
  readonly message: string;
  readonly memory: Record<string, TypedArray>;
  readonly unwritten: string;
}

function look(kernel: Kernel, run: MutationRun): Seen {
  const memory = run.memory();
  try {
    const { unwritten } = interpret(kernel, { ...run, memory });
    return { fault: undefined, message: '', memory, unwritten: JSON.stringify(unwritten) };
  } catch (error) {
    if (!(error instanceof KernelFault)) throw error;
    return { fault: error.fault.kind, message: error.message, memory, unwritten: '' };
  }
}

function differs(a: Seen, c: Seen): boolean {
  if (a.unwritten !== c.unwritten) return true;
  return Object.entries(a.memory).some(([name, x]) => x.some((v, i) => !Object.is(v, c.memory[name]?.[i])));
}

/** Those of the mutants that no run notices; a deleted barrier counts as noticed only when the interpreter calls it a race. */
export function survivors(finished: Kernel, mutants: readonly Mutation[], runs: readonly MutationRun[]): readonly Mutation[] {
  const good = runs.map((run) => look(finished, run));
  for (const g of good) if (g.fault !== undefined) throw new Error(`the kernel itself is at fault: ${g.message}`);
  return mutants.filter((m) =>
    !runs.some((run, i) => {
      const seen = look(m.kernel, run);
      if (m.kind === 'barrier') return seen.fault === 'race';
      const before = good[i];
      return seen.fault !== undefined || (before !== undefined && differs(before, seen));
    }));
}

export interface MutationOptions extends Partial<FinishOptions> {
  /** Mutants that change nothing by their nature, with a reason in the calling test; each one named must really survive. */
  readonly equivalent?: readonly RegExp[];
}

/** Expects some run to notice every mutation of a kernel as its family gives it (unfinished). */
export function expectEveryMutationCaught(kernel: Kernel, runs: readonly MutationRun[], options: MutationOptions = {}): void {
  const { equivalent = [], subgroups = false, ...rest } = options;
  const finish = { subgroups, ...rest };
  const mutants = mutations(kernel, finish);
  const left = survivors(finishKernel(kernel, finish), mutants, runs).map((m) => `${m.kind}: ${m.what}`);
  const unexpected = left.filter((what) => !equivalent.some((r) => r.test(what)));
  expect(unexpected).toEqual([]);
  for (const r of equivalent) expect(left.some((what) => r.test(what)), `${r} names no surviving mutant`).toBe(true);
}
