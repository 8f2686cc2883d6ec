/** Tables, statistics, facts and pictures of a benchmark, on results made up here. */
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import type { Row } from '../../../src/cli/bench/measure.ts';
import { writePictures } from '../../../src/cli/bench/pictures.ts';
import { picturesOf, searchPicture } from '../../../src/cli/bench/plots.ts';
import { startProgress } from '../../../src/cli/bench/progress.ts';
import { markdownReport, plainReport } from '../../../src/cli/bench/report.ts';
import { type BenchResult, passRows, ratesOf, roofline } from '../../../src/cli/bench/result.ts';
import { medianRatio, summarise } from '../../../src/cli/bench/stats.ts';
import { quantile } from '../../../src/tuner/stats.ts';
import { bytesText, markdownTable, plainTable, short } from '../../../src/cli/table.ts';
import { readSearch, searchSteps } from '../../../src/cli/bench/tuning-log.ts';
import { loadVega } from '../../../src/cli/bench/vega.ts';
import { type DeviceFacts, factsPath, parseFacts, readFacts, writeFacts } from '../../../src/cli/device-facts.ts';

const directory = mkdtempSync(join(tmpdir(), 'moec-bench-'));
afterAll(() => rmSync(directory, { recursive: true, force: true }));

const PEAKS = { copyGBs: 100, fmaGflops: 2000, loadG: 10, load4G: 5, sharedGBs: 500, dispatchUs: 5, submitUs: 50 };
const device = { backend: 'webgpu', name: 'Made-up GPU', adapter: 'made / up', software: false };
const facts: DeviceFacts = { version: 1, ...device, measured: '2026-05-02T10:00:00.000Z', peaks: PEAKS };

const row = (name: string, tokens: number, ms: number, more: Partial<Row> = {}): Row => ({
  tokens, name, dispatches: 3, host: { n: 9, median: ms + 1, p90: ms + 2 }, device: { n: 9, median: ms, p90: ms * 1.2 }, ratio: 1,
  work: { flops: tokens * 1e8, bytes: 1e7 + tokens * 1e5 }, ...more,
});
const histogram = { counts: [3, 1, 0, 4], rows: 8, touched: 3, imbalance: 2 };
const result: BenchResult = {
  spec: 'a|b', command: 'moec bench x.moe', date: '2026-05-02T10:00:00.000Z', versions: { moec: '0', Node: '20' }, device, rounds: 9,
  rows: [1, 64].flatMap((tokens) => ['uniform', 'zipf1.2'].flatMap((routing) => [
    row('fused', tokens, tokens / 10, { routing, histogram }),
    row('dense', tokens, tokens / 20, { routing, ratio: 0.5 }),
    row('no-plan', tokens, tokens / 8, { routing, without: 'plan', ratio: 1.25, dispatches: 5, work: { flops: tokens * 1e8, bytes: 3e7 } }),
  ])),
  same: [{ name: 'no-dead-code', tokens: [1, 64] }], failed: [{ name: 'no-fuse-gather', why: 'too large' }],
  stages: [{ name: 'fused', kernels: 7, weightBytes: 2 ** 21, times: { compile: 100, kernels: 200, weights: 30 }, tokens: 1, first: 50, steady: 1 }], facts,
};

describe('statistics', () => {
  it('of rounds', () => {
    expect(summarise([4, 1, 3, 2])).toEqual({ n: 4, median: 2.5, p90: 3.7 });
    expect(summarise([7])).toEqual({ n: 1, median: 7, p90: 7 });
    expect(quantile([], 0.5)).toBeNaN();
    // Per round: a drift that all share is no difference.
    expect(medianRatio([2, 20, 200], [1, 10, 100])).toBe(2);
  });

  it('rates and shares of the peaks', () => {
    const { gflops, gbs, intensity, share, clock } = ratesOf(row('x', 10, 1), facts);
    expect({ gflops, gbs, intensity, clock }).toEqual({ gflops: 1000, gbs: 11, intensity: 1e9 / 1.1e7, clock: 'device' });
    expect(share).toMatchObject({ fma: 0.5, copy: 0.11, roofline: 0.5 });
    expect(ratesOf({ ...row('x', 10, 1), work: { flops: 0, bytes: 0 } }, undefined)).toMatchObject({ gflops: 0, gbs: 0, intensity: 0 });
    const { device: _d, ...host } = row('x', 10, 1);
    expect(ratesOf(host, undefined)).toMatchObject({ clock: 'host', ms: 2 });
    expect([roofline(PEAKS, 1), roofline(PEAKS, 1000)]).toEqual([100, 2000]);
  });

  it('what a pass is worth', () => {
    expect(passRows(result)[0]).toEqual({ pass: 'plan', tokens: 1, routing: 'uniform', time: 0.25, ms: 0.025, bytes: 3e7 - 1.01e7, dispatches: 2 });
  });
});

