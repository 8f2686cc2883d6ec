/**
 * Which control flow every thread of a block follows alike. Barriers, subgroup operations and
 * block-wide tile statements may stand only there.
 *
 * Uniform are constants, host scalars, block and grid coordinates, the subgroup size, loads at uniform
 * indices of buffers that the kernel never writes, and what is computed from these alone. Loads of shared
 * memory are not, even where all threads read one cell: targets do not accept it.
 */
import type { Expr, Kernel, Stmt, StmtOf } from './types.ts';
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
  const scope = new Map<string, Binding>();
  let again = true;

  const bindingOf = (s: Stmt): Binding => {
    const known = bindings.get(s);
    if (known !== undefined) return known;
    const made = { uniform: true };
    bindings.set(s, made);
    return made;
  };
  const isUniform = (e: Expr): boolean => {
    if (e.k === 'var') return scope.get(e.name)?.uniform ?? false;
    if (e.k === 'builtin') return UNIFORM_BUILTINS.has(e.id);
    if (e.k === 'subgroup') return false;
    if (e.k === 'load' && (e.buf.scope !== 'global' || written.has(e.buf.name))) return false;
    return operands(e).every(isUniform);
  };

  /** What the body binds is forgotten after it; what it hides comes back. */
  const visit = (body: readonly Stmt[], flow: boolean, loop?: StmtOf<'for'>): void => {
    const hidden: [string, Binding | undefined][] = [];
    const bind = (name: string, s: Stmt, uniform: boolean): void => {
      const binding = bindingOf(s);
      binding.uniform &&= uniform;
      hidden.push([name, scope.get(name)]);
      scope.set(name, binding);
    };
    if (loop !== undefined) bind(loop.name, loop, true);
    for (const s of body) {
      const uniform = exprsOf(s).every(isUniform);
      switch (s.k) {
        case 'let':
        case 'var':
          bind(s.name, s, uniform);
          break;
        case 'assign': {
          const target = scope.get(s.name);
          if (target?.uniform !== true || (uniform && flow)) break;
          target.uniform = false;
          // A variable assigned late in a loop is read early in its next iteration.
          again = true;
          break;
        }
        case 'tile.reduce':
          bind(s.name, s, false);
          break;
        case 'atomic':
          if (s.result !== undefined) bind(s.result, s, false);
          break;
        case 'if':
          controls.set(s, uniform && (controls.get(s) ?? true));
          visit(s.then, flow && uniform);
          visit(s.else, flow && uniform);
          break;
        case 'for':
          controls.set(s, uniform && (controls.get(s) ?? true));
          bindingOf(s).uniform &&= uniform;
          visit(s.body, flow && uniform, s);
          break;
        case 'tile.map':
          visit(s.body, false);
          break;
        default:
          break;
      }
    }
    for (const [name, binding] of hidden.reverse()) {
      if (binding === undefined) scope.delete(name);
      else scope.set(name, binding);
    }
  };
  while (again) {
    again = false;
    visit(kernel.body, true);
  }
  return {
    control: (s) => controls.get(s) ?? false,
    binds: (s) => bindings.get(s)?.uniform ?? false,
  };
}
