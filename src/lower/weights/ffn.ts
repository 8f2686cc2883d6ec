/**
 * Tensor names of feed-forward networks: dense ones, shared experts, banks of experts.
 * The letters are the layouts of released checkpoints: A per expert gate/up/down, B per expert w1/w3/w2, C fused [E, out, in],
 * D fused [E, in, out], E stacked in two dims, F two matrices; S is one stacked tensor a projection, as a layer alone has it.
 */
import type { TensorSource } from '../../ir/graph/types.ts';
import type { Ffn } from '../../model/types.ts';
import { DBRX_PREFIX, LAYER_PREFIX, type Scope } from './scope.ts';
import { bank, bankTransposed, bankVector, given, half, type Half, matrix, stacked, stackedTransposed, vector } from './source.ts';

const MLP = `${LAYER_PREFIX}mlp.`;
const SPARSE = `${LAYER_PREFIX}block_sparse_moe.`;
const FORWARD = `${LAYER_PREFIX}feed_forward.`;

/** What `half` is called in layouts A and B. */
const SPLIT: Readonly<Record<Half, readonly [string, string]>> = { gate: ['gate_proj', 'w1'], up: ['up_proj', 'w3'] };

export interface BankShape {
  readonly experts: number;
  /** Hidden width d. */
  readonly hidden: number;
  readonly ffn: Ffn;
}

// ---------------------------------------------------------------- experts

/** Gate or up rows of a gated bank: canonical [experts, width, hidden]. */
export function expertsHalf(scope: Scope, { experts, hidden, ffn }: BankShape, which: Half): readonly TensorSource[] {
  const m = ffn.width;
  const [a, b] = SPLIT[which];
  const A = (at: string): TensorSource => matrix(`${at}experts.{e}.${a}.weight`, m, hidden);
  const B = (at: string): TensorSource => matrix(`${at}experts.{e}.${b}.weight`, m, hidden);
  const C = (at: string): TensorSource => half(bank(`${at}input_linear.weight`, experts, 2 * m, hidden), which, m, 'halves');
  const D = (at: string): TensorSource => half(bankTransposed(`${at}experts.gate_up_proj`, experts, 2 * m, hidden), which, m, ffn.fused);
  if (scope.kind === 'layer') return [bank(`experts.${a}`, experts, m, hidden), D(''), A(''), B(''), C('')];
  const E = stacked(`${DBRX_PREFIX}ffn.experts.mlp.${which === 'gate' ? 'w1' : 'v1'}`, experts, m, hidden);
  return [A(MLP), B(SPARSE), C(SPARSE), D(MLP), D(FORWARD), B(FORWARD), A(FORWARD), A(SPARSE), E];
}

/** The down projection of a gated bank: canonical [experts, hidden, width]. */
export function expertsDown(scope: Scope, { experts, hidden, ffn }: BankShape): readonly TensorSource[] {
  const m = ffn.width;
  const A = (at: string): TensorSource => matrix(`${at}experts.{e}.down_proj.weight`, hidden, m);
  const B = (at: string): TensorSource => matrix(`${at}experts.{e}.w2.weight`, hidden, m);
  const C = (at: string): TensorSource => bank(`${at}output_linear.weight`, experts, hidden, m);
  const D = (at: string): TensorSource => given(bankTransposed(`${at}experts.down_proj`, experts, hidden, m), `${at}experts.gate_up_proj`);
  if (scope.kind === 'layer') {
    // Where hidden = width only the neighbour tells a stacked [E, out, in] from an input-major [E, in, out].
    const S = given(bank('experts.down_proj', experts, hidden, m), 'experts.up_proj');
    return [...(ffn.fused === 'interleaved' ? [D(''), S] : [S, D('')]), A(''), B(''), C('')];
  }
  const E = stackedTransposed(`${DBRX_PREFIX}ffn.experts.mlp.w2`, experts, hidden, m);
  return [A(MLP), B(SPARSE), C(SPARSE), D(MLP), D(FORWARD), B(FORWARD), A(FORWARD), A(SPARSE), E];
}

/** Bias of the gate or up rows: canonical [experts, width]. */
export function expertsHalfBias(scope: Scope, { experts, ffn }: BankShape, which: Half): readonly TensorSource[] {
  const m = ffn.width;
  const [a, b] = SPLIT[which];
  const fused = (at: string): TensorSource => half(bankVector(`${at}experts.gate_up_proj_bias`, experts, 2 * m), which, m, ffn.fused);
  if (scope.kind === 'layer')
    return [bankVector(`experts.${a}_bias`, experts, m), fused(''), vector(`experts.{e}.${a}.bias`, m), vector(`experts.{e}.${b}.bias`, m)];
  return [fused(MLP), fused(FORWARD), vector(`${MLP}experts.{e}.${a}.bias`, m), vector(`${SPARSE}experts.{e}.${b}.bias`, m)];
}

/** Bias of the down projection: canonical [experts, hidden]. */
export function expertsDownBias(scope: Scope, { experts, hidden }: BankShape): readonly TensorSource[] {
  const stackedBias = (at: string): TensorSource => bankVector(`${at}experts.down_proj_bias`, experts, hidden);
  if (scope.kind === 'layer') return [stackedBias(''), vector('experts.{e}.down_proj.bias', hidden), vector('experts.{e}.w2.bias', hidden)];
  return [
    stackedBias(MLP),
    stackedBias(FORWARD),
    vector(`${MLP}experts.{e}.down_proj.bias`, hidden),
    vector(`${SPARSE}experts.{e}.w2.bias`, hidden),
  ];
}

