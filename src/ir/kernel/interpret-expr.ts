/**
 * Expressions compiled to closures, each of which evaluates one node for all running threads of a block.
 * Both arms of `select` are evaluated, as the targets do; `&&` and `||` evaluate their right side only
 * for threads that need it.
 */
import { assertNever } from '../../base/assert-never.ts';
import type { FaultKind } from './fault.ts';
import { READ } from './interpret-memory.ts';
import type { Cells, Clock } from './interpret-memory.ts';
import { FUNCTIONS, binary, conversion, copyValue, makeValue, makeVec } from './interpret-values.ts';
import type { Mask, Unary, Value, Vec } from './interpret-values.ts';
import { fmaF32, numberToBf16, numberToF16 } from './numerics.ts';
import type { Builtin, Expr, ExprOf, ScalarName, Stmt } from './types.ts';

/** A compiled expression: `run` fills `out` for the threads of the mask. */
export interface Code {
  readonly out: Value;
  run(m: Mask): void;
}

/** What compiled code shares. */
export interface Machine {
  readonly threads: number;
  readonly subgroupSize: number;
  readonly clock: Clock;
  /** Values that change from block to block; filled by the driver. */
  readonly builtins: Readonly<Record<Builtin, Vec>>;
  scalar(name: ScalarName): number;
  cells(name: string): Cells;
  variable(name: string): Value;
  fault(kind: FaultKind, message: string, at: Stmt, thread: number, buffer?: string, index?: number): never;
}

export function compileExpr(e: Expr, c: Machine, at: Stmt): Code {
  switch (e.k) {
    case 'const': {
      const out = makeValue(e.ty, c.threads);
      for (const v of out) v.fill(e.value);
      return { out, run: () => {} };
    }
    case 'var':
      return { out: c.variable(e.name), run: () => {} };
    case 'builtin':
      return { out: [c.builtins[e.id]], run: () => {} };
    case 'scalar': {
      const out = makeValue(e.ty, c.threads);
      for (const v of out) v.fill(c.scalar(e.name));
      return { out, run: () => {} };
    }
    case 'un':
      return mapComponents(e, compileExpr(e.a, c, at), e.op === 'neg' ? (a) => -a : (a) => (a === 0 ? 1 : 0), c);
    case 'bin':
      return compileBinary(e, c, at);
    case 'call':
      return compileCall(e, c, at);
    case 'cast':
      return mapComponents(e, compileExpr(e.a, c, at), conversion(e.a.ty.elem, e.ty.elem), c);
    case 'bitcast':
      return compileBitcast(e, c, at);
    case 'lane': {
      const a = compileExpr(e.a, c, at);
      return { out: [component(a.out, e.i)], run: a.run };
    }
    case 'splat': {
      const a = compileExpr(e.a, c, at);
      return { out: Array.from({ length: e.ty.lanes }, () => component(a.out, 0)), run: a.run };
    }
    case 'pack': {
      const args = e.args.map((x) => compileExpr(x, c, at));
      const out = args.map((x) => component(x.out, 0));
      return { out, run: (m) => args.forEach((x) => x.run(m)) };
    }
    case 'select':
      return compileSelect(e, c, at);
    case 'load':
      return compileLoad(e, c, at);
    case 'subgroup':
      return compileSubgroup(e, c, at);
    default:
      return assertNever(e);
  }
}

function component(v: Value, i: number): Vec {
  const vec = v[i];
  if (vec === undefined) throw new Error(`a value of ${v.length} lanes has no lane ${i}`);
  return vec;
}

function mapComponents(e: Expr, a: Code, f: Unary, c: Machine): Code {
  const out = makeValue(e.ty, c.threads);
  return {
    out,
    run(m) {
      a.run(m);
      for (let l = 0; l < out.length; l++) {
        const d = component(out, l);
        const s = component(a.out, l);
        for (let i = 0; i < m.n; i++) {
          const t = m.threads[i] as number;
          d[t] = f(s[t] as number);
        }
      }
    },
  };
}

