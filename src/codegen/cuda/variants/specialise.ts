/**
 * Main loops on the tensor cores of warpgroups (sm_90a). Splits a kernel of wgmma main loops into two roles that run its body side
 * by side: the first warpgroup follows it to load what its main loops read, the others to multiply and to store. Barriers in
 * shared memory (mbarriers) hand slices over; no block barrier stands in either role.
 *
 * Tile level → simt level: what comes out has no tile statements left.
 */
import * as b from '../../../ir/kernel/build.ts';
import type { Kernel, Stmt, StmtOf, TensorMap, Tile } from '../../../ir/kernel/types.ts';
import { writtenNames } from '../../../ir/kernel/uniformity.ts';
import { assertValid } from '../../../ir/kernel/verify.ts';
import { exprsOf, mapStmts, someExpr, walkStmts } from '../../../ir/kernel/walk.ts';
import { freshNames } from '../../../passes/kernel/fresh.ts';
import type { Fresh } from '../../../passes/kernel/fresh.ts';
import { Consumer, emptyArrivals } from './consumer.ts';
import { FULL_ARRIVALS, Producer } from './producer.ts';
import { CHUNK, type HalfElem, isHalf } from './ring.ts';
import { DEPTH, GROUP_ROWS, type Stages, WARPGROUP, makeStages } from './stages.ts';

const U = b.u32;

type Mainloop = StmtOf<'tile.mainloop'>;

/**
 * Registers a thread, by the number of consumers: all 65536 are dealt out evenly at launch, then loading threads give theirs to
 * those that hold accumulators. A lone consumer has enough from the beginning.
 */
const REGISTERS: Readonly<Record<number, { readonly producer: number; readonly consumer: number }>> = {
  2: { producer: 56, consumer: 224 },
};

/** Columns that one wgmma can have. */
const isWidth = (n: number): boolean => n === 8 || n === 16 || (n % 32 === 0 && n <= 256);

/** The same kernel where no main loop asks for wgmma. Throws InvalidKernelError on one that is not well formed, Error on what roles cannot run. */
export function specialise(kernel: Kernel): Kernel {
  const loops = walkStmts(kernel.body).filter((s) => s.k === 'tile.mainloop');
  if (!loops.some((s) => s.schedule.variant === 'wgmma')) return kernel;
  assertValid(kernel, 'tile', 'before it is split into roles', { machine: true });
  const fail = (why: string): never => {
    throw new Error(`kernel ${kernel.name}: ${why}`);
  };
  const { tile, schedule, elem } = wantLoops(loops, kernel.block, fail);
  wantRoles(kernel, fail);

  const fresh = freshNames(kernel);
  const stages = makeStages(schedule.stages, schedule.consumers, tile.rows, tile.count * tile.cols, fresh);
  const maps = tensorMaps(loops, fresh, fail);
  const registers = REGISTERS[schedule.consumers];
  const body = [
    ...[stages.x, stages.weights, stages.full, stages.empty].map(b.alloc),
    b.if_(b.eq(b.thread, U(0)), begin(stages, [...maps.values()], fresh)),
    b.barrier(),
    b.if_(
      b.lt(b.thread, U(WARPGROUP)),
      [...(registers === undefined ? [] : [b.machine('setmaxnreg_dec', b.immediate(registers.producer))]), ...load(kernel, stages, maps, fresh)],
      [...(registers === undefined ? [] : [b.machine('setmaxnreg_inc', b.immediate(registers.consumer))]), ...multiply(kernel, stages, elem, fresh)],
    ),
  ];
  return { ...kernel, body, tensorMaps: [...maps.values()] };
}

/** Barriers are made by one thread, before the block's one barrier. */
function begin(stages: Stages, maps: readonly TensorMap[], fresh: Fresh): readonly Stmt[] {
  return [
    ...maps.map((m) => b.machine('tma_prefetch', b.map(m.name))),
    b.for_(fresh('stage'), U(0), U(stages.count), 1, (stage) => [
      b.machine('mbarrier_init', b.address(stages.full, stage), b.value(U(FULL_ARRIVALS))),
      b.machine('mbarrier_init', b.address(stages.empty, stage), b.value(U(emptyArrivals(stages.consumers)))),
    ], true),
    b.machine('mbarrier_init_fence'),
  ];
}

/** The body as the loading warpgroup runs it. Names that only stores wanted fall away later. */
function load(kernel: Kernel, stages: Stages, maps: ReadonlyMap<string, TensorMap>, fresh: Fresh): readonly Stmt[] {
  const producer = new Producer(stages, fresh);
  const body = mapStmts(kernel.body, (s) => {
    switch (s.k) {
      case 'tile.alloc':
      case 'tile.map':
      case 'store':
        return [];
      case 'tile.mainloop':
        return producer.mainloop(s, s.b.flatMap((v) => maps.get(v.buf.name) ?? []));
      default:
        return [s];
    }
  });
  return [...producer.declare, ...body, ...producer.end()];
}

