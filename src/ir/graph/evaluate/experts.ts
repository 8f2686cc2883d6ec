/** The reference of plan, permute, grouped linear (in every fused form) and combine. */
import { numberDim } from '../op-spec.ts';
import { DROPPED, type Value } from '../types.ts';
import { at, type Data, type Evaluate, type PlanData } from './data.ts';
import { applyEpilogue, rowTimes } from './dense.ts';
import { sigmoid } from './math.ts';

/** `direct`: row = token × slots + slot. `sorted`: by expert, then token, then slot; the rows nobody uses come last. */
export const plan: Evaluate<'moe.plan'> = ({ node, size, data }) => {
  const { slots, experts, mode } = node.attrs;
  const ids = data(node.ins.ids);
  const rows = size.T * slots;
  const used = Array.from({ length: rows }, (_, i) => i).filter((i) => at(ids, i) !== DROPPED);
  const wrong = used.find((i) => at(ids, i) >= experts);
  if (wrong !== undefined) throw new RangeError(`expert ${at(ids, wrong)} of ${experts}`);
  const order = mode === 'direct' ? used : used.toSorted((a, b) => at(ids, a) - at(ids, b) || a - b);
  const made: PlanData = {
    rows,
    slots,
    tokenOf: new Int32Array(rows).fill(-1),
    slotOf: new Int32Array(rows).fill(-1),
    expertOf: new Int32Array(rows).fill(-1),
    rowOf: new Int32Array(rows).fill(-1),
  };
  order.forEach((i, rank) => {
    const row = mode === 'direct' ? i : rank;
    made.tokenOf[row] = Math.floor(i / slots);
    made.slotOf[row] = i % slots;
    made.expertOf[row] = at(ids, i);
    made.rowOf[i] = row;
  });
  return { plan: made };
};

/** Rows that no slot uses hold NaN, so that reading one shows. */
const unusedRows = (rows: number, n: number): Float64Array => new Float64Array(rows * n).fill(NaN);

export const permute: Evaluate<'moe.permute'> = ({ node, data, plan: planData }) => {
  const d = numberDim(node.ins.x, 1);
  const by = planData(node.ins.plan);
  const y = unusedRows(by.rows, d);
  by.tokenOf.forEach((t, row) => {
    if (t >= 0) y.set(data(node.ins.x).subarray(t * d, (t + 1) * d), row * d);
  });
  return { y };
};

/** What joins a token's sum after its routed rows. */
interface Tail {
  readonly shared: Data | undefined;
  readonly sharedGate: Data | undefined;
  readonly residual: Data | undefined;
  readonly scale: number;
}

/** y[t] = (Σ slots in order: weights · rows [+ shared · σ(gate)]) · scale [+ residual]; weight 1 without weights. */
function combineRows(rows: Data, by: PlanData, weights: Data | undefined, n: number, tokens: number, tail: Tail): Float64Array {
  const y = new Float64Array(tokens * n);
  for (let t = 0; t < tokens; t++) {
    for (let j = 0; j < n; j++) {
      let sum = 0;
      for (let s = 0; s < by.slots; s++) {
        const row = at(by.rowOf, t * by.slots + s);
        if (row < 0) continue;
        const weight = weights === undefined ? 1 : at(weights, t * by.slots + s);
        sum += weight * at(rows, row * n + j);
      }
      if (tail.shared !== undefined)
        sum += at(tail.shared, t * n + j) * (tail.sharedGate === undefined ? 1 : sigmoid(at(tail.sharedGate, t)));
      y[t * n + j] = sum * tail.scale + (tail.residual === undefined ? 0 : at(tail.residual, t * n + j));
    }
  }
  return y;
}

export const groupedLinear: Evaluate<'moe.grouped_linear'> = (ctx) => {
  const { node, size, data } = ctx;
  const { ins, attrs } = node;
  const optional = (value: Value | undefined): Data | undefined => value && data(value);
  const by = ctx.plan(ins.plan);
  const [m, k] = [numberDim(ins.weight, 1), numberDim(ins.weight, 2)];
  const n = attrs.epilogue.kind === 'glu' ? m / 2 : m;
  const [x, weight, bias, routeWeights] = [data(ins.x), data(ins.weight), optional(ins.bias), optional(ins.routeWeights)];

  const rows = unusedRows(by.rows, n);
  for (let row = 0; row < by.rows; row++) {
    const [token, expert] = [at(by.tokenOf, row), at(by.expertOf, row)];
    if (expert < 0) continue;
    const from = (attrs.gather ? token : row) * k;
    const scaleBy = attrs.combine || routeWeights === undefined ? 1 : at(routeWeights, token * by.slots + at(by.slotOf, row));
    const input = Float64Array.from(x.subarray(from, from + k), (v) => v * scaleBy);
    rows.set(applyEpilogue(attrs.epilogue, rowTimes(input, 0, weight, expert * m * k, m, k, bias, expert * m)), row * n);
  }

  const shared = ins.sharedWeight === undefined ? undefined : sharedRows(data(ins.sharedX ?? ins.x), ins.sharedWeight);
  function sharedRows(sx: Data, value: Value): Float64Array {
    const [sm, sk] = [numberDim(value, 0), numberDim(value, 1)];
    const out = Array.from({ length: size.T }, (_, t) =>
      applyEpilogue(attrs.epilogue, rowTimes(sx, t * sk, data(value), 0, sm, sk, optional(ins.sharedBias), 0)),
    );
    return Float64Array.from(out.flat());
  }
  if (!attrs.combine) return { y: rows, ...(shared !== undefined && { shared }) };
  const tail = { shared, sharedGate: optional(ins.sharedGate), residual: optional(ins.residual), scale: attrs.scale };
  return { y: combineRows(rows, by, routeWeights, n, size.T, tail) };
};

export const combine: Evaluate<'moe.combine'> = ({ node, size, data, plan: planData }) => {
  const { ins, attrs } = node;
  const optional = (value: Value | undefined): Data | undefined => value && data(value);
  const tail = { shared: optional(ins.shared), sharedGate: optional(ins.sharedGate), residual: optional(ins.residual), scale: attrs.scale };
  return { y: combineRows(data(ins.x), planData(ins.plan), optional(ins.weights), numberDim(ins.x, 1), size.T, tail) };
};
