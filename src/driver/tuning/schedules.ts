/** Chosen schedules as a source for the lowering: found by family and problem. */
import { stableJson } from '../../base/hash.ts';
import type { PlanShape, ScheduleSource, TunedFamilies, TunedFamily } from '../../kernels/schedule-source.ts';
import type { Asked, Chosen } from '../../tuner/space/types.ts';

type Tables = { readonly [F in TunedFamily]: Map<string, TunedFamilies[F]['schedule']> };

const emptyTables = (): Tables => ({ linear: new Map(), head_linear: new Map(), 'grouped-linear': new Map(), attention: new Map() });

function put(tables: Tables, c: Chosen): void {
  const key = stableJson(c.problem);
  switch (c.family) {
    case 'linear':
      return void tables[c.family].set(key, c.schedule);
    case 'head_linear':
      return void tables[c.family].set(key, c.schedule);
    case 'grouped-linear':
      return void tables[c.family].set(key, c.schedule);
    case 'attention':
      return void tables[c.family].set(key, c.schedule);
  }
}

export interface PlanRows {
  readonly plan: PlanShape;
  readonly rows: number;
}

/** Answers for the problems that were chosen for, and for nothing else. */
export function sourceOf(chosen: readonly Chosen[], plans: readonly PlanRows[] = []): ScheduleSource {
  const tables = emptyTables();
  for (const c of chosen) put(tables, c);
  return {
    tileRows: (shape) => plans.find(({ plan }) => plan.experts === shape.experts && plan.slots === shape.slots)?.rows,
    find: (family, problem) => tables[family].get(stableJson(problem)),
  };
}

/** Notes what families are asked for, each problem once, and answers nothing. */
export function recorder(): { readonly source: ScheduleSource; readonly asked: Asked[] } {
  const asked: Asked[] = [];
  const seen = new Set<string>();
  const note = (a: Asked): void => {
    const key = stableJson(a);
    if (!seen.has(key)) asked.push(a);
    seen.add(key);
  };
  const notes: { readonly [F in TunedFamily]: (problem: TunedFamilies[F]['problem']) => void } = {
    linear: (problem) => note({ family: 'linear', problem }),
    head_linear: (problem) => note({ family: 'head_linear', problem }),
    'grouped-linear': (problem) => note({ family: 'grouped-linear', problem }),
    attention: (problem) => note({ family: 'attention', problem }),
  };
  return {
    asked,
    source: {
      find(family, problem) {
        notes[family](problem);
        return undefined;
      },
    },
  };
}
