/** Dense feed-forward networks (and shared experts, which are one) as graph nodes. */
import type { Value } from '../ir/graph/types.ts';
import type { Ffn } from '../model/types.ts';
import { expertMatrixParam, matrixParam, plainLinear, type SectionBuilder, vectorParam } from './model-to-graph-section.ts';
import * as names from './weights/ffn.ts';

/** The attributes of the element-wise step between the projections of a gated network. */
export const gluAttrs = (ffn: Ffn): { readonly activation: Ffn['activation']; readonly clamp?: NonNullable<Ffn['clamp']> } => ({
  activation: ffn.activation,
  ...(ffn.clamp !== undefined && { clamp: ffn.clamp }),
});

/** Gated: down(act(gate x) · up x); otherwise out(act(in x)). `part` chooses canonical and checkpoint names. */
export function lowerDense(s: SectionBuilder, ffn: Ffn, x: Value, part: 'dense' | 'shared'): Value {
  const prefixes = names.densePrefixes(s.scope, part);
  const name = (leaf: string): string => s.scope.canonical(`${part === 'dense' ? 'ffn' : 'shared'}.${leaf}`);
  const matrix = part === 'dense' ? matrixParam : expertMatrixParam;
  const { width } = ffn;
  const d = s.hidden;
  const bias = (leaf: string, n: number, sources: () => Parameters<typeof vectorParam>[3]): Value | undefined =>
    ffn.bias ? vectorParam(s, name(`${leaf}.bias`), n, sources()) : undefined;

  if (!ffn.gated) {
    const wi = matrix(s, name('in.weight'), width, d, names.densePlain(s.scope, prefixes, 'in', width, d));
    const h = plainLinear(
      s,
      x,
      wi,
      bias('in', width, () => names.densePlainBias(prefixes, 'in', width)),
    );
    const { y } = s.graph.add('act', { x: h }, { activation: ffn.activation });
    const wo = matrix(s, name('out.weight'), d, width, names.densePlain(s.scope, prefixes, 'out', d, width));
    return plainLinear(
      s,
      y,
      wo,
      bias('out', d, () => names.densePlainBias(prefixes, 'out', d)),
    );
  }
  const projected = (half: 'gate' | 'up'): Value => {
    const w = matrix(s, name(`${half}.weight`), width, d, names.denseHalf(s.scope, prefixes, ffn, d, half));
    return plainLinear(
      s,
      x,
      w,
      bias(half, width, () => names.denseHalfBias(prefixes, ffn, half)),
    );
  };
  const gate = projected('gate');
  const { y } = s.graph.add('glu', { gate, up: projected('up') }, gluAttrs(ffn));
  const down = matrix(s, name('down.weight'), d, width, names.denseDown(s.scope, prefixes, ffn, d));
  return plainLinear(
    s,
    y,
    down,
    bias('down', d, () => names.denseDownBias(prefixes, d)),
  );
}
