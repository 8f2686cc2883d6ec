/**
 * References written by hand, as one writes them first: a thread for each output, or square tiles of 16 in workgroup memory.
 * They are what the others are compared with, not what anyone should ship.
 */
import type { DenseWeights, Shape } from './numbers.ts';

const BINDINGS = (names: readonly string[], written: readonly string[]): string =>
  names.map((n, i) => `@group(0) @binding(${i}) var<storage, ${written.includes(n) ? 'read_write' : 'read'}> ${n}: array<${n === 'ids' ? 'u32' : 'f32'}>;`).join('\n');

export interface Kernel {
  readonly code: string;
  readonly buffers: readonly string[];
  /** Workgroups for so many tokens. */
  readonly grid: (tokens: number) => readonly [number, number, number];
}

const GROUP = 64;
const linear = (perToken: number) => (tokens: number): readonly [number, number, number] => {
  const groups = Math.ceil((tokens * perToken) / GROUP);
  return [Math.min(groups, 65_535), Math.ceil(groups / 65_535), 1];
};
const THREAD = `@compute @workgroup_size(${GROUP}) fn main(@builtin(global_invocation_id) g: vec3u, @builtin(num_workgroups) n: vec3u) {
  let i = g.x + g.y * n.x * ${GROUP}u;`;

/** Router, gate and up products, SwiGLU, and the down product that sums the experts of a token. */
export function naiveMixture({ experts, active, hidden, width }: Shape): readonly Kernel[] {
  return [
    {
      buffers: ['x', 'router', 'ids', 'weights'],
      grid: linear(1),
      code: `${BINDINGS(['x', 'router', 'ids', 'weights'], ['ids', 'weights'])}
${THREAD}
  let t = i;
  if (t >= arrayLength(&x) / ${hidden}u) { return; }
  var logits: array<f32, ${experts}>;
  for (var e = 0u; e < ${experts}u; e++) {
    var sum = 0.0;
    for (var k = 0u; k < ${hidden}u; k++) { sum += x[t * ${hidden}u + k] * router[e * ${hidden}u + k]; }
    logits[e] = sum;
  }
  var total = 0.0;
  var first = 0.0;
  for (var s = 0u; s < ${active}u; s++) {
    var best = 0u;
    for (var e = 1u; e < ${experts}u; e++) { if (logits[e] > logits[best]) { best = e; } }
    if (s == 0u) { first = logits[best]; }
    let weight = exp(logits[best] - first);
    total += weight;
    ids[t * ${active}u + s] = best;
    weights[t * ${active}u + s] = weight;
    logits[best] = -3e38;
  }
  for (var s = 0u; s < ${active}u; s++) { weights[t * ${active}u + s] /= total; }
}`,
    },
    {
      buffers: ['x', 'ids', 'gate', 'up', 'both'],
      grid: linear(active * 2 * width),
      code: `${BINDINGS(['x', 'ids', 'gate', 'up', 'both'], ['both'])}
${THREAD}
  let row = i / ${2 * width}u;
  let c = i % ${2 * width}u;
  if (row >= arrayLength(&ids)) { return; }
  let t = row / ${active}u;
  let e = ids[row];
  var sum = 0.0;
  if (c < ${width}u) {
    for (var k = 0u; k < ${hidden}u; k++) { sum += x[t * ${hidden}u + k] * gate[(e * ${width}u + c) * ${hidden}u + k]; }
  } else {
    for (var k = 0u; k < ${hidden}u; k++) { sum += x[t * ${hidden}u + k] * up[(e * ${width}u + c - ${width}u) * ${hidden}u + k]; }
  }
  both[i] = sum;
}`,
    },
    {
      buffers: ['both', 'h'],
      grid: linear(active * width),
      code: `${BINDINGS(['both', 'h'], ['h'])}
${THREAD}
  if (i >= arrayLength(&h)) { return; }
  let row = i / ${width}u;
  let g0 = both[row * ${2 * width}u + i % ${width}u];
  h[i] = g0 / (1.0 + exp(-g0)) * both[row * ${2 * width}u + ${width}u + i % ${width}u];
}`,
    },
    {
      buffers: ['h', 'ids', 'weights', 'down', 'y'],
      grid: linear(hidden),
      code: `${BINDINGS(['h', 'ids', 'weights', 'down', 'y'], ['y'])}
${THREAD}
  if (i >= arrayLength(&y)) { return; }
  let t = i / ${hidden}u;
  let j = i % ${hidden}u;
  var sum = 0.0;
  for (var s = 0u; s < ${active}u; s++) {
    let row = t * ${active}u + s;
    var part = 0.0;
    for (var k = 0u; k < ${width}u; k++) { part += h[row * ${width}u + k] * down[(ids[row] * ${hidden}u + j) * ${width}u + k]; }
    sum += weights[row] * part;
  }
  y[i] = sum;
}`,
    },
  ];
}

/** c [T, n] = a [T, k] · w [n, k]ᵀ by tiles of 16 x 16, an output a thread. */
function tiled(a: string, w: string, c: string, n: number, k: number): Kernel {
  const [at, wt, ct] = ['in_rows', 'in_columns', 'result'];
  return {
    buffers: [a, w, c],
    grid: (tokens) => [Math.ceil(n / 16), Math.ceil(tokens / 16), 1],
    code: `${BINDINGS([at, wt, ct], [ct])}
var<workgroup> rows: array<array<f32, 16>, 16>;
var<workgroup> columns: array<array<f32, 16>, 16>;
@compute @workgroup_size(16, 16) fn main(@builtin(workgroup_id) g: vec3u, @builtin(local_invocation_id) l: vec3u) {
  let m = arrayLength(&${at}) / ${k}u;
  let row = g.y * 16u + l.y;
  let column = g.x * 16u + l.x;
  var sum = 0.0;
  for (var k0 = 0u; k0 < ${k}u; k0 += 16u) {
    rows[l.y][l.x] = select(0.0, ${at}[min(row, m - 1u) * ${k}u + k0 + l.x], row < m);
    columns[l.y][l.x] = ${wt}[(g.x * 16u + l.y) * ${k}u + k0 + l.x];
    workgroupBarrier();
    for (var kk = 0u; kk < 16u; kk++) { sum += rows[l.y][kk] * columns[l.x][kk]; }
    workgroupBarrier();
  }
  if (row < m) { ${ct}[row * ${n}u + column] = sum; }
}`,
  };
}

export function tiledDense({ hidden, width }: DenseWeights): readonly Kernel[] {
  if (hidden % 16 !== 0 || width % 16 !== 0) throw new Error('tiles of 16');
  return [
    tiled('x', 'gate', 'g', width, hidden),
    tiled('x', 'up', 'u', width, hidden),
    {
      buffers: ['g', 'u', 'h'],
      grid: linear(width),
      code: `${BINDINGS(['g', 'u', 'h'], ['h'])}
${THREAD}
  if (i >= arrayLength(&h)) { return; }
  h[i] = g[i] / (1.0 + exp(-g[i])) * u[i];
}`.replace('global_invocation_id) g:', 'global_invocation_id) id:').replace('let i = g.x + g.y', 'let i = id.x + id.y'),
    },
    tiled('h', 'down', 'y', hidden, width),
  ];
}
