/** Small kernels that each lean on one thing a device does: what they reach stands for its peak. Made and printed like all kernels. */
import * as b from '../../ir/kernel/build.ts';
import type { Buffer, Expr, Kernel, Stmt } from '../../ir/kernel/types.ts';
import type { ManifestKernel } from '../../runtime/core/abi.ts';
import { WEBGPU_BASELINE } from '../../target/types.ts';
import { compileKernel } from '../kernels.ts';

export type MicroName = 'copy' | 'fma' | 'load' | 'load4' | 'shared' | 'empty';

export interface MicroKernel {
  readonly kernel: ManifestKernel;
  readonly text: string;
  /** What one block does: bytes moved, operations, or loads. */
  readonly perBlock: number;
  /** Bytes of the buffers that it binds, for a grid of so many blocks. */
  buffers(blocks: number): readonly number[];
}

const BLOCK = 64;
const COPY_BLOCK = 256;
const VEC = 4;
const VEC_BYTES = 16;

/** Accesses of one thread, written out. */
const COPIES = 4;
/** Independent chains of multiply-adds, so that none waits for itself. */
const CHAINS = 8;
const FMA_ROUNDS = 1024;
const LOADS = 8;
const LOAD_ROUNDS = 128;
/** Accesses of the memory that loads go round in: few enough for the nearest cache. */
const WINDOW = 1024;

const global = (name: string, lanes: 1 | 4): Buffer => b.buffer(name, 'global', 'f32', lanes);
const times = <T>(n: number, of: (i: number) => T): T[] => Array.from({ length: n }, (_, i) => of(i));
const globalThread: Expr = b.add(b.mul(b.builtin('block.x'), b.u32(BLOCK)), b.thread);

function kernelOf(name: MicroName, params: readonly Buffer[], body: readonly Stmt[], block = BLOCK): Kernel {
  return { name: `micro_${name}`, family: `micro-${name}`, params, scalars: [], block, body, schedule: {} };
}

function copyKernel(): Kernel {
  const [from, to] = [global('source', VEC), global('target', VEC)];
  const first = b.add(b.mul(b.builtin('block.x'), b.u32(COPY_BLOCK * COPIES)), b.thread);
  const at = (i: number): Expr => b.add(first, b.u32(i * COPY_BLOCK));
  return kernelOf('copy', [from, to], times(COPIES, (i) => b.store(to, at(i), b.load(from, at(i)))), COPY_BLOCK);
}

function fmaKernel(): Kernel {
  const [from, to] = [global('source', VEC), global('target', VEC)];
  const f4 = b.ty('f32', VEC);
  const chain = (i: number): Expr => b.variable(`chain${i}`, f4);
  const [factor, summand] = [b.variable('factor', f4), b.variable('summand', f4)];
  return kernelOf('fma', [from, to], [
    b.let_('factor', b.load(from, b.u32(0))),
    b.let_('summand', b.load(from, b.u32(1))),
    ...times(CHAINS, (i) => b.var_(`chain${i}`, b.mul(b.load(from, b.u32(0)), b.splat(VEC, b.f32(i + 1))))),
    b.for_('round', b.u32(0), b.u32(FMA_ROUNDS), 1, () => times(CHAINS, (i) => b.assign(`chain${i}`, b.fma(chain(i), factor, summand)))),
    b.store(to, globalThread, b.add(chain(0), ...times(CHAINS - 1, (i) => chain(i + 1)))),
  ]);
}

