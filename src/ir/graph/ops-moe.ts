/** Rows of the op table for routing, permuting, expert matmuls and combining. */
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
  shapes,
  storedBytes,
  tensor,
  wantCount,
  wantFinite,
  WEIGHT,
} from './op-spec.ts';
import { allBytes, epilogueFactor, verifyEpilogue, verifyNorm } from './ops-dense.ts';
import type { PlanType, RouteAttrs, Value } from './types.ts';

type Bad = (problem: string) => void;

/** The plan type of a value. @throws Error for a tensor */
export function planOf(value: Value): PlanType {
  if (value.type.kind !== 'plan') throw new Error(`%${value.id} is not a plan`);
  return value.type;
}

/** Whether the logits play a part at all: a hash table with weight 1 needs none. */
export const needsLogits = (attrs: RouteAttrs): boolean => attrs.select.kind !== 'hash' || attrs.weights !== 'one';

/** Whether the router's matrix carries the row of the shared experts' gate behind those of the experts. */
export const hasSharedRow = (gate: Value | undefined, experts: number): boolean =>
  gate?.type.kind === 'tensor' && gate.type.shape[0] === experts + 1;

function verifyRouteAttrs(attrs: RouteAttrs, bad: Bad): void {
  const { experts, slots, groups, select, renormalize } = attrs;
  wantCount(bad, 'experts', experts);
  wantCount(bad, 'slots', slots);
  if (slots > experts) bad(`${slots} slots, but only ${experts} experts`);
  wantFinite(bad, 'scale', attrs.scale);
  if (groups !== undefined) {
    wantCount(bad, 'groups', groups.count);
    wantCount(bad, 'groups kept', groups.keep);
    if (experts % groups.count !== 0) bad(`${groups.count} groups do not divide ${experts} experts`);
    if (groups.keep > groups.count) bad(`${groups.keep} of ${groups.count} groups cannot be kept`);
    if ((experts / groups.count) * groups.keep < slots) bad(`${groups.keep} groups hold fewer than ${slots} experts`);
    if (select.kind !== 'top-k') bad(`groups go with top-k, not with ${select.kind}`);
  }
  if (select.kind === 'expert-choice') {
    if (!(select.capacityFactor > 0)) bad(`capacity factor is ${select.capacityFactor}, not above 0`);
    if (slots !== experts) bad('expert choice has a slot per expert');
    if (attrs.weights === 'softmax-selected') bad('expert choice weights are scores or 1');
  }
  if (select.kind === 'sparse-mixer' && !(select.jitter >= 0)) bad(`jitter is ${select.jitter}, not from 0 up`);
  if (attrs.score === 'none' && select.kind === 'top-k' && attrs.weights === 'scores')
    bad('weights cannot be scores where there is no score');
  if (renormalize !== undefined && !(renormalize.p > 0 && renormalize.eps >= 0))
    bad(`renormalisation by p = ${renormalize.p}, eps = ${renormalize.eps} is undefined`);
}

function verifyRouteOperands(ins: Parameters<typeof route.verify>[0], attrs: RouteAttrs & { readonly norm?: unknown }, bad: Bad): void {
  const fused = ins.x !== undefined;
  if (fused && ins.logits !== undefined) bad('logits and x exclude each other');
  if (needsLogits(attrs) && !fused && ins.logits === undefined) bad('either logits or x is needed');
  if (fused !== (ins.gate !== undefined)) bad('x and gate go together');
  if (!fused && (ins.gateBias ?? ins.sharedGate ?? ins.normWeight) !== undefined) bad('gateBias, sharedGate and normWeight go with x');
  if ((attrs.norm !== undefined) !== (ins.normWeight !== undefined)) bad('attribute norm and operand normWeight go together');
  if (ins.normBias !== undefined && ins.normWeight === undefined) bad('normBias goes with normWeight');
  const isHash = attrs.select.kind === 'hash';
  if (isHash !== (ins.table !== undefined) || isHash !== (ins.tokenIds !== undefined))
    bad('table and tokenIds go with hash routing, and only with it');
  if (ins.selectionBias !== undefined && attrs.select.kind !== 'top-k')
    bad(`a selection bias goes with top-k, not with ${attrs.select.kind}`);
}

