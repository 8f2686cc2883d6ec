/**
 * The interpreter: runs a kernel of the simt level on the CPU and is the judge of what kernels mean. It runs all threads of a
 * block in lock-step, statement by statement, and throws at what a GPU would hide: data races within and
 * between blocks, accesses out of bounds, reads of what nothing wrote, divergent barriers and subgroup operations,
 * division by zero, shifts by 32 and more.
 *
 * Races do not depend on the lock-step order: two accesses conflict when no barrier stands between them.
 */
import { assertNever } from '../../base/assert-never.ts';
import { KernelFault } from './fault.ts';
import type { FaultKind } from './fault.ts';
import { compileExpr } from './interpret-expr.ts';
import type { Code, Machine } from './interpret-expr.ts';
import { UPDATE, WRITE, globalCells, holds, localCells } from './interpret-memory.ts';
import type { Cells, Clock, TypedArray } from './interpret-memory.ts';
import { copyValue, makeValue, makeVec } from './interpret-values.ts';
import type { Mask, Value, Vec } from './interpret-values.ts';
import { printHead } from './print.ts';
import type { Builtin, Kernel, ScalarName, Stmt, StmtOf } from './types.ts';
import { walkStmts } from './walk.ts';

export type { Fault, FaultKind } from './fault.ts';
export { KernelFault } from './fault.ts';
export type { TypedArray } from './interpret-memory.ts';

/** Arrays by parameter name: Float32Array, Uint32Array, Int32Array; Uint16Array of bits for f16 and bf16. Written in place. */
export type Memory = Readonly<Record<string, TypedArray>>;

export interface Launched {
  /** Blocks in x, y, z. */
  readonly grid: readonly [number, number, number];
  readonly memory: Memory | ReadonlyMap<string, TypedArray>;
  readonly scalars?: Partial<Record<ScalarName, number>>;
  /** Threads per subgroup; 32 where not said. */
  readonly subgroupSize?: number;
  /** Parameters whose contents count as never written: reading them before writing is a fault. */
  readonly poison?: readonly string[];
}

export interface Outcome {
  /** Barriers passed, all blocks together. */
  readonly barriers: number;
  /** For each poisoned parameter the cells (accesses) that nothing wrote. */
  readonly unwritten: Readonly<Record<string, readonly number[]>>;
}

type Run = (m: Mask) => void;

/** Throws KernelFault at the first fault. */
export function interpret(kernel: Kernel, launched: Launched): Outcome {
  const run = new Interpreter(kernel, launched);
  return run.all();
}

class Interpreter implements Machine {
  readonly threads: number;
  readonly subgroupSize: number;
  readonly clock: Clock = { block: 0, epoch: 0 };
  readonly builtins: Readonly<Record<Builtin, Vec>>;
  readonly #kernel: Kernel;
  readonly #launched: Launched;
  readonly #cells = new Map<string, Cells>();
  /** Names in scope while compiling. */
  #scope = new Map<string, Value>();
  #at: readonly [number, number, number] = [0, 0, 0];
  #barriers = 0;

  constructor(kernel: Kernel, launched: Launched) {
    this.#kernel = kernel;
    this.#launched = launched;
    this.threads = kernel.block;
    this.subgroupSize = launched.subgroupSize ?? 32;
    const u32 = (f: (t: number) => number): Vec => makeVec('u32', kernel.block).map((_, t) => f(t));
    const [gx, gy, gz] = launched.grid;
    this.builtins = {
      'block.x': u32(() => 0), 'block.y': u32(() => 0), 'block.z': u32(() => 0),
      'grid.x': u32(() => gx), 'grid.y': u32(() => gy), 'grid.z': u32(() => gz),
      thread: u32((t) => t),
      lane: u32((t) => t % this.subgroupSize),
      subgroup: u32((t) => Math.floor(t / this.subgroupSize)),
      'subgroup.size': u32(() => this.subgroupSize),
    };
    this.#bindParams();
  }

