/** The printed text of wgmma main loops made wrong: the emulator or the numbers must notice, in one order at least. */
import { beforeAll, describe, expect, it } from 'vitest';
import { emitCuda } from '../../../src/codegen/cuda/emit.ts';
import { finishCuda } from '../../../src/codegen/cuda/pipeline.ts';
import type { WgmmaTile } from '../../../src/kernels/index.ts';
import { CUDA_SM90A } from '../../../src/target/cuda.ts';
import { MODES, buildAllEmulated, hasCompiler, runEmulated } from './emulate.ts';
import { type Product, errorsOf, grouped } from './products.ts';

const CAPS = { ...CUDA_SM90A, multiprocessors: 2 };

/** Name, pattern, what takes its place. */
type Mutation = readonly [name: string, from: RegExp, to: string];

const MUTATIONS: readonly Mutation[] = [
  ['stages are filled before they are empty', /moec_mbarrier_wait\(&empty.*\n/, ''],
  ['slices are read before they have come', /moec_mbarrier_wait\(&full.*\n/, ''],
  ['the loader waits for the wrong phase', /uint32_t parity = 1u/, 'uint32_t parity = 0u'],
  ['the parity of the readers never changes', /parity_2 = \(last_stage_2 \? parity_2 \^ 1u : parity_2\)/, 'parity_2 = 0u'],
  ['fewer bytes are announced than come', /(moec_mbarrier_expect\(.*, )8192u/, '$14096u'],
  ['more bytes are announced than come', /(moec_mbarrier_expect\(.*, )8192u/, '$116384u'],
  ['one arrival too few is waited for', /(moec_mbarrier_init\(&full.*, )129u/, '$1128u'],
  ['one warp too few gives stages back', /(moec_mbarrier_init\(&empty.*, )8u/, '$17u'],
  ['the barriers are made without their fence', /moec_mbarrier_init_fence\(\);/, ''],
  ['the roles begin before the barriers are made', /__syncthreads\(\);/, ''],
  ['a stage is given back while its products are in flight', /arrive\(&empty\[stage_before\]\)/, 'arrive(&empty[stage_3])'],
  ['one group of products too few is waited for', /moec_wgmma_wait<1>/, 'moec_wgmma_wait<2>'],
  ['sums are used before the last products are over', /moec_wgmma_wait<0>\(\);/, ''],
  ['products begin without their fence', /moec_wgmma_fence\(\);/, ''],
  ['products are not committed', /moec_wgmma_commit\(\);/, ''],
  ['copies are not made visible to the tensor cores', /moec_fence_async\(\);/, ''],
  ['the last copies are not made visible', /(cp_async_wait<0>\(\);\s*)moec_fence_async\(\);/, '$1'],
  ['copies are handed over before they are done', /moec_cp_async_wait<2>/, 'moec_cp_async_wait<3>'],
  ['the last copies are handed over before they are done', /moec_cp_async_wait<0>\(\);/, ''],
  ['the last slices are never handed over', /late < open_slices/, 'late + 1u < open_slices'],
  ['slices are handed over one stage off', /arrive\(&full\[\(stage_2 \+ 2u\)/, 'arrive(&full[(stage_2 + 3u)'],
  ['rows are put without the swizzle', /\(x_chunk \^ \(x_row % 8u\)\)/, 'x_chunk'],
  ['the second step of depth is read from the wrong column', /group_row \* 8u \+ 2u\]/, 'group_row * 8u + 1u]'],
  ['the steps of depth of weights do not advance', /(slices_w\[stage_3 \* \d+u) \+ 6u\]/, '$1 + 4u]'],
  ['both consumers multiply the same rows', /\(thread \/ 128u - 1u\) \* 64u/, '0u * thread'],
  ['the up rows are the gate rows', /slice \* 64u, weight_row_2\)/, 'slice * 64u, weight_row)'],
  ['boxes overlap along the depth', /(&full\[stage_2\], slice \* )64u/, '$132u'],
  ['the second box lies over the first', /(&slices_w\[stage_2 \* \d+u) \+ 256u\]/, '$1]'],
  ['the rows of the second half go to the first', /own_row \+ i \* 8u/, 'own_row'],
  ['gate and up change places', /acc_2\[j \* 4u \+ i \* 2u \+ 16u\]/, 'acc_2[j * 4u + i * 2u]'],
  ['tiles are walked with the wrong stride', /work_2 \+= 2u/, 'work_2 += 1u'],
];

/** The same for rows that come in boxes. */
const BOX_MUTATIONS: readonly Mutation[] = [
  ['stages are filled before they are empty', /moec_mbarrier_wait\(&empty.*\n/, ''],
  ['the bytes of the rows are not announced', /(moec_mbarrier_expect\(.*, )24576u/, '$18192u'],
  ['no bytes are announced', /moec_mbarrier_expect\(.*\n/, ''],
  ['all threads start copies', /if \(thread == 0u\) \{\s*uint32_t stage_2/, 'if (thread < 2u) { uint32_t stage_2'],
  ['rows of another tile', /slice \* 64u, row0\)/, 'slice * 64u, row0 + 1u)'],
  ['rows are loaded where weights belong', /&slices_x\[stage_2 \* 1024u\], &x_map/, '&slices_w[stage_2 * 512u], &x_map'],
];

/** @param p what the text computes as it is */
function suite(p: Product, mutations: readonly Mutation[]): void {
  const kernel = finishCuda(p.launch.kernel, CAPS);
  const text = emitCuda(kernel);
  const texts = [text, ...mutations.map(([, from, to]) => text.replace(from, to)), text];
  let program = '';
  beforeAll(() => {
    program = buildAllEmulated(kernel, texts);
  }, 300_000);
  const survives = (place: number): boolean =>
    MODES.every((mode) => {
      const memory = p.memory();
      try {
        runEmulated(program, kernel, { grid: p.grid, memory, scalars: { T: p.T } }, mode, place);
      } catch {
        return false;
      }
      const { nmse, strayRows } = errorsOf(p, memory);
      return nmse < 1e-12 && strayRows === 0;
    });

  it('holds as it is', () => {
    expect(survives(0)).toBe(true);
    // Behind all others too: it is the change that is caught, not the place.
    expect(survives(texts.length - 1)).toBe(true);
  });

  it.each(mutations.map(([name], i) => [name, i + 1] as const))('%s', (_name, place) => {
    expect(texts[place]).not.toBe(text);
    expect(survives(place)).toBe(false);
  });
}

const tile = (consumers: number): WgmmaTile => ({ variant: 'wgmma', bm: 64 * consumers, bn: 32, bk: 64, consumers, stages: 4 });

describe.skipIf(!hasCompiler)('wgmma, the text made wrong', () => {
  suite(grouped({ T: 150, k: 328, n: 72, tile: tile(2) }, CAPS), MUTATIONS);
});

describe.skipIf(!hasCompiler)('wgmma with rows in boxes, the text made wrong', () => {
  suite(grouped({ T: 150, k: 328, n: 72, gather: false, epilogue: { kind: 'none' }, tile: { ...tile(2), bn: 64 } }, CAPS), BOX_MUTATIONS);
});