export const route: OpSpec<'moe.route'> = {
  doc: 'chooses slots experts of each token from its logits, or from norm(x) · gateᵀ + gateBias, and weighs them',
  ins: {
    logits: 'optional',
    x: 'optional',
    normWeight: 'optional',
    normBias: 'optional',
    gate: 'optional',
    gateBias: 'optional',
    selectionBias: 'optional',
    table: 'optional',
    tokenIds: 'optional',
    sharedGate: 'optional',
  },
  outs: { weights: 'required', ids: 'required', xn: 'optional', gate: 'optional' },
  infer: ({ x, gate, sharedGate }, { experts, slots }) => ({
    weights: tensor('f32', 'T', slots),
    ids: tensor('u32', 'T', slots),
    ...(x !== undefined && { xn: tensor('f32', 'T', numberDim(x, 1)) }),
    ...((sharedGate !== undefined || hasSharedRow(gate, experts)) && { gate: tensor('f32', 'T', 1) }),
  }),
  verify(ins, attrs, bad) {
    verifyRouteAttrs(attrs, bad);
    verifyRouteOperands(ins, attrs, bad);
    if (attrs.norm !== undefined) verifyNorm(attrs.norm, ins.normBias !== undefined, bad);
    const s = shapes(bad);
    s.check('logits', ins.logits, ACT, 'T', attrs.experts);
    s.check('x', ins.x, ACT, 'T', 'd');
    s.check('normWeight', ins.normWeight, WEIGHT, 'd');
    s.check('normBias', ins.normBias, WEIGHT, 'd');
    const gateRows = attrs.experts + (ins.sharedGate === undefined && hasSharedRow(ins.gate, attrs.experts) ? 1 : 0);
    s.check('gate', ins.gate, WEIGHT, gateRows, 'd');
    s.check('gateBias', ins.gateBias, WEIGHT, attrs.experts);
    s.check('selectionBias', ins.selectionBias, WEIGHT, attrs.experts);
    s.check('sharedGate', ins.sharedGate, WEIGHT, 1, 'd');
    s.check('tokenIds', ins.tokenIds, INDEX, 'T');
    if (attrs.slots === 1 && ins.table?.type.kind === 'tensor' && ins.table.type.shape.length === 1)
      s.check('table', ins.table, INDEX, 'vocab');
    else s.check('table', ins.table, INDEX, 'vocab', attrs.slots);
  },
  flops: ({ x, gate, sharedGate }, { experts, norm }) => {
    const d = x === undefined ? 0 : numberDim(x, 1);
    const rows = experts + (sharedGate !== undefined || hasSharedRow(gate, experts) ? 1 : 0);
    return mulSize('T', 2 * d * rows + (norm === undefined ? 0 : 4 * d) + 8 * experts);
  },
  narrow: () => ['xn'],
  bytes: ({ table, ...ins }, attrs, env, outs) =>
    addSize(allBytes({ ...ins }, outs, env), table === undefined ? 0 : mulSize('T', 4 * attrs.slots)),
};

export const capacity: OpSpec<'moe.capacity'> = {
  doc: 'drops slots beyond an expert’s capacity in a sequence: all first choices before any second, in token order',
  ins: { weights: 'required', ids: 'required' },
  outs: { weights: 'required', ids: 'required' },
  infer: (_ins, { slots }) => ({ weights: tensor('f32', 'T', slots), ids: tensor('u32', 'T', slots) }),
  verify({ weights, ids }, { experts, slots, limit }, bad) {
    wantCount(bad, 'experts', experts);
    if (limit.kind === 'tokens') wantCount(bad, 'capacity', limit.tokens);
    else {
      if (!(limit.factor > 0)) bad(`capacity factor is ${limit.factor}, not above 0`);
      wantCount(bad, 'least capacity', limit.min, 0);
    }
    const s = shapes(bad);
    s.check('weights', weights, ACT, 'T', slots);
    s.check('ids', ids, INDEX, 'T', slots);
  },
  flops: (_ins, { slots }) => mulSize('T', 2 * slots),
  bytes: (ins, _attrs, env) => mulSize(allBytes({ ...ins }, {}, env), 2),
};

