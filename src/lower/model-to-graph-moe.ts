/** A mixture-of-experts network as graph nodes, unfused: every step is its own op, passes put them together. */
import { tensor } from '../ir/graph/op-spec.ts';
import type { RouteAttrs, Value } from '../ir/graph/types.ts';
import type { Ffn, MoeLayerFfn, Router } from '../model/types.ts';
import { gluAttrs, lowerDense } from './model-to-graph-ffn.ts';
import {
  bankVectorParam,
  exactMatrixParam,
  expertBankParam,
  maybe,
  plainLinear,
  type SectionBuilder,
  vectorParam,
} from './model-to-graph-section.ts';
import * as names from './weights/ffn.ts';
import * as routers from './weights/router.ts';
import { weight } from './weights/source.ts';

/** What a mixture gives: its output, and the choice that the trace shows. */
export interface MoeResult {
  readonly y: Value;
  readonly weights: Value;
  readonly ids: Value;
}

/** Rows per tile of the sorted plan until a pass chooses better; the direct plan has no tiles. */
const NO_TILES = 1;

/** Slots of a token: k, or one per expert where the experts choose. */
export const slotsOf = (moe: MoeLayerFfn): number => (moe.router.select.kind === 'expert-choice' ? moe.experts : moe.active);

function routeAttrs(moe: MoeLayerFfn): RouteAttrs {
  const { router } = moe;
  const { select } = router;
  return {
    experts: moe.experts,
    slots: slotsOf(moe),
    score: router.score,
    ...(router.groups !== undefined && { groups: router.groups }),
    // The table is an operand; its name is the checkpoint's business.
    select: select.kind === 'hash' ? { kind: 'hash' } : select,
    weights: router.weights,
    ...(router.renormalize !== undefined && { renormalize: router.renormalize }),
    scale: router.scale,
  };
}

/** Whether the router multiplies at all: a hash table that weighs by 1 has no matrix. */
const hasLogits = (router: Router): boolean => router.select.kind !== 'hash' || (router.weights !== 'one' && router.score !== 'none');

function lowerRouter(
  s: SectionBuilder,
  moe: MoeLayerFfn,
  x: Value,
  vocab: number | undefined,
): { readonly weights: Value; readonly ids: Value } {
  const { router, experts } = moe;
  const name = (leaf: string): string => s.scope.canonical(`router.${leaf}`);
  let logits: Value | undefined;
  if (hasLogits(router)) {
    const w = exactMatrixParam(s, name('weight'), experts, s.hidden, routers.routerWeight(s.scope, experts, s.hidden));
    const bias = router.logitBias ? vectorParam(s, name('bias'), experts, routers.routerBias(s.scope, experts)) : undefined;
    logits = plainLinear(s, x, w, bias);
  }
  const selectionBias = router.selectionBias
    ? vectorParam(s, name('selection_bias'), experts, routers.selectionBias(s.scope, experts))
    : undefined;
  const { select } = router;
  let table: Value | undefined;
  let tokenIds: Value | undefined;
  if (select.kind === 'hash') {
    if (vocab === undefined) throw new Error('a hash router needs to know the vocabulary');
    const slots = slotsOf(moe);
    const type = slots === 1 ? tensor('i32', vocab) : tensor('i32', vocab, slots);
    table = s.graph.param(name('table'), type, weight(vocab, routers.hashTable(s.scope, select.table, vocab, slots)));
    tokenIds = s.graph.param('ids', tensor('i32', 'T'), { kind: 'input' });
  }
  const attrs = routeAttrs(moe);
  const chosen = s.graph.add(
    'moe.route',
    { ...maybe('logits', logits), ...maybe('selectionBias', selectionBias), ...maybe('table', table), ...maybe('tokenIds', tokenIds) },
    attrs,
  );
  if (router.capacity === undefined) return { weights: chosen.weights, ids: chosen.ids };
  const { limit, renormalize } = router.capacity;
  return s.graph.add('moe.capacity', { weights: chosen.weights, ids: chosen.ids }, { experts, slots: attrs.slots, limit, renormalize });
}

interface Routed {
  readonly plan: Value;
  readonly ids: Value;
  /** Weights that multiply the rows going in, where the router says so. */
  readonly inputWeights: Value | undefined;
}

