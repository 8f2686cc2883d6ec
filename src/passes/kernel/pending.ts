/** Accesses that no barrier has ordered yet, as the barrier pass follows them through a kernel. */
import type { Effect } from '../../ir/kernel/effects.ts';

export interface Access {
  readonly id: number;
  readonly effect: Effect;
}

/** A set of loops, one object per set. */
export interface Crossed {
  readonly id: number;
  readonly loops: ReadonlySet<string>;
}

/** An access with no barrier since, and the loops whose back edge was passed since. */
export interface Pending {
  readonly access: Access;
  readonly crossed: Crossed;
}

/** Gives equal sets of loops one identity. */
export class CrossedSets {
  readonly none: Crossed = { id: 0, loops: new Set() };
  readonly #known = new Map<string, Crossed>([['', this.none]]);

  with(c: Crossed, loop: string): Crossed {
    if (c.loops.has(loop)) return c;
    const loops = new Set([...c.loops, loop]);
    const key = [...loops].sort().join('\n');
    const known = this.#known.get(key) ?? { id: this.#known.size, loops };
    this.#known.set(key, known);
    return known;
  }
}

/** By buffer, because only accesses of one buffer meet. */
export class PendingSet {
  readonly #byBuffer = new Map<string, Map<string, Pending>>();

  add(p: Pending): void {
    const name = p.access.effect.buf.name;
    let of = this.#byBuffer.get(name);
    if (of === undefined) {
      of = new Map();
      this.#byBuffer.set(name, of);
    }
    of.set(`${p.access.id}.${p.crossed.id}`, p);
  }

  addAll(other: PendingSet): this {
    for (const of of other.#byBuffer.values()) for (const p of of.values()) this.add(p);
    return this;
  }

  copy(): PendingSet {
    const made = new PendingSet();
    for (const [name, of] of this.#byBuffer) made.#byBuffer.set(name, new Map(of));
    return made;
  }

  clear(): void {
    this.#byBuffer.clear();
  }

  of(buffer: string): Iterable<Pending> {
    return this.#byBuffer.get(buffer)?.values() ?? [];
  }

  /** After the back edge of a loop: what happened inside it is of an earlier iteration. */
  crossing(loop: string, sets: CrossedSets): PendingSet {
    const made = new PendingSet();
    for (const of of this.#byBuffer.values()) {
      for (const p of of.values()) {
        const inside = p.access.effect.loops.some((l) => l.name === loop);
        made.add(inside ? { access: p.access, crossed: sets.with(p.crossed, loop) } : p);
      }
    }
    return made;
  }
}
