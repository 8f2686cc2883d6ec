/**
 * Puts `tile.await` where blocks in fast memory need it, as late as possible: before a product whose blocks may be under
 * way, and before a block is staged anew that a product may still be reading. Tile level.
 *
 * As late as possible, one wait serves both ends: with blocks staged in turn (the next keys while the values are multiplied)
 * it waits for copies that had a whole product's time.
 */
import type { Kernel, Stmt, StmtOf } from '../../ir/kernel/types.ts';

/** Since the last wait: blocks staged, blocks multiplied. Sets only grow where ways meet. */
interface Pending {
  readonly staged: ReadonlySet<string>;
  readonly read: ReadonlySet<string>;
}

const NOTHING: Pending = { staged: new Set(), read: new Set() };
const AWAIT: Stmt = { k: 'tile.await' };

const union = (a: ReadonlySet<string>, b: ReadonlySet<string>): ReadonlySet<string> => new Set([...a, ...b]);
const join = (a: Pending, b: Pending): Pending => ({ staged: union(a.staged, b.staged), read: union(a.read, b.read) });
const size = (p: Pending): number => p.staged.size + p.read.size;

interface Placed {
  readonly body: readonly Stmt[];
  readonly after: Pending;
}

/** The kernel itself where it stages nothing. */
export function awaitBlocks(kernel: Kernel): Kernel {
  const { body } = place(kernel.body, NOTHING);
  return body.every((s, i) => s === kernel.body[i]) && body.length === kernel.body.length ? kernel : { ...kernel, body };
}

function place(body: readonly Stmt[], before: Pending): Placed {
  const out: Stmt[] = [];
  let pending = before;
  const wait = (): void => {
    out.push(AWAIT);
    pending = NOTHING;
  };
  for (const s of body) {
    switch (s.k) {
      case 'tile.await':
        pending = NOTHING;
        out.push(s);
        break;
      case 'tile.stage': {
        const { name } = s.block;
        if (pending.staged.has(name) || pending.read.has(name)) wait();
        pending = join(pending, { staged: new Set([name]), read: new Set() });
        out.push(s);
        break;
      }
      case 'tile.product': {
        const names = operandsOf(s);
        if (names.some((name) => pending.staged.has(name))) wait();
        pending = join(pending, { staged: new Set(), read: new Set(names) });
        out.push(s);
        break;
      }
      case 'if': {
        const then = place(s.then, pending);
        const otherwise = place(s.else, pending);
        out.push(same(then.body, s.then) && same(otherwise.body, s.else) ? s : { ...s, then: then.body, else: otherwise.body });
        pending = join(then.after, otherwise.after);
        break;
      }
      case 'for': {
        const placed = placeLoop(s, pending);
        out.push(same(placed.body, s.body) ? s : { ...s, body: placed.body });
        pending = placed.after;
        break;
      }
      default:
        out.push(s);
    }
  }
  return { body: out, after: pending };
}

const same = (a: readonly Stmt[], b: readonly Stmt[]): boolean => a.length === b.length && a.every((s, i) => s === b[i]);

/** A loop may run on from what its own last iteration left, and may not run at all. */
function placeLoop(s: StmtOf<'for'>, before: Pending): Placed {
  let entry = before;
  for (;;) {
    const { body, after } = place(s.body, entry);
    const again = join(entry, after);
    if (size(again) === size(entry)) return { body, after: again };
    entry = again;
  }
}

const operandsOf = (s: StmtOf<'tile.product'>): readonly string[] =>
  [...(s.a.k === 'block' ? [s.a.block] : []), ...s.b.map((x) => x.block)].map((block) => block.name);
