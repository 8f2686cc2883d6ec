/** Products of blocks, row values, folds and updates: the portable expansion, and where blocks are waited for. */
import { describe, expect, it } from 'vitest';
import * as b from '../../../src/ir/kernel/build.ts';
import { interpret } from '../../../src/ir/kernel/interpret.ts';
import { printKernel, printStmts } from '../../../src/ir/kernel/print.ts';
import type { Block, Stmt, Tile } from '../../../src/ir/kernel/types.ts';
import { verify } from '../../../src/ir/kernel/verify.ts';
import { awaitBlocks } from '../../../src/passes/kernel/await-blocks.ts';
import { finishKernel } from '../../../src/passes/kernel/pipeline.ts';
import { chained, chainedGrid, chainedReference } from '../../ir/kernel/chained.ts';
import type { ChainedShape } from '../../ir/kernel/chained.ts';
import { expectEveryMutationCaught } from '../../ir/kernel/mutate.ts';
import { global, kernel } from '../../ir/kernel/samples.ts';

const values = (n: number, seed: number): Float32Array => Float32Array.from({ length: n }, (_, i) => Math.sin(i * 12.9898 + seed) * 2);
const fma = (tm: number, across: number): ChainedShape['schedule'] => (cols) => ({ variant: 'fma', staging: 'shared', tm, tn: cols / across, bk: 1 });

const BASE: ChainedShape = { T: 6, k: 5, m: 7, n: 6, rows: 4, chunk: 4, lanes: 1, elem: 'f32', block: 4, schedule: fma(2, 2) };
const SHAPES: readonly (readonly [string, ChainedShape])[] = [
  ['two threads a row', BASE],
  ['one thread a row', { ...BASE, block: 2, schedule: fma(2, 1) }],
  ['a row a thread, blocks ahead', { ...BASE, block: 4, schedule: fma(1, 1), order: 'ahead' }],
  ['accesses of two', { ...BASE, k: 6, n: 8, lanes: 2, chunk: 2 }],
  ['accesses of four, one chunk', { ...BASE, k: 8, n: 4, m: 3, lanes: 4 }],
];

const memoryOf = (s: ChainedShape): Record<'x' | 'w' | 'v' | 'y', Float32Array> => ({
  x: values(s.T * s.k, 1), w: values(s.m * s.k, 2), v: values(s.m * s.n, 3), y: new Float32Array(s.T * s.n),
});

describe('products of blocks by fma', () => {
  it.each(SHAPES)('%s: the bits of the definition', (_name, s) => {
    const memory = memoryOf(s);
    const { unwritten } = interpret(finishKernel(chained(s), { subgroups: false }), { grid: chainedGrid(s), memory, scalars: { T: s.T }, poison: ['y'] });
    expect(unwritten['y']).toEqual([]);
    expect(memory.y).toEqual(chainedReference(s, memory.x, memory.w, memory.v));
  });

  it('needs each of its barriers, guards and bounds', () => {
    // One chunk more holds no row of w and v: it adds nothing.
    const idle = /for base in 0 .. 7 step 4/;
    // The first chunk holds rows only that are there.
    const first = /tile.stage ws.* = \(row, col\) => w\[\(row \* 5\) \+ col\]/;
    for (const [s, equivalent] of [[BASE, [idle]], [{ ...BASE, order: 'ahead' }, [idle, first]]] as const) {
      expectEveryMutationCaught(chained(s), [{ grid: chainedGrid(s), scalars: { T: s.T }, poison: ['y'], memory: () => memoryOf(s) }], { equivalent });
    }
  });

  it('updates several products at once, each from all', () => {
    const a = global('a');
    const y = global('y', 'f32');
    const tile: Tile = { name: 'acc', rows: 2, cols: 2, count: 2 };
    const view = b.view(a, (r, c) => b.add(b.mul(r, b.u32(2)), c));
    const schedule = { variant: 'fma', staging: 'register', tm: 1, tn: 1, bk: 1 } as const;
    const swapped = kernel([a, y], [
      b.tileAlloc(tile),
      b.mainloop(tile, view, [view, view], 2, schedule),
      b.update(tile, (_r, _c, [p, q]) => [b.add(p ?? b.f32(0), b.f32(1)), b.mul(q ?? b.f32(0), b.f32(2))]),
      b.update(tile, (_r, _c, [p, q]) => [q ?? b.f32(0), p ?? b.f32(0)]),
      b.tileMap(tile, (r, c, [p, q]) => [b.store(y, b.add(b.mul(r, b.u32(2)), c), b.sub(p ?? b.f32(0), q ?? b.f32(0)))]),
    ], { block: 4 });
    const memory = { a: Float32Array.of(1, 2, 3, 4), y: new Float32Array(4) };
    interpret(finishKernel(swapped, { subgroups: false }), { grid: [1, 1, 1], memory });
    // Products of rows: 5, 11, 11, 25; 2 p − (p + 1).
    expect(Array.from(memory.y)).toEqual([4, 10, 10, 24]);
  });

  it('refuses row values of other threads, and operands that other threads hold', () => {
    const other: ChainedShape = { ...BASE, schedule: (cols) => ({ variant: 'fma', staging: 'shared', tm: cols === 4 ? 2 : 1, tn: cols === 4 ? 2 : 6, bk: 1 }) };
    expect(() => finishKernel(chained(other), { subgroups: false })).toThrow(/other threads/);
    expect(() => finishKernel(chained({ ...BASE, block: 5 }), { subgroups: false })).toThrow(/products of blocks need all/);
  });
});

