/** Text to specs, for tests. */
import type { Diagnostic } from '../../src/diagnostics/types.ts';
import { resolve } from '../../src/model/index.ts';
import type { LayerSpec, ModelSpec, Spec } from '../../src/model/types.ts';
import { parse } from '../../src/parser/index.ts';

/** All diagnostics of a text, of the parser and of the model. */
export function problems(text: string): readonly Diagnostic[] {
  const { ast, diagnostics } = parse(text, 'test.moe');
  return ast === undefined ? diagnostics : [...diagnostics, ...resolve(ast).diagnostics];
}

/** The only unit of a text that has no errors; throws with the diagnostics otherwise. */
export function specOf(text: string): Spec {
  const { ast, diagnostics } = parse(text, 'test.moe');
  const resolved = ast === undefined ? { specs: [], diagnostics: [] } : resolve(ast);
  const [spec] = resolved.specs;
  const errors = [...diagnostics, ...resolved.diagnostics].filter((d) => d.severity === 'error');
  if (spec === undefined || errors.length > 0 || resolved.specs.length > 1) {
    throw new Error(`not one sound unit: ${errors.map((d) => `${d.code} ${d.message}`).join('; ')}`);
  }
  return spec;
}

export function modelOf(text: string): ModelSpec {
  const spec = specOf(text);
  if (spec.kind !== 'model') throw new Error('not a model');
  return spec;
}

export function layerOf(text: string): LayerSpec {
  const spec = specOf(text);
  if (spec.kind !== 'layer') throw new Error('not a layer');
  return spec;
}

/** A small model around some clauses. */
export const model = (body: string): string => `model m { vocab 64  hidden 32  context 128 ${body} }`;
/** A layer of experts. */
export const moe = (body: string, head = 'hidden 32'): string => `layer l { ${head} moe { ${body} } }`;