  #bindParams(): void {
    const { memory, poison = [] } = this.#launched;
    const written = new Set<string>();
    for (const s of walkStmts(this.#kernel.body)) if (s.k === 'store' || s.k === 'atomic') written.add(s.buf.name);
    for (const p of this.#kernel.params) {
      const data = memory instanceof Map ? memory.get(p.name) : (memory as Memory)[p.name];
      if (data === undefined) this.#refuse(`no memory for parameter ${p.name}`);
      if (!holds(data, p.elem)) this.#refuse(`the memory of ${p.name} is a ${data.constructor.name}, not of ${p.elem}`);
      this.#cells.set(p.name, globalCells(p, data, written.has(p.name), poison.includes(p.name)));
    }
  }

  #refuse(message: string): never {
    throw new KernelFault({ kind: 'memory', message, kernel: this.#kernel.name, statement: '', block: [0, 0, 0], thread: -1 });
  }

  all(): Outcome {
    const body = this.#body(this.#kernel.body);
    const everyone: Mask = { threads: Int32Array.from({ length: this.threads }, (_, t) => t), n: this.threads };
    const [gx, gy, gz] = this.#launched.grid;
    for (let z = 0; z < gz; z++) {
      for (let y = 0; y < gy; y++) {
        for (let x = 0; x < gx; x++) {
          this.#at = [x, y, z];
          this.builtins['block.x'].fill(x);
          this.builtins['block.y'].fill(y);
          this.builtins['block.z'].fill(z);
          this.clock.block = x + gx * (y + gy * z);
          this.clock.epoch++;
          for (const c of this.#cells.values()) if (c.buf.scope !== 'global') c.written?.fill(0);
          body(everyone);
        }
      }
    }
    const unwritten: Record<string, number[]> = {};
    for (const name of this.#launched.poison ?? []) {
      const cells: number[] = [];
      this.#cells.get(name)?.written?.forEach((w, i) => {
        if (w === 0) cells.push(i);
      });
      unwritten[name] = cells;
    }
    return { barriers: this.#barriers, unwritten };
  }

  // ---------------------------------------------------------------- Machine

  scalar(name: ScalarName): number {
    const value = this.#launched.scalars?.[name];
    if (value === undefined) this.#refuse(`no value for scalar ${name}`);
    return value;
  }

  cells(name: string): Cells {
    const found = this.#cells.get(name);
    if (found === undefined) throw new Error(`${this.#kernel.name}: buffer ${name} is used before it is allocated`);
    return found;
  }

  variable(name: string): Value {
    const found = this.#scope.get(name);
    if (found === undefined) throw new Error(`${this.#kernel.name}: variable ${name} is not bound`);
    return found;
  }

  fault(kind: FaultKind, message: string, at: Stmt, thread: number, buffer?: string, index?: number): never {
    const where = { ...(buffer === undefined ? {} : { buffer }), ...(index === undefined ? {} : { index }) };
    throw new KernelFault({ kind, message, kernel: this.#kernel.name, statement: printHead(at), block: this.#at, thread, ...where });
  }

  // ---------------------------------------------------------------- statements

  #body(body: readonly Stmt[]): Run {
    const outer = this.#scope;
    this.#scope = new Map(outer);
    const runs = body.map((s) => this.#stmt(s)).filter((r) => r !== undefined);
    this.#scope = outer;
    return (m) => {
      for (const run of runs) run(m);
    };
  }

  #stmt(s: Stmt): Run | undefined {
    switch (s.k) {
      case 'note':
        return undefined;
      case 'alloc':
        return this.#alloc(s);
      case 'let':
      case 'var': {
        const value = compileExpr(s.value, this, s);
        const cell = makeValue(s.value.ty, this.threads);
        this.#scope.set(s.name, cell);
        return assign(value, cell);
      }
      case 'assign':
        return assign(compileExpr(s.value, this, s), this.variable(s.name));
      case 'store':
        return this.#store(s);
      case 'atomic':
        return this.#atomic(s);
      case 'if':
        return this.#if(s);
      case 'for':
        return this.#for(s);
      case 'barrier':
        return (m) => {
          if (m.n < this.threads) this.fault('divergent-barrier', `only ${m.n} of ${this.threads} threads reach a barrier`, s, -1);
          this.clock.epoch++;
          this.#barriers++;
        };
      case 'machine':
        throw new Error(`${this.#kernel.name}: ${s.op} is an instruction of one machine; the interpreter runs the portable variant`);
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
        throw new Error(`${this.#kernel.name}: ${s.k} reached the interpreter: the kernel passes must expand tile statements first`);
      default:
        return assertNever(s);
    }
  }

  #alloc(s: StmtOf<'alloc'>): Run | undefined {
    const cells = localCells(s.buf, this.threads);
    this.#cells.set(s.buf.name, cells);
    if (s.buf.scope === 'shared') return undefined;
    // A register buffer in a loop is a new one in each iteration.
    return (m) => {
      for (let i = 0; i < m.n; i++) {
        const t = m.threads[i] as number;
        cells.written?.fill(0, t * cells.size, (t + 1) * cells.size);
      }
    };
  }

  #store(s: StmtOf<'store'>): Run {
    const index = compileExpr(s.index, this, s);
    const value = compileExpr(s.value, this, s);
    const { data, encode, size, written, races } = this.cells(s.buf.name);
    const { lanes, name } = s.buf;
    const perThread = s.buf.scope === 'register';
    return (m) => {
      index.run(m);
      value.run(m);
      const at0 = index.out[0];
      if (at0 === undefined) return;
      for (let i = 0; i < m.n; i++) {
        const t = m.threads[i] as number;
        const x = at0[t] as number;
        if (x >= size || x < 0) this.fault('out-of-bounds', `writes ${name}[${x}], which has ${size} cells`, s, t, name, x);
        const cell = perThread ? t * size + x : x;
        if (races !== undefined) {
          const race = races.touch(WRITE, cell, t, this.clock);
          if (race !== undefined) this.fault('race', `race on ${name}[${x}]: writes ${race}`, s, t, name, x);
        }
        if (written !== undefined) written[cell] = 1;
        for (let l = 0; l < lanes; l++) data[cell * lanes + l] = encode((value.out[l] ?? at0)[t] as number);
      }
    };
  }

  #atomic(s: StmtOf<'atomic'>): Run {
    const index = compileExpr(s.index, this, s);
    const value = compileExpr(s.value, this, s);
    const { data, size, written, races } = this.cells(s.buf.name);
    const { name } = s.buf;
    const result = s.result === undefined ? undefined : makeValue(s.value.ty, this.threads);
    if (s.result !== undefined && result !== undefined) this.#scope.set(s.result, result);
    return (m) => {
      index.run(m);
      value.run(m);
      const at0 = index.out[0];
      const add = value.out[0];
      if (at0 === undefined || add === undefined) return;
      for (let i = 0; i < m.n; i++) {
        const t = m.threads[i] as number;
        const x = at0[t] as number;
        if (x >= size) this.fault('out-of-bounds', `updates ${name}[${x}], which has ${size} cells`, s, t, name, x);
        if (written !== undefined && written[x] === 0) {
          this.fault('uninitialised', `updates ${name}[${x}], which nothing wrote`, s, t, name, x);
        }
        const race = races?.touch(UPDATE, x, t, this.clock);
        if (race !== undefined) this.fault('race', `race on ${name}[${x}]: updates ${race}`, s, t, name, x);
        const old = data[x] as number;
        if (result?.[0] !== undefined) result[0][t] = old;
        data[x] = s.op === 'add' ? old + (add[t] as number) : Math.max(old, add[t] as number);
      }
    };
  }