describe('await-blocks', () => {
  const view = b.view(global('a'), (r, c) => b.add(r, c));
  const tile: Tile = { name: 't', rows: 4, cols: 4, count: 1 };
  const block = (name: string): Block => ({ name, variant: 'fma', elem: 'f32', rows: 4, cols: 4 });
  const stage = (name: string): Stmt => b.stage(block(name), view);
  const schedule = { variant: 'fma', staging: 'shared', tm: 2, tn: 2, bk: 1 } as const;
  const times = (x: string, y: string): Stmt => b.product(tile, block(x), [{ block: block(y), transposed: false }], schedule);
  const loop = (...body: readonly Stmt[]): Stmt => b.for_('i', b.u32(0), b.scalar('T'), 1, () => body);
  /** The statements by their first words. */
  const placed = (...body: readonly Stmt[]): string =>
    printStmts(awaitBlocks(kernel([], body)).body)
      .split('\n')
      .map((l) => /tile.stage (\w+)|tile.product \w+ \S+ (\w+ ; \w+)|await|for|if|\}/.exec(l))
      .map((m) => (m?.[1] !== undefined ? `+${m[1]}` : (m?.[2]?.replace(' ; ', '*') ?? m?.[0] ?? '')))
      .join(' ');

  it('waits before a product whose blocks are under way, once for all', () => {
    expect(placed(stage('p'), stage('q'), times('p', 'q'), times('p', 'q'))).toBe('+p +q await p*q p*q');
  });

  it('waits before a block is staged anew, which a product may be reading', () => {
    expect(placed(stage('p'), stage('q'), times('p', 'q'), stage('q'), times('p', 'q'))).toBe('+p +q await p*q await +q await p*q');
    expect(placed(stage('p'), stage('p'))).toBe('+p await +p');
  });

  it('puts two waits into the loop of attention: each copy has a product to hide behind', () => {
    const body = placed(stage('q'), stage('k'), loop(stage('v'), times('q', 'k'), stage('k'), times('q', 'v')));
    expect(body).toBe('+q +k for await +v q*k await +k q*v }');
  });

  it('joins what branches leave', () => {
    const either = b.if_(b.lt(b.scalar('T'), b.u32(1)), [stage('p')], []);
    expect(placed(stage('q'), times('q', 'q'), either, times('p', 'q'))).toBe('+q await q*q if +p } await p*q');
    expect(placed(loop(stage('p')), times('p', 'p'))).toBe('for await +p } await p*p');
  });

  it('leaves a kernel without blocks as it is', () => {
    const plain = kernel([], [loop(b.note('nothing'))]);
    expect(awaitBlocks(plain)).toBe(plain);
  });
});

