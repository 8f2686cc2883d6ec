/**
 * moe.plan, sorted, where subgroups have a known size and calls may be long: as `plan.ts`, but a whole block serves one expert.
 *
 * Each thread has a run of neighbouring accesses of the ids. Its subgroup copies a piece of all its runs to shared memory at a
 * time, so that neighbouring threads read neighbouring memory. Runs are in slot order, and so are the threads: what a thread's
 * rows begin with is the sum of the counts before it, first over its subgroup, then over the subgroups.
 */
import * as b from '../../ir/kernel/build.ts';
import type { Expr, Stmt } from '../../ir/kernel/types.ts';
import { subgroupThreads } from '../../target/types.ts';
import type { Capabilities } from '../../target/types.ts';
import type { Launch } from '../launch.ts';
import { teamSize } from '../team.ts';
import { define, globalBuffer, inLine, lanesFor, launch, line, powerOfTwo, routedRows, wantWhole } from './common.ts';
import { planBuffer } from './plan-layout.ts';
import { type PlanProblem, countId, placeId, tilesOf } from './plan-tiles.ts';

export interface PlanBlocks {
  /** Threads that serve one expert; a multiple of the subgroup. */
  readonly block: number;
  /** Accesses of a run that are copied at a time. */
  readonly piece: number;
}

/** Elements of a run that are copied at a time: four sectors of memory for two runs. */
const PIECE = 16;

/** Threads of a block: twice as many would have too few registers each. */
const MOST_THREADS = 512;

/** Nothing where subgroups have no known size. About eight elements a thread, where the most tokens are known. */
export function planBlocks(p: PlanProblem, caps: Capabilities): PlanBlocks | undefined {
  const size = teamSize(caps);
  if (size === undefined) return undefined;
  const wanted = p.maxTokens === undefined ? MOST_THREADS : powerOfTwo((p.maxTokens * p.slots) / 8);
  return { block: Math.min(caps.maxThreadsPerBlock, MOST_THREADS, Math.max(2 * size, wanted)), piece: PIECE / lanesFor(p.slots) };
}

