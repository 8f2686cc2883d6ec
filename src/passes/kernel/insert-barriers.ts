/**
 * Derives block barriers from what statements do to memory: two threads may not touch one cell, one of them
 * writing, without a barrier between. Looks at shared buffers and at global buffers that the kernel writes, in
 * straight lines, across branches and around loops.
 *
 * Barriers stand in uniform control flow only. A statement whose control is not uniform counts as one piece;
 * inside it no barrier could help. What cannot be proved apart gets a barrier; the interpreter judges the rest.
 */
import type { Effect } from '../../ir/kernel/effects.ts';
import { conflicts, effectsOf, headEffects } from '../../ir/kernel/effects.ts';
import type { Kernel, Stmt, StmtOf } from '../../ir/kernel/types.ts';
import { uniformity, writtenNames } from '../../ir/kernel/uniformity.ts';
import { Footprints } from './footprint.ts';

type Node =
  | { readonly k: 'piece'; readonly stmt: Stmt; readonly effects: readonly Access[] }
  | { readonly k: 'barrier'; readonly stmt: StmtOf<'barrier'>; readonly derived: boolean }
  | { readonly k: 'if'; readonly stmt: StmtOf<'if'>; readonly then: Node[]; readonly else: Node[] }
  | { readonly k: 'loop'; readonly stmt: StmtOf<'for'>; readonly body: Node[]; readonly mayBeEmpty: boolean; readonly repeats: boolean };

interface Access {
  readonly id: number;
  readonly effect: Effect;
}

/** An access with no barrier since, and the loops whose back edge was passed since. */
interface Pending {
  readonly access: Access;
  readonly crossed: ReadonlySet<string>;
}

const BARRIER: StmtOf<'barrier'> = { k: 'barrier', scope: 'block' };

/** Wants unique names and no tile statements. Barriers that already stand are kept and counted on. */
export function insertBarriers(kernel: Kernel): Kernel {
  const pass = new BarrierPass(kernel);
  return { ...kernel, body: pass.run() };
}

class BarrierPass {
  readonly #kernel: Kernel;
  readonly #footprints: Footprints;
  readonly #written: ReadonlySet<string>;
  readonly #meet = new Map<string, boolean>();
  #ids = 0;

  constructor(kernel: Kernel) {
    this.#kernel = kernel;
    this.#footprints = new Footprints(kernel);
    this.#written = writtenNames(kernel.body);
  }

