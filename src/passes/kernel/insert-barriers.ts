/**
 * Derives block barriers from what statements do to memory: two threads may not touch one cell, one of them
 * writing, without a barrier between. Looks at shared buffers and at global buffers that the kernel writes, in
 * straight lines, across branches and around loops.
 *
 * Barriers stand in uniform control flow only. A statement whose control is not uniform counts as one piece;
 * inside it no barrier could help. What cannot be proved apart gets a barrier; the interpreter judges the rest.
 */
import type { Effect } from '../../ir/kernel/effects.ts';
import { conflicts, effectsOf } from '../../ir/kernel/effects.ts';
import type { Expr, Kernel, Stmt, StmtOf } from '../../ir/kernel/types.ts';
import { uniformity, writtenNames } from '../../ir/kernel/uniformity.ts';
import type { Uniformity } from '../../ir/kernel/uniformity.ts';
import { exprKey, someExpr } from '../../ir/kernel/walk.ts';
import { Footprints } from './footprint.ts';
import { freshNames } from './fresh.ts';
import type { Fresh } from './fresh.ts';
import { CrossedSets, PendingSet } from './pending.ts';
import type { Access, Pending } from './pending.ts';

type Node =
  | { readonly k: 'piece'; readonly stmt: Stmt; readonly effects: readonly Access[] }
  | { readonly k: 'barrier'; readonly stmt: StmtOf<'barrier'>; readonly derived: boolean }
  | { readonly k: 'if'; readonly stmt: StmtOf<'if'>; readonly then: Node[]; readonly else: Node[] }
  | { readonly k: 'loop'; readonly stmt: StmtOf<'for'>; readonly body: Node[]; readonly mayBeEmpty: boolean; readonly repeats: boolean };

type LoopNode = Extract<Node, { readonly k: 'loop' }>;

const BARRIER: StmtOf<'barrier'> = { k: 'barrier', scope: 'block' };

/** Wants unique names and no tile statements. Barriers that already stand are kept and counted on. */
export function insertBarriers(kernel: Kernel): Kernel {
  const pass = new BarrierPass(kernel);
  return { ...kernel, body: pass.run() };
}

class BarrierPass {
  readonly #kernel: Kernel;
  readonly #uniformity: Uniformity;
  readonly #written: ReadonlySet<string>;
  readonly #footprints: Footprints;
  readonly #sets = new CrossedSets();
  readonly #meet = new Map<string, boolean>();
  readonly #fresh: Fresh;
  #ids = 0;

  constructor(kernel: Kernel) {
    this.#kernel = kernel;
    this.#uniformity = uniformity(kernel);
    this.#written = writtenNames(kernel.body);
    this.#footprints = new Footprints(kernel, this.#uniformity, this.#written);
    this.#fresh = freshNames(kernel);
  }

  run(): readonly Stmt[] {
    const root = this.#build(this.#kernel.body, []);
    this.#place(root, new PendingSet());
    this.#removeNeedless(root, root);
    return rebuild(root);
  }

  // ---------------------------------------------------------------- the tree

