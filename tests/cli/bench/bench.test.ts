/** `moec bench` and `moec doctor --measure` as a shell runs them, with small layers on the adapter at hand. */
import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { build, errorOf, jsonOf, moec, type Outcome, scratch } from '../moec.ts';

const dir = scratch();
const at = (...names: string[]): string => join(dir, ...names);
const cli = (...args: string[]): Promise<Outcome> => moec(args, { cwd: dir, env: { XDG_CACHE_HOME: process.env['XDG_CACHE_HOME'] ?? join(process.env['HOME'] ?? '', '.cache') } });

const LAYER = `layer tiny {
  hidden 32
  moe {
    experts 8 of swiglu 16  active 2  shared 1
    router softmax top-k renormalize
  }
}
`;
const MODEL = `model small {
  vocab 64  hidden 32  context 32
  attention mha { heads 2 x 16  rope 10000 }
  layers 0..1 { moe { experts 4 of swiglu 16  active 2  router softmax top-k } }
}
`;

beforeAll(async () => {
  await build();
  mkdirSync(dir, { recursive: true });
  writeFileSync(at('tiny.moe'), LAYER);
  writeFileSync(at('small.moe'), MODEL);
  writeFileSync(at('dense.moe'), 'layer d {\n  hidden 16\n  ffn swiglu 32\n}\n');
});
afterAll(() => rmSync(dir, { recursive: true }));

interface JsonRow {
  readonly tokens: number;
  readonly routing?: string;
  readonly name: string;
  readonly rounds: number;
  readonly medianMs: number;
  readonly p90Ms: number;
  readonly ratio: number;
  readonly dispatches: number;
  readonly gflops: number;
  readonly work: { readonly flops: number; readonly bytes: number };
  readonly histogram?: { readonly counts: readonly number[]; readonly touched: number };
}
const rowsOf = (o: Outcome): readonly JsonRow[] => {
  const { rows } = jsonOf(o);
  if (!Array.isArray(rows)) throw new Error(o.stdout);
  return rows;
};

