/** Rows of the op table for the dense parts of a layer: embedding, norms, projections, element-wise steps. */
import { addSize, mulSize, type Size } from '../../base/size.ts';
import {
  ACT,
  bytesOf,
  type CostEnv,
  dimSize,
  elementBytes,
  elements,
  EXPERT,
  INDEX,
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
import type { Epilogue, GluClamp, NormAttrs, Value } from './types.ts';

/** Sum of the bytes of operands and results, each touched once. */
export const allBytes = (
  values: Readonly<Record<string, Value | undefined>>,
  outs: { readonly [name: string]: Value['type'] | undefined },
  env: CostEnv,
): Size => {
  const ins = Object.values(values).reduce<Size>((n, v) => (v === undefined ? n : addSize(n, bytesOf(v.type, env))), 0);
  return Object.values(outs).reduce<Size>((n, t) => (t === undefined ? n : addSize(n, bytesOf(t, env))), ins);
};

/** Rows of weight per column of the result. */
export const epilogueFactor = (epilogue: Epilogue): 1 | 2 => (epilogue.kind === 'glu' ? 2 : 1);

export function verifyClamp(clamp: GluClamp | undefined, bad: (problem: string) => void): void {
  if (clamp === undefined) return;
  if (!(clamp.limit > 0)) bad(`clamp limit is ${clamp.limit}, not above 0`);
  wantFinite(bad, 'clamp alpha', clamp.alpha);
  wantFinite(bad, 'clamp upOffset', clamp.upOffset);
}

export function verifyEpilogue(epilogue: Epilogue, bad: (problem: string) => void): void {
  if (epilogue.kind === 'glu') verifyClamp(epilogue.clamp, bad);
}

export function verifyNorm(attrs: NormAttrs, hasBias: boolean, bad: (problem: string) => void): void {
  if (!(attrs.eps >= 0) || !Number.isFinite(attrs.eps)) bad(`eps is ${attrs.eps}, not a number from 0 up`);
  if (hasBias && attrs.kind === 'rms') bad('an RMS norm has no bias');
}

const sameAs = (value: Value): ReturnType<typeof tensor> => tensor('f32', ...shapeOf(value));

export const embed: OpSpec<'embed'> = {
  doc: 'y[t] = table[ids[t]] · scale',
  ins: { ids: 'required', table: 'required' },
  outs: { y: 'required' },
  infer: ({ ids, table }) => ({ y: tensor('f32', rowsOf(ids), numberDim(table, 1)) }),
  verify({ ids, table }, { scale }, bad) {
    const s = shapes(bad);
    s.check('ids', ids, INDEX, 'T');
    s.check('table', table, WEIGHT, 'vocab', 'd');
    s.number('d');
    wantFinite(bad, 'scale', scale);
  },
  flops: () => 0,
  bytes: ({ table }) => mulSize('T', numberDim(table, 1) * (elementBytes(table) + 4) + 4),
};

export const norm: OpSpec<'norm'> = {
  doc: 'y = (x − mean) / √(var + eps) · weight + bias over each group of the last dim; RMS: no mean, no bias',
  ins: { x: 'required', weight: 'required', bias: 'optional' },
  outs: { y: 'required' },
  infer: ({ x }) => ({ y: sameAs(x) }),
  verify({ x, weight, bias }, attrs, bad) {
    const s = shapes(bad);
    s.check('x', x, ACT, 'rows', 'd');
    wantCount(bad, 'groups', attrs.groups);
    const d = s.number('d');
    if (d % attrs.groups !== 0) bad(`${attrs.groups} groups do not divide ${d}`);
    s.check('weight', weight, WEIGHT, d / attrs.groups);
    s.check('bias', bias, WEIGHT, d / attrs.groups);
    verifyNorm(attrs, bias !== undefined, bad);
  },
  narrow: () => ['y'],
  flops: ({ x }, attrs, env) => mulSize(elements(x.type, env), attrs.kind === 'rms' ? 4 : 7),
  bytes: (ins, _attrs, env, outs) => allBytes({ ...ins }, outs, env),
};

export const linear: OpSpec<'linear'> = {
  doc: 'y = epilogue(x · weightᵀ + bias) · scale [+ residual]; with glu the weight has gate rows, then up rows',
  ins: { x: 'required', weight: 'required', bias: 'optional', residual: 'optional' },
  outs: { y: 'required' },
  infer: ({ x, weight }, { epilogue }) => ({ y: tensor('f32', rowsOf(x), numberDim(weight, 0) / epilogueFactor(epilogue)) }),
  verify({ x, weight, bias, residual }, { epilogue, scale }, bad) {
    const s = shapes(bad);
    s.check('x', x, ROWS, 'rows', 'k');
    s.check('weight', weight, EXPERT, 'm', 'k');
    s.check('bias', bias, WEIGHT, 'm');
    const m = s.number('m');
    const factor = epilogueFactor(epilogue);
    if (m % factor !== 0) bad(`a glu weight needs an even number of rows, not ${m}`);
    s.check('residual', residual, ACT, 'rows', m / factor);
    verifyEpilogue(epilogue, bad);
    wantFinite(bad, 'scale', scale);
  },
  narrow: () => ['y'],
  flops: ({ x, weight }, _attrs, env) => mulSize(dimSize(rowsOf(x), env), 2 * numberDim(weight, 0) * numberDim(weight, 1)),
  bytes: (ins, _attrs, env, outs) => allBytes({ ...ins }, outs, env),
};

export const headLinear: OpSpec<'head_linear'> = {
  doc: 'y[t, h] = x[t, h] · weight[h]ᵀ for every head h',
  ins: { x: 'required', weight: 'required' },
  outs: { y: 'required' },
  infer: ({ x, weight }, { heads }) => ({ y: tensor('f32', rowsOf(x), heads * numberDim(weight, 1)) }),
  verify({ x, weight }, { heads }, bad) {
    wantCount(bad, 'heads', heads);
    const s = shapes(bad);
    s.check('weight', weight, WEIGHT, heads, 'n', 'k');
    s.check('x', x, ROWS, 'rows', heads * s.number('k'));
    s.number('n');
  },
  narrow: () => ['y'],
  flops: ({ x, weight }, { heads }, env) => mulSize(dimSize(rowsOf(x), env), 2 * heads * numberDim(weight, 1) * numberDim(weight, 2)),
  bytes: (ins, _attrs, env, outs) => allBytes({ ...ins }, outs, env),
};

export const glu: OpSpec<'glu'> = {
  doc: 'y = act(gate) · up; clamped: g = min(gate, limit), u = clamp(up, ±limit), y = (u + upOffset) · g · σ(alpha · g)',
  ins: { gate: 'required', up: 'required' },
  outs: { y: 'required' },
  infer: ({ gate }) => ({ y: sameAs(gate) }),
  verify({ gate, up }, { clamp }, bad) {
    const s = shapes(bad);
    s.check('gate', gate, ACT, 'rows', 'n');
    s.check('up', up, ACT, 'rows', 'n');
    verifyClamp(clamp, bad);
  },
  narrow: () => ['y'],
  flops: ({ gate }, _attrs, env) => mulSize(elements(gate.type, env), 5),
  bytes: (ins, _attrs, env, outs) => allBytes({ ...ins }, outs, env),
};

export const act: OpSpec<'act'> = {
  doc: 'y = act(x)',
  ins: { x: 'required' },
  outs: { y: 'required' },
  infer: ({ x }) => ({ y: sameAs(x) }),
  verify({ x }, _attrs, bad) {
    shapes(bad).check('x', x, ACT, 'rows', 'n');
  },
  narrow: () => ['y'],
  flops: ({ x }, _attrs, env) => mulSize(elements(x.type, env), 4),
  bytes: (ins, _attrs, env, outs) => allBytes({ ...ins }, outs, env),
};

export const add: OpSpec<'add'> = {
  doc: 'y = a + b · scale',
  ins: { a: 'required', b: 'required' },
  outs: { y: 'required' },
  infer: ({ a }) => ({ y: sameAs(a) }),
  verify({ a, b }, { scale }, bad) {
    const s = shapes(bad);
    s.check('a', a, ACT, 'rows', 'n');
    s.check('b', b, ACT, 'rows', 'n');
    wantFinite(bad, 'scale', scale);
  },
  narrow: () => ['y'],
  flops: ({ a }, { scale }, env) => mulSize(elements(a.type, env), scale === 1 ? 1 : 2),
  bytes: (ins, _attrs, env, outs) => allBytes({ ...ins }, outs, env),
};

export const gateMul: OpSpec<'gate_mul'> = {
  doc: 'y[t, j] = x[t, j] · σ(gate[t, 0])',
  ins: { x: 'required', gate: 'required' },
  outs: { y: 'required' },
  infer: ({ x }) => ({ y: sameAs(x) }),
  verify({ x, gate }, _attrs, bad) {
    const s = shapes(bad);
    s.check('x', x, ACT, 'rows', 'n');
    s.check('gate', gate, ACT, 'rows', 1);
  },
  narrow: () => ['y'],
  flops: ({ x }, _attrs, env) => elements(x.type, env),
  bytes: (ins, _attrs, env, outs) => allBytes({ ...ins }, outs, env),
};

export const sliceHeads: OpSpec<'slice_heads'> = {
  doc: 'y = per head the columns [start, start + length) of stride',
  ins: { x: 'required' },
  outs: { y: 'required' },
  infer: ({ x }, { heads, length }) => ({ y: tensor('f32', rowsOf(x), heads * length) }),
  verify({ x }, { heads, stride, start, length }, bad) {
    wantCount(bad, 'heads', heads);
    wantCount(bad, 'length', length);
    wantCount(bad, 'start', start, 0);
    if (start + length > stride) bad(`columns ${start} … ${start + length} leave the ${stride} columns of a head`);
    shapes(bad).check('x', x, ROWS, 'rows', heads * stride);
  },
  narrow: () => ['y'],
  flops: () => 0,
  bytes: ({ x }, { heads, length }, env, { y }) =>
    addSize(mulSize(dimSize(rowsOf(x), env), elementBytes(x) * heads * length), y === undefined ? 0 : bytesOf(y, env)),
};

export const concatHeads: OpSpec<'concat_heads'> = {
  doc: 'y = per head the columns of a, then those of b',
  ins: { a: 'required', b: 'required' },
  outs: { y: 'required' },
  infer: ({ a, b }) => ({ y: tensor('f32', rowsOf(a), numberDim(a, 1) + numberDim(b, 1)) }),
  verify({ a, b }, { heads }, bad) {
    wantCount(bad, 'heads', heads);
    const s = shapes(bad);
    s.check('a', a, ROWS, 'rows', 'na');
    s.check('b', b, ROWS, 'rows', 'nb');
    for (const n of ['na', 'nb']) if (s.number(n) % heads !== 0) bad(`${heads} heads do not divide ${s.number(n)}`);
  },
  narrow: () => ['y'],
  flops: () => 0,
  bytes: (ins, _attrs, env, outs) => allBytes({ ...ins }, outs, env),
};
