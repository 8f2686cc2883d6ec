/**
 * What a well-formed kernel is, at either level. Runs after every pass in tests and at both ends of the
 * kernel passes always. It proves nothing about values: races and bounds are for the interpreter.
 */
import { assertNever } from '../../base/assert-never.ts';
import { sharedBytes } from './cost.ts';
import { printHead, printTy } from './print.ts';
import type { Block, Buffer, Expr, Kernel, MainloopSchedule, Stmt, StmtOf, Tile, Ty, View } from './types.ts';
import { uniformity } from './uniformity.ts';
import type { Uniformity } from './uniformity.ts';
import { checkAccess, checkExpr } from './verify-expr.ts';
import type { Names } from './verify-expr.ts';
import { checkBlock, checkOperands, sameBlock } from './verify-product.ts';
import { walkStmts } from './walk.ts';

export type Level = 'tile' | 'simt';

export interface Problem {
  readonly message: string;
  /** Text of the statement; empty for the kernel as a whole. */
  readonly statement: string;
}

export interface VerifyOptions {
  /** Whether subgroup operations and builtins may stand in the kernel; true where not said. */
  readonly subgroups?: boolean;
  /** Whether machine instructions may; false where not said. */
  readonly machine?: boolean;
  readonly limits?: { readonly maxThreadsPerBlock: number; readonly maxSharedBytes: number; readonly maxBindings: number };
}

export class InvalidKernelError extends Error {
  override readonly name = 'InvalidKernelError';
  readonly problems: readonly Problem[];

  constructor(kernel: Kernel, problems: readonly Problem[], when: string) {
    const lines = problems.slice(0, 8).map((p) => `  ${p.message}${p.statement === '' ? '' : `\n    at: ${p.statement}`}`);
    super(`kernel ${kernel.name} is not well formed ${when}:\n${lines.join('\n')}`);
    this.problems = problems;
  }
}

/** Everything wrong with a kernel; empty for a good one. */
export function verify(kernel: Kernel, level: Level, options: VerifyOptions = {}): readonly Problem[] {
  const v = new Verifier(kernel, level, options);
  return v.run();
}

/** Throws InvalidKernelError where `verify` finds something; `when` says in which state the kernel is. */
export function assertValid(kernel: Kernel, level: Level, when: string, options: VerifyOptions = {}): void {
  const problems = verify(kernel, level, options);
  if (problems.length > 0) throw new InvalidKernelError(kernel, problems, when);
}

/** Names of a scope, found in the scopes around it too. */
class Table<T> {
  readonly #own = new Map<string, T>();
  readonly #outer: Table<T> | undefined;

  constructor(outer?: Table<T>) {
    this.#outer = outer;
  }

  get(name: string): T | undefined {
    return this.#own.get(name) ?? this.#outer?.get(name);
  }

  has(name: string): boolean {
    return this.get(name) !== undefined;
  }

  set(name: string, value: T): void {
    this.#own.set(name, value);
  }
}

interface Scope {
  /** `perRow`: a row value, which only statements over rows can read. */
  readonly variables: Table<{ readonly ty: Ty; readonly mutable: boolean; readonly perRow?: true }>;
  readonly buffers: Table<Buffer>;
  readonly tiles: Table<Tile>;
  /** Whether all threads of the block are here. */
  readonly uniform: boolean;
  /** Inside the body of a tile.map. */
  readonly inMap: boolean;
}

const U32: Ty = { elem: 'u32', lanes: 1 };
const F32: Ty = { elem: 'f32', lanes: 1 };

class Verifier {
  readonly #kernel: Kernel;
  readonly #level: Level;
  readonly #options: VerifyOptions;
  readonly #problems: Problem[] = [];
  readonly #uniformity: Uniformity;
  readonly #bufferNames = new Set<string>();
  /** By name, as some tile.stage fills them. */
  readonly #blocks = new Map<string, Block>();

  constructor(kernel: Kernel, level: Level, options: VerifyOptions) {
    this.#kernel = kernel;
    this.#level = level;
    this.#options = options;
    this.#uniformity = uniformity(kernel);
    for (const s of walkStmts(kernel.body)) if (s.k === 'tile.stage') this.#blocks.set(s.block.name, s.block);
  }