function compileBinary(e: ExprOf<'bin'>, c: Machine, at: Stmt): Code {
  const a = compileExpr(e.a, c, at);
  const b = compileExpr(e.b, c, at);
  if ((e.op === '&&' || e.op === '||') && e.ty.lanes === 1) return shortCircuit(e.op, a, b, c);
  const f = binary(e.op, e.a.ty.elem);
  if (f === undefined) throw new Error(`${e.op} has no meaning on ${e.a.ty.elem}`);
  const integer = e.a.ty.elem === 'u32' || e.a.ty.elem === 'i32';
  const divides = integer && (e.op === '/' || e.op === '%');
  const shifts = e.op === '<<' || e.op === '>>';
  const out = makeValue(e.ty, c.threads);
  return {
    out,
    run(m) {
      a.run(m);
      b.run(m);
      for (let l = 0; l < out.length; l++) {
        const d = component(out, l);
        const x = component(a.out, a.out.length === 1 ? 0 : l);
        const y = component(b.out, b.out.length === 1 ? 0 : l);
        for (let i = 0; i < m.n; i++) {
          const t = m.threads[i] as number;
          const right = y[t] as number;
          if (divides && right === 0) c.fault('division-by-zero', `${x[t]} ${e.op} 0`, at, t);
          if (shifts && right >= 32) c.fault('shift', `a shift by ${right} bits`, at, t);
          d[t] = f(x[t] as number, right);
        }
      }
    },
  };
}

function shortCircuit(op: '&&' | '||', a: Code, b: Code, c: Machine): Code {
  const out = makeVec('bool', c.threads);
  const rest: Mask = { threads: new Int32Array(c.threads), n: 0 };
  const decided = op === '&&' ? 0 : 1;
  return {
    out: [out],
    run(m) {
      a.run(m);
      const x = component(a.out, 0);
      rest.n = 0;
      for (let i = 0; i < m.n; i++) {
        const t = m.threads[i] as number;
        if (x[t] === decided) out[t] = decided;
        else rest.threads[rest.n++] = t;
      }
      if (rest.n === 0) return;
      b.run(rest);
      copyValue([out], b.out, rest);
    },
  };
}

function compileCall(e: ExprOf<'call'>, c: Machine, at: Stmt): Code {
  const [a, b, d] = e.args.map((x) => compileExpr(x, c, at));
  if (a === undefined) throw new Error(`${e.fn} needs an argument`);
  if (e.fn === 'pack.f16' || e.fn === 'pack.bf16') return packHalves(e.fn === 'pack.f16' ? numberToF16 : numberToBf16, a, b ?? a, c);
  if (e.fn !== 'fma') return mapComponents(e, a, FUNCTIONS[e.fn], c);
  if (b === undefined || d === undefined) throw new Error('fma needs three arguments');
  const out = makeValue(e.ty, c.threads);
  return {
    out,
    run(m) {
      a.run(m);
      b.run(m);
      d.run(m);
      for (let l = 0; l < out.length; l++) {
        const to = component(out, l);
        const x = component(a.out, l);
        const y = component(b.out, l);
        const z = component(d.out, l);
        for (let i = 0; i < m.n; i++) {
          const t = m.threads[i] as number;
          to[t] = fmaF32(x[t] as number, y[t] as number, z[t] as number);
        }
      }
    },
  };
}

function packHalves(round: (x: number) => number, low: Code, high: Code, c: Machine): Code {
  const out = makeVec('u32', c.threads);
  return {
    out: [out],
    run(m) {
      low.run(m);
      high.run(m);
      const x = component(low.out, 0);
      const y = component(high.out, 0);
      for (let i = 0; i < m.n; i++) {
        const t = m.threads[i] as number;
        out[t] = ((round(y[t] as number) << 16) | round(x[t] as number)) >>> 0;
      }
    },
  };
}

