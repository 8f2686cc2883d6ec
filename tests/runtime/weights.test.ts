import { join } from 'node:path';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { ManifestSection, TensorSource } from '../../src/runtime/core/abi.ts';
import { WeightsError } from '../../src/runtime/core/errors.ts';
import { bf16ToNumber, f16ToNumber, numberToBf16, numberToF16 } from '../../src/runtime/core/f16.ts';
import { type NamedTensor, type TensorData, type TensorSet, namedTensors, readF64 } from '../../src/runtime/core/tensors.ts';
import { assembleF64, weightChunks } from '../../src/runtime/core/weight-data.ts';
import { type ResolvedParam, type WeightParam, checkWeights, requireWeights, resolveParam } from '../../src/runtime/core/weights.ts';
import { openPath } from '../../src/runtime/node/files.ts';

const GOLDEN = join(import.meta.dirname, '../golden');
const plain = (name: string, shape: readonly number[]): TensorSource => ({ name, shape, n: { axis: 0, start: 0, step: 1 }, k: { start: 0, step: 1 } });
const vector = (name: string, shape: readonly number[]): TensorSource => ({ ...plain(name, shape), k: { start: 0, step: 0 } });
const weight = (name: string, shape: readonly number[], parts: WeightParam['role']['parts'], elem: WeightParam['elem'] = 'f32'): WeightParam => ({
  name,
  shape,
  elem,
  role: { kind: 'weight', parts },
});
const set = (tensors: Record<string, NamedTensor | TensorData>): TensorSet => namedTensors(Object.entries(tensors));
const count = (n: number): Float32Array => Float32Array.from({ length: n }, (_, i) => i);

/** The definition in `TensorSource`, word by word. */
function byDefinition(param: WeightParam, banked: boolean, tensors: ReadonlyMap<string, Float64Array>): number[] {
  const dims = param.shape.map(Number);
  const bank = banked ? (dims[0] ?? 1) : 1;
  const rest = banked ? dims.slice(1) : dims;
  const k = rest.length === 2 ? (rest[1] ?? 1) : 1;
  const out: number[] = [];
  for (let b = 0; b < bank; b++) {
    for (const part of param.role.parts) {
      const source = part.sources[0];
      if (source === undefined) throw new Error('no source');
      for (let n = 0; n < part.rows; n++) {
        for (let kk = 0; kk < k; kk++) {
          const perExpert = source.name.includes('{e}');
          const data = tensors.get(source.name.replace('{e}', String(b)).replace('{l}', '7'));
          let shape = [...source.shape];
          let offset = 0;
          if (!perExpert && source.bankRows === undefined && banked) {
            shape = shape.slice(1);
            offset = b * shape.reduce((x, y) => x * y, 1);
          }
          const along = source.n.start + n * source.n.step;
          const other = source.k.start + kk * source.k.step;
          let index = along;
          if (shape.length === 2) {
            const row = (source.n.axis === 0 ? along : other) + (source.bankRows ?? 0) * b;
            index = row * (shape[1] ?? 1) + (source.n.axis === 0 ? other : along);
          }
          out.push(data?.[offset + index] ?? NaN);
        }
      }
    }
  }
  return out;
}

