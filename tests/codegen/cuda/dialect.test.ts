/** Printed CUDA: spelling as text, meaning by running it under the emulator. */
import { describe, expect, it } from 'vitest';
import { emitCuda } from '../../../src/codegen/cuda/emit.ts';
import { launchBytes, sharedLayout } from '../../../src/codegen/cuda/layout.ts';
import { RESERVED_WORDS, reserved } from '../../../src/codegen/cuda/reserved.ts';
import * as b from '../../../src/ir/kernel/build.ts';
import type { Buffer, Elem, Kernel, Lanes, Stmt } from '../../../src/ir/kernel/types.ts';
import { HOSTILE } from '../../hostile/corpus.ts';
import { buildEmulated, hasCompiler, type Launched, runEmulated } from './emulate.ts';

const kernel = (params: readonly Buffer[], body: readonly Stmt[], extra: Partial<Kernel> = {}): Kernel => ({
  name: 'k0_test', family: 'test', params, scalars: [], block: 32, body, schedule: {}, ...extra,
});
const read = (name: string, elem: Elem, lanes: Lanes = 1): Buffer => ({ ...b.buffer(name, 'global', elem, lanes), access: 'read' });
const write = (name: string, elem: Elem, lanes: Lanes = 1): Buffer => ({ ...b.buffer(name, 'global', elem, lanes), access: 'write' });
const run = (k: Kernel, launch: Omit<Launched, 'grid'>): void => runEmulated(buildEmulated(k), k, { grid: [1, 1, 1], ...launch }, { order: 'fwd', late: 1 });

/** The lines of the body, without their indentation. */
const bodyOf = (k: Kernel): string[] => emitCuda(k).split('\n').slice(0, -2).filter((l) => l.startsWith('  ') && !l.startsWith('    ')).map((l) => l.trim());
const { thread } = b;

