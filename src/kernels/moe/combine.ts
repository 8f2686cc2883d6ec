/**
 * moe.combine: y[t] = (Σ over the slots in order of weights · x[row] [+ shared · σ(sharedGate)]) · scale [+ residual].
 * Operands `x`, `plan` (sorted) or `ids` (direct), [`weights`, `shared`, `sharedGate`, `residual`]; result `y`.
 */
import * as b from '../../ir/kernel/build.ts';
import type { Buffer, Expr, Stmt } from '../../ir/kernel/types.ts';
import type { Capabilities } from '../../target/types.ts';
import type { Launch } from '../launch.ts';
import { addSlot, finishSum } from './combine-sum.ts';
import { DROPPED, define, elementwise, elementwiseSchedule, globalBuffer, lanesFor, wantWhole } from './common.ts';
import type { ElementwiseSchedule, Planned, StorageElem } from './common.ts';
import { planBuffer, rowOfSlotAt } from './plan-layout.ts';

export interface CombineProblem extends Planned {
  readonly n: number;
  /** Storage of x and of `shared`; f32 where not said. */
  readonly xElem?: StorageElem;
  readonly sharedElem?: StorageElem;
  /** Which of the optional operands are there. */
  readonly weights: boolean;
  readonly shared: boolean;
  readonly sharedGate: boolean;
  readonly residual: boolean;
  readonly scale: number;
}

export interface CombineSchedule extends ElementwiseSchedule {
  /** 1: the rows of all slots are under way before the first is summed; 0: one after the other. */
  readonly ahead?: 0 | 1;
}

/** Slots whose rows a thread can have under way. */
const MOST_AHEAD = 16;

const combineSchedule = (p: CombineProblem, caps: Capabilities): CombineSchedule => ({
  ...elementwiseSchedule(caps),
  ...(caps.target === 'cuda' && p.slots <= MOST_AHEAD && { ahead: 1 }),
});

/** x [T · slots, n], weights f32 [T, slots], shared [T, n], residual and y f32 [T, n], sharedGate f32 [T, 1]. */
export function combine(p: CombineProblem, schedule: CombineSchedule | undefined, caps: Capabilities): Launch {
  const { ahead = 0, block } = schedule ?? combineSchedule(p, caps);
  wantWhole('combine', { n: p.n, slots: p.slots });
  const lanes = lanesFor(p.n);
  const perRow = p.n / lanes;
  const params: (readonly [string, Buffer])[] = [];
  const bind = (name: string, buf: Buffer): Buffer => {
    params.push([name, buf]);
    return buf;
  };
  const f32 = (name: string, rows: boolean): Buffer => bind(name, globalBuffer(name, 'f32', rows ? lanes : 1));
  const wide = (name: string, elem: StorageElem): Buffer => bind(name, globalBuffer(name, elem, lanes));
  const x = wide('x', p.xElem ?? 'f32');
  const by = p.mode === 'sorted' ? bind('plan', planBuffer()) : bind('ids', globalBuffer('ids', 'u32'));
  const weights = p.weights ? f32('weights', false) : undefined;
  const shared = p.shared ? wide('shared', p.sharedElem ?? 'f32') : undefined;
  const sharedGate = p.shared && p.sharedGate ? f32('sharedGate', false) : undefined;
  const residual = p.residual ? f32('residual', true) : undefined;
  const y = f32('y', true);
  return elementwise(
    {
      name: `combine_${p.mode}_${p.slots}x${p.n}`,
      family: 'combine',
      params,
      perRow,
      ...(ahead === 1 && { resident: Math.max(1, Math.floor(1024 / block)) }),
      rows: {},
      body(item) {
        const stmts: Stmt[] = [];
        const token = define(stmts, 'token', b.div(item, b.u32(perRow)));
        const col = define(stmts, 'col', b.mod(item, b.u32(perRow)));
        const sum = b.variable('sum', b.ty('f32', lanes));
        stmts.push(b.var_('sum', b.splat(lanes, b.f32(0))));
        /** Where the row of a slot is noted: its number where the plan sorts, else its expert; DROPPED where it has none. */
        const noted = (slot: Expr): Expr => b.load(by, p.mode === 'sorted' ? rowOfSlotAt(p, slot) : slot);
        const slotOf = (s: Expr): Expr => b.add(b.mul(token, b.u32(p.slots)), s);
        if (ahead === 1) stmts.push(...sumAhead());
        else stmts.push(
          b.for_('s', b.u32(0), b.u32(p.slots), 1, (s) => {
            const inner: Stmt[] = [];
            const slot = define(inner, 'slot', slotOf(s));
            const found = define(inner, 'found', noted(slot));
            const row = p.mode === 'sorted' ? found : slot;
            const value = b.loadF32(x, b.add(b.mul(row, b.u32(perRow)), col));
            const weight = weights === undefined ? undefined : b.load(weights, slot);
            return [...inner, b.if_(b.ne(found, b.u32(DROPPED)), [b.assign('sum', addSlot(sum, value, weight))])];
          }),
        );
        stmts.push(
          b.store(
            y,
            item,
            finishSum(sum, {
              shared: shared === undefined ? undefined : b.loadF32(shared, item),
              sharedGate: sharedGate === undefined ? undefined : b.load(sharedGate, token),
              scale: p.scale,
              residual: residual === undefined ? undefined : b.load(residual, item),
            }),
          ),
        );
        return stmts;

        /** Three loops over the slots instead of one: where the rows are, the rows, their sum. A dropped slot loads row 0 and leaves it. */
        function sumAhead(): readonly Stmt[] {
          const rows = b.buffer('found', 'register', 'u32', 1, p.slots);
          const values = b.buffer('values', 'register', 'f32', lanes, p.slots);
          const each = (name: string, of: (s: Expr) => readonly Stmt[]): Stmt => b.for_(name, b.u32(0), b.u32(p.slots), 1, of, true);
          const isDropped = (s: Expr): Expr => b.eq(b.load(rows, s), b.u32(DROPPED));
          const rowOf = (s: Expr): Expr => (p.mode === 'sorted' ? b.load(rows, s) : slotOf(s));
          const weightOf = (s: Expr): Expr | undefined => weights && b.load(weights, slotOf(s));
          return [
            b.alloc(rows),
            b.alloc(values),
            each('find', (s) => [b.store(rows, s, noted(slotOf(s)))]),
            each('fetch', (s) => {
              const row = b.select(isDropped(s), b.u32(0), rowOf(s));
              return [b.store(values, s, b.loadF32(x, b.add(b.mul(row, b.u32(perRow)), col)))];
            }),
            each('s', (s) => [b.if_(b.not(isDropped(s)), [b.assign('sum', addSlot(sum, b.load(values, s), weightOf(s)))])]),
          ];
        }
      },
    },
    { block },
    caps,
  );
}