const layouts = fc
  .record({ bank: fc.integer({ min: 1, max: 4 }), n: fc.integer({ min: 1, max: 7 }), k: fc.integer({ min: 1, max: 6 }), layout: fc.constantFrom('each', 'fused', 'transposed', 'interleaved', 'stacked', 'stacked-transposed', 'dense', 'bias', 'bias-interleaved', 'biases'), gated: fc.boolean() })
  .map(({ bank, n, k, layout, gated }) => {
    const halves = gated ? 2 : 1;
    const at = (part: number): number => part * n;
    const parts = (make: (part: number) => TensorSource): WeightParam['role']['parts'] => Array.from({ length: halves }, (_, p) => ({ rows: n, sources: [make(p)] }));
    const k1 = { start: 0, step: 1 };
    const matrix = [bank, halves * n, k];
    switch (layout) {
      case 'each':
        return { banked: true, param: weight('p', matrix, parts((p) => plain(`l{l}.e{e}.${p}`, [n, k]))) };
      case 'fused':
        return { banked: true, param: weight('p', matrix, parts((p) => ({ ...plain('w', matrix), n: { axis: 0, start: at(p), step: 1 } }))) };
      case 'transposed':
        return { banked: true, param: weight('p', matrix, parts((p) => ({ ...plain('w', [bank, k, halves * n]), n: { axis: 1, start: at(p), step: 1 } }))) };
      case 'interleaved':
        return { banked: true, param: weight('p', matrix, parts((p) => ({ ...plain('w', [bank, k, halves * n]), n: { axis: 1, start: p, step: halves } }))) };
      case 'stacked':
        return { banked: true, param: weight('p', matrix, parts((p) => ({ ...plain(`w${p}`, [bank * n, k]), bankRows: n }))) };
      case 'stacked-transposed':
        return { banked: true, param: weight('p', matrix, parts((p) => ({ name: `w${p}`, shape: [bank * k, n], bankRows: k, n: { axis: 1, start: 0, step: 1 }, k: k1 }))) };
      case 'dense':
        return { banked: false, param: weight('p', [halves * n, k], parts((p) => plain(`w${p}`, [n, k]))) };
      case 'bias':
        return { banked: true, param: weight('p.bias', [bank, halves * n], parts((p) => ({ ...vector('b', [bank, halves * n]), n: { axis: 0, start: at(p), step: 1 } }))) };
      case 'bias-interleaved':
        return { banked: true, param: weight('p.bias', [bank, halves * n], parts((p) => ({ ...vector('b', [bank, halves * n]), n: { axis: 0, start: p, step: halves } }))) };
      case 'biases':
        return { banked: true, param: weight('p.bias', [bank, halves * n], parts((p) => vector(`b{e}.${p}`, [n]))) };
    }
  });

/** All tensors that a parameter reads, each with its own values. */
function tensorsOf(param: WeightParam): Map<string, NamedTensor & { data: Float32Array }> {
  const out = new Map<string, NamedTensor & { data: Float32Array }>();
  for (const part of param.role.parts) {
    for (const s of part.sources) {
      for (let e = 0; e < (s.name.includes('{e}') ? Number(param.shape[0]) : 1); e++) {
        const name = s.name.replace('{e}', String(e)).replace('{l}', '7');
        const data = count(s.shape.reduce((a, b) => a * b, 1)).map((x) => x + out.size * 1000);
        if (!out.has(name)) out.set(name, { data, shape: s.shape });
      }
    }
  }
  return out;
}

async function collect(param: ResolvedParam, from: TensorSet, first: number, rows: number, maxBytes: number): Promise<Uint8Array> {
  const parts: number[] = [];
  for await (const chunk of weightChunks(param, from, first, rows, { maxBytes })) parts.push(...chunk.data);
  return Uint8Array.from(parts);
}