describe('text', () => {
  it('numbers', () => {
    expect([0, 0.001234, 12.345, 1234.5, NaN].map((x) => short(x))).toEqual(['0', '0.00123', '12.3', '1235', '-']);
    expect([0, 1023, 1536, -(2 ** 20)].map(bytesText)).toEqual(['0 B', '1023 B', '1.50 KiB', '-1.00 MiB']);
  });

  it('tables', () => {
    const columns = [{ title: 'a', left: true, cell: (r: readonly string[]) => r[0] ?? '' }, { title: 'long', cell: (r: readonly string[]) => r[1] ?? '' }];
    expect(plainTable(columns, [['xx', '1']])).toBe('a   long\nxx     1');
    expect(markdownTable(columns, [['x|y', '1']])).toBe('| a | long |\n|---|---:|\n| x\\|y | 1 |');
  });

  it('reports', () => {
    const plain = plainReport(result);
    for (const words of ['of roofline', 'What each pass is worth', 'Routing reached', '3 of 4', 'Getting ready', 'no-dead-code changes nothing for 1, 64 tokens', 'no-fuse-gather cannot be compiled: too large']) expect(plain).toContain(words);
    const markdown = markdownReport(result, [{ title: 'a picture', file: 'p/x.svg' }]);
    expect(markdown).toMatch(/^# a\|b\n/);
    expect(markdown).toContain('![a picture](p/x.svg)');
    const bare: BenchResult = { ...result, rows: result.rows.map(({ device: _d, routing: _r, histogram: _h, ...r }) => r).filter((r) => r.without === undefined), stages: [], facts: undefined };
    expect(plainReport(bare)).not.toMatch(/device ms|routing|roofline|What each|Getting ready|NaN|undefined/);
  });
});

describe('facts of a device', () => {
  it('are read as they were written, by that device alone', () => {
    const path = writeFacts(device, PEAKS, directory);
    expect(existsSync(path)).toBe(true);
    expect(readFacts(device, directory)).toMatchObject({ ...device, peaks: PEAKS });
    expect(readFacts({ ...device, adapter: 'another driver' }, directory)).toBeUndefined();
    expect(factsPath(device, directory)).toBe(path);
  });

  it.each(['', '{', '[]', 'null', '{"version":2}', JSON.stringify({ ...facts, peaks: { ...PEAKS, copyGBs: -1 } }), JSON.stringify({ ...facts, peaks: { copyGBs: 1 } }), JSON.stringify({ ...facts, name: 7 })])('%s are none', (text) => {
    expect(parseFacts(text)).toBeUndefined();
    writeFileSync(factsPath(device, directory), text);
    expect(readFacts(device, directory)).toBeUndefined();
  });
});

describe('pictures', () => {
  const texts = (svg: string): string => svg.replaceAll(/<[^>]+>/g, '\n');

  it('are drawn without a canvas, with what they show written on them', async () => {
    const written = await writePictures(result, join(directory, 'deep/pictures'), join(directory, 'deep/report.md'));
    expect(written.map((w) => w.file)).toEqual(['pictures/roofline.svg', 'pictures/tokens.svg', 'pictures/passes.svg', 'pictures/routing.svg', 'pictures/routing-tokens.svg']);
    for (const { path } of written) {
      const svg = readFileSync(path, 'utf8');
      expect(svg).toMatch(/^<svg/);
      expect(svg).not.toMatch(/NaN|undefined|Infinity/);
      expect(texts(svg)).toContain('Made-up GPU');
    }
    const [roof = '', tokens = '', passes = ''] = written.map(({ path }) => texts(readFileSync(path, 'utf8')));
    for (const words of ['GFLOP/s', 'useful FLOP for each byte moved', 'fused', 'dense', '100 GB/s']) expect(roof).toContain(words);
    expect(roof).not.toContain('no-plan');
    for (const words of ['tokens of a call', 'ms a call, device time', '64']) expect(tokens).toContain(words);
    for (const words of ['plan', 'time, %', 'dispatches', 'bytes moved, MiB']) expect(passes).toContain(words);
  });

  it('leave out what there is nothing to show of', async () => {
    const bare: BenchResult = { ...result, rows: [row('fused', 8, 1)], facts: undefined };
    const pictures = picturesOf(bare);
    expect(pictures.map((p) => p.name)).toEqual(['roofline', 'tokens']);
    const vega = await loadVega();
    for (const { spec } of pictures) expect(await vega.svg(spec)).not.toMatch(/NaN/);
    expect(picturesOf({ ...bare, rows: [] }).map((p) => p.name)).not.toContain('roofline');
  });

  it('of a search: the best so far, unit by unit, failures and broken lines among them', async () => {
    const line = (key: string, stage: string, outcome: object): string => JSON.stringify({ v: 1, id: `${key} ${stage} 1 1 abc`, config: '', outcome });
    const log = [
      line('a1', 'standard', { ok: true, ratio: 0.1 }),
      line('a1', 'search', { ok: true, ratio: 1.5 }),
      line('b2', 'search', { ok: true, ratio: 0.5 }),
      line('a1', 'search', { ok: false, failure: 'compile', message: '' }),
      line('a1', 'search', { ok: true, ratio: 0.8 }),
      '{"v":1,"id":"a1 search',
      line('a1', 'search', { ok: true, ratio: 0.9 }),
      '',
    ].join('\n');
    const steps = searchSteps(log, (key) => `unit ${key}`);
    expect(steps.filter((s) => s.unit === 'unit a1').map((s) => [s.evaluation, s.best])).toEqual([[0, 1], [1, 1], [2, 1], [3, 0.8], [4, 0.8]]);
    expect(steps.filter((s) => s.unit === 'unit b2').map((s) => s.best)).toEqual([1, 0.5]);
    const svg = await (await loadVega()).svg(searchPicture(result, steps).spec);
    for (const words of ['evaluations', 'unit a1', 'unit b2', 'of the default']) expect(texts(svg)).toContain(words);
    expect(svg).not.toMatch(/NaN/);
    expect(() => readSearch(directory)).toThrow(/holds no search/);
  });
});

describe('progress', () => {
  it('is a line now and then where there is no terminal', () => {
    const lines: string[] = [];
    const stream = Object.assign(Object.create(process.stderr), { isTTY: false, write: (text: string) => lines.push(text) > 0 });
    const progress = startProgress(stream);
    for (let i = 0; i < 1000; i++) progress.at(i, 1000, 'x');
    progress.end();
    expect(lines).toEqual([]);
  });
});