  #accesses(effects: readonly Effect[]): readonly Access[] {
    const found = new Map<string, Access>();
    for (const effect of effects) {
      if (effect.buf.scope === 'register' || effect.buf.managed === true || !this.#written.has(effect.buf.name)) continue;
      const key = [effect.kind, effect.buf.name, effect.inPlace, exprKey(effect.index), ...effect.guards.map(exprKey)].join(' | ');
      if (!found.has(key)) found.set(key, { id: this.#ids++, effect });
    }
    return [...found.values()];
  }

  #build(body: readonly Stmt[], loops: readonly StmtOf<'for'>[]): Node[] {
    const uniform = (s: Stmt): boolean => this.#uniformity.control(s);
    return body.flatMap((s): Node[] => {
      if (s.k === 'barrier') return [{ k: 'barrier', stmt: s, derived: false }];
      if (s.k === 'if' && uniform(s)) {
        // Uniform conditions and bounds read nothing that the kernel writes: they are no accesses.
        return [{ k: 'if', stmt: s, then: this.#build(s.then, loops), else: this.#build(s.else, loops) }];
      }
      if (s.k === 'for' && uniform(s)) {
        const from = this.#footprints.constant(s.from);
        const to = this.#footprints.constant(s.to);
        const trips = from === undefined || to === undefined ? undefined : Math.ceil((to - from) / s.step);
        const inner = this.#build(s.body, [...loops, s]);
        const mayBeEmpty = trips === undefined || trips <= 0;
        return [{ k: 'loop', stmt: s, body: inner, mayBeEmpty, repeats: trips === undefined || trips > 1 }];
      }
      return this.#split(s, loops).map((stmt) => ({ k: 'piece', stmt, effects: this.#accesses(effectsOf(stmt, loops)) }));
    });
  }

  /** s[i] = … s[j] … where threads meet: let v = … s[j] …; s[i] = v, so that a barrier fits between. */
  #split(s: Stmt, loops: readonly StmtOf<'for'>[]): readonly Stmt[] {
    if (s.k !== 'store' || s.buf.scope === 'register') return [s];
    const all = effectsOf(s, loops);
    const write = all.find((e) => e.kind === 'write');
    const meets = (e: Effect): boolean =>
      e.kind === 'read' && e.buf.name === s.buf.name && write !== undefined && this.#footprints.mayMeet(e, write, this.#sets.none.loops);
    if (!all.some(meets)) return [s];
    const stmts: Stmt[] = [];
    const bind = (e: Expr, what: string): Expr => {
      if (!someExpr(e, (x) => x.k === 'load')) return e;
      const name = this.#fresh(`${s.buf.name}_${what}`);
      stmts.push({ k: 'let', name, value: e });
      return { k: 'var', ty: e.ty, name };
    };
    const split = { ...s, index: bind(s.index, 'at'), value: bind(s.value, 'value') };
    return [...stmts, split];
  }

  // ---------------------------------------------------------------- conflicts

  #conflict(p: Pending, access: Access): boolean {
    const a = p.access.effect;
    const b = access.effect;
    if (!conflicts(a.kind, b.kind)) return false;
    const key = `${p.access.id}.${access.id}.${p.crossed.id}`;
    const known = this.#meet.get(key);
    if (known !== undefined) return known;
    const made = this.#footprints.mayMeet(a, b, p.crossed.loops);
    this.#meet.set(key, made);
    return made;
  }

  #any(pending: PendingSet, accesses: readonly Access[]): boolean {
    for (const access of accesses) {
      for (const p of pending.of(access.effect.buf.name)) if (this.#conflict(p, access)) return true;
    }
    return false;
  }

  #note(pending: PendingSet, accesses: readonly Access[]): void {
    for (const access of accesses) pending.add({ access, crossed: this.#sets.none });
  }

  // ---------------------------------------------------------------- placing

  /** Puts a barrier before each piece that conflicts with what is pending, as late as possible. Gives what is pending after. */
  #place(nodes: Node[], before: PendingSet): PendingSet {
    let pending = before.copy();
    for (let i = 0; i < nodes.length; i++) {
      const n = nodes[i];
      if (n === undefined) break;
      if (n.k === 'loop') this.#placeInside(n);
      const free = n.k === 'piece' ? !this.#any(pending, n.effects) : n.k !== 'loop' || this.#isFree(n.body, pending);
      if (!free) {
        nodes.splice(i++, 0, { k: 'barrier', stmt: BARRIER, derived: true });
        pending.clear();
      }
      switch (n.k) {
        case 'barrier':
          pending.clear();
          break;
        case 'piece':
          this.#note(pending, n.effects);
          break;
        case 'if': {
          const then = this.#place(n.then, pending);
          pending = this.#place(n.else, pending).addAll(then);
          break;
        }
        case 'loop':
          pending = this.#loop(n, pending, () => {});
          break;
      }
    }
    return pending;
  }

  /** What a loop needs inside, whatever came before it: it needs that in every iteration. */
  #placeInside(n: LoopNode): void {
    let carried = this.#place(n.body, new PendingSet());
    for (let count = -1; n.repeats && count !== countBarriers(n.body); ) {
      count = countBarriers(n.body);
      carried = this.#place(n.body, carried.crossing(n.stmt.name, this.#sets));
    }
  }

  /** Whether nothing in the nodes conflicts with what is pending or with each other. */
  #isFree(nodes: readonly Node[], before: PendingSet): boolean {
    let free = true;
    this.#scan(nodes, before, () => {
      free = false;
    });
    return free;
  }

  /** Follows the pending accesses through nodes whose barriers stand; reports conflicts. */
  #scan(nodes: readonly Node[], before: PendingSet, conflict: () => void): PendingSet {
    let pending = before.copy();
    for (const n of nodes) {
      switch (n.k) {
        case 'barrier':
          pending.clear();
          break;
        case 'piece':
          if (this.#any(pending, n.effects)) conflict();
          this.#note(pending, n.effects);
          break;
        case 'if': {
          const then = this.#scan(n.then, pending, conflict);
          pending = this.#scan(n.else, pending, conflict).addAll(then);
          break;
        }
        case 'loop':
          pending = this.#loop(n, pending, conflict);
          break;
      }
    }
    return pending;
  }

  /** Two rounds of a loop show every pair of iterations; no round is possible too where the bounds do not exclude it. */
  #loop(n: LoopNode, before: PendingSet, conflict: () => void): PendingSet {
    const after = this.#scan(n.body, before, conflict);
    if (n.repeats) {
      const carried = after.crossing(n.stmt.name, this.#sets).addAll(before);
      after.addAll(this.#scan(n.body, carried, conflict));
    }
    return n.mayBeEmpty ? after.addAll(before) : after;
  }

  /** Barriers of later steps can make earlier ones needless: drops those without which all is still ordered, inner ones first. */
  #removeNeedless(nodes: Node[], root: readonly Node[]): void {
    for (const n of nodes) {
      if (n.k === 'loop') this.#removeNeedless(n.body, root);
      if (n.k === 'if') {
        this.#removeNeedless(n.then, root);
        this.#removeNeedless(n.else, root);
      }
    }
    for (let i = nodes.length - 1; i >= 0; i--) {
      const n = nodes[i];
      if (n?.k !== 'barrier' || !n.derived) continue;
      nodes.splice(i, 1);
      if (!this.#isFree(root, new PendingSet())) nodes.splice(i, 0, n);
    }
  }
}

const countBarriers = (nodes: readonly Node[]): number =>
  nodes.reduce((n, x) => {
    if (x.k === 'barrier') return n + 1;
    if (x.k === 'if') return n + countBarriers(x.then) + countBarriers(x.else);
    return x.k === 'loop' ? n + countBarriers(x.body) : n;
  }, 0);

const rebuild = (nodes: readonly Node[]): readonly Stmt[] =>
  nodes.flatMap((n): readonly Stmt[] => {
    switch (n.k) {
      case 'piece':
      case 'barrier':
        return [n.stmt];
      case 'if':
        return [{ ...n.stmt, then: rebuild(n.then), else: rebuild(n.else) }];
      case 'loop':
        return [{ ...n.stmt, body: rebuild(n.body) }];
    }
  });
