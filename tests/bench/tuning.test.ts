/** The measuring of the tuner's promises, as far as it goes without a device: specs, restricted spaces, results and the page. */
import { mkdtempSync, mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { stateOf } from '../../bench/tuning/command.ts';
import { specOf } from '../../bench/tuning/device.ts';
import { problemOf, restricted } from '../../bench/tuning/exhaustive.ts';
import { allowance, type PromiseRow } from '../../bench/tuning/promise.ts';
import { page } from '../../bench/tuning/report.ts';
import { type Part, readResults, withRows, writeResults } from '../../bench/tuning/results.ts';
import { randomSpec } from '../../bench/tuning/specs.ts';
import { spaceOf } from '../../src/tuner/tune-unit.ts';
import { CAPS, fakeUnit } from '../tuner/fakes.ts';

const HERE = mkdtempSync(join(tmpdir(), 'moec-tuning-'));
afterAll(() => rmSync(HERE, { recursive: true, force: true }));

const row = (r: Partial<PromiseRow>): PromiseRow => ({
  index: 0, spec: 'a spec', kernel: 'experts', tokens: 4, config: 'block8', evaluations: 9, defaultMs: 2, tunedMs: 1.6, ratio: 0.8, noise: 0.01, twin: 1, twinNoise: 0.01, longer: false, ...r,
});
const part = (rows: readonly PromiseRow[]): Part<PromiseRow> => ({ date: '2026-05-02', device: 'made up', versions: '1', command: 'main.js --specs 2', rows });

describe('specs', () => {
  it('are specs, with every form among them', () => {
    const all = Array.from({ length: 60 }, (_, i) => randomSpec(i + 1));
    const specs = all.map(({ text }) => specOf(text));
    expect(new Set(specs.map((s) => s.kind))).toEqual(new Set(['layer', 'model']));
    for (const word of ['int4', 'int8', 'bf16', 'ffn', 'shared', 'gqa', 'mha']) expect(all.some((s) => s.text.includes(word)), word).toBe(true);
    expect(randomSpec(5)).toEqual(randomSpec(5));
    for (let i = 0; i < 10; i++) expect(() => specOf(problemOf(i, 1).text)).not.toThrow();
  });
});

describe('a restricted space', () => {
  it('has so many choices of one kernel, the default among them, and the default of the other', () => {
    const unit = fakeUnit({ kind: 'layer' });
    const space = restricted(unit, spaceOf(unit, CAPS), 1, 40, 3);
    expect(space.tileRows).toEqual([16]);
    const [first, second] = space.choices(16);
    expect(first?.all).toEqual([first?.standard]);
    expect(second?.all).toHaveLength(40);
    expect(second?.all[0]).toBe(second?.standard);
    expect(new Set(second?.all.map((c) => c.text)).size).toBe(40);
  });
});

describe('results', () => {
  it('allow 3 %, or what two identical runs differ by', () => {
    expect(allowance({ twin: 1.01, twinNoise: 0.02 })).toBe(1.03);
    expect(allowance({ twin: 0.9, twinNoise: 0.02 })).toBeCloseTo(1.1, 12);
    expect(allowance({ twin: 1, twinNoise: 0.08 })).toBe(1.08);
  });

  it('of one part leave the others, and rows replace those of their index', () => {
    const file = join(HERE, 'a/results.json');
    const pair = { ...part([]), rows: [{ index: 0, spec: 's', tokens: '4', codes: '0 and 0', entries: 1, corrupt: 0, torn: 0, left: 0, measurements: 9, known: true }] };
    writeResults(file, withRows(withRows({}, 'pair', pair), 'specs', part([row({ index: 1 }), row({ index: 2, kernel: 'a' }), row({ index: 2, kernel: 'b' })])));
    const after = withRows(readResults(file), 'specs', part([row({ index: 2, kernel: 'c' }), row({})]));
    expect(after.pair).toEqual(pair);
    expect(after.specs?.rows.map((r) => `${r.index} ${r.kernel}`)).toEqual(['0 experts', '1 experts', '2 c']);
    expect(readResults(join(HERE, 'none.json'))).toEqual({});
  });

  it('make a page that says which promise is broken', () => {
    const kept = page({ specs: part([row({}), row({ index: 1, config: 'default', ratio: 1.02 })]) });
    expect(kept).toContain('2 specs, 2 kernels; 1 tuned, 1 keep the default');
    expect(kept).toContain('kept by all; worst ratio 1.020 ± 0.010 (experts of 1)');
    expect(kept).not.toContain('## Kills');
    const broken = page({ specs: part([row({ ratio: 1.2 }), row({ index: 1, ratio: 0.5, tunedMs: 1 }), row({ index: 2, ratio: 0.6 })]) });
    expect(broken).toContain('**broken by 1**: experts of 0');
    expect(broken).toContain('median spec: **broken** (1.667)');
  });
});

describe('a store', () => {
  it('is looked at file by file', () => {
    const store = join(HERE, 'store');
    mkdirSync(store);
    writeFileSync(join(store, `${'a'.repeat(32)}.json`), '{"version":');
    writeFileSync(join(store, 'x.1.0.tmp'), '{');
    writeFileSync(join(store, 'log.jsonl'), '{"id":"a","outcome":{}}\n{"id":"b","out');
    expect(stateOf(store)).toEqual({ entries: [], corrupt: [`${'a'.repeat(32)}.json`], left: 1, lines: 1, torn: 1 });
    expect(stateOf(join(HERE, 'nowhere'))).toEqual({ entries: [], corrupt: [], left: 0, lines: 0, torn: 0 });
  });
});