  run(): readonly Stmt[] {
    const uniform = uniformity(this.#kernel);
    const root = this.#build(this.#kernel.body, [], (s) => uniform.control(s));
    this.#place(root, new Map());
    this.#removeNeedless(root, root);
    return rebuild(root);
  }

  // ---------------------------------------------------------------- the tree

  #accesses(effects: readonly Effect[]): readonly Access[] {
    return effects
      .filter((e) => e.buf.scope !== 'register' && this.#written.has(e.buf.name))
      .map((effect) => ({ id: this.#ids++, effect }));
  }

  #build(body: readonly Stmt[], loops: readonly StmtOf<'for'>[], uniform: (s: Stmt) => boolean): Node[] {
    return body.flatMap((s): Node[] => {
      if (s.k === 'barrier') return [{ k: 'barrier', stmt: s, derived: false }];
      if (s.k === 'if' && uniform(s)) {
        const head = this.#head(s, loops);
        return [...head, { k: 'if', stmt: s, then: this.#build(s.then, loops, uniform), else: this.#build(s.else, loops, uniform) }];
      }
      if (s.k === 'for' && uniform(s)) {
        const from = this.#footprints.constant(s.from);
        const to = this.#footprints.constant(s.to);
        const trips = from === undefined || to === undefined ? undefined : Math.ceil((to - from) / s.step);
        const inner = this.#build(s.body, [...loops, s], uniform);
        return [{ k: 'loop', stmt: s, body: inner, mayBeEmpty: trips === undefined || trips <= 0, repeats: trips === undefined || trips > 1 }];
      }
      return [{ k: 'piece', stmt: s, effects: this.#accesses(effectsOf(s, loops)) }];
    });
  }

  /** Uniform conditions read nothing that is written; kept for explicitness should that change. */
  #head(s: Stmt, loops: readonly StmtOf<'for'>[]): Node[] {
    const effects = this.#accesses(headEffects(s, loops));
    return effects.length === 0 ? [] : [{ k: 'piece', stmt: { k: 'note', text: '' }, effects }];
  }

  // ---------------------------------------------------------------- conflicts

  #conflict(p: Pending, access: Access): boolean {
    const a = p.access.effect;
    const b = access.effect;
    if (a.buf.name !== b.buf.name || !conflicts(a.kind, b.kind)) return false;
    const key = `${p.access.id} ${access.id} ${[...p.crossed].join(',')}`;
    const known = this.#meet.get(key);
    if (known !== undefined) return known;
    const made = this.#footprints.mayMeet(a, b, p.crossed);
    this.#meet.set(key, made);
    return made;
  }

  #any(pending: PendingSet, accesses: readonly Access[]): boolean {
    for (const p of pending.values()) if (accesses.some((a) => this.#conflict(p, a))) return true;
    return false;
  }

  // ---------------------------------------------------------------- placing

  /** Puts a barrier before each piece that conflicts with what is pending, as late as possible. Gives what is pending after. */
  #place(nodes: Node[], before: PendingSet): PendingSet {
    let pending = before;
    const put = (i: number): void => {
      nodes.splice(i, 0, { k: 'barrier', stmt: BARRIER, derived: true });
      pending = new Map();
    };
    for (let i = 0; i < nodes.length; i++) {
      const n = nodes[i];
      if (n === undefined) break;
      switch (n.k) {
        case 'barrier':
          pending = new Map();
          break;
        case 'piece':
          if (this.#any(pending, n.effects)) put(i++);
          pending = join(pending, fresh(n.effects));
          break;
        case 'if':
          pending = join(this.#place(n.then, pending), this.#place(n.else, pending));
          break;
        case 'loop': {
          // The loop by itself first: what it needs inside, it needs in every iteration.
          let carried = cross(this.#place(n.body, new Map()), n.stmt.name);
          for (let count = -1; n.repeats && count !== countBarriers(n.body); ) {
            count = countBarriers(n.body);
            carried = cross(this.#place(n.body, carried), n.stmt.name);
          }
          if (!this.#isFree(n.body, pending)) put(i++);
          const after = this.#after(n, pending);
          pending = n.mayBeEmpty ? join(pending, after) : after;
          break;
        }
      }
    }
    return pending;
  }

  /** What is pending after a loop whose barriers stand. */
  #after(n: Extract<Node, { k: 'loop' }>, before: PendingSet): PendingSet {
    const once = this.#scan(n.body, before, () => {});
    return n.repeats ? join(once, this.#scan(n.body, join(before, cross(once, n.stmt.name)), () => {})) : once;
  }

  /** Whether nothing in the nodes conflicts before, after or with what is pending. */
  #isFree(nodes: readonly Node[], before: PendingSet): boolean {
    let free = true;
    this.#scan(nodes, before, () => {
      free = false;
    });
    return free;
  }

  /** Follows the pending accesses through nodes whose barriers stand; reports conflicts. */
  #scan(nodes: readonly Node[], before: PendingSet, conflict: () => void): PendingSet {
    let pending = before;
    for (const n of nodes) {
      switch (n.k) {
        case 'barrier':
          pending = new Map();
          break;
        case 'piece':
          if (this.#any(pending, n.effects)) conflict();
          pending = join(pending, fresh(n.effects));
          break;
        case 'if':
          pending = join(this.#scan(n.then, pending, conflict), this.#scan(n.else, pending, conflict));
          break;
        case 'loop': {
          const once = this.#scan(n.body, pending, conflict);
          const again = n.repeats ? this.#scan(n.body, join(pending, cross(once, n.stmt.name)), conflict) : once;
          pending = n.mayBeEmpty ? join(pending, join(once, again)) : join(once, again);
          break;
        }
      }
    }
    return pending;
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
      if (!this.#isFree(root, new Map())) nodes.splice(i, 0, n);
    }
  }
}

/** By access and crossed loops. */
type PendingSet = ReadonlyMap<string, Pending>;

const keyOf = (p: Pending): string => `${p.access.id} ${[...p.crossed].sort().join(',')}`;
const setOf = (all: readonly Pending[]): PendingSet => new Map(all.map((p) => [keyOf(p), p]));
const fresh = (accesses: readonly Access[]): PendingSet => setOf(accesses.map((access) => ({ access, crossed: new Set<string>() })));
const join = (a: PendingSet, b: PendingSet): PendingSet => (a.size === 0 ? b : b.size === 0 ? a : new Map([...a, ...b]));

/** After the back edge of a loop: only what happened inside it is of an earlier iteration. */
const cross = (pending: PendingSet, loop: string): PendingSet =>
  setOf([...pending.values()].map((p) =>
    p.access.effect.loops.some((l) => l.name === loop) ? { ...p, crossed: new Set([...p.crossed, loop]) } : p));

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
        return n.stmt.k === 'note' && n.stmt.text === '' ? [] : [n.stmt];
      case 'barrier':
        return [n.stmt];
      case 'if':
        return [{ ...n.stmt, then: rebuild(n.then), else: rebuild(n.else) }];
      case 'loop':
        return [{ ...n.stmt, body: rebuild(n.body) }];
    }
  });
