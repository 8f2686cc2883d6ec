/** u32 index expressions as sums: constant + Σ coefficient · term, where terms are whatever is not a sum itself. */
import type { Expr } from '../../ir/kernel/types.ts';
import { exprKey } from '../../ir/kernel/walk.ts';

export interface Linear {
  readonly constant: number;
  /** By structural key. */
  readonly terms: ReadonlyMap<string, { readonly term: Expr; readonly coefficient: number }>;
}

const constantOf = (x: Linear): number | undefined => (x.terms.size === 0 ? x.constant : undefined);

function combine(a: Linear, b: Linear, sign: number): Linear {
  const terms = new Map(a.terms);
  for (const [key, { term, coefficient }] of b.terms) {
    const sum = (terms.get(key)?.coefficient ?? 0) + sign * coefficient;
    if (sum === 0) terms.delete(key);
    else terms.set(key, { term, coefficient: sum });
  }
  return { constant: a.constant + sign * b.constant, terms };
}

function scale(a: Linear, by: number): Linear {
  if (by === 0) return { constant: 0, terms: new Map() };
  const terms = new Map([...a.terms].map(([k, t]) => [k, { term: t.term, coefficient: t.coefficient * by }] as const));
  return { constant: a.constant * by, terms };
}

/** `expand` gives the definition of a term that has one (a `let`), so that sums are seen through names. */
export function linear(e: Expr, expand: (e: Expr) => Expr | undefined = () => undefined): Linear {
  if (e.k === 'const') return { constant: e.value, terms: new Map() };
  if (e.k === 'bin' && e.ty.elem === 'u32') {
    if (e.op === '+' || e.op === '-') return combine(linear(e.a, expand), linear(e.b, expand), e.op === '+' ? 1 : -1);
    if (e.op === '*') {
      const a = linear(e.a, expand);
      const b = linear(e.b, expand);
      const [ca, cb] = [constantOf(a), constantOf(b)];
      if (cb !== undefined) return scale(a, cb);
      if (ca !== undefined) return scale(b, ca);
    }
    if (e.op === '<<' && e.b.k === 'const' && e.b.value < 31) return scale(linear(e.a, expand), 2 ** e.b.value);
  }
  const definition = expand(e);
  if (definition !== undefined) return linear(definition, expand);
  return { constant: 0, terms: new Map([[exprKey(e), { term: e, coefficient: 1 }]]) };
}