/** The experts of a bank on permuted rows [P, hidden]; the result is [P, hidden]. */
function lowerExperts(s: SectionBuilder, moe: MoeLayerFfn, rows: Value, routed: Routed): Value {
  const { expert: ffn, experts } = moe;
  const { width } = ffn;
  const d = s.hidden;
  const shape = { experts, hidden: d, ffn };
  const name = (leaf: string): string => s.scope.canonical(`experts.${leaf}`);
  const grouped = (x: Value, w: Value, bias: Value | undefined, inputWeights: Value | undefined): Value =>
    s.graph.add(
      'moe.grouped_linear',
      { x, plan: routed.plan, ids: routed.ids, weight: w, ...maybe('bias', bias), ...maybe('routeWeights', inputWeights) },
      { gather: false, epilogue: { kind: 'none' }, combine: false, weighted: false, scale: 1 },
    ).y;
  const bias = (leaf: string, n: number, sources: () => Parameters<typeof bankVectorParam>[4]): Value | undefined =>
    ffn.bias ? bankVectorParam(s, name(`${leaf}.bias`), experts, n, sources()) : undefined;

  if (!ffn.gated) {
    const wi = expertBankParam(s, name('in.weight'), experts, width, d, names.expertsPlain(s.scope, experts, 'in', width, d));
    const h = grouped(
      rows,
      wi,
      bias('in', width, () => names.expertsPlainBias(s.scope, experts, 'in', width)),
      routed.inputWeights,
    );
    const { y } = s.graph.add('act', { x: h }, { activation: ffn.activation });
    const wo = expertBankParam(s, name('out.weight'), experts, d, width, names.expertsPlain(s.scope, experts, 'out', d, width));
    return grouped(
      y,
      wo,
      bias('out', d, () => names.expertsPlainBias(s.scope, experts, 'out', d)),
      undefined,
    );
  }
  const projected = (half: 'gate' | 'up'): Value => {
    const w = expertBankParam(s, name(`${half}.weight`), experts, width, d, names.expertsHalf(s.scope, shape, half));
    return grouped(
      rows,
      w,
      bias(half, width, () => names.expertsHalfBias(s.scope, shape, half)),
      routed.inputWeights,
    );
  };
  const gate = projected('gate');
  const { y } = s.graph.add('glu', { gate, up: projected('up') }, gluAttrs(ffn));
  const down = expertBankParam(s, name('down.weight'), experts, d, width, names.expertsDown(s.scope, shape));
  return grouped(
    y,
    down,
    bias('down', d, () => names.expertsDownBias(s.scope, shape)),
    undefined,
  );
}

function lowerShared(s: SectionBuilder, ffn: Ffn, gate: 'none' | 'sigmoid', x: Value): Value {
  const y = lowerDense(s, ffn, x, 'shared');
  if (gate === 'none') return y;
  const w = exactMatrixParam(s, s.scope.canonical('shared_gate.weight'), 1, s.hidden, routers.sharedGate(s.scope, s.hidden));
  return s.graph.add('gate_mul', { x: y, gate: plainLinear(s, x, w) }, {}).y;
}

/** @param x the (normalised) hidden state [T, hidden] @param vocab rows of a hash router's table */
export function lowerMoe(s: SectionBuilder, moe: MoeLayerFfn, x: Value, vocab: number | undefined): MoeResult {
  const { graph } = s;
  const slots = slotsOf(moe);
  const { weights, ids } = lowerRouter(s, moe, x, vocab);
  const { plan } = graph.add('moe.plan', { ids }, { experts: moe.experts, slots, mode: 'direct', tileRows: NO_TILES });
  const { y: rows } = graph.add('moe.permute', { x, plan }, {});
  const onInput = moe.router.applyTo === 'input';
  const out = lowerExperts(s, moe, rows, { plan, ids, inputWeights: onInput ? weights : undefined });
  const routed = graph.add('moe.combine', { x: out, plan, ids, ...(!onInput && { weights }) }, { slots, scale: 1 }).y;
  if (moe.shared === undefined) return { y: routed, weights, ids };
  const shared = lowerShared(s, moe.shared.ffn, moe.shared.gate, x);
  return { y: graph.add('add', { a: routed, b: shared }, { scale: 1 }).y, weights, ids };
}