describe('verify, products', () => {
  const f = global('f');
  const tile: Tile = { name: 't', rows: 4, cols: 4, count: 1 };
  const p: Block = { name: 'p', variant: 'fma', elem: 'f32', rows: 4, cols: 4 };
  const view = b.view(f, (r, c) => b.add(r, c));
  const schedule = { variant: 'fma', staging: 'shared', tm: 2, tn: 2, bk: 1 } as const;
  const straight = [{ block: p, transposed: false }];
  const problems = (...body: readonly Stmt[]): string => verify(kernel([f], [b.tileAlloc(tile), ...body], { scalars: ['T'] }), 'tile').map((x) => x.message).join('; ');
  const divergent = (...body: readonly Stmt[]): Stmt => b.if_(b.lt(b.thread, b.u32(1)), body);
  const x = b.variable('x', b.ty('f32'));

  const cases: readonly (readonly [string, readonly Stmt[], RegExp])[] = [
    ['staged by some threads', [divergent(b.stage(p, view))], /tile.stage in control flow that is not uniform/],
    ['folded by some threads', [divergent(b.fold(tile, 'x', 'max', () => b.f32(0)))], /tile.fold in control flow that is not uniform/],
    ['block never staged', [b.product(tile, p, straight, schedule)], /block p is never staged/],
    ['block of two shapes', [b.stage(p, view), b.stage({ ...p, rows: 8 }, view)], /staged in two shapes/],
    ['block used otherwise', [b.stage(p, view), b.product(tile, { ...p, elem: 'f16' }, straight, schedule)], /used otherwise than it is staged/],
    ['storage', [b.stage({ ...p, elem: 'bf16' }, view)], /keeps f32 as bf16/],
    ['rows of part accesses', [b.stage({ ...p, cols: 3 }, b.view({ ...f, lanes: 2 }, (r) => r))], /no whole number of accesses/],
    ['other variant', [b.stage(p, view), b.product(tile, p, straight, { variant: 'mma-sync', warpsM: 1, warpsN: 1, bk: 16, stages: 1 })], /as fma wants it/],
    ['depths', [b.stage(p, view), b.stage({ ...p, name: 'w', cols: 8 }, view), b.product(tile, p, [{ block: { ...p, name: 'w', cols: 8 }, transposed: false }], schedule)], /operand b is \[4, 8\], not \[4, 4\]/],
    ['a tile times itself', [b.stage(p, view), b.product(tile, tile, straight, schedule)], /times itself/],
    ['operands', [b.stage(p, view), b.product(tile, p, [], schedule)], /0 operands b for 1/],
    ['row value outside', [b.row(tile, 'x', () => b.f32(0)), b.let_('z', x)], /x is not bound here/],
    ['row value assigned unbound', [b.assignRow(tile, 'x', () => b.f32(0))], /x is no row value/],
    ['row value bound twice', [b.row(tile, 'x', () => b.f32(0)), b.fold(tile, 'x', 'add', () => b.f32(0))], /x is bound already/],
    ['row value of u32', [b.row(tile, 'x', (r) => r)], /the value is u32, not f32/],
    ['update of too few', [b.update(tile, () => [])], /0 new values for 1/],
  ];
  it.each(cases)('%s', (_name, body, message) => expect(problems(...body)).toMatch(message));

  it('accepts them, and prints them', () => {
    const good = chained(BASE);
    expect(verify(good, 'tile')).toEqual([]);
    expect(verify(good, 'simt').map((q) => q.message).join()).toMatch(/tile.stage at the simt level.*tile.fold at the simt level/);
    const text = printKernel(good);
    for (const line of [
      /tile.stage ws\[4, 5\] = \(row, col\) => w\[.*\] where .* \{fma f32\}/, /tile.product hidden\[?.* \+= xs ; ws \{/, /tile.product out \+= hidden\[1\]\[4, 4\] ; vs transposed/,
      /tile.row out \(r\) let largest = 0\.0/, /tile.row out \(r\) largest = max\(largest, peak\)/, /tile.fold hidden \(r, c, v0\) let peak = max v0/, /tile.update hidden \(r, c, v0\) = max\(v0, 0\.0\)/,
    ]) expect(text).toMatch(line);
  });
});