  #if(s: StmtOf<'if'>): Run {
    const cond = compileExpr(s.cond, this, s);
    const then = this.#body(s.then);
    const otherwise = this.#body(s.else);
    const yes: Mask = { threads: new Int32Array(this.threads), n: 0 };
    const no: Mask = { threads: new Int32Array(this.threads), n: 0 };
    return (m) => {
      cond.run(m);
      const c = cond.out[0];
      yes.n = 0;
      no.n = 0;
      for (let i = 0; i < m.n; i++) {
        const t = m.threads[i] as number;
        const side = c?.[t] !== 0 ? yes : no;
        side.threads[side.n++] = t;
      }
      if (yes.n > 0) then(yes);
      if (no.n > 0) otherwise(no);
    };
  }

  #for(s: StmtOf<'for'>): Run {
    const from = compileExpr(s.from, this, s);
    const outer = this.#scope;
    this.#scope = new Map(outer);
    const counter = makeVec('u32', this.threads);
    this.#scope.set(s.name, [counter]);
    const to = compileExpr(s.to, this, s);
    const body = this.#body(s.body);
    this.#scope = outer;
    const live: Mask = { threads: new Int32Array(this.threads), n: 0 };
    return (m) => {
      from.run(m);
      copyValue([counter], from.out, m);
      live.threads.set(m.threads);
      live.n = m.n;
      for (;;) {
        to.run(live);
        const end = to.out[0];
        let n = 0;
        for (let i = 0; i < live.n; i++) {
          const t = live.threads[i] as number;
          if ((counter[t] as number) < (end?.[t] as number)) live.threads[n++] = t;
        }
        live.n = n;
        if (n === 0) return;
        body(live);
        for (let i = 0; i < n; i++) {
          const t = live.threads[i] as number;
          const next = (counter[t] as number) + s.step;
          if (next > 0xffff_ffff) this.fault('loop-overflow', `${s.name} passes 2^32`, s, t);
          counter[t] = next;
        }
      }
    };
  }
}

function assign(value: Code, cell: Value): Run {
  return (m) => {
    value.run(m);
    copyValue(cell, value.out, m);
  };
}
