/**
 * Which control flow every thread of a block follows alike. Barriers, subgroup operations and
 * block-wide tile statements may stand only there.
 *
 * Uniform are constants, host scalars, block and grid coordinates, the subgroup size, loads at uniform
 * indices of buffers that the kernel never writes, and what is computed from these alone. Loads of shared
 * memory are not, even where all threads read one cell: targets do not accept it.
 */
import type { Expr, Kernel, Stmt } from './types.ts';
import { exprsOf, operands, walkStmts } from './walk.ts';

export interface Uniformity {
  /** Whether the condition of an `if`, or both bounds of a `for`, are uniform. */
  control(s: Stmt): boolean;
  /** Whether the value a statement binds (or the loop variable) is uniform. */
  binds(s: Stmt): boolean;
}

interface Binding {
  uniform: boolean;
}

type Scope = ReadonlyMap<string, Binding>;

const UNIFORM_BUILTINS: ReadonlySet<string> = new Set(['block.x', 'block.y', 'block.z', 'grid.x', 'grid.y', 'grid.z', 'subgroup.size']);

/** Names of buffers that stores or atomics of a body touch. */
export function writtenNames(body: readonly Stmt[]): ReadonlySet<string> {
  const names = new Set<string>();
  for (const s of walkStmts(body)) if (s.k === 'store' || s.k === 'atomic') names.add(s.buf.name);
  return names;
}

/** Unknown names count as not uniform. */
export function uniformity(kernel: Kernel): Uniformity {
  const written = writtenNames(kernel.body);
  const bindings = new Map<Stmt, Binding>();
  const controls = new Map<Stmt, boolean>();
  let changed = true;

  const bindingOf = (s: Stmt): Binding => {
    const known = bindings.get(s);
    if (known !== undefined) return known;
    const made = { uniform: true };
    bindings.set(s, made);
    return made;
  };
  const lower = (b: Binding, uniform: boolean): void => {
    if (uniform || !b.uniform) return;
    b.uniform = false;
    changed = true;
  };
  const isUniform = (e: Expr, scope: Scope): boolean => {
    if (e.k === 'var') return scope.get(e.name)?.uniform ?? false;
    if (e.k === 'builtin') return UNIFORM_BUILTINS.has(e.id);
    if (e.k === 'subgroup') return false;
    if (e.k === 'load' && (e.buf.scope !== 'global' || written.has(e.buf.name))) return false;
    return operands(e).every((a) => isUniform(a, scope));
  };

  const visit = (body: readonly Stmt[], outer: Scope, flow: boolean): void => {
    const scope = new Map(outer);
    for (const s of body) {
      const uniform = exprsOf(s).every((e) => isUniform(e, scope));
      switch (s.k) {
        case 'let':
          lower(bindingOf(s), uniform);
          scope.set(s.name, bindingOf(s));
          break;
        case 'var':
          lower(bindingOf(s), uniform);
          scope.set(s.name, bindingOf(s));
          break;
        case 'assign': {
          const target = scope.get(s.name);
          if (target !== undefined) lower(target, uniform && flow);
          break;
        }
        case 'tile.reduce':
          lower(bindingOf(s), false);
          scope.set(s.name, bindingOf(s));
          break;
        case 'atomic':
          if (s.result === undefined) break;
          lower(bindingOf(s), false);
          scope.set(s.result, bindingOf(s));
          break;
        case 'if':
          controls.set(s, uniform && (controls.get(s) ?? true));
          visit(s.then, scope, flow && uniform);
          visit(s.else, scope, flow && uniform);
          break;
        case 'for': {
          controls.set(s, uniform && (controls.get(s) ?? true));
          lower(bindingOf(s), uniform);
          visit(s.body, new Map([...scope, [s.name, bindingOf(s)]]), flow && uniform);
          break;
        }
        case 'tile.map':
          visit(s.body, scope, false);
          break;
        default:
          break;
      }
    }
  };
  // A variable assigned late in a loop is read early in the next iteration: repeat until nothing changes.
  while (changed) {
    changed = false;
    visit(kernel.body, new Map(), true);
  }
  return {
    control: (s) => controls.get(s) ?? false,
    binds: (s) => bindings.get(s)?.uniform ?? false,
  };
}
