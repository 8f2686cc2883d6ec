/** Which kernel family runs a dense op, and with what problem. */
import { isQuantName } from '../base/quant.ts';
import { numberDim, rowsOf } from '../ir/graph/op-spec.ts';
import type { NodeOf, OpName, Value } from '../ir/graph/types.ts';
import * as k from '../kernels/index.ts';
import type { Launch, LaunchGroup } from '../kernels/launch.ts';
import type { ScheduleSource } from '../kernels/schedule-source.ts';
import type { Capabilities } from '../target/types.ts';

export interface LaunchContext {
  readonly caps: Capabilities;
  /** Most tokens of a call, where the bucket knows. */
  readonly maxTokens: number | undefined;
  /** Rows of the routed rows `P` per token. */
  readonly slots: number;
  /** Leading rows of a split weight's segments; undefined for a weight in one buffer. */
  segmentRows(value: Value): number | undefined;
  readonly schedules?: ScheduleSource | undefined;
}

export type DenseOp = Exclude<OpName, `moe.${string}`>;
export type DenseNode = { [K in DenseOp]: NodeOf<K> }[DenseOp];

/** How a weight or bias is stored. */
export function storage(value: Value): k.StorageElem {
  if (value.type.kind === 'tensor') {
    const { dtype } = value.type;
    if (dtype === 'f32' || dtype === 'f16' || dtype === 'bf16') return dtype;
  }
  throw new Error(`%${value.id} is not stored in floating point`);
}

/** How a matrix of experts is stored. */
export const weightStorage = (value: Value): k.WeightElem =>
  value.type.kind === 'tensor' && isQuantName(value.type.dtype) ? value.type.dtype : storage(value);

/** `{ [key]: storage }` where the operand is there. */
export const storageOf = <K extends string>(key: K, value: Value | undefined): { readonly [P in K]?: k.StorageElem } =>
  value === undefined ? {} : ({ [key]: storage(value) } as { readonly [P in K]: k.StorageElem });

/** `{ [key]: storage }` of rows that are narrowed to 16 bits; families take f32 where nothing is said. */
export const rowsIn = <K extends string>(key: K, value: Value | undefined): { readonly [P in K]?: k.StorageElem } =>
  value === undefined || storage(value) === 'f32' ? {} : storageOf(key, value);

/** `{ segmentRows }` where the weight is split. */
export const split = (ctx: LaunchContext, value: Value): { readonly segmentRows?: number } => {
  const rows = ctx.segmentRows(value);
  return rows === undefined ? {} : { segmentRows: rows };
};

const rowsPerToken = (ctx: LaunchContext, value: Value): { readonly rowsPerToken: number } => {
  const rows = rowsOf(value);
  if (rows !== 'T' && rows !== 'P') throw new Error(`%${value.id} has ${rows} rows`);
  return { rowsPerToken: rows === 'T' ? 1 : ctx.slots };
};

/** Width, rows and storage of an element-wise step. */
const elementwiseOf = (ctx: LaunchContext, x: Value, y: Value): { readonly width: number; readonly rowsPerToken: number; readonly yElem?: k.StorageElem } => ({
  width: numberDim(x, -1),
  ...rowsPerToken(ctx, x),
  ...rowsIn('yElem', y),
});

const most = (ctx: LaunchContext, rows: number): { readonly maxRows?: number } => (ctx.maxTokens === undefined ? {} : { maxRows: ctx.maxTokens * rows });

/** The launches of a dense node. */
export const denseLaunches = (node: DenseNode, ctx: LaunchContext): LaunchGroup =>
  node.op === 'attention' ? attentionLaunches(node, ctx) : { launches: [denseLaunch(node, ctx)], scratch: [] };

function attentionLaunches({ ins, outs, attrs }: NodeOf<'attention'>, { caps, maxTokens, schedules }: LaunchContext): LaunchGroup {
  const tokens = maxTokens === undefined ? {} : { maxTokens };
  const stored = { ...rowsIn('qElem', ins.q), ...rowsIn('kvElem', ins.k), ...rowsIn('yElem', outs.y) };
  const problem = { ...attrs, ...tokens, ...storageOf('sinksElem', ins.sinks), ...stored };
  return k.attention(problem, schedules?.find?.('attention', problem), caps);
}