/** Loads of one access, in a loop as in a product's main loop, from memory that stays in the nearest cache. */
function loadKernel(name: 'load' | 'load4', lanes: 1 | 4): Kernel {
  const [from, to] = [global('source', lanes), global('target', lanes)];
  const sum = b.variable('sum', b.ty('f32', lanes));
  return kernelOf(name, [from, to], [
    b.var_('sum', b.splat(lanes, b.f32(0))),
    b.for_('round', b.u32(0), b.u32(LOAD_ROUNDS), 1, (round) =>
      times(LOADS, (i) => {
        const at = b.add(b.mul(b.add(b.mul(round, b.u32(LOADS)), b.u32(i)), b.u32(BLOCK)), b.thread);
        return b.assign('sum', b.add(sum, b.load(from, b.bin('&', at, b.u32(WINDOW - 1)))));
      }),
    ),
    b.store(to, globalThread, sum),
  ]);
}

function sharedKernel(): Kernel {
  const [from, to] = [global('source', VEC), global('target', VEC)];
  const held = b.buffer('held', 'shared', 'f32', VEC, BLOCK);
  const sum = b.variable('sum', b.ty('f32', VEC));
  return kernelOf('shared', [from, to], [
    b.alloc(held),
    b.store(held, b.thread, b.load(from, b.thread)),
    b.var_('sum', b.splat(VEC, b.f32(0))),
    b.for_('round', b.u32(0), b.u32(LOAD_ROUNDS), 1, (round) =>
      times(LOADS, (i) => b.assign('sum', b.add(sum, b.load(held, b.bin('&', b.add(b.mul(round, b.u32(LOADS)), b.u32(i), b.thread), b.u32(BLOCK - 1)))))),
    ),
    b.store(to, globalThread, sum),
  ]);
}

function emptyKernel(): Kernel {
  const to = global('target', 1);
  return kernelOf('empty', [to], [b.if_(b.eq(b.thread, b.u32(0)), [b.store(to, b.u32(0), b.f32(1))])]);
}

const perThread = (bytes: number) => (blocks: number) => [WINDOW * VEC_BYTES, blocks * BLOCK * bytes];

const MADE: Readonly<Record<MicroName, { readonly source: () => Kernel; readonly perBlock: number; readonly buffers: MicroKernel['buffers'] }>> = {
  /** Bytes, read and written. */
  copy: {
    source: copyKernel,
    perBlock: 2 * COPY_BLOCK * COPIES * VEC_BYTES,
    buffers: (blocks) => times(2, () => blocks * COPY_BLOCK * COPIES * VEC_BYTES),
  },
  /** Floating-point operations, a multiply-add counted as two. */
  fma: { source: fmaKernel, perBlock: 2 * BLOCK * CHAINS * VEC * FMA_ROUNDS, buffers: perThread(VEC_BYTES) },
  /** Loads, of one f32. */
  load: { source: () => loadKernel('load', 1), perBlock: BLOCK * LOADS * LOAD_ROUNDS, buffers: perThread(4) },
  /** Loads, of four f32. */
  load4: { source: () => loadKernel('load4', 4), perBlock: BLOCK * LOADS * LOAD_ROUNDS, buffers: perThread(VEC_BYTES) },
  /** Bytes, read. */
  shared: { source: sharedKernel, perBlock: BLOCK * LOADS * LOAD_ROUNDS * VEC_BYTES, buffers: perThread(VEC_BYTES) },
  /** Dispatches. */
  empty: { source: emptyKernel, perBlock: 1, buffers: () => [256] },
};

/** A micro-kernel for any WebGPU device. */
export function microKernel(name: MicroName): MicroKernel {
  const { source, perBlock, buffers } = MADE[name];
  const made = source();
  const variant = compileKernel(made, 0, WEBGPU_BASELINE).variants.at(-1);
  if (variant === undefined) throw new Error(`${made.name} has no text`);
  const { kernel, text, sharedBytes } = variant;
  return {
    kernel: {
      name: made.name,
      family: made.family,
      block: made.block,
      sharedBytes,
      scalars: made.scalars,
      access: kernel.params.map((p) => p.access ?? 'read_write'),
      variants: [{ file: `${made.name}.wgsl`, entry: kernel.name, requires: { features: [] } }],
    },
    text,
    perBlock,
    buffers,
  };
}
