/** Tensor names of routers. */
import type { TensorSource } from '../../ir/graph/types.ts';
import { DBRX_PREFIX, LAYER_PREFIX, type Scope } from './scope.ts';
import { columnVector, matrix, rowVector, vector } from './source.ts';

const MLP = `${LAYER_PREFIX}mlp.`;
const SPARSE = `${LAYER_PREFIX}block_sparse_moe.`;
const FORWARD = `${LAYER_PREFIX}feed_forward.`;

const ROUTER: Readonly<Record<Scope['kind'], readonly string[]>> = {
  model: [
    `${MLP}gate.weight`,
    `${MLP}gate.wg.weight`,
    `${MLP}router.weight`,
    `${MLP}router.classifier.weight`,
    `${SPARSE}gate.weight`,
    `${SPARSE}router.layer.weight`,
    `${FORWARD}gate.weight`,
    `${FORWARD}router.weight`,
    `${DBRX_PREFIX}ffn.router.layer.weight`,
  ],
  layer: ['gate.weight', 'router.weight', 'router.classifier.weight', 'router.layer.weight', 'gate.wg.weight'],
};

const LOGIT_BIAS: Readonly<Record<Scope['kind'], readonly string[]>> = {
  model: [`${MLP}router.bias`, `${MLP}gate.bias`, `${SPARSE}gate.bias`, `${FORWARD}router.bias`, `${FORWARD}gate.bias`],
  layer: ['router.bias', 'gate.bias'],
};

const SELECTION_BIAS: Readonly<Record<Scope['kind'], readonly string[]>> = {
  model: [
    `${MLP}gate.e_score_correction_bias`,
    `${MLP}moe_statics.e_score_correction_bias`,
    `${MLP}e_score_correction_bias`,
    `${SPARSE}e_score_correction_bias`,
    `${SPARSE}gate.e_score_correction_bias`,
    `${FORWARD}expert_bias`,
    `${FORWARD}gate.e_score_correction_bias`,
  ],
  layer: ['gate.e_score_correction_bias', 'e_score_correction_bias', 'moe_statics.e_score_correction_bias', 'expert_bias'],
};

const SHARED_GATE: Readonly<Record<Scope['kind'], readonly string[]>> = {
  model: [`${MLP}shared_expert_gate.weight`, `${SPARSE}shared_expert_gate.weight`, `${FORWARD}shared_expert_gate.weight`],
  layer: ['shared_expert_gate.weight', 'shared_gate.weight'],
};

export const routerWeight = (scope: Scope, experts: number, d: number): readonly TensorSource[] =>
  ROUTER[scope.kind].map((name) => matrix(name, experts, d));

export const routerBias = (scope: Scope, experts: number): readonly TensorSource[] =>
  LOGIT_BIAS[scope.kind].map((name) => vector(name, experts));

export const selectionBias = (scope: Scope, experts: number): readonly TensorSource[] =>
  SELECTION_BIAS[scope.kind].flatMap((name) => [vector(name, experts), rowVector(name, experts)]);

export const sharedGate = (scope: Scope, d: number): readonly TensorSource[] => SHARED_GATE[scope.kind].map((name) => matrix(name, 1, d));

/** Expert of each token id: [vocab] for one slot, else [vocab, slots]; under the spec's own name. */
export function hashTable(scope: Scope, table: string, vocab: number, slots: number): readonly TensorSource[] {
  const names = scope.kind === 'layer' ? [table] : [table, `${MLP}${table}`, `${MLP}gate.${table}`, `${FORWARD}${table}`];
  if (slots > 1) return names.map((name) => matrix(name, vocab, slots));
  return names.flatMap((name) => [vector(name, vocab), columnVector(name, vocab)]);
}
