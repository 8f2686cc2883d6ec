/**
 * The portable variant of main loops: accumulators are variables, a thread owns a piece of tm x tn of them, loops become
 * loads and fma, maps are written out per element.
 */
import * as b from '../../ir/kernel/build.ts';
import type { FmaSchedule, MainloopSchedule, Stmt, StmtOf } from '../../ir/kernel/types.ts';
import { instantiate } from '../../ir/kernel/walk.ts';
import { fmaBlocks, fmaProducts } from './expand-fma-products.ts';
import { rowBindings } from './expand-products.ts';
import { broadcasts, expandBroadcast } from './expand-broadcast.ts';
import { expandRegister } from './expand-register.ts';
import { expandShared } from './expand-shared.ts';
import type { Fresh } from './fresh.ts';
import { inOwners, tileLayout } from './tile-layout.ts';
import type { TileLayout } from './tile-layout.ts';
import type { MainloopVariant, RowValues, TileState } from './variant.ts';

/** Of a tile that no main loop fills: one element a thread. */
export const SINGLE: FmaSchedule = { variant: 'fma', staging: 'register', tm: 1, tn: 1, bk: 1 };

function want(schedule: MainloopSchedule): FmaSchedule {
  if (schedule.variant !== 'fma') throw new Error(`a main loop of variant ${schedule.variant} reached the portable expansion`);
  return schedule;
}

/** @param subgroupSize threads of every subgroup; absent where that is not known, or subgroup operations may not be used */
export function fmaVariant(subgroupSize: number | undefined): MainloopVariant {
  const layouts = new Map<TileState, TileLayout>();
  return {
    name: 'fma',
    start(tile, schedule, block, fresh) {
      const { tm, tn } = want(schedule);
      const layout = tileLayout(tile, tm, tn, block, fresh);
      const state: TileState = {
        declare: layout.declare,
        mainloop(s, written) {
          const { staging } = want(s.schedule);
          if (staging === 'shared') return expandShared(s, layout, block, fresh, written);
          if (staging === 'broadcast' && subgroupSize !== undefined && broadcasts(layout, block, subgroupSize))
            return { shared: [], body: expandBroadcast(s, layout, subgroupSize, fresh, written) };
          return { shared: [], body: inOwners(layout, block, expandRegister(s, layout, fresh, written)) };
        },
        map: (s, rows) => expandMap(s, layout, block, fresh, rows),
        products: fmaProducts(layout, block, fresh, (other) => layouts.get(other)),
      };
      layouts.set(state, layout);
      return state;
    },
    blocks: fmaBlocks,
  };
}

/** The body once per element the thread owns, its names made unique. */
function expandMap(s: StmtOf<'tile.map'>, layout: TileLayout, block: number, fresh: Fresh, rowValues: RowValues): readonly Stmt[] {
  if (s.lanes !== 1) throw new Error(`tile ${s.tile.name}: a thread owns no runs of ${s.lanes} columns`);
  const stmts: Stmt[] = [];
  for (let i = 0; i < layout.tm; i++) {
    for (let j = 0; j < layout.tn; j++) {
      const bindings = rowBindings(rowValues, b.u32(i));
      s.values.forEach((v, c) => bindings.set(v, layout.acc(c, i, j)));
      const row = layout.rows[i];
      const col = layout.cols[j];
      if (row !== undefined) bindings.set(s.row, row);
      if (col !== undefined) bindings.set(s.col, col);
      const single = layout.tm * layout.tn === 1;
      stmts.push(...instantiate(s.body, bindings, (name) => (single ? name : fresh(`${name}_${i}_${j}`))));
    }
  }
  return inOwners(layout, block, stmts);
}
