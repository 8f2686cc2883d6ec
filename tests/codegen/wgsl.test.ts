import { describe, expect, it } from 'vitest';
import { f32Literal } from '../../src/codegen/clike/literals.ts';
import { emitWgsl } from '../../src/codegen/wgsl/emit.ts';
import { RESERVED_WORDS } from '../../src/codegen/wgsl/reserved.ts';
import * as b from '../../src/ir/kernel/build.ts';
import type { Buffer, Kernel } from '../../src/ir/kernel/types.ts';
import { dawnDevice, runOnDawn } from '../conformance/dawn.ts';

const kernel = (params: readonly Buffer[], body: Kernel['body'], extra: Partial<Kernel> = {}): Kernel => ({
  name: 'k0_test', family: 'test', params, scalars: [], block: 8, body, schedule: {}, ...extra,
});
const read = (name: string, elem: Buffer['elem'], lanes: Buffer['lanes'] = 1): Buffer => ({ ...b.buffer(name, 'global', elem, lanes), access: 'read' });
const write = (name: string, elem: Buffer['elem'], lanes: Buffer['lanes'] = 1): Buffer => ({ ...b.buffer(name, 'global', elem, lanes), access: 'write' });
const half = (bits: number): number => {
  const e = (bits >> 10) & 31;
  const f = bits & 1023;
  const sign = bits & 0x8000 ? -1 : 1;
  return sign * (e === 0 ? f * 2 ** -24 : (1 + f / 1024) * 2 ** (e - 15));
};

describe('f32 literals', () => {
  it('read back as the same f32 and always look like floats', () => {
    for (const x of [0, -0, 1, 0.1, 1e-20, -3.4028234663852886e38, 1.4e-45, 2 ** 24, 1.702, 1e21, 1 / 3]) {
      const text = f32Literal(x);
      expect(text).toMatch(/^-?\d+(\.\d+)?(e[+-]?\d+)?f$/);
      expect(Object.is(Math.fround(Number(text.slice(0, -1))), Math.fround(x))).toBe(true);
    }
    expect(() => f32Literal(NaN)).toThrow();
    expect(() => f32Literal(1e39)).toThrow();
  });
});

describe('emitWgsl', () => {
  it('prints operators with the parentheses WGSL wants', async () => {
    const y = write('y', 'u32');
    const t = b.thread;
    const mixed = b.bin('|', b.bin('<<', b.add(t, b.u32(3)), b.u32(2)), b.bin('&', t, b.u32(1)));
    const cond = b.or(b.and(b.lt(t, b.u32(4)), b.ne(t, b.u32(2))), b.eq(b.sub(t, b.sub(t, b.u32(1))), b.u32(9)));
    const k = kernel([y], [b.store(y, t, b.select(cond, mixed, b.mul(b.add(t, b.u32(1)), b.mod(t, b.u32(3)))))]);
    expect(emitWgsl(k)).toMatchInlineSnapshot(`
      "@group(0) @binding(0) var<storage, read_write> y: array<u32>;

      @compute
      @workgroup_size(8)
      fn k0_test(@builtin(local_invocation_index) thread: u32) {
        y[thread] = select((thread + 1u) * (thread % 3u), ((thread + 3u) << 2u) | (thread & 1u), ((thread < 4u && thread != 2u) || thread - (thread - 1u) == 9u));
      }
      "
    `);
    const out = new Uint32Array(8);
    await runOnDawn(k, { grid: [1, 1, 1], memory: { y: out } });
    const want = Array.from({ length: 8 }, (_, i) => (i < 4 && i !== 2 ? ((i + 3) << 2) | (i & 1) : (i + 1) * (i % 3)));
    expect(Array.from(out)).toEqual(want);
  });

  it('loads packed f16 and bf16 without any device feature', async () => {
    const halves = Uint16Array.from([0x3c00, 0xc000, 0x3555, 0x0001, 0x7bff, 0x8000, 0x3800, 0x4248]);
    for (const elem of ['f16', 'bf16'] as const) {
      for (const lanes of [1, 2, 4] as const) {
        const w = read('w', elem, lanes);
        const y = write('y', 'f32', lanes);
        const k = kernel([w, y], [b.if_(b.lt(b.thread, b.u32(8 / lanes)), [b.store(y, b.thread, b.loadF32(w, b.thread))])]);
        const out = new Float32Array(8);
        await runOnDawn(k, { grid: [1, 1, 1], memory: { w: halves, y: out } });
        const bf = (x: number): number => new Float32Array(Uint32Array.of(x << 16).buffer)[0] ?? 0;
        expect(Array.from(out)).toEqual(Array.from(halves, (x) => (elem === 'f16' ? half(x) : bf(x))));
      }
    }
  });

  it('gives every hostile IR name an identifier that Dawn accepts', async () => {
    const device = await dawnDevice();
    const names = [...RESERVED_WORDS, '__proto__', 'r.0', 'a b', '0x', 'naïve', 'k0_test', '*/', '\u2028', 'y'];
    const y = write('y', 'u32');
    const body = names.map((n, i) => b.let_(n, b.u32(i)));
    const total = names.reduce((e, n) => b.add(e, b.variable(n)), b.u32(0));
    const k = kernel([y], [b.note('ends */ here \u2028 }'), ...body, b.store(y, b.thread, total)]);
    device.pushErrorScope('validation');
    const out = new Uint32Array(8);
    await runOnDawn(k, { grid: [1, 1, 1], memory: { y: out } });
    expect(await device.popErrorScope()).toBeNull();
    expect(out[0]).toBe((names.length * (names.length - 1)) / 2);
  });

  it('hides the count of known loops from the driver, which would unroll them whole, and changes no result', async () => {
    const y = write('y', 'u32');
    const sum = b.for_('i', b.u32(2), b.u32(40), 1, (i) => [b.assign('s', b.add(b.variable('s'), i))]);
    const short = b.for_('j', b.u32(0), b.u32(1), 1, (j) => [b.assign('s', b.add(b.variable('s'), j))]);
    const k = kernel([y], [b.var_('s', b.u32(0)), sum, short, b.store(y, b.thread, b.variable('s'))]);
    const text = emitWgsl(k);
    expect(text).toContain('for (var i: u32 = 2u + (grid_size.z >> 16u); i < 40u; i += 1u)');
    expect(text).toContain('for (var j: u32 = 0u; j < 1u; j += 1u)');
    const out = new Uint32Array(8);
    await runOnDawn(k, { grid: [1, 1, 1], memory: { y: out } });
    expect(Array.from(out)).toEqual(Array(8).fill((2 + 39) * 19));
  });

  it('refuses tile statements', () => {
    const tile = { name: 'acc', rows: 1, cols: 1, count: 1 };
    expect(() => emitWgsl(kernel([], [b.tileAlloc(tile)]))).toThrow(/tile\.alloc reached the printer/);
  });
});
