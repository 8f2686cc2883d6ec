/**
 * Main loops on the tensor cores of warpgroups (sm_90a). Splits a kernel of wgmma main loops into two roles that run its body side
 * by side: the first warpgroup follows it to load what its main loops read, the others to multiply and to store. Barriers in
 * shared memory (mbarriers) hand slices over; no block barrier stands in either role.
 *
 * Tile level → simt level: what comes out has no tile statements left.
 */
import * as b from '../../../ir/kernel/build.ts';
import type { Kernel, Stmt, StmtOf, TensorMap, Tile, View } from '../../../ir/kernel/types.ts';
import { writtenNames } from '../../../ir/kernel/uniformity.ts';
import { assertValid } from '../../../ir/kernel/verify.ts';
import { exprsOf, mapStmts, someExpr, walkStmts } from '../../../ir/kernel/walk.ts';
import { freshNames } from '../../../passes/kernel/fresh.ts';
import type { Fresh } from '../../../passes/kernel/fresh.ts';
import { isWgmmaWidth } from '../../../target/cuda.ts';
import { Consumer, emptyArrivals } from './consumer.ts';
import { Producer, type RowSource, fullArrivals } from './producer.ts';
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

/**
 * The same kernel where no main loop asks for wgmma.
 *
 * @throws InvalidKernelError on a kernel that is not well formed, Error on what roles cannot run
 */
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
  // One way for all main loops: `full` counts the same arrivals every time.
  const source: RowSource = loops.every((s) => s.a.matrix !== undefined) ? 'boxes' : 'copies';
  const maps = tensorMaps(loops, source, fresh, fail);
  const registers = REGISTERS[schedule.consumers];
  const take = (op: 'dec' | 'inc', count: number | undefined): readonly Stmt[] =>
    count === undefined ? [] : [b.machine(`setmaxnreg_${op}`, b.immediate(count))];
  const body = [
    ...[stages.x, stages.weights, stages.full, stages.empty].map(b.alloc),
    b.if_(b.eq(b.thread, U(0)), begin(stages, source, [...maps.values()], fresh)),
    b.barrier(),
    b.if_(
      b.lt(b.thread, U(WARPGROUP)),
      [...take('dec', registers?.producer), ...load(kernel, new Producer(stages, source, fresh), maps)],
      [...take('inc', registers?.consumer), ...multiply(kernel, new Consumer(stages, fresh), elem)],
    ),
  ];
  return { ...kernel, body, tensorMaps: [...maps.values()] };
}

/** Barriers are made by one thread, before the block's one barrier. */
function begin(stages: Stages, source: RowSource, maps: readonly TensorMap[], fresh: Fresh): readonly Stmt[] {
  return [
    ...maps.map((m) => b.machine('tma_prefetch', b.map(m.name))),
    b.for_(fresh('stage'), U(0), U(stages.count), 1, (stage) => [
      b.machine('mbarrier_init', b.address(stages.full, stage), b.value(U(fullArrivals(source)))),
      b.machine('mbarrier_init', b.address(stages.empty, stage), b.value(U(emptyArrivals(stages.consumers)))),
    ], true),
    b.machine('mbarrier_init_fence'),
  ];
}

/** The body as the loading warpgroup runs it. Names that only stores wanted fall away later. */
function load(kernel: Kernel, producer: Producer, maps: ReadonlyMap<string, TensorMap>): readonly Stmt[] {
  const mapOf = ({ buf }: View): TensorMap => {
    const map = maps.get(buf.name);
    if (map === undefined) throw new Error(`kernel ${kernel.name}: no tensor map of ${buf.name}`);
    return map;
  };
  return producer.role(mapStmts(kernel.body, (s) => {
    switch (s.k) {
      case 'tile.alloc':
      case 'tile.map':
      case 'store':
        return [];
      case 'tile.mainloop':
        return producer.mainloop(s, mapOf);
      default:
        return [s];
    }
  }));
}

/** The body as the multiplying warpgroups run it. */
function multiply(kernel: Kernel, consumer: Consumer, elem: HalfElem): readonly Stmt[] {
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

/** One map for each buffer that boxes are copied of. */
function tensorMaps(
  loops: readonly Mainloop[], source: RowSource, fresh: Fresh, fail: (why: string) => never,
): ReadonlyMap<string, TensorMap> {
  const maps = new Map<string, TensorMap>();
  const add = ({ buf, matrix }: View, cols: number, boxRows: number): void => {
    if (matrix === undefined) return fail(`the rows of ${buf.name} do not lie one after another, so no box of them can be copied`);
    const shape = { param: buf.name, cols, boxRows, ...(matrix.rows === undefined ? {} : { rows: matrix.rows }) };
    const known = maps.get(buf.name);
    if (known === undefined) maps.set(buf.name, { name: fresh(`${buf.name}_map`), ...shape });
    else if (known.rows !== shape.rows || known.cols !== cols || known.boxRows !== boxRows) {
      fail(`${buf.name} is used as matrices of different shapes`);
    }
  };
  for (const s of loops) {
    if (source === 'boxes') add(s.a, s.depth, s.tile.rows);
    for (const v of s.b) add(v, s.depth, s.tile.cols);
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
    if (odd !== undefined) fail(`wgmma reads runs of 4 elements of ${elem}, not ${odd.buf.lanes} of ${odd.buf.elem} from ${odd.buf.name}`);
    if (s.depth % CHUNK !== 0) fail(`a depth of ${s.depth} is no multiple of ${CHUNK}`);
  }
  const { consumers, bk, stages } = schedule;
  if (bk !== DEPTH || stages < 2) fail(`wgmma wants slices of ${DEPTH} columns and two stages, not ${bk} and ${stages}`);
  if (tile.rows !== GROUP_ROWS * consumers) fail(`${consumers} consumers multiply ${GROUP_ROWS} rows each, the tile has ${tile.rows}`);
  if (block !== WARPGROUP * (consumers + 1)) fail(`${consumers} consumers and a producer in a block of ${block} threads`);
  if (tile.cols % 8 !== 0 || !isWgmmaWidth(tile.count * tile.cols)) fail(`no wgmma has ${tile.count} x ${tile.cols} columns`);
  return { tile, schedule, elem };
}

/** What roles can run beside each other: nothing that passes from thread to thread but through the ring. */
const ALLOWED: ReadonlySet<Stmt['k']> = new Set<Stmt['k']>([
  'let', 'var', 'assign', 'for', 'if', 'note', 'store', 'tile.alloc', 'tile.mainloop', 'tile.map',
]);

function wantRoles(kernel: Kernel, fail: (why: string) => never): void {
  const written = writtenNames(kernel.body);
  for (const s of walkStmts(kernel.body)) {
    if (!ALLOWED.has(s.k)) fail(`${s.k} beside a main loop of wgmma`);
    const views = s.k === 'tile.mainloop' ? [s.a, ...s.b] : [];
    if (views.some((v) => written.has(v.buf.name))) fail('a main loop of wgmma reads what the kernel writes');
    for (const e of exprsOf(s)) {
      if (someExpr(e, (x) => x.k === 'load' && written.has(x.buf.name))) fail('what a kernel of wgmma writes it cannot read');
    }
  }
}
