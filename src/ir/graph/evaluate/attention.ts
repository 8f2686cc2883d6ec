/** The reference of the ops that know positions and the KV cache. */
import { numberDim } from '../op-spec.ts';
import { at, dot, type Evaluate } from './data.ts';

/** cos/sin table [cap, 2f]: row p holds cos(p · f_i) · scale, then the sines. */
export function ropeTable(inverseFrequencies: readonly number[], scale: number, cap: number): Float64Array {
  const half = inverseFrequencies.length;
  return new Float64Array(cap * 2 * half).map((_, i) => {
    const [p, j] = [Math.floor(i / (2 * half)), i % (2 * half)];
    const angle = p * at(inverseFrequencies, j % half);
    return (j < half ? Math.cos(angle) : Math.sin(angle)) * scale;
  });
}

export const rope: Evaluate<'rope'> = ({ node, size, data }) => {
  const { heads, headDim, dim, style } = node.attrs;
  const [x, table] = [data(node.ins.x), data(node.ins.table)];
  const y = Float64Array.from(x);
  for (let t = 0; t < size.T; t++) {
    const angles = (size.past + t) * dim;
    for (let h = 0; h < heads; h++) {
      for (let i = 0; i < dim / 2; i++) {
        const head = (t * heads + h) * headDim;
        const [p, q] = style === 'half' ? [head + i, head + i + dim / 2] : [head + 2 * i, head + 2 * i + 1];
        const [cos, sin] = [at(table, angles + i), at(table, angles + dim / 2 + i)];
        y[p] = at(x, p) * cos - at(x, q) * sin;
        y[q] = at(x, q) * cos + at(x, p) * sin;
      }
    }
  }
  return { y };
};

/** Changes the cache in place: it belongs to the caller and lives longer than the call. */
export const cacheAppend: Evaluate<'cache_append'> = ({ node, size, data }) => {
  const width = numberDim(node.ins.x, 1);
  const cache = data(node.ins.cache);
  if (size.past + size.T > size.cap) throw new RangeError(`${size.past} + ${size.T} tokens in a cache of ${size.cap}`);
  data(node.ins.x).forEach((v, i) => {
    cache[size.past * width + i] = v;
  });
  return { cache };
};

export const attention: Evaluate<'attention'> = ({ node, size, data, zeros }) => {
  const { heads, kvHeads, qkDim, vDim, scale, window = Infinity, vFromK } = node.attrs;
  const [q, k] = [data(node.ins.q), data(node.ins.k)];
  const v = node.ins.v === undefined ? k : data(node.ins.v);
  const vStride = vFromK ? qkDim : vDim;
  const y = zeros(node.outs.y);
  for (let t = 0; t < size.T; t++) {
    const position = size.past + t;
    const first = Math.max(0, position - window + 1);
    for (let h = 0; h < heads; h++) {
      const kvHead = Math.floor(h / (heads / kvHeads));
      const keys = Array.from({ length: position - first + 1 }, (_, i) => (first + i) * kvHeads + kvHead);
      const logits = keys.map((row) => dot(q, (t * heads + h) * qkDim, k, row * qkDim, qkDim) * scale);
      const sink = node.ins.sinks === undefined ? -Infinity : at(data(node.ins.sinks), h);
      const max = Math.max(sink, ...logits);
      const powers = logits.map((l) => Math.exp(l - max));
      const sum = powers.reduce((a, b) => a + b, Math.exp(sink - max));
      for (let j = 0; j < vDim; j++) {
        let value = 0;
        keys.forEach((row, i) => {
          value += at(powers, i) * at(v, row * vStride + j);
        });
        y[(t * heads + h) * vDim + j] = value / sum;
      }
    }
  }
  return { y };
};
