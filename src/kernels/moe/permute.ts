/** moe.permute: y[row] = x[token of row], rows in the order of the plan. Operands `x`, `plan` (sorted only); result `y`. */
import * as b from '../../ir/kernel/build.ts';
import type { Stmt } from '../../ir/kernel/types.ts';
import type { Capabilities } from '../../target/types.ts';
import type { Launch } from '../launch.ts';
import { copy, define, elementwise, elementwiseSchedule, globalBuffer, lanesFor, wantWhole } from './common.ts';
import type { ElementwiseSchedule, Planned, StorageElem } from './common.ts';
import { planBuffer, slotOfRowAt, usedRowsAt } from './plan-layout.ts';

export interface PermuteProblem extends Planned {
  readonly dim: number;
  /** Storage of x and y; f32 where not said. */
  readonly xElem?: StorageElem;
  readonly yElem?: StorageElem;
}

/** x [T, dim], y [T · slots, dim]; rows that no slot uses are left alone. */
export function permute(p: PermuteProblem, schedule: ElementwiseSchedule | undefined, caps: Capabilities): Launch {
  wantWhole('permute', { dim: p.dim, slots: p.slots });
  const lanes = lanesFor(p.dim);
  const perRow = p.dim / lanes;
  const x = globalBuffer('x', p.xElem ?? 'f32', lanes);
  const by = planBuffer();
  const y = globalBuffer('y', p.yElem ?? 'f32', lanes);
  const sorted = p.mode === 'sorted';
  return elementwise(
    {
      name: `permute_${p.mode}_${p.dim}`,
      family: 'permute',
      params: [['x', x], ...(sorted ? [['plan', by] as const] : []), ['y', y]],
      perRow,
      rows: { rowsPerToken: p.slots },
      body(item) {
        const stmts: Stmt[] = [];
        const row = define(stmts, 'row', b.div(item, b.u32(perRow)));
        const slot = sorted ? b.load(by, slotOfRowAt(row)) : row;
        const moved: Stmt[] = [];
        const token = define(moved, 'token', b.div(slot, b.u32(p.slots)));
        moved.push(copy(y, item, x, b.add(b.mul(token, b.u32(perRow)), b.mod(item, b.u32(perRow)))));
        return sorted ? [...stmts, b.if_(b.lt(row, b.load(by, usedRowsAt)), moved)] : [...stmts, ...moved];
      },
    },
    schedule ?? elementwiseSchedule(caps),
    caps,
  );
}
