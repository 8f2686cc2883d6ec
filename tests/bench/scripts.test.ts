/** The scripts for machines with a GPU, as far as they go without one: they parse, and what they read of other programs becomes rows. */
import { spawnSync } from 'node:child_process';
import { chmodSync, mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { readRows } from '../../bench/gpu/results.ts';

const GPU = resolve(import.meta.dirname, '../../bench/gpu');
const files = (end: string): string[] => readdirSync(GPU).filter((f) => f.endsWith(end));

/** Runs a program to its end; nothing is left beside the scripts. */
function run(command: string, args: readonly string[]): { readonly status: number | null; readonly stderr: string } {
  const { status, stderr, error } = spawnSync(command, args, { encoding: 'utf8', env: { ...process.env, PYTHONDONTWRITEBYTECODE: '1' } });
  if (error !== undefined) throw error;
  return { status, stderr };
}

describe('scripts of the GPU benchmark', () => {
  const directory = mkdtempSync(join(tmpdir(), 'moec-scripts-'));
  afterAll(() => rmSync(directory, { recursive: true, force: true }));

  it('parse', () => {
    const parse = 'import ast, sys\nfor path in sys.argv[1:]: ast.parse(open(path).read(), path)';
    expect(run('python3', ['-c', parse, ...files('.py').map((f) => join(GPU, f))])).toEqual({ status: 0, stderr: '' });
    for (const file of files('.sh')) expect(run('bash', ['-n', join(GPU, file)])).toEqual({ status: 0, stderr: '' });
  });

  it('makes rows of the conformance program', () => {
    const program = join(directory, 'conformance');
    const rows = join(directory, 'conformance.jsonl');
    writeFileSync(program, '#!/bin/sh\necho "warp_add (f32)      64 values  deviation 0        limit 0        ok"\necho "ldmatrix_x4         12 values  deviation 3        limit 0        FAIL"\necho "1 failures"\nexit 1\n');
    chmodSync(program, 0o755);
    expect(run('python3', [join(GPU, 'conformance_rows.py'), program, rows, '10']).status).toBe(1);
    expect(readRows(readFileSync(rows, 'utf8')).map((r) => r.kind === 'check' && [r.name, r.ok, r.detail])).toEqual([
      ['warp_add (f32)', true, '64 values, deviation 0        limit 0'],
      ['ldmatrix_x4', false, '12 values, deviation 3        limit 0'],
      ['the program', false, 'exit status 1: 1 failures '],
    ]);
  });

  it('makes rows of the profiler’s table', () => {
    const csv = join(directory, 'profile.csv');
    const rows = join(directory, 'profile.jsonl');
    const line = (id: number, kernel: string, section: string, metric: string, unit: string, value: string): string =>
      [String(id), kernel, section, metric, unit, value].map((c) => `"${c}"`).join(',');
    const kernel = 'k3_grouped(const uint4 *, float4 *)';
    writeFileSync(csv, [
      '==PROF== Connected to process 7',
      ['ID', 'Kernel Name', 'Section Name', 'Metric Name', 'Metric Unit', 'Metric Value'].map((c) => `"${c}"`).join(','),
      line(0, kernel, 'GPU Speed Of Light Throughput', 'Duration', 'us', '600.1'),
      line(0, kernel, 'GPU Speed Of Light Throughput', 'Memory Throughput', '%', '41.5'),
      line(0, kernel, 'Memory Workload Analysis', 'Memory Throughput', 'Gbyte/second', '900'),
      line(0, kernel, 'Launch Statistics', 'Something else', '', '1'),
      line(1, kernel, 'GPU Speed Of Light Throughput', 'Duration', 'us', '12.3'),
    ].join('\n'));
    expect(run('python3', [join(GPU, 'profile_rows.py'), csv, rows])).toEqual({ status: 0, stderr: '' });
    expect(readRows(readFileSync(rows, 'utf8'))).toEqual([
      { kind: 'profile', kernel: 'k3_grouped', metrics: { time: '600.1 us', memory: '41.5 %', launches: '2' }, command: 'bench/gpu/run.sh profile' },
    ]);
  });
});