  run(): readonly Problem[] {
    const k = this.#kernel;
    const whole = (message: string): void => void this.#problems.push({ message, statement: '' });
    if (!/^[a-z][a-z0-9_]*$/.test(k.name)) whole(`the name ${JSON.stringify(k.name)} is not [a-z][a-z0-9_]*`);
    if (!Number.isInteger(k.block) || k.block < 1) whole(`a block of ${k.block} threads`);
    const buffers = new Table<Buffer>();
    for (const p of k.params) {
      if (p.scope !== 'global') whole(`parameter ${p.name} is ${p.scope}`);
      if (buffers.has(p.name)) whole(`two parameters are called ${p.name}`);
      if (p.elem === 'bool') whole(`parameter ${p.name}: memory of bool does not exist`);
      if (p.atomic === true && (p.elem !== 'u32' || p.lanes !== 1)) whole(`parameter ${p.name}: atomics are on single u32`);
      buffers.set(p.name, p);
      this.#bufferNames.add(p.name);
    }
    this.#body(k.body, { variables: new Table(), buffers, tiles: new Table(), uniform: true, inMap: false });
    const { limits } = this.#options;
    if (limits !== undefined) {
      if (k.block > limits.maxThreadsPerBlock) whole(`${k.block} threads per block, ${limits.maxThreadsPerBlock} are allowed`);
      if (k.params.length > limits.maxBindings) whole(`${k.params.length} buffers, ${limits.maxBindings} can be bound`);
      const bytes = sharedBytes(k);
      if (bytes > limits.maxSharedBytes) whole(`${bytes} bytes of shared memory, ${limits.maxSharedBytes} are allowed`);
    }
    return this.#problems;
  }

