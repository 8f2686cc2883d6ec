/** The report of GPU results, on results made up here. */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { report } from '../../bench/gpu/report.ts';
import { type LayerRow, type Machine, type Row, merge, readRows, resultName } from '../../bench/gpu/results.ts';
import { markdown, ownRow } from '../../bench/gpu/tables.ts';

const command = 'bench/gpu/run.sh bench';
const machine: Machine = {
  kind: 'machine', date: '2026-05-02', device: 'Made-up GPU 80GB', driver: '1.2', torch: '2', triton: '3', copyGBs: 3000, matmulTflops: 800,
  clocksIdle: { 'clocks.sm': '345 MHz' }, clocksAfter: { 'clocks.sm': '1980 MHz' }, limits: {}, command,
};
const layer = (what: string, medianMs: number, tokens = 4096, more: Partial<LayerRow> = {}): LayerRow => ({
  kind: 'layer', shape: 'deepseekmoe-16b', tokens, routing: 'uniform', what, detail: 'graph', medianMs, p10Ms: medianMs * 0.9, p90Ms: medianMs * 1.1,
  samples: 50, rounds: 5, coldL2: tokens <= 64, error: 4e-3, worstRow: 6e-3, flops: 6 * tokens * 2048 * 11264, bytes: 138e6, touched: 64, imbalance: 1.4, command, ...more,
});
const rows: Row[] = [
  machine,
  layer('moec sm_90a', 1.25),
  layer('moec sm_80', 2),
  layer('moec sm_90a dense', 1),
  layer('grouped_mm', 3),
  layer('cublas-dense', 0.8, 4096, { error: null, worstRow: null }),
  layer('torch-router', 0.25, 4096, { error: null, worstRow: null }),
  layer('moec sm_90a', 0.06, 1, { touched: 6 }),
  layer('grouped_mm', 0.24, 1, { touched: 6 }),
  { kind: 'model', name: 'deepseek-moe-16b sm_90a', tokens: 4096, medianMs: 41, p10Ms: 40, p90Ms: 42, samples: 10, dispatches: 300, weightBytes: 33e9, command: 'bench/gpu/run.sh model' },
  { kind: 'model', name: 'deepseek-7b sm_90a', tokens: 4096, medianMs: 100, p10Ms: 99, p90Ms: 101, samples: 10, dispatches: 300, weightBytes: 14e9, command: 'bench/gpu/run.sh model' },
  { kind: 'check', stage: 'conformance', name: 'moec_ldmatrix_x4', ok: true, detail: '', command: 'bench/gpu/run.sh conformance' },
  { kind: 'check', stage: 'conformance', name: 'moec_wgmma', ok: false, detail: 'lane 3 | differs', command: 'bench/gpu/run.sh conformance' },
  { kind: 'stage', name: 'bench', status: 0, seconds: 400, command },
  { kind: 'stage', name: 'profile', status: 124, seconds: 120, command: 'bench/gpu/run.sh profile' },
  { kind: 'skip', shape: 'deepseek-v3', what: 'the shape', tokens: null, routing: null, reason: 'needs 53 GB', command },
];
const text = (all: readonly Row[]): string => all.map((r) => JSON.stringify(r)).join('\n');

describe('GPU results', () => {
  const directory = mkdtempSync(join(tmpdir(), 'moec-report-'));
  afterAll(() => rmSync(directory, { recursive: true, force: true }));

  it('are read line by line, a broken last line left out', () => {
    expect(readRows(`${text(rows)}\n{"kind":"layer","shape":"ol`)).toEqual(rows);
    expect(readRows('\n[]\n{"kind":"other","command":"x"}\n')).toEqual([]);
  });

  it('of several runs: the last of equal rows counts, and what was measured later was not skipped', () => {
    const skipped: Row = { kind: 'skip', shape: 'deepseekmoe-16b', what: 'moec sm_80', tokens: 4096, routing: 'uniform', reason: 'late', command };
    const merged = merge([layer('moec sm_80', 9), skipped, ...rows]);
    expect(merged.filter((r) => r.kind === 'layer' && r.what === 'moec sm_80').map((r) => r.kind === 'layer' && r.medianMs)).toEqual([2]);
    expect(merged).not.toContainEqual(skipped);
    expect(merged).toHaveLength(rows.length);
  });

  it('compare everyone with the newest architecture', () => {
    expect(ownRow([layer('moec sm_80', 2), layer('moec sm_90a', 3), layer('moec sm_90a dense', 1)])?.what).toBe('moec sm_90a');
    expect(ownRow([layer('grouped_mm', 1)])).toBeUndefined();
  });

  it('become tables: rates, shares of the ceilings, ratios', () => {
    const page = markdown(rows);
    const find = (start: string): string => page.split('\n').find((l) => l.startsWith(start)) ?? '';
    // 6 · 4096 · 2048 · 11264 FLOPs in 1.25 ms are 453.5 TFLOP/s, 57 % of 800.
    expect(find('| 4096 | moec sm_90a | graph')).toBe('| 4096 | moec sm_90a | graph | 1.250 | 1.125 | 1.375 | 453.5 | 57 % |  |  | 1.00 | 4.0e-3 | `bench/gpu/run.sh bench` |');
    // 138 MB in 0.06 ms are 2300 GB/s, 77 % of 3000.
    expect(find('| 1 | moec sm_90a | graph')).toContain('| 2300 | 77 % | 1.00 |');
    expect(find('| 1 | grouped_mm')).toContain('| 4.00 |');
    expect(find('| 4096 | cublas-dense')).toContain('not compared');
    expect(page).toContain('| deepseekmoe-16b | uniform | moec sm_90a | 4096 | 2.40 (2.20) | 1.25 | 64 % |');
    expect(page).toContain("deepseek-moe-16b sm_90a takes 0.410 of deepseek-7b sm_90a's time");
    expect(page).toContain('## conformance: 1 of 2 good');
    expect(page).toContain('| moec_wgmma | lane 3 \\| differs |');
    expect(page).toContain('| deepseek-v3 |  |  | the shape | needs 53 GB |');
    expect(page).toContain('| stage profile | its time was up after 120 s: rows may be missing |');
    expect(page).not.toContain('stage bench');
    const widths = page.split('\n').filter((l) => l.startsWith('| 4096 |') || l.startsWith('| T |')).map((l) => l.split('|').length);
    expect(new Set(widths).size).toBe(1);
  });

  it('are files named after date and device', () => {
    const file = join(directory, 'results.jsonl');
    writeFileSync(file, text(rows));
    const [json = '', page = ''] = report([file], directory);
    expect(json).toBe(join(directory, '2026-05-02-made-up-gpu-80gb.json'));
    expect(JSON.parse(readFileSync(json, 'utf8'))).toEqual(rows);
    expect(readFileSync(page, 'utf8')).toBe(markdown(rows));
    expect(resultName([])).toBeUndefined();
  });

  it('of two devices are not mixed', () => {
    const file = join(directory, 'two.jsonl');
    writeFileSync(file, text([...rows, { ...machine, device: 'Another' }]));
    expect(() => report([file], directory)).toThrow(/one device at a time/);
  });
});
