/** The harness of `bench/peers`, as far as it goes without the peers: the numbers, the files and the references they are compared with. */
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { benchLayer } from '../../bench/peers/src/layer-bench.ts';
import { writeGguf } from '../../bench/peers/src/gguf.ts';
import {
  denseReference, denseWeights, dequantised, layerFlops, layerInput, layerWeights, mixtureReference, quantise, quantisedWeights, type Shape,
} from '../../bench/peers/src/numbers.ts';
import { ggmlBlocks, olmoeSpec, olmoeTensors } from '../../bench/peers/src/olmoe.ts';
import { moecMixture, specOf } from '../../bench/peers/src/moec-peers.ts';
import { isAbsent, type Peer, tryPeer } from '../../bench/peers/src/peer.ts';
import { markdown } from '../../bench/peers/src/report.ts';
import { timesAsFast } from '../../bench/peers/src/rounds.ts';
import { naivePeer, tiledPeer } from '../../bench/peers/src/wgsl-peer.ts';
import { analyze } from '../../src/driver/analysis.ts';
import { f16ToNumber } from '../../src/runtime/core/f16.ts';
import { deviation } from '../../src/runtime/core/metrics.ts';
import { quantiseRows } from '../../src/runtime/core/quant.ts';

const SHAPE: Shape = { experts: 4, active: 2, hidden: 64, width: 32 };
const weights = layerWeights(SHAPE);
const never = (index: number): never => {
  throw new Error(`weight ${index}`);
};

describe('numbers', () => {
  it.each(['int8_f32', 'int4_f32'] as const)('%s are those that moec stores', (name) => {
    const expected = Float64Array.from(weights.gate);
    quantiseRows(name, expected, SHAPE.hidden, never);
    expect(dequantised(quantise(weights.gate, SHAPE.hidden, name))).toEqual(expected);
  });

  it.each(['int4', 'int8'] as const)('%s blocks of ggml hold the same', (storage) => {
    const depth = 64;
    const expected = Float64Array.from(weights.gate);
    quantiseRows(`${storage}_f16`, expected, depth, never);
    const blocks = ggmlBlocks(weights.gate, depth, storage);
    const bytes = storage === 'int4' ? 18 : 34;
    expect(blocks.length).toBe((weights.gate.length / 32) * bytes);
    const got = Float64Array.from(expected, (_, i) => {
      const at = Math.floor(i / 32) * bytes;
      const scale = f16ToNumber((blocks[at] ?? 0) | ((blocks[at + 1] ?? 0) << 8));
      const j = i % 32;
      if (storage === 'int8') return scale * (((blocks[at + 2 + j] ?? 0) << 24) >> 24);
      const pair = blocks[at + 2 + (j % 16)] ?? 0;
      return scale * ((j < 16 ? pair & 15 : pair >> 4) - 8);
    });
    expect(got).toEqual(expected);
  });

  it('of the small OLMoE are those of its spec', () => {
    const total = [...olmoeTensors().values()].reduce((n, t) => n + t.data.length, 0);
    for (const storage of ['f32', 'int8', 'int4'] as const) expect(analyze(specOf(olmoeSpec(storage)), 1).params.total).toBe(total);
  });
});

describe('GGUF', () => {
  const directory = mkdtempSync(join(tmpdir(), 'moec-gguf-'));
  afterAll(() => rmSync(directory, { recursive: true }));

  it('has its parts where its header says', () => {
    const path = join(directory, 'x.gguf');
    const data = [Uint8Array.of(1, 2, 3, 4, 5, 0, 0, 0), Uint8Array.of(9, 8, 7, 6)];
    writeGguf(path, { a: { type: 'u32', value: 7 }, b: { type: 'strings', value: ['x', 'yz'] } }, data.map((d, i) => ({ name: `t${i}`, dims: [d.length / 4, 1], type: 'f32', data: d })));
    const bytes = readFileSync(path);
    expect(bytes.subarray(0, 4).toString()).toBe('GGUF');
    expect([bytes.readUInt32LE(4), bytes.readBigUInt64LE(8), bytes.readBigUInt64LE(16)]).toEqual([3, 2n, 2n]);
    // The second tensor begins a boundary of 32 bytes behind the first, and so does the data as a whole.
    expect(bytes.length % 32).toBe(0);
    expect([...bytes.subarray(bytes.length - 32, bytes.length - 28)]).toEqual([9, 8, 7, 6]);
    expect([...bytes.subarray(bytes.length - 64, bytes.length - 59)]).toEqual([1, 2, 3, 4, 5]);
  });
});