function compileBitcast(e: ExprOf<'bitcast'>, c: Machine, at: Stmt): Code {
  const a = compileExpr(e.a, c, at);
  const raw = a.out.map((v) => new Uint8Array(v.buffer, v.byteOffset, v.byteLength));
  if (raw.some((v) => v.length !== c.threads * 4)) throw new Error('bitcast is between 32-bit types');
  const out = makeValue(e.ty, c.threads);
  const words = (v: Vec): Uint32Array => new Uint32Array(v.buffer, v.byteOffset, c.threads);
  const from = a.out.map(words);
  const to = out.map(words);
  return {
    out,
    run(m) {
      a.run(m);
      copyValue(to, from, m);
    },
  };
}

function compileSelect(e: ExprOf<'select'>, c: Machine, at: Stmt): Code {
  const cond = compileExpr(e.cond, c, at);
  const a = compileExpr(e.a, c, at);
  const b = compileExpr(e.b, c, at);
  const out = makeValue(e.ty, c.threads);
  return {
    out,
    run(m) {
      cond.run(m);
      a.run(m);
      b.run(m);
      for (let l = 0; l < out.length; l++) {
        const d = component(out, l);
        const p = component(cond.out, cond.out.length === 1 ? 0 : l);
        const x = component(a.out, l);
        const y = component(b.out, l);
        for (let i = 0; i < m.n; i++) {
          const t = m.threads[i] as number;
          d[t] = (p[t] !== 0 ? x[t] : y[t]) as number;
        }
      }
    },
  };
}

function compileLoad(e: ExprOf<'load'>, c: Machine, at: Stmt): Code {
  const index = compileExpr(e.index, c, at);
  const cells = c.cells(e.buf.name);
  const { data, decode, size, written, races } = cells;
  const { lanes, name } = e.buf;
  const perThread = e.buf.scope === 'register';
  const out = makeValue(e.ty, c.threads);
  return {
    out,
    run(m) {
      index.run(m);
      const at0 = component(index.out, 0);
      for (let i = 0; i < m.n; i++) {
        const t = m.threads[i] as number;
        const x = at0[t] as number;
        if (x >= size || x < 0) c.fault('out-of-bounds', `reads ${name}[${x}], which has ${size} cells`, at, t, name, x);
        const cell = perThread ? t * size + x : x;
        if (written !== undefined && written[cell] === 0) {
          c.fault('uninitialised', `reads ${name}[${x}], which nothing wrote`, at, t, name, x);
        }
        if (races !== undefined) {
          const race = races.touch(READ, cell, t, c.clock);
          if (race !== undefined) c.fault('race', `race on ${name}[${x}]: reads ${race}`, at, t, name, x);
        }
        for (let l = 0; l < lanes; l++) component(out, l)[t] = decode(data[cell * lanes + l] as number);
      }
    },
  };
}

/** Every subgroup with a running thread must be whole: anything else is undefined on the targets. */
function compileSubgroup(e: ExprOf<'subgroup'>, c: Machine, at: Stmt): Code {
  const a = compileExpr(e.a, c, at);
  const out = makeValue(e.ty, c.threads);
  const running = new Uint8Array(c.threads);
  const fold = (x: number, y: number): number =>
    e.op === 'add' ? (e.ty.elem === 'f32' ? Math.fround(x + y) : x + y) : e.op === 'max' ? Math.max(x, y) : Math.min(x, y);
  return {
    out,
    run(m) {
      a.run(m);
      running.fill(0);
      for (let i = 0; i < m.n; i++) running[m.threads[i] as number] = 1;
      for (let first = 0; first < c.threads; first += c.subgroupSize) {
        const end = Math.min(c.threads, first + c.subgroupSize);
        const count = running.subarray(first, end).reduce((n, x) => n + x, 0);
        if (count === 0) continue;
        if (count < end - first) c.fault('divergent-subgroup', `only ${count} of ${end - first} threads reach subgroup.${e.op}`, at, first);
        if (e.lane !== undefined && first + e.lane >= end) c.fault('divergent-subgroup', `the subgroup has no lane ${e.lane}`, at, first);
        for (let l = 0; l < out.length; l++) {
          const s = component(a.out, l);
          let value = s[first + (e.lane ?? 0)] as number;
          if (e.lane === undefined) for (let t = first + 1; t < end; t++) value = fold(value, s[t] as number);
          component(out, l).fill(value, first, end);
        }
      }
    },
  };
}