/** The body as the multiplying warpgroups run it. */
function multiply(kernel: Kernel, stages: Stages, elem: HalfElem, fresh: Fresh): readonly Stmt[] {
  const consumer = new Consumer(stages, fresh);
  const body = mapStmts(kernel.body, (s) => {
    switch (s.k) {
      case 'tile.alloc':
        return consumer.alloc(s);
      case 'tile.mainloop':
        return consumer.mainloop(s, elem);
      case 'tile.map':
        return consumer.map(s);
      default:
        return [s];
    }
  });
  return [...consumer.declare, ...body];
}

/** One map for each buffer of weights. */
function tensorMaps(loops: readonly Mainloop[], fresh: Fresh, fail: (why: string) => never): ReadonlyMap<string, TensorMap> {
  const maps = new Map<string, TensorMap>();
  for (const s of loops) {
    for (const { buf, matrix } of s.b) {
      if (matrix === undefined) return fail(`the rows of ${buf.name} do not lie one after another, so no box of them can be copied`);
      const shape = { param: buf.name, rows: matrix.rows, cols: s.depth, boxRows: s.tile.cols };
      const known = maps.get(buf.name);
      if (known === undefined) maps.set(buf.name, { name: fresh(`${buf.name}_map`), ...shape });
      else if (known.rows !== shape.rows || known.cols !== shape.cols) fail(`${buf.name} is used as matrices of different shapes`);
    }
  }
  return maps;
}

/** What the main loops have in common: all share one ring of stages. */
function wantLoops(
  loops: readonly Mainloop[], block: number, fail: (why: string) => never,
): { readonly tile: Tile; readonly schedule: Extract<Mainloop['schedule'], { variant: 'wgmma' }>; readonly elem: HalfElem } {
  const [first] = loops;
  const elem = first?.b[0]?.buf.elem ?? 'f32';
  if (first?.schedule.variant !== 'wgmma' || !isHalf(elem)) return fail(`wgmma multiplies 16-bit weights, not ${elem}`);
  const { tile, schedule } = first;
  const same = (s: Mainloop): boolean =>
    JSON.stringify([s.schedule, s.tile.rows, s.tile.cols, s.tile.count]) === JSON.stringify([schedule, tile.rows, tile.cols, tile.count]);
  if (!loops.every(same)) fail('main loops of wgmma share one ring: their tiles and schedules must be the same');
  for (const s of loops) {
    const odd = [s.a, ...s.b].find((v) => v.buf.elem !== elem || v.buf.lanes !== 4);
    if (odd !== undefined) fail(`wgmma reads runs of 4 elements of ${elem} from all operands, not ${odd.buf.lanes} of ${odd.buf.elem} from ${odd.buf.name}`);
    if (s.depth % CHUNK !== 0) fail(`a depth of ${s.depth} is no multiple of ${CHUNK}`);
  }
  const { consumers, bk, stages } = schedule;
  if (bk !== DEPTH || stages < 2) fail(`wgmma wants slices of ${DEPTH} columns and two stages, not ${bk} and ${stages}`);
  if (tile.rows !== GROUP_ROWS * consumers) fail(`${consumers} consumers multiply ${GROUP_ROWS * consumers} rows, the tile has ${tile.rows}`);
  if (block !== WARPGROUP * (consumers + 1)) fail(`${consumers} consumers and a producer in a block of ${block} threads`);
  if (tile.cols % 8 !== 0 || !isWidth(tile.count * tile.cols)) fail(`no wgmma has ${tile.count} x ${tile.cols} columns`);
  return { tile, schedule, elem };
}

/** A role runs without the other's statements: nothing may pass from thread to thread but through the ring. */
function wantRoles(kernel: Kernel, fail: (why: string) => never): void {
  const written = writtenNames(kernel.body);
  for (const s of walkStmts(kernel.body)) {
    if (s.k === 'barrier' || s.k === 'tile.reduce' || s.k === 'atomic' || s.k === 'machine') fail(`${s.k} beside a main loop of wgmma`);
    if (s.k === 'alloc' && s.buf.scope === 'shared') fail(`shared buffer ${s.buf.name} beside a main loop of wgmma`);
    if (s.k === 'tile.mainloop' && [s.a, ...s.b].some((v) => written.has(v.buf.name))) fail('a main loop of wgmma reads what the kernel writes');
    for (const e of exprsOf(s)) {
      if (someExpr(e, (x) => x.k === 'load' && written.has(x.buf.name))) fail('what a kernel of wgmma writes it cannot read');
    }
  }
}