/** From `ids` u32 [T, slots], DROPPED allowed, to `plan`. */
export function planByBlocks(p: PlanProblem, s: PlanBlocks, caps: Capabilities): Launch {
  const size = subgroupThreads(caps);
  if (size === undefined) throw new Error('plan: subgroups of the device have no known size');
  const { block, piece } = s;
  wantWhole('plan', { experts: p.experts, slots: p.slots, tileRows: p.tileRows, block, piece, 'block / subgroup': block / size });
  if (block > caps.maxThreadsPerBlock) throw new Error(`plan: ${block} threads a block, the target has ${caps.maxThreadsPerBlock}`);
  const lanes = lanesFor(p.slots);
  const ids = globalBuffer('ids', 'u32', lanes);
  const out = planBuffer();
  const crews = block / size;
  // One access more a run than a piece has: threads then read from different banks.
  const stride = piece + 1;
  const stage = b.buffer('stage', 'shared', 'u32', lanes, block * stride);
  const equals = b.buffer('equals', 'shared', 'u32', 1, block);
  const crewEquals = b.buffer('crew_equals', 'shared', 'u32', 1, crews);
  const crewBelows = b.buffer('crew_belows', 'shared', 'u32', 1, crews);
  const l = line(p.experts, caps);
  const u = (name: string): Expr => b.variable(name);
  const experts = b.u32(p.experts);

  const head: Stmt[] = [stage, equals, crewEquals, crewBelows].map(b.alloc);
  const expert = define(head, 'expert', l.index);
  const body: Stmt[] = [];
  const crew = define(body, 'crew', b.div(b.thread, b.u32(size)));
  const lane = define(body, 'lane_of_crew', b.mod(b.thread, b.u32(size)));
  const accesses = define(body, 'accesses', b.div(routedRows(p.slots), b.u32(lanes)));
  const run = define(body, 'run', b.ceilDiv(accesses, b.u32(block)));
  const first = define(body, 'first', b.mul(b.thread, run));
  const last = define(body, 'last', b.min(b.add(first, run), accesses));

  /** Walks over the runs piece by piece; `each` gets the ids of the thread's own run one by one. */
  const walk = (name: string, each: (id: Expr, slot: Expr) => readonly Stmt[]): Stmt =>
    b.for_(`${name}_k`, b.u32(0), run, piece, (k) => {
      const copy = b.for_(`${name}_q`, b.u32(0), b.u32(piece), 1, (q) => {
        const stmts: Stmt[] = [];
        const place = define(stmts, `${name}_place`, b.add(b.mul(q, b.u32(size)), lane));
        const from = define(stmts, `${name}_from`, b.div(place, b.u32(piece)));
        const offset = define(stmts, `${name}_offset`, b.mod(place, b.u32(piece)));
        const owner = define(stmts, `${name}_owner`, b.add(b.mul(crew, b.u32(size)), from));
        const at = define(stmts, `${name}_at`, b.add(b.mul(owner, run), k, offset));
        const inRun = b.and(b.lt(b.add(k, offset), run), b.lt(at, accesses));
        return [...stmts, b.if_(inRun, [b.store(stage, b.add(b.mul(owner, b.u32(stride)), offset), b.load(ids, at))])];
      }, true);
      const own = b.for_(`${name}_o`, b.u32(0), b.u32(piece), 1, (offset) => {
        const stmts: Stmt[] = [];
        const at = define(stmts, `${name}_own`, b.add(first, k, offset));
        const some: Stmt[] = [];
        const values = define(some, `${name}_ids`, b.load(stage, b.add(b.mul(b.thread, b.u32(stride)), offset)));
        for (let j = 0; j < lanes; j++) some.push(...each(b.lane(values, j), b.add(b.mul(at, b.u32(lanes)), b.u32(j))));
        return [...stmts, b.if_(b.lt(at, last), some)];
      }, true);
      // The condition makes one piece of the loop: no thread waits for others between two of its ids.
      return [copy, b.if_(b.lt(b.add(first, k), last), [own])];
    });

  body.push(
    b.var_('equal', b.u32(0)),
    b.var_('below', b.u32(0)),
    walk('count', (id) => countId(expert, id)),
    b.let_('crew_equal', b.subgroup('add', u('equal'))),
    b.let_('crew_below', b.subgroup('add', u('below'))),
    b.store(equals, b.thread, u('equal')),
    b.if_(b.eq(lane, b.u32(0)), [b.store(crewEquals, crew, u('crew_equal')), b.store(crewBelows, crew, u('crew_below'))]),
    b.var_('base', b.u32(0)),
    b.var_('rows', b.u32(0)),
    b.var_('earlier', b.u32(0)),
    b.for_('c', b.u32(0), b.u32(crews), 1, (c) => [
      b.let_('more', b.load(crewEquals, c)),
      b.assign('base', b.add(u('base'), b.load(crewBelows, c))),
      b.assign('rows', b.add(u('rows'), u('more'))),
      b.assign('earlier', b.add(u('earlier'), b.select(b.lt(c, crew), u('more'), b.u32(0)))),
    ]),
    b.for_('m', b.u32(0), b.u32(size), 1, (m) => [
      b.let_('beside', b.load(equals, b.add(b.mul(crew, b.u32(size)), m))),
      b.assign('earlier', b.add(u('earlier'), b.select(b.lt(m, lane), u('beside'), b.u32(0)))),
    ]),
    b.var_('row', b.add(u('base'), u('earlier'))),
    walk('put', (id, slot) => placeId(p, out, expert, id, slot)),
    ...tilesOf(p, out, { expert, member: b.thread, team: block, base: u('base'), rows: u('rows') }),
  );

  return launch({
    name: `plan_${p.experts}x${p.slots}`,
    family: 'plan',
    params: [['ids', ids], ['plan', out]],
    scalars: ['T'],
    block,
    body: [...head, ...inLine(l, expert, experts, body)],
    schedule: { ...s },
    grid: l.grid,
  });
}