describe('weights', () => {
  it('are assembled as TensorSource says, whole and in pieces', () => fc.assert(
    fc.asyncProperty(layouts, fc.integer({ min: 1, max: 400 }), fc.nat(), async ({ param, banked }, maxBytes, cut) => {
      const tensors = tensorsOf(param);
      const from = namedTensors(tensors);
      const expected = byDefinition(param, banked, new Map([...tensors].map(([n, t]) => [n, Float64Array.from(t.data)])));
      expect([...(await assembleF64(param, from, 7))]).toEqual(expected);
      const resolved = resolveParam(param, 7, from, []);
      if (resolved === undefined) throw new Error('not resolved');
      const rows = resolved.bank * resolved.n;
      const first = cut % rows;
      const bytes = await collect(resolved, from, first, rows - first, maxBytes);
      expect([...new Float32Array(bytes.buffer)]).toEqual(expected.slice(first * resolved.k));
    }),
    { numRuns: 400 },
  ));

  it('are converted to their storage type by chunks that end on words', async () => {
    const data = Float32Array.from({ length: 35 }, (_, i) => (i - 17) * 1.00048828125);
    for (const [elem, read, write] of [['f16', f16ToNumber, numberToF16], ['bf16', bf16ToNumber, numberToBf16]] as const) {
      const param = weight('w', [7, 5], [{ rows: 7, sources: [plain('w', [7, 5])] }], elem);
      const from = set({ w: { data, shape: [7, 5] } });
      const resolved = resolveParam(param, null, from, []);
      if (resolved === undefined) throw new Error('not resolved');
      const lengths: number[] = [];
      const words: number[] = [];
      for await (const chunk of weightChunks(resolved, from, 0, 7, { maxBytes: 21 })) {
        lengths.push(chunk.data.length);
        words.push(...new Uint16Array(chunk.data.buffer));
      }
      expect(lengths.slice(0, -1).every((n) => n % 4 === 0)).toBe(true);
      expect(words).toEqual([...data].map(write));
      expect([...(await assembleF64(param, from, null, { stored: true }))]).toEqual([...data].map((x) => read(write(x))));
      // Halves that are stored as halves are copied bit by bit, NaN payloads too.
      const bits = Uint16Array.from({ length: 35 }, (_, i) => 0x7c01 + i);
      const halves = set({ w: { data: bits, shape: [7, 5], dtype: elem === 'f16' ? 'F16' : 'BF16' } });
      const raw = resolveParam(param, null, halves, []);
      if (raw === undefined) throw new Error('not resolved');
      expect([...new Uint16Array((await collect(raw, halves, 0, 7, 1 << 20)).buffer)]).toEqual([...bits]);
    }
  });

  it('refuse values that their type cannot hold', async () => {
    const vector = (elem: WeightParam['elem']): WeightParam => weight('w', [2], [{ rows: 2, sources: [plain('w', [2])] }], elem);
    const run = async (elem: WeightParam['elem'], data: TensorData): Promise<Uint8Array> => {
      const from = set({ w: data });
      const resolved = resolveParam(vector(elem), null, from, []);
      if (resolved === undefined) throw new Error('not resolved');
      return collect(resolved, from, 0, 2, 100);
    };
    await expect(run('f16', new Float32Array([1, 65520]))).rejects.toThrow(WeightsError);
    await expect(run('f16', new Float32Array([Infinity, NaN]))).resolves.toBeDefined();
    await expect(run('u32', new Int32Array([1, -1]))).rejects.toThrow(/whole|stored/);
    await expect(run('u32', new BigInt64Array([1n, 1n << 33n]))).rejects.toThrow(WeightsError);
    expect([...new Uint32Array((await run('u32', new BigInt64Array([5n, 4294967295n]))).buffer)]).toEqual([5, 4294967295]);
  });

  it('take the first source that is there', async () => {
    const sources = [plain('lm_head.weight', [2, 3]), plain('model.embed_tokens.weight', [2, 3])];
    const param = weight('head', [2, 3], [{ rows: 2, sources }]);
    const tied = set({ 'model.embed_tokens.weight': { data: count(6), shape: [2, 3] } });
    expect([...(await assembleF64(param, tied, null))]).toEqual([0, 1, 2, 3, 4, 5]);
  });

  it('report everything that is wrong, with near names and transpositions', () => {
    const section: ManifestSection = {
      name: 'layer.0',
      inputs: [],
      outputs: [],
      buckets: [],
      params: [
        weight('layers.{l}.q', [4, 2], [{ rows: 4, sources: [plain('model.layers.{l}.self_attn.q_proj.weight', [4, 2])] }]),
        weight('layers.{l}.up', [2, 3, 2], [{ rows: 3, sources: [plain('model.layers.{l}.experts.{e}.up_proj.weight', [3, 2])] }]),
        weight('layers.{l}.norm', [2], [{ rows: 2, sources: [plain('model.layers.{l}.norm.weight', [2]), plain('norm.{l}', [2])] }]),
        weight('layers.{l}.table', [2], [{ rows: 2, sources: [plain('table', [2])] }], 'u32'),
      ],
    };
    const from = set({
      'model.layers.0.self_attn.q_proj.weight': { data: count(8), shape: [2, 4] },
      'model.layers.0.experts.0.up_proj.weight': { data: count(6), shape: [3, 2] },
      'model.layers.0.experts.1.up_proj.wieght': { data: count(6), shape: [3, 2] },
      table: count(2),
      rotary: count(2),
    });
    const sequence = [{ section: 0, layer: 0 }];
    const report = checkWeights([section], sequence, from);
    expect(report.problems.map((p) => [p.kind, p.tensor])).toEqual([
      ['shape', 'model.layers.0.self_attn.q_proj.weight'],
      ['missing', 'model.layers.0.experts.1.up_proj.weight'],
      ['missing', 'model.layers.0.norm.weight'],
      ['dtype', 'table'],
    ]);
    expect(report.unused).toEqual(['model.layers.0.experts.1.up_proj.wieght', 'rotary']);
    expect(() => requireWeights([section], sequence, from)).toThrow(
      expect.objectContaining({
        code: 'MOE5008',
        message: expect.stringMatching(/4 problems[^]*looks transposed[^]*is it "model.layers.0.experts.1.up_proj.wieght"[^]*nor "norm.0"[^]*F32, expected integers[^]*not used: .*rotary/),
      }),
    );
  });

  it('of the golden models are found under their released names', async () => {
    const gptOss = await openPath(join(GOLDEN, 'models/tiny_gpt_oss'));
    const fused = 'model.layers.{l}.mlp.experts.gate_up_proj';
    const source = (start: number): TensorSource => ({ name: fused, shape: [4, 32, 48], n: { axis: 1, start, step: 2 }, k: { start: 0, step: 1 } });
    const param = weight('gate_up', [4, 48, 32], [{ rows: 24, sources: [source(0)] }, { rows: 24, sources: [source(1)] }]);
    const got = await assembleF64(param, gptOss, 1);
    const file = await readF64(gptOss, 'model.layers.1.mlp.experts.gate_up_proj');
    const at = (e: number, n: number, k: number): number | undefined => got[(e * 48 + n) * 32 + k];
    const inFile = (e: number, k: number, column: number): number | undefined => file[(e * 32 + k) * 48 + column];
    expect([at(0, 0, 0), at(2, 5, 7), at(3, 24, 31), at(1, 47, 3)]).toEqual([inFile(0, 0, 0), inFile(2, 7, 10), inFile(3, 31, 1), inFile(1, 3, 47)]);
    await gptOss.close();
  });
});

