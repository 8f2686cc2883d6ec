/** The reference of the dense ops, each written as its equation in `ops-dense.ts`. */
import { numberDim } from '../op-spec.ts';
import type { Epilogue } from '../types.ts';
import { at, type Data, dot, type Evaluate } from './data.ts';
import { activate, gatedUnit, sigmoid } from './math.ts';

export const embed: Evaluate<'embed'> = ({ node, size, data, zeros }) => {
  const { ids, table } = node.ins;
  const y = zeros(node.outs.y);
  const [vocab, d] = [numberDim(table, 0), numberDim(table, 1)];
  for (let t = 0; t < size.T; t++) {
    const id = at(data(ids), t);
    if (id < 0 || id >= vocab) throw new RangeError(`token id ${id} of a vocabulary of ${vocab}`);
    for (let j = 0; j < d; j++) y[t * d + j] = at(data(table), id * d + j) * node.attrs.scale;
  }
  return { y };
};

/** Norm of `x[from … from + n)` into `y` at the same place. */
export function normRow(
  attrs: { readonly kind: 'rms' | 'layer'; readonly eps: number },
  x: Data,
  y: Float64Array,
  from: number,
  n: number,
  weight: Data,
  bias: Data | undefined,
): void {
  let mean = 0;
  if (attrs.kind === 'layer') for (let i = 0; i < n; i++) mean += at(x, from + i) / n;
  let variance = 0;
  for (let i = 0; i < n; i++) variance += (at(x, from + i) - mean) ** 2 / n;
  const scale = 1 / Math.sqrt(variance + attrs.eps);
  for (let i = 0; i < n; i++) {
    y[from + i] = (at(x, from + i) - mean) * scale * at(weight, i) + (bias === undefined ? 0 : at(bias, i));
  }
}

export const norm: Evaluate<'norm'> = ({ node, data, zeros }) => {
  const { x, weight, bias } = node.ins;
  const y = zeros(node.outs.y);
  const n = numberDim(weight, 0);
  const b = bias === undefined ? undefined : data(bias);
  for (let from = 0; from < y.length; from += n) normRow(node.attrs, data(x), y, from, n, data(weight), b);
  return { y };
};

/** The accumulators of one row (bias included) after the epilogue. */
export function applyEpilogue(epilogue: Epilogue, acc: readonly number[]): readonly number[] {
  switch (epilogue.kind) {
    case 'none':
      return acc;
    case 'act':
      return acc.map((v) => activate(epilogue.activation, v));
    case 'glu': {
      const n = acc.length / 2;
      return acc.slice(0, n).map((gate, j) => gatedUnit(epilogue.activation, epilogue.clamp, gate, at(acc, n + j)));
    }
  }
}

/** x[xAt …] · weight[wAt …]ᵀ + bias[bAt …]: one row against a matrix [m, k]. */
export function rowTimes(
  x: Data,
  xAt: number,
  weight: Data,
  wAt: number,
  m: number,
  k: number,
  bias: Data | undefined,
  bAt: number,
): number[] {
  return Array.from({ length: m }, (_, j) => dot(x, xAt, weight, wAt + j * k, k) + (bias === undefined ? 0 : at(bias, bAt + j)));
}

export const linear: Evaluate<'linear'> = ({ node, data, zeros }) => {
  const { x, weight, bias, residual } = node.ins;
  const y = zeros(node.outs.y);
  const [m, k] = [numberDim(weight, 0), numberDim(weight, 1)];
  const n = numberDim(node.outs.y, 1);
  for (let r = 0; r * n < y.length; r++) {
    const acc = rowTimes(data(x), r * k, data(weight), 0, m, k, bias && data(bias), 0);
    applyEpilogue(node.attrs.epilogue, acc).forEach((v, j) => {
      y[r * n + j] = v * node.attrs.scale + (residual === undefined ? 0 : at(data(residual), r * n + j));
    });
  }
  return { y };
};

export const headLinear: Evaluate<'head_linear'> = ({ node, size, data, zeros }) => {
  const { x, weight } = node.ins;
  const y = zeros(node.outs.y);
  const [heads, n, k] = [numberDim(weight, 0), numberDim(weight, 1), numberDim(weight, 2)];
  for (let t = 0; t < size.T; t++) {
    for (let h = 0; h < heads; h++) {
      y.set(rowTimes(data(x), (t * heads + h) * k, data(weight), h * n * k, n, k, undefined, 0), (t * heads + h) * n);
    }
  }
  return { y };
};

export const glu: Evaluate<'glu'> = ({ node, data }) => {
  const [gate, up] = [data(node.ins.gate), data(node.ins.up)];
  return { y: Float64Array.from(gate, (g, i) => gatedUnit(node.attrs.activation, node.attrs.clamp, g, at(up, i))) };
};

export const act: Evaluate<'act'> = ({ node, data }) => ({
  y: Float64Array.from(data(node.ins.x), (v) => activate(node.attrs.activation, v)),
});

export const add: Evaluate<'add'> = ({ node, data }) => {
  const b = data(node.ins.b);
  return { y: Float64Array.from(data(node.ins.a), (v, i) => v + at(b, i) * node.attrs.scale) };
};

export const gateMul: Evaluate<'gate_mul'> = ({ node, data }) => {
  const gate = data(node.ins.gate);
  const n = numberDim(node.ins.x, 1);
  return { y: Float64Array.from(data(node.ins.x), (v, i) => v * sigmoid(at(gate, Math.floor(i / n)))) };
};

export const sliceHeads: Evaluate<'slice_heads'> = ({ node, data, zeros }) => {
  const { stride, start, length } = node.attrs;
  const x = data(node.ins.x);
  return { y: zeros(node.outs.y).map((_, i) => at(x, Math.floor(i / length) * stride + start + (i % length))) };
};

export const concatHeads: Evaluate<'concat_heads'> = ({ node, data, zeros }) => {
  const { a, b } = node.ins;
  const na = numberDim(a, 1) / node.attrs.heads;
  const nb = numberDim(b, 1) / node.attrs.heads;
  return {
    y: zeros(node.outs.y).map((_, i) => {
      const [head, j] = [Math.floor(i / (na + nb)), i % (na + nb)];
      return j < na ? at(data(a), head * na + j) : at(data(b), head * nb + j - na);
    }),
  };
};
