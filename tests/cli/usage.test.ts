/** Help, options, exit codes for usage, streams and colours. */
import { spawnSync } from 'node:child_process';
import { existsSync, openSync, closeSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { build, errorOf, EXAMPLES, jsonOf, moec, ROOT, scratch, SPECS } from './moec.ts';

const LAYER = join(SPECS, 'deepseekmoe_softmax_topk_shared.moe');
const COMMANDS = ['init', 'check', 'fmt', 'compile', 'run', 'verify', 'analyze', 'fit', 'explain', 'dump', 'tune', 'bench', 'doctor', 'demo'];
const dir = scratch();
const BROKEN = join(dir, 'broken.moe');

beforeAll(async () => {
  await build();
  writeFileSync(BROKEN, 'layer a { hidden 32  moe { experts 6 of swiglu 16  active 8 } }\n');
});
afterAll(() => rmSync(dir, { recursive: true }));

describe('help', () => {
  it('names every command and takes less than 200 ms of CPU', () => {
    const times = [1, 2, 3].map(() => {
      const run = spawnSync('sh', ['-c', `"${process.execPath}" "${join(ROOT, 'dist/cli/main.js')}" --help; times`], { encoding: 'utf8' });
      for (const command of COMMANDS) expect(run.stdout).toContain(`\n  ${command} `);
      // `times` prints the shell's own times, then those of its children: "0m0.075s 0m0.010s".
      const [user = '', system = ''] = run.stdout.trim().split('\n').at(-1)?.split(' ') ?? [];
      return [user, system].reduce((sum, t) => sum + Number(/m([\d.]+)s/.exec(t)?.[1] ?? Number.NaN), 0);
    });
    expect(Math.min(...times)).toBeLessThan(0.2);
  });

  it.each(COMMANDS)('of %s shows an example and --json', async (command) => {
    const { code, stdout, stderr } = await moec([command, '--help']);
    expect(code).toBe(0);
    expect(stdout).toMatch(new RegExp(`Example:\\n  moec ${command}\\b`));
    expect(stdout).toContain('--json');
    expect(stderr).toBe('');
  });

  it('has examples whose options exist', async () => {
    const helps = await Promise.all(COMMANDS.map((c) => moec([c, '--help'])));
    for (const { stdout } of helps) {
      const [about = '', examples = ''] = stdout.split('Example:');
      for (const [option] of examples.matchAll(/ --?[a-z][a-z-]*/g)) {
        expect(about, examples).toContain(option.trim());
      }
    }
  });

  it('without a command goes to stderr with exit code 2', async () => {
    const { code, stdout, stderr } = await moec([]);
    expect({ code, stdout }).toEqual({ code: 2, stdout: '' });
    expect(stderr).toContain('Usage: moec');
  });

  it('tells the version that package.json has', async () => {
    const { default: meta } = await import('../../package.json', { with: { type: 'json' } });
    expect((await moec(['--version'])).stdout.trim()).toBe(meta.version);
  });
});

describe('usage errors exit with 2 and say what was meant', () => {
  it.each<readonly [string, readonly string[], RegExp]>([
    ['a command', ['comple', 'x.moe'], /Did you mean compile\?/],
    ['a word that is like none', ['frobnicate'], /unknown command 'frobnicate'/],
    ['an option', ['analyze', '--josn', LAYER], /Did you mean --json\?/],
    ['an option of a command with --no-PASS', ['dump', LAYER, '--stage', 'graph', '--aftre', 'plan'], /did you mean --after\?/],
    ['an option before the file', ['dump', '--stgae', 'graph', LAYER], /--stage|did you mean/],
    ['a pass', ['dump', LAYER, '--stage', 'graph', '--no-fuse-gathr'], /did you mean fuse-gather\?/],
    ['a pass like no other', ['dump', LAYER, '--stage', 'graph', '--no-tea'], /one of fold-constants/],
    ['a pass after which to stop', ['dump', LAYER, '--stage', 'graph', '--after', 'fuse-routr'], /did you mean fuse-router\?/],
    ['a stage', ['dump', LAYER, '--stage', 'grap'], /Allowed choices are ast, model, graph/],
    ['no stage', ['dump', LAYER], /--stage/],
    ['no file', ['check'], /missing required argument/],
    ['a second file', ['analyze', LAYER, LAYER], /too many arguments/],
    ['a second file with --no-PASS', ['dump', '--stage', 'model', LAYER, LAYER], /one file is expected, not 2/],
    ['a number of tokens', ['analyze', LAYER, '--tokens', '0'], /positive whole number, not "0"/],
    ['tokens that are no number', ['fit', LAYER, '--tokens', '1e3'], /positive whole number/],
    ['a profile', ['fit', LAYER, '--limits', 'huge'], /baseline, desktop, max/],
    ['no output', ['run', LAYER], /--output is missing/],
    ['no weights', ['run', LAYER, '--output', 'y'], /--weights is missing/],
    ['no input', ['run', LAYER, '--output', 'y', '--weights', 'w'], /--input is missing/],
    ['neither --from nor --template', ['init'], /--from or --template/],
    ['both --from and --template', ['init', '--from', 'a', '--template', 'b'], /--from or --template/],
    ['a code', ['explain', 'MOE0000'], /no diagnostic MOE0000/],
    ['a text of another target', ['dump', LAYER, '--stage', 'cuda', '--target', 'webgpu'], /a text of cuda, not of webgpu/],
    ['an architecture', ['compile', LAYER, '--target', 'cuda', '--arch', 'sm_70'], /Allowed choices are sm_80, sm_90a/],
    ['an architecture without its target', ['compile', LAYER, '--arch', 'sm_80', '--out', 'x'], /--arch is for --target cuda/],
    ['emulation without its target', ['run', LAYER, '--emulate', '--output', 'y', '--weights', 'w', '--input', 'x'], /--emulate is for --target cuda/],
  ])('%s', async (_what, args, words) => {
    const run = await moec([...args, '--json']);
    expect(run.stderr).toMatch(words);
    expect(run.stderr).not.toMatch(/^ +at /m);
    expect(run.code).toBe(2);
    expect(errorOf(run)).toMatchObject({ exitCode: 2 });
  });
});

describe('streams', () => {
  it('stdout is the product, stderr the talk', async () => {
    const bad = await moec(['check', BROKEN]);
    expect(bad).toMatchObject({ code: 1, stdout: '' });
    expect(bad.stderr).toContain('error[MOE3001]');
    const good = await moec(['dump', LAYER, '--stage', 'graph']);
    expect(good).toMatchObject({ code: 0, stderr: '' });
    expect(good.stdout).toMatch(/^graph "layer"/);
  });

  it('has no colour where there is no terminal, unless asked for, and NO_COLOR wins', async () => {
    const esc = '\u001b[';
    expect((await moec(['check', BROKEN])).stderr).not.toContain(esc);
    expect((await moec(['check', BROKEN], { env: { FORCE_COLOR: '1' } })).stderr).toContain(esc);
    expect((await moec(['check', BROKEN], { env: { FORCE_COLOR: '0' } })).stderr).not.toContain(esc);
    expect((await moec(['check', BROKEN], { env: { FORCE_COLOR: '1', NO_COLOR: '1' } })).stderr).not.toContain(esc);
    expect((await moec(['check', BROKEN], { env: { FORCE_COLOR: '1', NO_COLOR: '' } })).stderr).toContain(esc);
  });

  it.skipIf(process.platform === 'win32')('a reader that stops reading ends it quietly', () => {
    const main = join(ROOT, 'dist/cli/main.js');
    const command = `"${process.execPath}" "${main}" dump "${join(EXAMPLES, 'deepseek-v3.moe')}" --stage manifest | head -n 1`;
    const { stdout, stderr } = spawnSync('sh', ['-c', command], { encoding: 'utf8' });
    expect(stdout).toBe('{\n');
    expect(stderr).toBe('');
  });

  it.skipIf(!existsSync('/dev/full'))('a full disk under stdout is told with exit code 5', () => {
    const full = openSync('/dev/full', 'w');
    const run = spawnSync(process.execPath, [join(ROOT, 'dist/cli/main.js'), 'analyze', LAYER], { encoding: 'utf8', stdio: ['ignore', full, 'pipe'] });
    closeSync(full);
    expect(run.status).toBe(5);
    expect(run.stderr).toMatch(/^error: stdout cannot be written/);
    expect(run.stderr).not.toMatch(/^ +at /m);
  });

  it.skipIf(process.platform === 'win32')('an interrupt ends it, with 130 in a shell', async () => {
    const { code, signal } = await moec(['fmt', '-'], { input: 'open', interruptAfter: 1500 });
    // A process that SIGINT ended has no exit code; shells call it 130.
    expect(code === 130 || signal === 'SIGINT').toBe(true);
  });
});

describe('--json is one document for every command that ends well', () => {
  it.each<readonly [string, readonly string[], string]>([
    ['check', ['check', LAYER], 'files'],
    ['check --format json', ['check', LAYER, '--format', 'json'], 'diagnostics'],
    ['fmt', ['fmt', '--check', LAYER], 'files'],
    ['init', ['init', '--template', 'mixtral'], 'text'],
    ['analyze', ['analyze', LAYER], 'params'],
    ['fit', ['fit', LAYER], 'profiles'],
    ['explain CODE', ['explain', 'moe1007'], 'title'],
    ['explain FILE', ['explain', LAYER], 'fusion'],
    ['dump ast', ['dump', LAYER, '--stage', 'ast'], 'units'],
    ['dump model', ['dump', LAYER, '--stage', 'model'], 'hidden'],
    ['dump graph', ['dump', LAYER, '--stage', 'graph'], '0'],
    ['dump kernels', ['dump', LAYER, '--stage', 'kernels'], '0'],
    ['dump wgsl', ['dump', LAYER, '--stage', 'wgsl'], 'kernels/k0_route.portable.wgsl'],
    ['dump manifest', ['dump', LAYER, '--stage', 'manifest'], 'sections'],
    ['doctor', ['doctor', '--optional'], 'findings'],
  ])('%s', async (_what, args, key) => {
    const run = await moec([...args, '--json']);
    expect(run.code, run.stderr).toBe(0);
    expect(jsonOf(run)).toHaveProperty([key]);
  });

  it('and for those that end with diagnostics', async () => {
    for (const args of [['check'], ['analyze'], ['fit'], ['explain'], ['dump', '--stage', 'model'], ['dump', '--stage', 'wgsl'], ['compile', '--out', join(dir, 'pkg')]]) {
      const run = await moec([...args, BROKEN, '--json']);
      expect(run.code, args.join(' ')).toBe(1);
      expect(JSON.stringify(jsonOf(run)['diagnostics'])).toContain('MOE3001');
    }
  });
});
