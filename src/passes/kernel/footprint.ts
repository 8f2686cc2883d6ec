/**
 * Which cells of a buffer an access touches, and which thread touches which: enough to prove that two
 * accesses never meet in one cell from two different threads.
 *
 * An index is a sum of three parts. What follows from the thread and from loops with known bounds is
 * enumerated. What is the same for all threads is compared as text. The rest is unknown, and only says
 * modulo what the enumerated part still holds (a loop from `thread` in steps of the block: modulo the block).
 */
import type { Effect } from '../../ir/kernel/effects.ts';
import type { Expr, Kernel, Stmt, StmtOf } from '../../ir/kernel/types.ts';
import type { Uniformity } from '../../ir/kernel/uniformity.ts';
import { exprKey, operands, someExpr, walkStmts } from '../../ir/kernel/walk.ts';
import { linear } from './linear.ts';
import { Points } from './points.ts';
import type { Column } from './points.ts';

/** Threads and loop iterations tried at most; beyond that a loop counts as unknown. */
const MAX_POINTS = 1 << 17;
const MANY = -1;

interface Footprint {
  /** The part that all threads share, as text. */
  readonly shared: string;
  /** Cells are known modulo this; 0: exactly. */
  readonly modulo: number;
  /** Enumerated part → the one thread that may touch it, or MANY. */
  readonly owners: ReadonlyMap<number, number>;
  /** The same where every guard is known to hold. */
  readonly certain: ReadonlyMap<number, number>;
}

const gcd = (a: number, b: number): number => (b === 0 ? Math.abs(a) : gcd(b, a % b));

/** Facts about the variables of a kernel with unique names. */
export class Footprints {
  readonly #block: number;
  /** Definitions that may be put in place of a name: values that do not change between two looks at them. */
  readonly #definitions = new Map<string, Expr>();
  readonly #loops = new Map<string, StmtOf<'for'>>();
  readonly #uniform = new Set<string>();
  readonly #written: ReadonlySet<string>;
  readonly #uniformLoop: (s: Stmt) => boolean;
  /** Every thread once. */
  readonly #threads: Points;
  /** One thread of which nothing is known. */
  readonly #anyThread: Points;
  /** By access, then by what decides a footprint; the first of each pair where uniform loops stand for one iteration. */
  readonly #ofAccess = [new Map<Effect, Footprint>(), new Map<Effect, Footprint>()] as const;
  readonly #ofContent = [new Map<string, Footprint>(), new Map<string, Footprint>()] as const;