/** What the first and second matrix of a network without a gate are called. */
const PLAIN: Readonly<Record<'in' | 'out', readonly string[]>> = { in: ['wi', 'fc1', 'up_proj'], out: ['wo', 'fc2', 'down_proj'] };
const PLAIN_BIAS: Readonly<Record<'in' | 'out', string>> = { in: 'bi', out: 'bo' };

const plainAt = (scope: Scope): readonly string[] => (scope.kind === 'layer' ? [''] : [MLP, FORWARD]);

/** The first or second matrix of a bank of experts without a gate: canonical [experts, n, k]. */
export function expertsPlain(scope: Scope, experts: number, which: 'in' | 'out', n: number, k: number): readonly TensorSource[] {
  return plainAt(scope).flatMap((at) =>
    PLAIN[which].flatMap((name) => [
      bank(`${at}experts.${name}`, experts, n, k),
      matrix(`${at}experts.{e}.${name}.weight`, n, k),
      matrix(`${at}experts.expert_{e}.${name}.weight`, n, k),
    ]),
  );
}

export function expertsPlainBias(scope: Scope, experts: number, which: 'in' | 'out', n: number): readonly TensorSource[] {
  return plainAt(scope).flatMap((at) => [
    bankVector(`${at}experts.${PLAIN_BIAS[which]}`, experts, n),
    ...PLAIN[which].flatMap((name) => [
      bankVector(`${at}experts.${name}_bias`, experts, n),
      vector(`${at}experts.{e}.${name}.bias`, n),
      vector(`${at}experts.expert_{e}.${name}.bias`, n),
    ]),
  ]);
}

// ---------------------------------------------------------------- dense networks and shared experts

/** Prefixes of a dense layer's or the shared experts' tensors. */
export function densePrefixes(scope: Scope, part: 'dense' | 'shared'): readonly string[] {
  if (part === 'dense') return scope.kind === 'layer' ? [''] : [MLP, FORWARD];
  if (scope.kind === 'layer') return ['shared.', 'shared_experts.', 'shared_expert.', 'shared_mlp.'];
  return [
    `${MLP}shared_experts.`,
    `${MLP}shared_expert.`,
    `${MLP}shared_mlp.`,
    `${FORWARD}shared_expert.`,
    `${FORWARD}shared_experts.`,
    `${SPARSE}shared_experts.`,
    `${LAYER_PREFIX}shared_mlp.`,
  ];
}

/** `gate_proj.weight`, and the bare `gate_proj` that a layer alone uses. */
const named = (scope: Scope, at: string, name: string): readonly string[] =>
  scope.kind === 'layer' ? [`${at}${name}`, `${at}${name}.weight`] : [`${at}${name}.weight`];

/** Gate or up rows: canonical [width, hidden]. */
export function denseHalf(scope: Scope, prefixes: readonly string[], ffn: Ffn, hidden: number, which: Half): readonly TensorSource[] {
  const m = ffn.width;
  const [a, b] = SPLIT[which];
  return prefixes.flatMap((at) => [
    ...named(scope, at, a).map((name) => matrix(name, m, hidden)),
    half(matrix(`${at}gate_up_proj.weight`, 2 * m, hidden), which, m, ffn.fused),
    ...(at.endsWith('shared_mlp.') ? [half(matrix(`${at}input_linear.weight`, 2 * m, hidden), which, m, 'halves')] : []),
    ...(at === FORWARD || at === '' ? [matrix(`${at}${b}.weight`, m, hidden)] : []),
  ]);
}

/** The down projection: canonical [hidden, width]. */
export function denseDown(scope: Scope, prefixes: readonly string[], ffn: Ffn, hidden: number): readonly TensorSource[] {
  return prefixes.flatMap((at) => [
    ...named(scope, at, 'down_proj').map((name) => matrix(name, hidden, ffn.width)),
    ...(at.endsWith('shared_mlp.') ? [matrix(`${at}output_linear.weight`, hidden, ffn.width)] : []),
    ...(at === FORWARD || at === '' ? [matrix(`${at}w2.weight`, hidden, ffn.width)] : []),
  ]);
}

export const denseHalfBias = (prefixes: readonly string[], ffn: Ffn, which: Half): readonly TensorSource[] =>
  prefixes.flatMap((at) => [
    vector(`${at}${SPLIT[which][0]}_bias`, ffn.width),
    vector(`${at}${SPLIT[which][0]}.bias`, ffn.width),
    half(vector(`${at}gate_up_proj.bias`, 2 * ffn.width), which, ffn.width, ffn.fused),
  ]);

export const denseDownBias = (prefixes: readonly string[], hidden: number): readonly TensorSource[] =>
  prefixes.flatMap((at) => [vector(`${at}down_proj_bias`, hidden), vector(`${at}down_proj.bias`, hidden)]);

export const densePlain = (scope: Scope, prefixes: readonly string[], which: 'in' | 'out', n: number, k: number): readonly TensorSource[] =>
  prefixes.flatMap((at) => PLAIN[which].flatMap((name) => named(scope, at, name).map((full) => matrix(full, n, k))));

export const densePlainBias = (prefixes: readonly string[], which: 'in' | 'out', n: number): readonly TensorSource[] =>
  prefixes.flatMap((at) => [
    vector(`${at}${PLAIN_BIAS[which]}`, n),
    ...PLAIN[which].flatMap((name) => [vector(`${at}${name}.bias`, n), vector(`${at}${name}_bias`, n)]),
  ]);