describe('half precision', () => {
  const all = Array.from({ length: 65536 }, (_, i) => i);
  it('is exact both ways on all 65 536 values', () => {
    for (const bits of all) {
      const value = f16ToNumber(bits);
      if (Number.isNaN(value)) expect(Number.isNaN(f16ToNumber(numberToF16(value)))).toBe(true);
      else if (numberToF16(value) !== bits) throw new Error(`f16 ${bits} became ${numberToF16(value)}`);
      const brain = bf16ToNumber(bits);
      if (Number.isNaN(brain)) expect(Number.isNaN(bf16ToNumber(numberToBf16(brain)))).toBe(true);
      else if (numberToBf16(brain) !== bits) throw new Error(`bf16 ${bits} became ${numberToBf16(brain)}`);
    }
  });

  it.each([['f16', f16ToNumber, numberToF16, 0x7c00, 65504], ['bf16', bf16ToNumber, numberToBf16, 0x7f80, Infinity]] as const)(
    'rounds %s to nearest, ties to even, between all neighbours',
    (_name, read, write, infinity, _largest) => {
      for (let bits = 0; bits + 1 < infinity; bits++) {
        const low = read(bits);
        const high = read(bits + 1);
        const middle = (low + high) / 2;
        const even = bits % 2 === 0 ? bits : bits + 1;
        if (Math.fround(middle) === middle && write(middle) !== even) throw new Error(`tie over ${bits} went to ${write(middle)}`);
        const above = low + (high - low) * 0.75;
        const below = low + (high - low) * 0.25;
        if (Math.fround(above) === above && write(above) !== bits + 1) throw new Error(`${above} went to ${write(above)}`);
        if (Math.fround(below) === below && write(below) !== bits) throw new Error(`${below} went to ${write(below)}`);
        if (write(-below) !== (bits | 0x8000) && Math.fround(below) === below) throw new Error(`sign of ${below}`);
      }
    },
  );

  it('overflows where it should', () => {
    expect([65519.99, 65520, -65520, Infinity, 2 ** -25, 2 ** -25 * 1.001].map(numberToF16)).toEqual([0x7bff, 0x7c00, 0xfc00, 0x7c00, 0, 1]);
    expect([3.4e38, 3.397e38, -Infinity].map(numberToBf16)).toEqual([0x7f80, 0x7f80, 0xff80]);
  });
});