describe('the text of a kernel', () => {
  it('is one header with the parameters in the order of a launch', () => {
    const params = [read('x', 'f32', 4), read('w', 'bf16', 4), read('h', 'f16', 2), read('e', 'bf16'), { ...b.buffer('n', 'global', 'u32'), atomic: true, access: 'read_write' as const }, write('y', 'i32', 2)];
    const body = [b.let_('t', b.add(b.scalar('T'), b.scalar('segment.first')))];
    const maps = [{ name: 'w_map', param: 'w', rows: 64, cols: 128, boxRows: 64 }];
    expect(emitCuda(kernel(params, body, { scalars: ['past', 'T', 'segment.first'], tensorMaps: maps, block: 256 }))).toMatchInlineSnapshot(`
      "#pragma once

      __global__ void __launch_bounds__(256) k0_test(
          const float4* __restrict__ x,
          const uint2* __restrict__ w,
          const uint32_t* __restrict__ h,
          const uint16_t* __restrict__ e,
          uint32_t* __restrict__ n,
          int2* __restrict__ y,
          const uint32_t* __restrict__ scalars,
          const __grid_constant__ CUtensorMap w_map) {
        const uint32_t T = scalars[1];
        const uint32_t segment_first = scalars[2];
        const uint32_t t = T + segment_first;
      }
      "
    `);
    expect(emitCuda(kernel([], []))).toContain('k0_test() {');
  });

  it('lays shared buffers into the one array, each aligned as it needs', () => {
    const parts = b.buffer('parts', 'shared', 'f32', 1, 5);
    const ring = { ...b.buffer('ring', 'shared', 'bf16', 4, 16), align: 1024 };
    const total = b.buffer('total', 'shared', 'u32', 1, 1);
    const body = [b.alloc(parts), b.alloc(ring), b.alloc(total), b.store(parts, thread, b.f32(1))];
    expect(bodyOf(kernel([], body))).toEqual([
      'const uint32_t thread = threadIdx.x;',
      'float* const parts = reinterpret_cast<float*>(moec_smem + 0);',
      'uint2* const ring = reinterpret_cast<uint2*>(moec_smem + 1024);',
      'uint32_t* const total = reinterpret_cast<uint32_t*>(moec_smem + 1152);',
      'parts[thread] = 1.0f;',
    ]);
    expect(launchBytes(kernel([], body))).toBe(1168);
    expect(sharedLayout([]).bytes).toBe(0);
  });

  it('spells literals so that C++ reads the same value', () => {
    const y = write('y', 'f32');
    const i = write('i', 'i32');
    const texts = bodyOf(kernel([y, i], [
      ...[0, -0, 1, 0.1, 1e21, -3.4028234663852886e38].map((x) => b.store(y, thread, b.f32(x))),
      ...[-2147483648, -1, 2147483647].map((x) => b.store(i, thread, b.i32(x))),
      b.let_('big', b.u32(4294967295)), b.let_('yes', b.bool(true)),
      b.let_('minus', b.neg(b.f32(-2))),
    ])).map((l) => l.slice(l.indexOf('= ') + 2, -1));
    expect(texts.slice(1)).toEqual([
      '0.0f', '-0.0f', '1.0f', '0.1f', '1e+21f', '-3.4028234663852886e+38f', '(-2147483647 - 1)', '-1', '2147483647', '4294967295u', 'true', '-(-2.0f)',
    ]);
  });

  it('spells statements', () => {
    const n: Buffer = { ...b.buffer('n', 'global', 'u32'), atomic: true, access: 'read_write' };
    const own = b.buffer('own', 'register', 'f32', 4, 3);
    const i = (unroll: boolean): Stmt => b.for_('i', b.u32(0), b.u32(8), 2, () => [], unroll);
    expect(bodyOf(kernel([n], [
      b.note('ends */ here \\'), b.alloc(own), b.var_('s', b.f32(0)), b.assign('s', b.f32(1)), i(false), i(true),
      b.if_(b.lt(thread, b.u32(3)), [], [b.barrier('block')]),
      b.barrier('block'), b.barrier('subgroup'), b.atomic('add', n, b.u32(0), b.u32(1)), b.atomic('max', n, b.u32(1), thread, 'old'),
      b.machine('cp_async_wait', b.immediate(2)), b.machine('cp_async16', b.address(own, b.u32(1)), b.address(n, thread), b.value(b.bool(true))),
      b.machine('tma_prefetch', b.map('w_map')),
    ], { tensorMaps: [{ name: 'w_map', param: 'n', rows: 1, cols: 64, boxRows: 1 }] }))).toEqual([
      'const uint32_t thread = threadIdx.x;',
      '// ends * / here ', 'float4 own[3];', 'float s = 0.0f;', 's = 1.0f;',
      'for (uint32_t i = 0u; i < 8u; i += 2u) {', '}', '#pragma unroll', 'for (uint32_t i = 0u; i < 8u; i += 2u) {', '}',
      'if (thread < 3u) {', '} else {', '}',
      '__syncthreads();', '__syncwarp();', 'atomicAdd(&n[0u], 1u);', 'const uint32_t old = atomicMax(&n[1u], thread);',
      'moec_cp_async_wait<2>();', 'moec_cp_async16(&own[1u], &n[thread], true);', 'moec_tma_prefetch(&w_map);',
    ].map((l) => l.trim()));
  });

  it('spells conversions, vectors and warps', () => {
    const x = b.var_('x', b.f32(1));
    const v = b.let_('v', b.splat(4, b.variable('x')));
    const vector = b.variable('v', b.ty('f32', 4));
    const one = b.variable('x', b.ty('f32'));
    const lines = bodyOf(kernel([], [
      x, v,
      b.let_('a', b.cast('u32', one)), b.let_('c', b.cast('f32', thread)), b.let_('d', b.bitcast('u32', one)), b.let_('e', b.bitcast('f32', thread)),
      b.let_('f', b.mul(vector, b.splat(4, b.f32(2)))), b.let_('g', b.fma(vector, one, vector)), b.let_('h', b.select(b.lt(thread, b.u32(1)), vector, vector)),
      b.let_('j', b.lane(vector, 3)), b.let_('k', b.max(one, b.f32(0))), b.let_('l', b.max(thread, b.u32(1))), b.let_('m', b.packHalves('bf16', one, one)),
      b.let_('n', b.subgroup('add', one)), b.let_('o', b.subgroup('broadcast', thread, 3)),
      b.let_('p', b.add(b.builtin('lane'), b.mul(b.builtin('subgroup'), b.builtin('subgroup.size')))),
      b.let_('q', { k: 'bin', op: '*', ty: b.ty('f32', 4), a: vector, b: one }),
    ]));
    expect(lines.slice(5)).toEqual([
      'const uint32_t a = moec_to_uint(x);', 'const float c = moec_to_float(thread);', 'const uint32_t d = moec_bits(x);', 'const float e = moec_float(thread);',
      'const float4 f = v * moec_splat4(2.0f);', 'const float4 g = moec_fma(v, moec_splat4(x), v);', 'const float4 h = moec_select((thread < 1u), v, v);',
      'const float j = v.w;', 'const float k = fmaxf(x, 0.0f);', 'const uint32_t l = max(thread, 1u);', 'const uint32_t m = moec_pack_bf16(x, x);',
      'const float n = moec_warp_add(x);', 'const uint32_t o = moec_warp_broadcast(thread, 3u);',
      'const uint32_t p = lane + warp * 32u;', 'const float4 q = v * moec_splat4(x);',
    ]);
  });

  it('refuses tile statements', () => {
    expect(() => emitCuda(kernel([], [b.tileAlloc({ name: 'acc', rows: 1, cols: 1, count: 1 })]))).toThrow(/tile\.alloc reached the printer/);
  });
});

