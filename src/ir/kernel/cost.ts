/** Static counts of what a kernel does: material for reports and for the cost model. No device is asked. */
import type { Buffer, Elem, Expr, Kernel, Stmt } from './types.ts';
import { allocated, exprsOf, operands } from './walk.ts';

/** Bytes of one element in memory. */
export const ELEM_BYTES: Readonly<Record<Elem, number>> = { f32: 4, u32: 4, i32: 4, f16: 2, bf16: 2, bool: 4 };

/** Bytes that one access of a buffer moves. */
export const accessBytes = (buf: Buffer): number => ELEM_BYTES[buf.elem] * buf.lanes;

/** Bytes of shared memory one block uses. */
export const sharedBytes = (kernel: Kernel): number =>
  allocated(kernel.body).filter((x) => x.scope === 'shared').reduce((n, x) => n + accessBytes(x) * x.size, 0);

/** Per thread, unless it says otherwise; of the longer branch of each `if`. */
export interface Counts {
  readonly globalLoads: number;
  readonly globalStores: number;
  readonly sharedLoads: number;
  readonly sharedStores: number;
  readonly atomics: number;
  readonly globalBytesLoaded: number;
  readonly globalBytesStored: number;
  /** Fused multiply-adds, counted per lane. */
  readonly fma: number;
  /** Other floating-point operations, per lane. */
  readonly flops: number;
  readonly barriers: number;
}

export interface Cost {
  readonly perThread: Counts;
  readonly threads: number;
  /** Per block. */
  readonly sharedBytes: number;
  /** Scalars' worth of `var` and register arrays per thread: what a register allocator has to hold at least. */
  readonly registers: number;
  /** Loops whose trip count is not known: counted by `trips`, or once. */
  readonly openLoops: readonly string[];
}

const ZERO: Counts = {
  globalLoads: 0, globalStores: 0, sharedLoads: 0, sharedStores: 0, atomics: 0,
  globalBytesLoaded: 0, globalBytesStored: 0, fma: 0, flops: 0, barriers: 0,
};

type Key = keyof Counts;
const zip = (a: Counts, b: Counts, f: (x: number, y: number) => number): Counts =>
  Object.fromEntries(Object.entries(a).map(([k, x]) => [k, f(x, b[k as Key])])) as unknown as Counts;
const plus = (a: Counts, b: Counts): Counts => zip(a, b, (x, y) => x + y);
const times = (a: Counts, n: number): Counts => zip(a, a, (x) => x * n);
const total = (c: Counts): number => Object.values(c).reduce((n: number, x: number) => n + x, 0);

function ofExpr(e: Expr): Counts {
  let c = operands(e).map(ofExpr).reduce(plus, ZERO);
  if (e.k === 'load' && e.buf.scope === 'global') {
    c = { ...c, globalLoads: c.globalLoads + 1, globalBytesLoaded: c.globalBytesLoaded + accessBytes(e.buf) };
  }
  if (e.k === 'load' && e.buf.scope === 'shared') c = { ...c, sharedLoads: c.sharedLoads + 1 };
  if (e.k === 'call' && e.fn === 'fma') c = { ...c, fma: c.fma + e.ty.lanes };
  else if ((e.k === 'bin' || e.k === 'un' || e.k === 'call') && e.ty.elem === 'f32') c = { ...c, flops: c.flops + e.ty.lanes };
  return c;
}

/** `trips` gives the iterations of a loop whose bounds are not constant, by the name of its variable. */
export function costOf(kernel: Kernel, trips: (loop: string) => number | undefined = () => undefined): Cost {
  const open: string[] = [];
  let registers = 0;
  const ofBody = (body: readonly Stmt[]): Counts => body.map(ofStmt).reduce(plus, ZERO);
  const ofStmt = (s: Stmt): Counts => {
    const own = exprsOf(s).map(ofExpr).reduce(plus, ZERO);
    switch (s.k) {
      case 'var':
        registers += s.value.ty.lanes;
        return own;
      case 'alloc':
        if (s.buf.scope === 'register') registers += s.buf.size * s.buf.lanes;
        return own;
      case 'store':
        if (s.buf.scope === 'global') {
          return { ...own, globalStores: own.globalStores + 1, globalBytesStored: own.globalBytesStored + accessBytes(s.buf) };
        }
        return s.buf.scope === 'shared' ? { ...own, sharedStores: own.sharedStores + 1 } : own;
      case 'atomic':
        return { ...own, atomics: own.atomics + 1 };
      case 'barrier':
        return { ...own, barriers: own.barriers + 1 };
      case 'if': {
        const then = ofBody(s.then);
        const otherwise = ofBody(s.else);
        return plus(own, total(then) >= total(otherwise) ? then : otherwise);
      }
      case 'for': {
        const from = s.from.k === 'const' ? s.from.value : s.from.k === 'builtin' && s.from.id === 'thread' ? 0 : undefined;
        const known = from !== undefined && s.to.k === 'const' ? Math.max(0, Math.ceil((s.to.value - from) / s.step)) : undefined;
        if (known === undefined) open.push(s.name);
        return plus(own, times(ofBody(s.body), known ?? trips(s.name) ?? 1));
      }
      default:
        return own;
    }
  };
  const perThread = ofBody(kernel.body);
  return { perThread, threads: kernel.block, sharedBytes: sharedBytes(kernel), registers, openLoops: open };
}