export const plan: OpSpec<'moe.plan'> = {
  doc: 'which routed row belongs to which (token, slot), and which expert each row needs',
  ins: { ids: 'required' },
  outs: { plan: 'required' },
  infer: (_ins, { experts, slots, mode, tileRows }) => ({ plan: { kind: 'plan', experts, slots, mode, tileRows } }),
  verify({ ids }, { experts, slots, tileRows }, bad) {
    wantCount(bad, 'experts', experts);
    wantCount(bad, 'tileRows', tileRows);
    shapes(bad).check('ids', ids, INDEX, 'T', slots);
  },
  flops: () => 0,
  bytes: ({ ids }, { mode }, env) => (mode === 'direct' ? 0 : mulSize(bytesOf(ids.type, env), 3)),
};

export const permute: OpSpec<'moe.permute'> = {
  doc: 'y[row] = x[token of row]',
  ins: { x: 'required', plan: 'required' },
  outs: { y: 'required' },
  infer: ({ x }) => ({ y: tensor('f32', 'P', numberDim(x, 1)) }),
  verify({ x, plan: by }, _attrs, bad) {
    if (by.type.kind !== 'plan') bad('plan must be a plan');
    shapes(bad).check('x', x, ROWS, 'T', 'd');
  },
  narrow: () => ['y'],
  flops: () => 0,
  bytes: ({ x }, _attrs, env, { y }) =>
    addSize(mulSize(mulSize(env.P, numberDim(x, 1)), elementBytes(x)), y === undefined ? 0 : bytesOf(y, env)),
};

/** Bytes of a bank that a call can need: at most one expert a routed row. */
const bankBytes = (weight: Value, env: CostEnv): Size => {
  const perExpert = weight.type.kind === 'plan' ? 0 : storedBytes(weight.type.dtype, [numberDim(weight, 1), numberDim(weight, 2)]);
  return mulSize({ op: 'min', a: numberDim(weight, 0), b: env.P }, perExpert);
};

