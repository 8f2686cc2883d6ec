/** Which kernel family runs a dense op, and with what problem. */
import { numberDim, rowsOf } from '../ir/graph/op-spec.ts';
import type { NodeOf, OpName, Value } from '../ir/graph/types.ts';
import * as k from '../kernels/index.ts';
import type { Launch } from '../kernels/launch.ts';
import type { Capabilities } from '../target/types.ts';

export interface LaunchContext {
  readonly caps: Capabilities;
  /** Most tokens of a call, where the bucket knows. */
  readonly maxTokens: number | undefined;
  /** Rows of the routed rows `P` per token. */
  readonly slots: number;
  /** Leading rows of a split weight's segments; undefined for a weight in one buffer. */
  segmentRows(value: Value): number | undefined;
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

/** `{ [key]: storage }` where the operand is there. */
export const storageOf = <K extends string>(key: K, value: Value | undefined): { readonly [P in K]?: k.StorageElem } =>
  value === undefined ? {} : ({ [key]: storage(value) } as { readonly [P in K]: k.StorageElem });

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

const most = (ctx: LaunchContext, rows: number): { readonly maxRows?: number } => (ctx.maxTokens === undefined ? {} : { maxRows: ctx.maxTokens * rows });

/** The launch of a dense node with the default schedule. */
export function denseLaunch(node: DenseNode, ctx: LaunchContext): Launch {
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
      return k.norm({ ...problem, ...rowsPerToken(ctx, x) }, undefined, caps);
    }
    case 'linear': {
      const { x, weight, bias, residual } = node.ins;
      const rows = rowsPerToken(ctx, x);
      const problem = {
        ...node.attrs,
        n: numberDim(node.outs.y, -1),
        k: numberDim(x, -1),
        residual: residual !== undefined,
        weightElem: storage(weight),
        ...storageOf('biasElem', bias),
      };
      return k.linear({ ...problem, ...rows, ...most(ctx, rows.rowsPerToken), ...split(ctx, weight) }, undefined, caps);
    }
    case 'head_linear': {
      const { x, weight } = node.ins;
      const rows = rowsPerToken(ctx, x);
      const problem = { heads: node.attrs.heads, n: numberDim(weight, 1), k: numberDim(weight, 2), weightElem: storage(weight) };
      return k.headLinear({ ...problem, ...rows, ...most(ctx, rows.rowsPerToken), ...split(ctx, weight) }, undefined, caps);
    }
    case 'glu':
      return k.glu({ ...node.attrs, width: numberDim(node.ins.gate, -1), ...rowsPerToken(ctx, node.ins.gate) }, undefined, caps);
    case 'act':
      return k.act({ ...node.attrs, width: numberDim(node.ins.x, -1), ...rowsPerToken(ctx, node.ins.x) }, undefined, caps);
    case 'add':
      return k.add({ ...node.attrs, width: numberDim(node.ins.a, -1), ...rowsPerToken(ctx, node.ins.a) }, undefined, caps);
    case 'gate_mul':
      return k.gateMul({ width: numberDim(node.ins.x, -1), ...rowsPerToken(ctx, node.ins.x) }, undefined, caps);
    case 'slice_heads':
      return k.sliceHeads({ ...node.attrs, ...rowsPerToken(ctx, node.ins.x) }, undefined, caps);
    case 'concat_heads': {
      const { heads } = node.attrs;
      const { a, b } = node.ins;
      return k.concatHeads({ heads, aDim: numberDim(a, -1) / heads, bDim: numberDim(b, -1) / heads, ...rowsPerToken(ctx, a) }, undefined, caps);
    }
    case 'rope':
      return k.rope(node.attrs, undefined, caps);
    case 'cache_append':
      return k.cacheAppend({ width: numberDim(node.ins.x, -1) }, undefined, caps);
    case 'attention': {
      const tokens = ctx.maxTokens === undefined ? {} : { maxTokens: ctx.maxTokens };
      return k.attention({ ...node.attrs, ...tokens, ...storageOf('sinksElem', node.ins.sinks) }, undefined, caps);
    }
  }
}