  constructor(kernel: Kernel, uniformity: Uniformity, written: ReadonlySet<string>) {
    this.#block = kernel.block;
    this.#written = written;
    this.#threads = Points.ofBlock(kernel.block, this.#definitions);
    this.#anyThread = new Points(Float64Array.of(NaN), this.#definitions);
    this.#uniformLoop = (s) => uniformity.control(s);
    for (const s of walkStmts(kernel.body)) {
      if (s.k === 'for') this.#loops.set(s.name, s);
      if ((s.k === 'for' || s.k === 'let') && uniformity.binds(s)) this.#uniform.add(s.name);
      if (s.k === 'let' && this.#isStable(s.value)) this.#definitions.set(s.name, s.value);
    }
  }

  /** Reads nothing that the kernel changes (names stand for themselves). */
  #isStable(e: Expr): boolean {
    return !someExpr(e, (x) => x.k === 'subgroup' || (x.k === 'load' && (x.buf.scope !== 'global' || this.#written.has(x.buf.name))));
  }

  /** The value of a constant expression, names looked through. */
  constant(e: Expr): number | undefined {
    const [value = NaN] = this.#anyThread.values(e);
    return Number.isNaN(value) ? undefined : value;
  }

  /**
   * Whether two threads may touch one cell, one by `a` and one by `b`. `crossed`: loops of which `a` happened in
   * an earlier iteration than `b`.
   */
  mayMeet(a: Effect, b: Effect, crossed: ReadonlySet<string>): boolean {
    if (!this.#varies(a, crossed) && !this.#varies(b, crossed)) {
      if (!this.#overlap(this.#footprint(a, true), this.#footprint(b, true))) return false;
    }
    if (!this.#overlap(this.#footprint(a, false), this.#footprint(b, false))) return false;
    return !this.#areCopies(a, b);
  }

  /** Whether an access depends on a loop of `crossed`: its variable, or something bound inside it. */
  #varies(x: Effect, crossed: ReadonlySet<string>): boolean {
    if (crossed.size === 0) return false;
    return [x.index, ...x.guards].some((e) => someName(e, (name) => this.#boundIn(name, crossed)));
  }

  readonly #inside = new Map<string, ReadonlySet<string>>();

  #boundIn(name: string, loops: ReadonlySet<string>): boolean {
    for (const l of loops) {
      let names = this.#inside.get(l);
      if (names === undefined) {
        const loop = this.#loops.get(l);
        const found = new Set<string>([l]);
        for (const s of loop === undefined ? [] : walkStmts(loop.body)) {
          if (s.k === 'let' || s.k === 'var' || s.k === 'for' || s.k === 'assign') found.add(s.name);
          if (s.k === 'atomic' && s.result !== undefined) found.add(s.result);
        }
        names = found;
        this.#inside.set(l, names);
      }
      if (names.has(name)) return true;
    }
    return false;
  }

  /** Known cells, or cells known modulo something, that two different threads share. */
  #overlap(a: Footprint, b: Footprint): boolean {
    if (a.shared !== b.shared) return true;
    const modulo = gcd(a.modulo, b.modulo);
    if (modulo === 1) return true;
    const reduce = (f: Footprint): ReadonlyMap<number, number> => {
      if (modulo === 0) return f.owners;
      const out = new Map<number, number>();
      for (const [cell, owner] of f.owners) note(out, ((cell % modulo) + modulo) % modulo, owner);
      return out;
    };
    return meet(reduce(a), reduce(b));
  }

  /**
   * Two accesses that own their cells (stores, and reads of the very cell that the same statement stores) and
   * whose indices are equal but for constants are taken for copies of one statement written out several times,
   * unless they certainly meet. No barrier helps a statement against itself.
   */
  #areCopies(a: Effect, b: Effect): boolean {
    const owns = (x: Effect): boolean => x.kind === 'write' || x.inPlace;
    if (!owns(a) || !owns(b)) return false;
    const [fa, fb] = [this.#footprint(a, true), this.#footprint(b, true)];
    const certain = fa.modulo === 0 && fb.modulo === 0 && fa.shared === fb.shared && meet(fa.certain, fb.certain);
    return !certain && this.#skeleton(a.index) === this.#skeleton(b.index);
  }

  readonly #skeletons = new Map<Expr, string>();

  /** The expression without its constant summands, names looked through. */
  #skeleton(e: Expr): string {
    const known = this.#skeletons.get(e);
    if (known !== undefined) return known;
    const sum = linear(e, (x) => this.#expand(x));
    const terms = [...sum.terms.values()].map(({ term, coefficient }) => {
      const inner = operands(term).map((x) => this.#skeleton(x));
      return `${coefficient}*${term.k}${inner.length === 0 ? exprKey(term) : `${headKey(term)}(${inner.join(',')})`}`;
    });
    const made = terms.sort().join('+');
    this.#skeletons.set(e, made);
    return made;
  }

  #expand(e: Expr): Expr | undefined {
    return e.k === 'var' ? this.#definitions.get(e.name) : undefined;
  }

  // ---------------------------------------------------------------- one access

  /** `same`: uniform loop variables stand for one common iteration; else each access has its own. */
  #footprint(x: Effect, same: boolean): Footprint {
    const ofAccess = this.#ofAccess[same ? 0 : 1];
    const known = ofAccess.get(x);
    if (known !== undefined) return known;
    const key = [x.index, ...x.guards].map(exprKey).join(' | ');
    const loops = this.#loopsOf(x);
    // Without loops there is but one iteration.
    const ofContent = this.#ofContent[same && loops.length > 0 ? 0 : 1];
    const made = ofContent.get(key) ?? this.#make(x, loops, same);
    ofContent.set(key, made);
    ofAccess.set(x, made);
    return made;
  }

  #isSymbol(loop: StmtOf<'for'>, same: boolean): boolean {
    return same && this.#uniformLoop(loop) && this.#uniform.has(loop.name);
  }

  #make(x: Effect, loops: readonly StmtOf<'for'>[], same: boolean): Footprint {
    const enumerated = this.#enumerable(loops, same);
    const expand = (e: Expr): Expr | undefined => {
      if (e.k !== 'var') return undefined;
      const loop = this.#loops.get(e.name);
      // A loop that cannot be enumerated: from + step · (an unknown of its own).
      if (loop !== undefined && !enumerated.has(loop) && !this.#isSymbol(loop, same)) {
        const unknown: Expr = { k: 'var', ty: e.ty, name: `${e.name} iteration` };
        const steps: Expr = { k: 'bin', ty: e.ty, op: '*', a: unknown, b: { k: 'const', ty: e.ty, value: loop.step } };
        return { k: 'bin', ty: e.ty, op: '+', a: loop.from, b: steps };
      }
      return this.#definitions.get(e.name);
    };
    const sum = linear(x.index, expand);
    let modulo = 0;
    const shared: string[] = [];
    const counted: { term: Expr; coefficient: number }[] = [];
    for (const t of sum.terms.values()) {
      if (this.#isEnumerated(t.term, enumerated)) counted.push(t);
      else if (this.#isShared(t.term, same)) shared.push(`${t.coefficient}*${this.#resolvedKey(t.term)}`);
      else modulo = gcd(modulo, t.coefficient);
    }
    return { shared: shared.sort().join(' + '), modulo, ...this.#enumerate(x, enumerated, counted, sum.constant) };
  }

  /** Loops around the access that the index or a guard mentions, outermost first. */
  #loopsOf(x: Effect): readonly StmtOf<'for'>[] {
    if (x.loops.length === 0) return [];
    const mentioned = new Set<string>();
    const mention = (e: Expr): void => {
      if (e.k === 'var' && !mentioned.has(e.name)) {
        mentioned.add(e.name);
        const definition = this.#definitions.get(e.name);
        if (definition !== undefined) mention(definition);
        const loop = this.#loops.get(e.name);
        if (loop !== undefined) [loop.from, loop.to].forEach(mention);
      }
      operands(e).forEach(mention);
    };
    [x.index, ...x.guards].forEach(mention);
    return x.loops.filter((loop) => mentioned.has(loop.name));
  }

  /** Those of the loops whose bounds follow from the thread and outer such loops. */
  #enumerable(loops: readonly StmtOf<'for'>[], same: boolean): ReadonlySet<StmtOf<'for'>> {
    const found = new Set<StmtOf<'for'>>();
    let points = this.#block;
    for (const loop of loops) {
      if (this.#isSymbol(loop, same)) continue;
      if (!this.#isEnumerated(loop.from, found) || !this.#isEnumerated(loop.to, found)) continue;
      // Bounds may depend on the thread: the first thread's range stands for all.
      const zero = Float64Array.of(0);
      const first = new Points(zero, this.#definitions, new Map([...found].map((l) => [l.name, zero])));
      const [from = NaN] = first.values(loop.from);
      const [to = NaN] = first.values(loop.to);
      const trips = Math.ceil(((Number.isNaN(to) ? Infinity : to) - (Number.isNaN(from) ? 0 : from)) / loop.step);
      if (points * Math.max(1, trips) > MAX_POINTS) continue;
      points *= Math.max(1, trips);
      found.add(loop);
    }
    return found;
  }

  #isEnumerated(e: Expr, loops: ReadonlySet<StmtOf<'for'>>): boolean {
    if (e.k === 'const') return true;
    if (e.k === 'builtin') return e.id === 'thread';
    if (e.k === 'var') {
      const loop = this.#loops.get(e.name);
      if (loop !== undefined) return loops.has(loop);
      const definition = this.#definitions.get(e.name);
      return definition !== undefined && this.#isEnumerated(definition, loops);
    }
    if (e.k !== 'bin' && e.k !== 'select' && e.k !== 'un') return false;
    return operands(e).every((a) => this.#isEnumerated(a, loops));
  }

  #isShared(e: Expr, same: boolean): boolean {
    if (e.k === 'var') {
      if (this.#loops.has(e.name)) return same && this.#uniform.has(e.name);
      const definition = this.#definitions.get(e.name);
      return definition !== undefined && this.#isShared(definition, same);
    }
    if (e.k === 'builtin') return e.id.startsWith('block.') || e.id.startsWith('grid.');
    if (e.k === 'load') return e.buf.scope === 'global' && !this.#written.has(e.buf.name) && this.#isShared(e.index, same);
    if (e.k === 'subgroup') return false;
    return operands(e).every((a) => this.#isShared(a, same));
  }

  #resolvedKey(e: Expr): string {
    if (e.k === 'var') {
      const definition = this.#definitions.get(e.name);
      return definition === undefined ? exprKey(e) : this.#resolvedKey(definition);
    }
    const inner = operands(e);
    return inner.length === 0 ? exprKey(e) : `${headKey(e)}(${inner.map((x) => this.#resolvedKey(x)).join(',')})`;
  }

  #enumerate(
    x: Effect, enumerated: ReadonlySet<StmtOf<'for'>>,
    counted: readonly { term: Expr; coefficient: number }[], constant: number,
  ): { owners: ReadonlyMap<number, number>; certain: ReadonlyMap<number, number> } {
    const points = [...enumerated].reduce((outer, loop) => outer.within(loop), this.#threads);
    const cells = new Float64Array(points.threads.length).fill(constant);
    for (const { term, coefficient } of counted) {
      points.values(term).forEach((v, p) => {
        if (!Number.isNaN(v)) cells[p] = (cells[p] ?? 0) + coefficient * v;
      });
    }
    const guards = x.guards.map((g) => points.values(g));
    const owners = ownersOf(cells, points.threads, (p) => guards.every((g) => g[p] !== 0));
    if (!guards.some((g) => g.some(Number.isNaN))) return { owners, certain: owners };
    return { owners, certain: ownersOf(cells, points.threads, (p) => guards.every((g) => g[p] === 1)) };
  }
}

function ownersOf(cells: Column, threads: Column, has: (point: number) => boolean): ReadonlyMap<number, number> {
  const owners = new Map<number, number>();
  cells.forEach((cell, p) => {
    if (has(p)) note(owners, cell, threads[p] ?? MANY);
  });
  return owners;
}

/** Whether two different threads have a cell in common. */
function meet(a: ReadonlyMap<number, number>, b: ReadonlyMap<number, number>): boolean {
  for (const [cell, owner] of a) {
    const other = b.get(cell);
    if (other !== undefined && (owner !== other || owner === MANY)) return true;
  }
  return false;
}

function note(owners: Map<number, number>, cell: number, thread: number): void {
  const owner = owners.get(cell);
  owners.set(cell, owner === undefined || owner === thread ? thread : MANY);
}

function someName(e: Expr, p: (name: string) => boolean): boolean {
  return someExpr(e, (x) => x.k === 'var' && p(x.name));
}

/** What tells two nodes with equal operands apart. */
function headKey(e: Expr): string {
  const t = `${e.ty.elem}${e.ty.lanes}`;
  switch (e.k) {
    case 'un':
    case 'bin':
      return `${t}${e.op}`;
    case 'call':
      return `${t}${e.fn}`;
    case 'lane':
      return `${t}lane${e.i}`;
    case 'load':
      return `${t}load ${JSON.stringify(e.buf.name)}`;
    default:
      return `${t}${e.k}`;
  }
}
