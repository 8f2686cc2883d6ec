/** Which kernel families run an op of a mixture-of-experts layer, and with what problem. */
import { numberDim } from '../ir/graph/op-spec.ts';
import { hasSharedRow } from '../ir/graph/ops-moe.ts';
import type { NodeOf, OpName, PlanType, Value } from '../ir/graph/types.ts';
import * as k from '../kernels/index.ts';
import type { LaunchGroup } from '../kernels/moe/index.ts';
import type { Launch } from '../kernels/launch.ts';
import { type LaunchContext, rowsIn, split, storage, storageOf, weightStorage } from './launches-dense.ts';

export type MoeOp = Extract<OpName, `moe.${string}`>;
export type MoeNode = { [K in MoeOp]: NodeOf<K> }[MoeOp];

const one = (launch: Launch): LaunchGroup => ({ launches: [launch], scratch: [] });

function planOf(value: Value): PlanType {
  if (value.type.kind !== 'plan') throw new Error(`%${value.id} is not a plan`);
  return value.type;
}

const planned = (value: Value): k.Planned => {
  const { experts, slots, mode, tileRows } = planOf(value);
  return { experts, slots, mode, tileRows };
};

function routeSource(node: NodeOf<'moe.route'>): k.RouteProblem['source'] {
  const { x, gate, gateBias, normWeight, normBias, sharedGate, logits } = node.ins;
  if (logits !== undefined) return { kind: 'logits' };
  if (x === undefined || gate === undefined) return { kind: 'none' };
  const { norm } = node.attrs;
  const normed =
    norm === undefined || normWeight === undefined
      ? {}
      : { norm: { ...norm, weightElem: storage(normWeight), ...storageOf('biasElem', normBias) } };
  return {
    kind: 'hidden',
    dim: numberDim(x, -1),
    gateElem: storage(gate),
    ...storageOf('gateBiasElem', gateBias),
    ...normed,
    ...storageOf('xnElem', node.outs.xn),
    ...storageOf('sharedGateElem', sharedGate),
    ...(hasSharedRow(gate, node.attrs.experts) && { sharedGateRow: true }),
  };
}

function routeLaunches(node: NodeOf<'moe.route'>, ctx: LaunchContext): LaunchGroup {
  const { norm: _norm, select, ...attrs } = node.attrs;
  const { table, selectionBias } = node.ins;
  const choice = select.kind === 'hash' ? { kind: 'hash' as const, vocab: table === undefined ? 0 : numberDim(table, 0) } : select;
  return k.route(
    {
      ...attrs,
      select: choice,
      ...storageOf('selectionBiasElem', selectionBias),
      source: routeSource(node),
      ...(ctx.maxTokens !== undefined && { maxTokens: ctx.maxTokens }),
    },
    undefined,
    ctx.caps,
  );
}

function groupedLaunch(node: NodeOf<'moe.grouped_linear'>, ctx: LaunchContext): Launch {
  const { plan, weight, bias, routeWeights, sharedX, sharedWeight, sharedBias, sharedGate, residual, x } = node.ins;
  const { experts, slots, mode, tileRows } = planOf(plan);
  const { gather, epilogue, combine, scale } = node.attrs;
  const products = epilogue.kind === 'glu' ? 2 : 1;
  const shared =
    sharedWeight === undefined
      ? {}
      : {
          shared: {
            n: numberDim(sharedWeight, 0) / products,
            k: numberDim(sharedWeight, 1),
            weightElem: weightStorage(sharedWeight),
            ...storageOf('biasElem', sharedBias),
            ownX: sharedX !== undefined,
            ...rowsIn('xElem', sharedX),
            ...rowsIn('yElem', node.outs.shared),
            gate: sharedGate !== undefined,
          },
        };
  const problem: k.GroupedProblem = {
    experts,
    slots,
    mode,
    tileRows,
    gather,
    epilogue,
    combine,
    scale,
    n: numberDim(weight, 1) / products,
    k: numberDim(x, -1),
    weightElem: weightStorage(weight),
    ...rowsIn('xElem', x),
    ...rowsIn('yElem', node.outs.y),
    ...storageOf('biasElem', bias),
    routeWeights: routeWeights !== undefined,
    residual: residual !== undefined,
    ...shared,
    ...split(ctx, weight),
  };
  return k.groupedLinear(problem, ctx.schedules?.find?.('grouped-linear', problem), ctx.caps);
}

/** The launches of a node; none where nothing has to run. */
export function moeLaunches(node: MoeNode, ctx: LaunchContext): LaunchGroup {
  const { caps } = ctx;
  switch (node.op) {
    case 'moe.route':
      return routeLaunches(node, ctx);
    case 'moe.capacity':
      return one(k.capacity(node.attrs, undefined, caps));
    case 'moe.plan':
      return node.attrs.mode === 'direct' ? { launches: [], scratch: [] } : one(k.plan({ ...node.attrs, ...(ctx.maxTokens !== undefined && { maxTokens: ctx.maxTokens }) }, undefined, caps));
    case 'moe.permute': {
      const { plan, x } = node.ins;
      const stored = { ...rowsIn('xElem', x), ...rowsIn('yElem', node.outs.y) };
      return one(k.permute({ ...planned(plan), dim: numberDim(x, -1), ...stored }, undefined, caps));
    }
    case 'moe.grouped_linear':
      return one(groupedLaunch(node, ctx));
    case 'moe.combine': {
      const { x, plan, weights, shared, sharedGate, residual } = node.ins;
      const problem = {
        ...planned(plan),
        n: numberDim(x, -1),
        ...rowsIn('xElem', x),
        ...rowsIn('sharedElem', shared),
        weights: weights !== undefined,
        shared: shared !== undefined,
        sharedGate: sharedGate !== undefined,
        scale: node.attrs.scale,
        residual: residual !== undefined,
      };
      return one(k.combine(problem, undefined, caps));
    }
  }
}