  #body(body: readonly Stmt[], outer: Scope, uniform = outer.uniform, bound: readonly (readonly [string, Ty])[] = []): void {
    const scope: Scope = {
      ...outer, uniform, variables: new Table(outer.variables), buffers: new Table(outer.buffers), tiles: new Table(outer.tiles),
    };
    for (const [name, ty] of bound) scope.variables.set(name, { ty, mutable: false });
    for (const s of body) this.#stmt(s, scope);
  }

  #names(scope: Scope, extra?: ReadonlyMap<string, Ty>, rowValues = scope.inMap): Names {
    return {
      variable: (name) => {
        const found = scope.variables.get(name);
        return extra?.get(name) ?? (found?.perRow === true && !rowValues ? undefined : found?.ty);
      },
      buffer: (name) => scope.buffers.get(name),
      hasScalar: (name) => this.#kernel.scalars.includes(name),
      uniform: scope.uniform,
      subgroups: this.#options.subgroups ?? true,
    };
  }

  #stmt(s: Stmt, scope: Scope): void {
    const report = (message: string): void => void this.#problems.push({ message, statement: printHead(s) });
    const names = this.#names(scope);
    const check = (e: Expr): void => checkExpr(e, names, report);
    const wants = (e: Expr, t: Ty, what: string): void => {
      check(e);
      if (e.ty.elem !== t.elem || e.ty.lanes !== t.lanes) report(`${what} is ${printTy(e.ty)}, not ${printTy(t)}`);
    };
    const bind = (name: string, ty: Ty, mutable: boolean): void => {
      if (scope.variables.has(name)) report(`${name} is bound already`);
      scope.variables.set(name, { ty, mutable });
    };
    const access = (buf: Buffer, index: Expr): void => {
      check(index);
      const wrong = checkAccess(buf, index, names);
      if (wrong !== undefined) report(wrong);
    };
    switch (s.k) {
      case 'note':
        return;
      case 'let':
      case 'var':
        check(s.value);
        bind(s.name, s.value.ty, s.k === 'var');
        return;
      case 'assign': {
        const target = scope.variables.get(s.name);
        if (target === undefined) report(`${s.name} is not bound here`);
        else if (!target.mutable) report(`${s.name} is not a var`);
        wants(s.value, target?.ty ?? s.value.ty, 'the value');
        return;
      }
      case 'alloc':
        this.#alloc(s, scope, report);
        return;
      case 'store':
        access(s.buf, s.index);
        wants(s.value, s.buf, 'the value stored');
        if (s.buf.access === 'read') report(`${s.buf.name} is only read`);
        return;
      case 'atomic':
        access(s.buf, s.index);
        wants(s.value, U32, 'the value');
        if (s.buf.atomic !== true) report(`${s.buf.name} is not atomic`);
        if (s.result !== undefined) bind(s.result, U32, false);
        return;
      case 'for':
        wants(s.from, U32, 'the lower bound');
        if (!Number.isInteger(s.step) || s.step < 1) report(`a step of ${s.step}`);
        if (scope.variables.has(s.name)) report(`${s.name} is bound already`);
        checkExpr(s.to, this.#names(scope, new Map([[s.name, U32]])), report);
        if (s.to.ty.elem !== 'u32' || s.to.ty.lanes !== 1) report(`the upper bound is ${printTy(s.to.ty)}, not u32`);
        this.#body(s.body, scope, scope.uniform && this.#uniformity.control(s), [[s.name, U32]]);
        return;
      case 'if': {
        wants(s.cond, { elem: 'bool', lanes: 1 }, 'the condition');
        const uniform = scope.uniform && this.#uniformity.control(s);
        this.#body(s.then, scope, uniform);
        this.#body(s.else, scope, uniform);
        return;
      }
      case 'barrier':
        if (!scope.uniform) report('a barrier in control flow that is not uniform');
        if (scope.inMap) report('a barrier inside tile.map');
        return;
      case 'machine':
        if (this.#options.machine !== true) report(`machine instruction ${s.op} on a target that has none`);
        for (const a of s.args) {
          if (a.k === 'value') check(a.value);
          if (a.k === 'address') {
            check(a.index);
            if (scope.buffers.get(a.buf.name) === undefined) report(`buffer ${a.buf.name} is not declared here`);
          }
        }
        return;
      case 'tile.alloc':
      case 'tile.mainloop':
      case 'tile.map':
      case 'tile.reduce':
        if (this.#level === 'simt') report(`${s.k} at the simt level`);
        else if (scope.inMap) report(`${s.k} inside tile.map`);
        else this.#tile(s, scope, report);
        return;
      case 'tile.stage':
      case 'tile.await':
      case 'tile.product':
      case 'tile.row':
      case 'tile.fold':
      case 'tile.update':
        if (this.#level === 'simt') report(`${s.k} at the simt level`);
        else if (scope.inMap) report(`${s.k} inside tile.map`);
        else this.#product(s, scope, report);
        return;
      default:
        assertNever(s);
    }
  }

  #alloc(s: StmtOf<'alloc'>, scope: Scope, report: (message: string) => void): void {
    const { buf } = s;
    if (buf.scope === 'global') report(`${buf.name} is global: those are parameters`);
    if (buf.elem === 'f16' || buf.elem === 'bf16') report(`${buf.name}: ${buf.elem} exists in global memory only`);
    if (buf.elem === 'bool' && buf.scope === 'shared') report(`${buf.name}: memory of bool does not exist`);
    if (!Number.isInteger(buf.size) || buf.size < 1) report(`${buf.name} has size ${buf.size}`);
    if (this.#bufferNames.has(buf.name)) report(`there is another buffer called ${buf.name}`);
    this.#bufferNames.add(buf.name);
    scope.buffers.set(buf.name, buf);
  }

  #tile(s: StmtOf<'tile.alloc' | 'tile.mainloop' | 'tile.map' | 'tile.reduce'>, scope: Scope, report: (message: string) => void): void {
    if (s.k === 'tile.reduce') {
      checkExpr(s.value, this.#names(scope), report);
      if (!scope.uniform) report('tile.reduce in control flow that is not uniform');
      if (s.value.ty.lanes !== 1 || !['f32', 'u32', 'i32'].includes(s.value.ty.elem)) report(`tile.reduce of ${printTy(s.value.ty)}`);
      if (scope.variables.has(s.name)) report(`${s.name} is bound already`);
      scope.variables.set(s.name, { ty: s.value.ty, mutable: false });
      return;
    }
    const { tile } = s;
    if (s.k === 'tile.alloc') {
      if (scope.tiles.has(tile.name)) report(`there is another tile called ${tile.name}`);
      if ([tile.rows, tile.cols, tile.count].some((n) => !Number.isInteger(n) || n < 1)) report('a tile has whole, positive dimensions');
      scope.tiles.set(tile.name, tile);
      return;
    }
    this.#declared(tile, scope, report);
    if (s.k === 'tile.map') {
      const bound: (readonly [string, Ty])[] = [[s.row, U32], [s.col, U32], ...s.values.map((v): readonly [string, Ty] => [v, { elem: 'f32', lanes: s.lanes }])];
      if (s.values.length !== tile.count) report(`${s.values.length} values for ${tile.count} accumulators`);
      this.#body(s.body, { ...scope, inMap: true }, false, bound);
      return;
    }
    const staged = s.schedule.variant !== 'fma' || s.schedule.staging === 'shared';
    if (staged && !scope.uniform) report('a staged main loop in control flow that is not uniform');
    if (s.b.length !== tile.count) report(`${s.b.length} operands b for ${tile.count} accumulators`);
    if (!Number.isInteger(s.depth) || s.depth < 1) report(`a depth of ${s.depth}`);
    this.#schedule(s.schedule, tile, report);
    for (const v of [s.a, ...s.b]) this.#view(v, scope, report);
  }

  #declared(tile: Tile, scope: Scope, report: (message: string) => void): void {
    const declared = scope.tiles.get(tile.name);
    if (declared === undefined) report(`tile ${tile.name} is not allocated here`);
    else if (declared.rows !== tile.rows || declared.cols !== tile.cols || declared.count !== tile.count) {
      report(`tile ${tile.name} is used otherwise than it is declared`);
    }
  }

  #schedule(s: MainloopSchedule, tile: Tile, report: (message: string) => void): void {
    const numbers = Object.values(s).filter((n) => typeof n === 'number');
    if (numbers.some((n) => !Number.isInteger(n) || n < 1)) report('a schedule has whole, positive numbers');
    else if (s.variant === 'fma') {
      if (tile.rows % s.tm !== 0 || tile.cols % s.tn !== 0) report(`pieces of ${s.tm} x ${s.tn} do not divide the tile`);
      else if ((tile.rows / s.tm) * (tile.cols / s.tn) > this.#kernel.block) report('more pieces than threads');
    }
  }

  #product(
    s: StmtOf<'tile.stage' | 'tile.await' | 'tile.product' | 'tile.row' | 'tile.fold' | 'tile.update'>, scope: Scope, report: (message: string) => void,
  ): void {
    if (!scope.uniform && s.k !== 'tile.row' && s.k !== 'tile.update') report(`${s.k} in control flow that is not uniform`);
    if (s.k === 'tile.await') return;
    if (s.k === 'tile.stage') {
      const known = this.#blocks.get(s.block.name);
      if (known !== undefined && !sameBlock(known, s.block)) report(`block ${s.block.name} is staged in two shapes`);
      checkBlock(s, report);
      this.#view(s.view, scope, report);
      return;
    }
    const { tile } = s;
    this.#declared(tile, scope, report);
    if (s.k === 'tile.product') {
      if (s.a.k === 'tile') this.#declared(s.a.tile, scope, report);
      this.#schedule(s.schedule, tile, report);
      checkOperands(s, this.#blocks, report);
      return;
    }
    const bound = new Map<string, Ty>([[s.row, U32]]);
    if (s.k !== 'tile.row') {
      bound.set(s.col, U32);
      if (s.values.length !== tile.count) report(`${s.values.length} values for ${tile.count} accumulators`);
      for (const v of s.values) bound.set(v, F32);
    }
    const names = this.#names(scope, bound, true);
    for (const e of s.k === 'tile.update' ? s.to : [s.value]) {
      checkExpr(e, names, report);
      if (e.ty.elem !== 'f32' || e.ty.lanes !== 1) report(`the value is ${printTy(e.ty)}, not f32`);
    }
    if (s.k === 'tile.update') {
      if (s.to.length !== tile.count) report(`${s.to.length} new values for ${tile.count} accumulators`);
      return;
    }
    const known = scope.variables.get(s.name);
    if (s.k === 'tile.row' && s.assign) {
      if (known?.perRow !== true) report(`${s.name} is no row value`);
    } else {
      if (known !== undefined) report(`${s.name} is bound already`);
      scope.variables.set(s.name, { ty: F32, mutable: false, perRow: true });
    }
  }

  #view(v: View, scope: Scope, report: (message: string) => void): void {
    const names = this.#names(scope, new Map([[v.row, U32], [v.col, U32]]));
    checkExpr(v.index, names, report);
    const wrong = checkAccess(v.buf, v.index, names);
    if (wrong !== undefined) report(wrong);
    if (v.packed !== undefined) {
      checkExpr(v.packed.scale, names, report);
      if (v.buf.elem !== 'u32' || v.buf.lanes !== 1) report(`packed rows lie in words, not in ${v.buf.elem} x ${v.buf.lanes}`);
    } else if (v.buf.elem !== 'f32' && v.buf.elem !== 'f16' && v.buf.elem !== 'bf16') report(`rows of ${v.buf.elem} are no operand`);
    if (v.guard === undefined) return;
    checkExpr(v.guard, this.#names(scope, new Map([[v.row, U32]])), report);
    if (v.guard.ty.elem !== 'bool' || v.guard.ty.lanes !== 1) report(`the guard is ${printTy(v.guard.ty)}, not bool`);
  }
}
