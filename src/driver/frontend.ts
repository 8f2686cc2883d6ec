/** From text to Specs: the first half of every command. */
import { error } from '../diagnostics/make.ts';
import { suggest } from '../diagnostics/suggest.ts';
import type { Diagnostic } from '../diagnostics/types.ts';
import { resolve } from '../model/index.ts';
import type { Spec } from '../model/types.ts';
import type * as ast from '../parser/ast.ts';
import { parse } from '../parser/index.ts';

export interface Frontend {
  readonly ast: ast.File | undefined;
  /** All units that make sense; with errors, those that could still be understood. */
  readonly specs: readonly Spec[];
  readonly diagnostics: readonly Diagnostic[];
}

/** Parses and resolves every unit of a file. */
export function readSpecs(text: string, file: string): Frontend {
  const parsed = parse(text, file);
  if (parsed.ast === undefined) return { ast: undefined, specs: [], diagnostics: parsed.diagnostics };
  const resolved = resolve(parsed.ast);
  return { ast: parsed.ast, specs: resolved.specs, diagnostics: [...parsed.diagnostics, ...resolved.diagnostics] };
}

export type Chosen = { readonly spec: Spec; readonly diagnostics: readonly Diagnostic[] } | { readonly spec: undefined; readonly diagnostics: readonly Diagnostic[] };

/** The unit a command works on: the only one, or the one called `unit`. */
export function chooseUnit(front: Frontend, file: string, unit: string | undefined): Chosen {
  const { diagnostics, specs } = front;
  if (diagnostics.some((d) => d.severity === 'error')) return { spec: undefined, diagnostics };
  const whole = { file, start: 0, end: 0 };
  const names = specs.map((s) => s.name);
  if (unit !== undefined) {
    const spec = specs.find((s) => s.name === unit);
    if (spec !== undefined) return { spec, diagnostics };
    const [near] = suggest(unit, names);
    const notes = near === undefined ? [] : [`did you mean \`${near}\`?`];
    return { spec: undefined, diagnostics: [...diagnostics, error('MOE2090', `the file has no unit called \`${unit}\``, { at: whole, notes })] };
  }
  const [first, second] = specs;
  if (first === undefined) {
    const none = error('MOE2091', 'the file declares no model and no layer', { at: whole, why: 'there is nothing to compile.' });
    return { spec: undefined, diagnostics: [...diagnostics, none] };
  }
  if (second !== undefined) {
    const many = error('MOE2092', `the file declares ${specs.length} units: ${names.map((n) => `\`${n}\``).join(', ')}`, {
      at: second.span,
      why: 'this command works on one of them.',
      notes: [`choose with --unit ${JSON.stringify(first.name)}`],
    });
    return { spec: undefined, diagnostics: [...diagnostics, many] };
  }
  return { spec: first, diagnostics };
}