describe('names', () => {
  it('that C++, CUDA, its headers or the prelude keep are never printed', () => {
    for (const word of ['while', 'float4', 'threadIdx', 'moec_fma', 'INFINITY', 'cudaMalloc', 'thread', 'T', 'a__b', '_x']) expect(reserved.has(word), word).toBe(true);
    for (const word of ['x', 'acc_0', 'weight', 'partial']) expect(reserved.has(word), word).toBe(false);
  });

  it.skipIf(!hasCompiler)('of any kind come out as identifiers that compile', () => {
    const names = [...new Set([...RESERVED_WORDS, ...HOSTILE.filter((h) => h.length < 300), 'moec_smem', 'moec_bits', 'NULL', 'INFINITY', 'uint4', 'y', 'k0_test'])];
    const y = write('y', 'u32');
    const body = [b.note('ends */ here \\'), ...names.map((n, i) => b.let_(n, b.u32(i)))];
    const total = names.reduce((e, n) => b.add(e, b.variable(n)), b.u32(0));
    const k = kernel([y], [...body, b.store(y, thread, b.max(b.bitcast('u32', b.bitcast('f32', total)), b.u32(0)))]);
    const out = new Uint32Array(32);
    run(k, { memory: { y: out } });
    expect(out[0]).toBe((names.length * (names.length - 1)) / 2);
  });
});

describe.skipIf(!hasCompiler)('under the emulator', () => {
  it('operators nest as the IR says', () => {
    const y = write('y', 'u32');
    const mixed = b.bin('|', b.bin('<<', b.add(thread, b.u32(3)), b.u32(2)), b.bin('&', thread, b.u32(1)));
    const cond = b.or(b.and(b.lt(thread, b.u32(4)), b.ne(thread, b.u32(2))), b.eq(b.sub(thread, b.sub(thread, b.u32(1))), b.u32(9)));
    const k = kernel([y], [b.store(y, thread, b.select(cond, mixed, b.mul(b.add(thread, b.u32(1)), b.mod(thread, b.u32(3)))))]);
    const out = new Uint32Array(32);
    run(k, { memory: { y: out } });
    expect(Array.from(out)).toEqual(Array.from({ length: 32 }, (_, i) => (i < 4 && i !== 2 ? ((i + 3) << 2) | (i & 1) : (i + 1) * (i % 3))));
  });

  it.each((['f16', 'bf16'] as const).flatMap((elem) => ([1, 2, 4] as const).map((lanes) => [elem, lanes] as const)))('%s is loaded and stored %i at a time', (elem, lanes) => {
    // Finite, of both signs, some below the least normal number.
    const halves = Uint16Array.from({ length: 128 }, (_, i) => (i * 509) & (elem === 'f16' ? 0xbbff : 0xbf7f));
    const w = read('w', elem, lanes);
    const y = write('y', 'f32', lanes);
    const z = write('z', elem, lanes);
    const k = kernel([w, y, z], [b.let_('v', b.loadF32(w, thread)), b.store(y, thread, b.variable('v', b.ty('f32', lanes))), b.store(z, thread, b.cast(elem, b.variable('v', b.ty('f32', lanes))))]);
    const values = new Float32Array(32 * lanes);
    const back = new Uint16Array(32 * lanes);
    run(k, { memory: { w: halves, y: values, z: back } });
    expect(back).toEqual(halves.subarray(0, 32 * lanes));
    const one = new DataView(new ArrayBuffer(4));
    const half = (bits: number): number => {
      const e = (bits >> 10) & 31;
      return (bits & 0x8000 ? -1 : 1) * (e === 0 ? (bits & 1023) * 2 ** -24 : (1 + (bits & 1023) / 1024) * 2 ** (e - 15));
    };
    expect(Array.from(values)).toEqual(Array.from(back, (bits) => (one.setUint32(0, bits << 16), elem === 'bf16' ? one.getFloat32(0) : half(bits))));
  });

  it('stores round to nearest even, conversions clamp', () => {
    const y = write('y', 'bf16');
    const u = write('u', 'u32');
    const x = read('x', 'f32');
    const xs = Float32Array.from({ length: 32 }, (_, i) => [1 + 2 ** -8, 1 + 3 * 2 ** -8, -5.5, 3e9, 5e9, NaN][i % 6] ?? 0);
    const k = kernel([x, y, u], [b.store(y, thread, b.cast('bf16', b.load(x, thread))), b.store(u, thread, b.cast('u32', b.load(x, thread)))]);
    const halves = new Uint16Array(32);
    const whole = new Uint32Array(32);
    run(k, { memory: { x: xs, y: halves, u: whole } });
    expect(Array.from(halves.subarray(0, 2))).toEqual([0x3f80, 0x3f82]);
    expect(Array.from(whole.subarray(0, 6))).toEqual([1, 1, 0, 3e9, 4294967295, 0]);
  });
});