export const groupedLinear: OpSpec<'moe.grouped_linear'> = {
  doc: 'y[row] = epilogue(x[row] · weight[expert of row]ᵀ + bias); gather, shared experts and combine as attributes and operands say',
  ins: {
    x: 'required',
    plan: 'required',
    ids: 'required',
    weight: 'required',
    bias: 'optional',
    routeWeights: 'optional',
    sharedX: 'optional',
    sharedWeight: 'optional',
    sharedBias: 'optional',
    sharedGate: 'optional',
    residual: 'optional',
  },
  outs: { y: 'required', shared: 'optional' },
  infer: ({ weight, sharedWeight }, { epilogue, combine }) => ({
    y: tensor('f32', combine ? 'T' : 'P', numberDim(weight, 1) / epilogueFactor(epilogue)),
    ...(sharedWeight !== undefined && !combine && { shared: tensor('f32', 'T', numberDim(sharedWeight, 0) / epilogueFactor(epilogue)) }),
  }),
  verify(ins, attrs, bad) {
    if (ins.plan.type.kind !== 'plan') return bad('plan must be a plan');
    const { experts, slots } = ins.plan.type;
    const factor = epilogueFactor(attrs.epilogue);
    const s = shapes(bad);
    s.check('x', ins.x, ROWS, attrs.gather ? 'T' : 'P', 'k');
    s.check('ids', ins.ids, INDEX, 'T', slots);
    s.check('weight', ins.weight, EXPERT, experts, 'm', 'k');
    s.check('bias', ins.bias, WEIGHT, experts, 'm');
    s.check('routeWeights', ins.routeWeights, ACT, 'T', slots);
    const m = s.number('m');
    if (m % factor !== 0) bad(`a glu weight needs an even number of rows, not ${m}`);
    s.check('sharedWeight', ins.sharedWeight, EXPERT, attrs.combine ? m : 'sm', 'sk');
    s.check('sharedBias', ins.sharedBias, WEIGHT, attrs.combine ? m : 'sm');
    s.check('sharedX', ins.sharedX, ROWS, 'T', 'sk');
    s.check('sharedGate', ins.sharedGate, ACT, 'T', 1);
    s.check('residual', ins.residual, ACT, 'T', m / factor);
    verifyEpilogue(attrs.epilogue, bad);
    wantFinite(bad, 'scale', attrs.scale);
    const shared = ins.sharedWeight !== undefined;
    if (!shared && (ins.sharedX ?? ins.sharedBias ?? ins.sharedGate) !== undefined)
      bad('sharedX, sharedBias and sharedGate go with sharedWeight');
    if (shared && ins.sharedX === undefined && !attrs.gather) bad('sharedWeight needs sharedX where rows are not gathered');
    if (shared && ins.sharedX === undefined && s.dim('sk') !== s.dim('k')) bad('sharedWeight has not the width of x');
    if (!attrs.combine && (ins.sharedGate ?? ins.residual) !== undefined) bad('sharedGate and residual go with combine');
    if (!attrs.combine && (attrs.weighted || attrs.scale !== 1)) bad('weighted and scale go with combine');
    if (attrs.combine && attrs.weighted !== (ins.routeWeights !== undefined))
      bad('combine reads routeWeights exactly where it is weighted');
    if (attrs.combine && attrs.epilogue.kind !== 'none') bad('combine goes without an epilogue');
  },
  narrow: ({ combine: sums }) => (sums ? [] : ['y', 'shared']),
  flops: ({ weight, sharedWeight }, _attrs, env) => {
    const routed = mulSize(env.P, 2 * numberDim(weight, 1) * numberDim(weight, 2));
    return sharedWeight === undefined ? routed : addSize(routed, mulSize('T', 2 * numberDim(sharedWeight, 0) * numberDim(sharedWeight, 1)));
  },
  bytes: ({ weight, x, ...rest }, attrs, env, outs) => {
    const rows = attrs.gather ? env.P : dimSize(rowsOf(x), env);
    const read = addSize(bankBytes(weight, env), mulSize(rows, elementBytes(x) * numberDim(x, 1)));
    return addSize(read, allBytes({ ...rest }, outs, env));
  },
};

export const combine: OpSpec<'moe.combine'> = {
  doc: 'y[t] = (Σ slots in order: weights · x[row] [+ shared · σ(sharedGate)]) · scale [+ residual]',
  ins: {
    x: 'required',
    plan: 'required',
    ids: 'required',
    weights: 'optional',
    shared: 'optional',
    sharedGate: 'optional',
    residual: 'optional',
  },
  outs: { y: 'required' },
  infer: ({ x }) => ({ y: tensor('f32', 'T', numberDim(x, 1)) }),
  verify(ins, { slots, scale }, bad) {
    if (ins.plan.type.kind !== 'plan') return bad('plan must be a plan');
    if (ins.plan.type.slots !== slots) bad(`plan has ${ins.plan.type.slots} slots, not ${slots}`);
    const s = shapes(bad);
    s.check('x', ins.x, ROWS, 'P', 'n');
    s.check('ids', ins.ids, INDEX, 'T', slots);
    s.check('weights', ins.weights, ACT, 'T', slots);
    s.check('shared', ins.shared, ROWS, 'T', 'n');
    s.check('sharedGate', ins.sharedGate, ACT, 'T', 1);
    s.check('residual', ins.residual, ACT, 'T', 'n');
    if (ins.sharedGate !== undefined && ins.shared === undefined) bad('sharedGate goes with shared');
    wantFinite(bad, 'scale', scale);
  },
  flops: ({ x }, _attrs, env) => mulSize(elements(x.type, env), 2),
  bytes: (ins, _attrs, env, outs) => allBytes({ ...ins }, outs, env),
};