function denseLaunch(node: Exclude<DenseNode, NodeOf<'attention'>>, ctx: LaunchContext): Launch {
  const { caps } = ctx;
  switch (node.op) {
    case 'embed': {
      const { table } = node.ins;
      const problem = { vocab: numberDim(table, 0), dim: numberDim(table, 1), scale: node.attrs.scale, tableElem: storage(table) };
      return k.embed({ ...problem, ...split(ctx, table) }, undefined, caps);
    }
    case 'norm': {
      const { x, weight, bias } = node.ins;
      const problem = { ...node.attrs, dim: numberDim(x, -1), weightElem: storage(weight), ...storageOf('biasElem', bias) };
      return k.norm({ ...problem, ...rowsPerToken(ctx, x), ...rowsIn('yElem', node.outs.y) }, undefined, caps);
    }
    case 'linear': {
      const { x, weight, bias, residual } = node.ins;
      const rows = rowsPerToken(ctx, x);
      const problem: k.LinearProblem = {
        ...node.attrs,
        n: numberDim(node.outs.y, -1),
        k: numberDim(x, -1),
        residual: residual !== undefined,
        weightElem: weightStorage(weight),
        ...rowsIn('xElem', x),
        ...rowsIn('yElem', node.outs.y),
        ...storageOf('biasElem', bias),
        ...rows,
        ...most(ctx, rows.rowsPerToken),
        ...split(ctx, weight),
      };
      return k.linear(problem, ctx.schedules?.find?.('linear', problem), caps);
    }
    case 'head_linear': {
      const { x, weight } = node.ins;
      const rows = rowsPerToken(ctx, x);
      const problem: k.HeadLinearProblem = {
        heads: node.attrs.heads,
        n: numberDim(weight, 1),
        k: numberDim(weight, 2),
        weightElem: storage(weight),
        ...rowsIn('xElem', x),
        ...rowsIn('yElem', node.outs.y),
        ...rows,
        ...most(ctx, rows.rowsPerToken),
        ...split(ctx, weight),
      };
      return k.headLinear(problem, ctx.schedules?.find?.('head_linear', problem), caps);
    }
    case 'glu':
      return k.glu({ ...node.attrs, ...elementwiseOf(ctx, node.ins.gate, node.outs.y) }, undefined, caps);
    case 'act':
      return k.act({ ...node.attrs, ...elementwiseOf(ctx, node.ins.x, node.outs.y) }, undefined, caps);
    case 'add':
      return k.add({ ...node.attrs, ...elementwiseOf(ctx, node.ins.a, node.outs.y) }, undefined, caps);
    case 'gate_mul':
      return k.gateMul(elementwiseOf(ctx, node.ins.x, node.outs.y), undefined, caps);
    case 'slice_heads': {
      const { x } = node.ins;
      const stored = { ...rowsIn('xElem', x), ...rowsIn('yElem', node.outs.y) };
      return k.sliceHeads({ ...node.attrs, ...rowsPerToken(ctx, x), ...stored }, undefined, caps);
    }
    case 'concat_heads': {
      const { heads } = node.attrs;
      const { a, b } = node.ins;
      const stored = { ...rowsIn('aElem', a), ...rowsIn('bElem', b), ...rowsIn('yElem', node.outs.y) };
      const dims = { heads, aDim: numberDim(a, -1) / heads, bDim: numberDim(b, -1) / heads };
      return k.concatHeads({ ...dims, ...rowsPerToken(ctx, a), ...stored }, undefined, caps);
    }
    case 'rope':
      return k.rope({ ...node.attrs, ...rowsIn('xElem', node.ins.x), ...rowsIn('yElem', node.outs.y) }, undefined, caps);
    case 'cache_append': {
      const { x, cache } = node.ins;
      return k.cacheAppend({ width: numberDim(x, -1), ...rowsIn('xElem', x), ...rowsIn('cacheElem', cache) }, undefined, caps);
    }
  }
}
