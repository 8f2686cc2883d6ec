/**
 * moe.plan, sorted: puts the routed rows in the order of their experts, entirely on the device and without
 * atomics. See plan-layout.ts for the result.
 *
 * A team of threads serves one expert: each counts, in its run of the slots, the ids equal to the expert and
 * the ids below it. The sums say where the expert's rows begin and where the run's do; a second walk places
 * them. No expert needs another's result, so any number of blocks works side by side with one barrier each.
 */
import * as b from '../../ir/kernel/build.ts';
import type { Expr, Stmt } from '../../ir/kernel/types.ts';
import type { Capabilities } from '../../target/types.ts';
import type { Launch } from '../launch.ts';
import { define, globalBuffer, inLine, lanesFor, launch, line, powerOfTwo, routedRows, wantWhole } from './common.ts';
import { type PlanBlocks, planBlocks, planByBlocks } from './plan-blocks.ts';
import { planBuffer } from './plan-layout.ts';
import { type PlanProblem, countId, placeId, tilesOf } from './plan-tiles.ts';

export type { PlanProblem } from './plan-tiles.ts';

export interface PlanSchedule {
  readonly block: number;
  /** Threads that serve one expert. */
  readonly team: number;
}

/** Small blocks: experts spread over many of them, and software adapters compile barriers at a price that grows with the block. */
export function planSchedule(p: PlanProblem, caps: Capabilities): PlanSchedule {
  const block = Math.min(64, caps.maxThreadsPerBlock);
  return { block, team: block / Math.min(8, powerOfTwo(p.experts), block) };
}

/** From `ids` u32 [T, slots], DROPPED allowed, to `plan`. */
export function plan(p: PlanProblem, schedule: PlanSchedule | PlanBlocks | undefined, caps: Capabilities): Launch {
  const chosen = schedule ?? planBlocks(p, caps) ?? planSchedule(p, caps);
  return 'piece' in chosen ? planByBlocks(p, chosen, caps) : planByTeams(p, chosen, caps);
}

function planByTeams(p: PlanProblem, { block, team }: PlanSchedule, caps: Capabilities): Launch {
  wantWhole('plan', { experts: p.experts, slots: p.slots, tileRows: p.tileRows, block, team, 'block / team': block / team });
  const lanes = lanesFor(p.slots);
  const ids = globalBuffer('ids', 'u32', lanes);
  const out = planBuffer();
  const equals = b.buffer('equals', 'shared', 'u32', 1, block);
  const belows = b.buffer('belows', 'shared', 'u32', 1, block);
  const perBlock = block / team;
  const blocks = Math.ceil(p.experts / perBlock);
  const l = line(blocks, caps);
  const u = (name: string): Expr => b.variable(name);
  const experts = b.u32(p.experts);

  const head: Stmt[] = [b.alloc(equals), b.alloc(belows)];
  const index = define(head, 'block_index', l.index);
  const body: Stmt[] = [];
  const expert = define(body, 'expert', b.add(b.mul(index, b.u32(perBlock)), b.div(b.thread, b.u32(team))));
  const member = define(body, 'member', b.mod(b.thread, b.u32(team)));
  const accesses = define(body, 'accesses', b.div(routedRows(p.slots), b.u32(lanes)));
  const run = define(body, 'run', b.ceilDiv(accesses, b.u32(team)));
  const first = define(body, 'first', b.min(b.mul(member, run), accesses));
  const last = define(body, 'last', b.min(b.add(first, run), accesses));
  /** The ids of an access one by one. */
  const eachId = (name: string, each: (id: Expr, slot: Expr) => readonly Stmt[]): Stmt =>
    b.for_(`${name}_i`, first, last, 1, (i) => {
      const stmts: Stmt[] = [];
      const some = define(stmts, `${name}_ids`, b.load(ids, i));
      for (let j = 0; j < lanes; j++) stmts.push(...each(b.lane(some, j), b.add(b.mul(i, b.u32(lanes)), b.u32(j))));
      return stmts;
    });

  body.push(
    b.var_('equal', b.u32(0)),
    b.var_('below', b.u32(0)),
    eachId('count', (id) => countId(expert, id)),
  );
  body.push(b.store(equals, b.thread, u('equal')), b.store(belows, b.thread, u('below')));
  const team0 = define(body, 'team0', b.sub(b.thread, member));
  body.push(b.var_('base', b.u32(0)), b.var_('rows', b.u32(0)), b.var_('earlier', b.u32(0)));
  body.push(
    b.for_('m', b.u32(0), b.u32(team), 1, (m) => {
      const stmts: Stmt[] = [];
      const more = define(stmts, 'more', b.load(equals, b.add(team0, m)));
      return [
        ...stmts,
        b.assign('base', b.add(u('base'), b.load(belows, b.add(team0, m)))),
        b.assign('rows', b.add(u('rows'), more)),
        b.assign('earlier', b.add(u('earlier'), b.select(b.lt(m, member), more, b.u32(0)))),
      ];
    }),
  );

  body.push(
    b.var_('row', b.add(u('base'), u('earlier'))),
    eachId('place', (id, slot) => placeId(p, out, expert, id, slot)),
  );

  const tiles = tilesOf(p, out, { expert, member, team, base: u('base'), rows: u('rows') });
  body.push(...(p.experts % perBlock === 0 ? tiles : [b.if_(b.lt(expert, experts), tiles)]));

  return launch({
    name: `plan_${p.experts}x${p.slots}`,
    family: 'plan',
    params: [
      ['ids', ids],
      ['plan', out],
    ],
    scalars: ['T'],
    block,
    body: [...head, ...inLine(l, index, b.u32(blocks), body)],
    schedule: { block, team },
    grid: l.grid,
  });
}