describe('moec bench', () => {
  it('measures contestants, routings and stages, and writes a report with pictures', { timeout: 240_000 }, async () => {
    const done = await cli('bench', 'tiny.moe', '--tokens', '1,16', '--rounds', '3', '--against', 'unfused,dense,passes', '--routing', 'uniform,onehot', '--stages', '--markdown', 'out.md', '--plots', 'pictures', '--json');
    expect(done.code, done.stderr).toBe(0);
    const rows = rowsOf(done);
    for (const r of rows) {
      expect(r.rounds).toBe(3);
      expect(r.medianMs).toBeGreaterThan(0);
      expect(r.p90Ms).toBeGreaterThanOrEqual(r.medianMs);
      expect(r.gflops).toBeGreaterThan(0);
    }
    const fused = rows.filter((r) => r.name === 'fused');
    expect(fused.map((r) => [r.routing, r.tokens])).toEqual([['uniform', 1], ['uniform', 16], ['onehot', 1], ['onehot', 16]]);
    for (const r of fused) expect(r.ratio).toBe(1);
    expect(fused.map((r) => r.histogram?.touched)).toEqual([2, 8, 2, 2]);
    expect(fused[1]?.histogram?.counts).toEqual([4, 4, 4, 4, 4, 4, 4, 4]);
    // Fewer experts are read where all tokens choose the same.
    expect(fused[3]?.work.bytes).toBeLessThan(fused[1]?.work.bytes ?? 0);
    const unfused = rows.find((r) => r.name === 'unfused' && r.tokens === 1);
    expect(unfused?.dispatches).toBeGreaterThan(fused[0]?.dispatches ?? Infinity);
    expect(unfused?.work.flops).toBe(fused[0]?.work.flops);
    const { same, stages } = jsonOf(done);
    expect(same).toContainEqual({ name: 'no-plan', tokens: [1] });
    expect(stages).toContainEqual(expect.objectContaining({ name: 'fused', tokens: 1 }));
    const markdown = readFileSync(at('out.md'), 'utf8');
    for (const name of ['roofline', 'tokens', 'passes', 'routing', 'routing-tokens']) {
      expect(markdown).toContain(`(pictures/${name}.svg)`);
      expect(existsSync(at('pictures', `${name}.svg`))).toBe(true);
    }
    expect(markdown).toContain('--against unfused,dense,passes');
  });

  it('measures models by token ids', { timeout: 120_000 }, async () => {
    const done = await cli('bench', 'small.moe', '--tokens', '1,9', '--rounds', '2', '--against', 'dense', '--json');
    expect(done.code, done.stderr).toBe(0);
    expect(rowsOf(done).map((r) => [r.tokens, r.name])).toEqual([[1, 'fused'], [1, 'dense'], [9, 'fused'], [9, 'dense']]);
  });

  it('is a table on stdout and talk on stderr', { timeout: 120_000 }, async () => {
    const done = await cli('bench', 'dense.moe', '--tokens', '2', '--rounds', '2', '--against', '');
    expect(done.code, done.stderr).toBe(0);
    expect(done.stdout).toMatch(/^tokens  what +dispatches/);
    expect(done.stdout).not.toContain('compiling');
    expect(done.stderr).toContain('compiling fused');
  });

  it.each<[string, readonly string[], RegExp, RegExp]>([
    ['contestant', ['tiny.moe', '--against', 'fused,best'], /nothing called "fused"/, /no-PASS/],
    ['pass', ['tiny.moe', '--against', 'no-such-pass'], /"no-such-pass"/, /no-PASS/],
    ['routing', ['tiny.moe', '--routing', 'uniform,normal'], /no routing "normal"/, /zipf/],
    ['empty word', ['tiny.moe', '--routing', 'uniform,,onehot'], /empty word/, /commas/],
    ['tokens', ['tiny.moe', '--tokens', '1,0'], /--tokens/, /^/],
    ['rounds', ['tiny.moe', '--rounds', 'many'], /--rounds/, /^/],
    ['routing of a model', ['small.moe', '--routing', 'uniform'], /small is a model/, /layer/],
    ['routing of a dense layer', ['dense.moe', '--routing', 'uniform'], /no router/, /leave --routing out/],
    ['tokens beyond the context', ['small.moe', '--tokens', '1,33'], /context of small, 32/, /at most 32/],
    ['tuning', ['tiny.moe', '--tuning', '--plots', 'p'], /holds no search/, /moec tune/],
    ['tuning without pictures', ['tiny.moe', '--tuning', 'x'], /no place/, /--plots/],
    ['emulation', ['tiny.moe', '--emulate'], /--target cuda/, /^/],
  ])('refuses a wrong %s before anything runs', async (_what, args, words, fix) => {
    const done = await cli('bench', ...args, '--json');
    expect(done.code, done.stderr).toBe(2);
    expect(errorOf(done).message).toMatch(words);
    expect(errorOf(done).fix).toMatch(fix);
    expect(done.stderr).not.toContain('compiling');
  });
});

describe('moec doctor --measure', () => {
  it('keeps what the device reaches where `bench` finds it', { timeout: 240_000 }, async () => {
    const env = { XDG_CACHE_HOME: at('cache') };
    const measured = await moec(['doctor', '--measure', '--json'], { env });
    expect(measured.code, measured.stderr).toBe(0);
    expect(jsonOf(measured)['measured']).toMatchObject({ version: 1, peaks: { copyGBs: expect.any(Number), fmaGflops: expect.any(Number), dispatchUs: expect.any(Number) } });
    const benched = await moec(['bench', at('tiny.moe'), '--tokens', '8', '--rounds', '2', '--against', ''], { env });
    expect(benched.code, benched.stderr).toBe(0);
    expect(benched.stdout).toContain('of roofline');
  });
});