const TOKENS = [2, 19];
const taskOf = (reference: (x: Float32Array, storage: Peer['storage']) => Float64Array): Parameters<typeof benchLayer>[1] => ({
  tokens: TOKENS, rounds: 2, input: (n) => layerInput(n, SHAPE), reference, flops: (n) => layerFlops(SHAPE, n), say: () => undefined,
});

describe('a table', () => {
  it('of mixtures: the hand-written one and moec, in f32 and quantised, agree with f64', async () => {
    const { rows, absent } = await benchLayer([await naivePeer(weights, SHAPE), await moecMixture(weights, SHAPE, 'f32'), await moecMixture(weights, SHAPE, 'int4')], taskOf((x, storage) => {
      if (storage === 'f32') return mixtureReference(x, weights.router, weights, SHAPE);
      const { gate, up, down } = quantisedWeights(weights, SHAPE, 'int4_f32');
      return mixtureReference(x, weights.router, { gate: dequantised(gate), up: dequantised(up), down: dequantised(down) }, SHAPE);
    }));
    expect(absent).toEqual([]);
    expect(rows.map((r) => r.tokens)).toEqual(TOKENS.flatMap((t) => [t, t, t]));
    for (const r of rows) {
      expect(r.nmse, r.name).toBeLessThan(1e-11);
      expect(r.n).toBe(2);
      expect(r.medianMs).toBeGreaterThan(0);
    }
    expect(rows[0]?.timesFirst).toBe(1);
  });

  it('of dense layers: tiles, too, where rows do not fill them', async () => {
    const dense = denseWeights(SHAPE);
    const peer = await tiledPeer(dense);
    for (const tokens of TOKENS) {
      const x = layerInput(tokens, SHAPE);
      expect(deviation(await peer.run(x), denseReference(x, dense), tokens).nmse).toBeLessThan(1e-11);
    }
  });

  it('tells of those that cannot be opened, fail, or are wrong', async () => {
    const peer = (name: string, run: Peer['run']): Peer => ({ name, storage: 'f32', detail: '', run, dispose: () => undefined });
    const missing = await tryPeer('missing', () => Promise.reject(new Error('no such | library\nat here')));
    expect(isAbsent(missing)).toBe(true);
    const all = [
      await naivePeer(weights, SHAPE),
      missing,
      peer('wrong', (x) => Promise.resolve(x.map((v) => v + 1))),
      peer('failing', () => Promise.reject(new Error('lost its device'))),
    ];
    const bench = await benchLayer(all, { ...taskOf((x) => mixtureReference(x, weights.router, weights, SHAPE)), tokens: [2] });
    expect(bench.rows.map((r) => r.name)).toEqual(['naive WGSL, a thread an output']);
    expect(bench.absent.map((a) => a.name)).toEqual(['missing', 'wrong, 2 tokens', 'failing, 2 tokens']);
    const text = markdown({ date: '2026-05-02T00:00:00.000Z', command: 'npm start', device: { name: 'x', software: true, processor: 'y', cores: 2 }, versions: { moec: '0' }, mixture: bench });
    expect(text).toContain('| missing: not measured: no such \\| library |');
    expect(text).toMatch(/wrong, 2 tokens: not measured: its result is wrong: NMSE/);
    expect(text).not.toMatch(/undefined|NaN/);
  });

  it('has ratios per round', () => {
    expect(timesAsFast([1, 10, 100], [2, 20, 200])).toBe(2);
    expect(timesAsFast([1], [])).toBeNaN();
  });
});
