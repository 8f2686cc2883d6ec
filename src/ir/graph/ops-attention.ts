/** Rows of the op table that know positions and the KV cache. */
import { addSize, mulSize, type Size } from '../../base/size.ts';
import {
  ACT,
  bytesOf,
  elementBytes,
  numberDim,
  type OpSpec,
  ROWS,
  rowsOf,
  shapeOf,
  shapes,
  tensor,
  wantCount,
  wantFinite,
  WEIGHT,
} from './op-spec.ts';
import type { AttentionAttrs } from './types.ts';

export const rope: OpSpec<'rope'> = {
  doc: 'rotates the first dim columns of each head by the angles of position past + t',
  ins: { x: 'required', table: 'required' },
  outs: { y: 'required' },
  infer: ({ x }) => ({ y: tensor('f32', ...shapeOf(x)) }),
  verify({ x, table }, { heads, headDim, dim }, bad) {
    wantCount(bad, 'heads', heads);
    wantCount(bad, 'dim', dim, 2);
    if (dim % 2 !== 0) bad(`dim is ${dim}, not even`);
    if (dim > headDim) bad(`dim ${dim} is above the head's ${headDim}`);
    const s = shapes(bad);
    s.check('x', x, ACT, 'T', heads * headDim);
    s.check('table', table, ACT, 'cap', dim);
  },
  narrow: () => ['y'],
  flops: ({ x }, { heads, dim }) => (rowsOf(x) === 'T' ? mulSize('T', 3 * heads * dim) : 0),
  bytes: ({ x }, { dim }, env, { y }) =>
    addSize(addSize(bytesOf(x.type, env), y === undefined ? 0 : bytesOf(y, env)), mulSize('T', 4 * dim)),
};

export const cacheAppend: OpSpec<'cache_append'> = {
  doc: 'cache[past + t] = x[t]; the result is the cache afterwards',
  ins: { x: 'required', cache: 'required' },
  outs: { cache: 'required' },
  infer: ({ cache }) => ({ cache: cache.type }),
  verify({ x, cache }, _attrs, bad) {
    const s = shapes(bad);
    s.check('x', x, ROWS, 'T', 'w');
    s.check('cache', cache, ROWS, 'cap', 'w');
  },
  flops: () => 0,
  bytes: ({ x, cache }, _attrs, env) => addSize(bytesOf(x.type, env), mulSize('T', elementBytes(cache) * numberDim(x, 1))),
};

/** Keys a call reads for each of its tokens, at most: those of the cache and of the call, or the window. */
const keysSeen = (attrs: AttentionAttrs): Size => {
  const all = addSize('past', 'T');
  return attrs.window === undefined ? all : { op: 'min', a: all, b: attrs.window };
};

export const attention: OpSpec<'attention'> = {
  doc: 'y = softmax(q · kᵀ · scale, causal, within the window, with sinks) · v',
  ins: { q: 'required', k: 'required', v: 'optional', sinks: 'optional' },
  outs: { y: 'required' },
  infer: ({ q }, { heads, vDim }) => ({ y: tensor('f32', rowsOf(q), heads * vDim) }),
  verify({ q, k, v, sinks }, attrs, bad) {
    const { heads, kvHeads, qkDim, vDim } = attrs;
    wantCount(bad, 'heads', heads);
    wantCount(bad, 'kvHeads', kvHeads);
    if (heads % kvHeads !== 0) bad(`${kvHeads} key heads do not divide ${heads} heads`);
    if (attrs.window !== undefined) wantCount(bad, 'window', attrs.window);
    wantFinite(bad, 'scale', attrs.scale);
    if (attrs.vFromK === (v !== undefined)) bad(attrs.vFromK ? 'vFromK leaves no operand v' : 'operand v is missing');
    if (attrs.vFromK && vDim > qkDim) bad(`values of ${vDim} columns do not fit into keys of ${qkDim}`);
    const s = shapes(bad);
    s.check('q', q, ROWS, 'T', heads * qkDim);
    s.check('k', k, ROWS, 'cap', kvHeads * qkDim);
    s.check('v', v, ROWS, 'cap', kvHeads * vDim);
    if (k.type.kind === 'tensor' && v?.type.kind === 'tensor' && v.type.dtype !== k.type.dtype) bad(`keys are ${k.type.dtype}, values ${v.type.dtype}`);
    s.check('sinks', sinks, WEIGHT, heads);
  },
  narrow: () => ['y'],
  flops: (_ins, attrs) => mulSize(mulSize('T', keysSeen(attrs)), 2 * attrs.heads * (attrs.qkDim + attrs.vDim)),
  bytes: ({ q, k, v }, attrs, env, { y }) => {
    const width = numberDim(k, 1) + (v === undefined ? 0 : numberDim(v, 1));
    const read = addSize(bytesOf(q.type, env), mulSize(keysSeen(attrs), elementBytes(k) * width));
    return addSize(read, y === undefined ? 0 : bytesOf(y, env));
  },
};
