/** What commands do with files: those that are missing, of another kind, half there, or in the way. */
import { chmodSync, cpSync, existsSync, mkdirSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { build, errorOf, EXAMPLES, GOLDEN, jsonOf, moec, scratch, SPECS } from './moec.ts';

const dir = scratch();
const at = (name: string): string => join(dir, name);
const LAYER = join(SPECS, 'mixtral_top2.moe');
const TWO = 'layer one { hidden 32  ffn swiglu 64 }\nlayer "two words" { hidden 16  ffn swiglu 64 }\n';
const UNFORMATTED = 'layer   a{hidden 32 ffn swiglu 64}';

beforeAll(async () => {
  await build();
  mkdirSync(at('directory'));
  writeFileSync(at('empty.moe'), '');
  writeFileSync(at('latin1.moe'), Uint8Array.of(0x2f, 0x2f, 0x20, 0xe4, 0x0a));
  writeFileSync(at('utf16.moe'), Buffer.from(`\ufeff${TWO}`, 'utf16le'));
  writeFileSync(at('two.moe'), TWO);
  writeFileSync(at('bom.moe'), `\ufeff${UNFORMATTED}`);
});
afterAll(() => rmSync(dir, { recursive: true }));

describe('files that cannot be read exit with 5', () => {
  it.each([
    ['missing', 'nowhere.moe', /nowhere\.moe does not exist/],
    ['directory', 'directory', /directory is a directory/],
    ['under a file', 'two.moe/x', /is not a directory/],
    ['not UTF-8', 'latin1.moe', /latin1\.moe is not UTF-8/],
    ['UTF-16', 'utf16.moe', /utf16\.moe is not UTF-8/],
  ])('%s', async (_what, name, words) => {
    const run = await moec(['check', at(name), '--json']);
    expect(run.code).toBe(5);
    expect(errorOf(run).message).toMatch(words);
    expect(run.stderr).not.toMatch(/^ +at /m);
  });

  it.each(['fmt', 'analyze', 'fit', 'dump', 'explain', 'compile'])('%s says the same', async (command) => {
    const more = command === 'dump' ? ['--stage', 'model'] : command === 'compile' ? ['--out', at('pkg')] : [];
    const run = await moec([command, at('nowhere.moe'), ...more]);
    expect(run).toMatchObject({ code: 5, stdout: '' });
    expect(run.stderr).toContain('nowhere.moe does not exist');
  });

  it.skipIf(process.platform === 'win32' || process.getuid?.() === 0)('not readable', async () => {
    writeFileSync(at('secret.moe'), TWO, { mode: 0 });
    expect(await moec(['check', at('secret.moe')])).toMatchObject({ code: 5 });
  });
});

describe('files of several units and of none', () => {
  it('an empty file is told with a code', async () => {
    const run = await moec(['check', at('empty.moe')]);
    expect(run.code).toBe(1);
    expect(run.stderr).toContain('MOE1017');
  });

  it('check tells all units; other commands ask which', async () => {
    const { files } = jsonOf(await moec(['check', at('two.moe'), '--json']));
    expect(files).toEqual([{ file: at('two.moe'), units: [{ name: 'one', kind: 'layer' }, { name: 'two words', kind: 'layer' }] }]);
    const run = await moec(['analyze', at('two.moe')]);
    expect(run.code).toBe(1);
    expect(run.stderr).toMatch(/MOE2092/);
    expect(run.stderr).toMatch(/--unit "one"/);
  });

  it('--unit chooses, and says what it may have been', async () => {
    expect(jsonOf(await moec(['analyze', at('two.moe'), '--unit', 'two words', '--json']))['name']).toBe('two words');
    const run = await moec(['analyze', at('two.moe'), '--unit', 'two wrods']);
    expect(run.code).toBe(1);
    expect(run.stderr).toMatch(/MOE2090[^]*did you mean `two words`\?/);
  });

  it('several files are told together', async () => {
    const run = await moec(['check', at('two.moe'), at('empty.moe'), LAYER, '--format', 'github']);
    expect(run.code).toBe(1);
    expect(run.stdout).toMatch(/^::error file=.*empty\.moe.*MOE1017/);
    expect(run.stdout.trim().split('\n')).toHaveLength(1);
  });
});

describe('fmt', () => {
  it('--check changes nothing and exits with 1; without it the file is laid out, keeping mode and byte order mark', async () => {
    const file = at('format.moe');
    writeFileSync(file, UNFORMATTED);
    chmodSync(file, 0o640);
    expect(await moec(['fmt', '--check', file])).toMatchObject({ code: 1, stdout: '' });
    expect(readFileSync(file, 'utf8')).toBe(UNFORMATTED);
    expect(await moec(['fmt', file])).toMatchObject({ code: 0, stdout: '' });
    expect(readFileSync(file, 'utf8')).toBe('layer a { hidden 32  ffn swiglu 64 }\n');
    expect(await moec(['fmt', '--check', file])).toMatchObject({ code: 0, stdout: '', stderr: '' });
    expect(readdirSync(dir).filter((f) => f.includes('.tmp-'))).toEqual([]);
  });

  it('- reads stdin and writes stdout', async () => {
    const input = new TextEncoder().encode(UNFORMATTED);
    expect(await moec(['fmt', '-'], { input })).toMatchObject({ code: 0, stdout: 'layer a { hidden 32  ffn swiglu 64 }\n' });
    expect(jsonOf(await moec(['fmt', '-', '--json'], { input }))).toEqual({ files: [{ file: '-', changed: true, text: 'layer a { hidden 32  ffn swiglu 64 }\n' }] });
  });

  it('leaves a file with errors alone and goes on with the others; --json stays one document', async () => {
    writeFileSync(at('wrong.moe'), 'layer a { hidden }');
    writeFileSync(at('other.moe'), UNFORMATTED);
    const run = await moec(['fmt', at('wrong.moe'), at('other.moe'), '--json']);
    expect(run.code).toBe(1);
    expect(jsonOf(run)['files']).toMatchObject([{ file: at('wrong.moe'), diagnostics: [{ severity: 'error' }] }, { file: at('other.moe'), changed: true }]);
    expect(readFileSync(at('wrong.moe'), 'utf8')).toBe('layer a { hidden }');
  });

  it('keeps what a link leads to', async () => {
    writeFileSync(at('real.moe'), UNFORMATTED);
    symlinkSync(at('real.moe'), at('link.moe'));
    expect((await moec(['fmt', at('link.moe')])).code).toBe(0);
    expect(readFileSync(at('real.moe'), 'utf8')).toBe('layer a { hidden 32  ffn swiglu 64 }\n');
  });
});

describe('init', () => {
  const models = readdirSync(join(GOLDEN, 'models'));

  it('finds the ten golden models', () => expect(models).toHaveLength(10));

  it.each(models)('--from %s writes a spec', async (name) => {
    const made = await moec(['init', '--from', join(GOLDEN, 'models', name), '-o', at(`${name}.moe`)]);
    expect(made, made.stderr).toMatchObject({ code: 0, stdout: '' });
  });

  it('check takes all of them and fmt leaves them alone', async () => {
    const files = models.map((name) => at(`${name}.moe`));
    const checked = await moec(['check', ...files]);
    expect(checked.code, checked.stderr).toBe(0);
    for (const name of models) expect(checked.stderr).toContain(`: ok (model "${name}")`);
    expect(await moec(['fmt', '--check', ...files])).toMatchObject({ code: 0, stderr: '' });
  });

  it('takes the config.json itself, and stdout without -o', async () => {
    const from = join(GOLDEN, 'models/tiny_mixtral');
    const [directory, file] = [await moec(['init', '--from', from]), await moec(['init', '--from', join(from, 'config.json')])];
    expect(directory.stdout).toMatch(/^model tiny_mixtral \{$/m);
    expect(file.stdout).toBe(directory.stdout);
    expect(jsonOf(await moec(['init', '--from', from, '--json']))).toMatchObject({ text: directory.stdout, output: null });
  });

  it.each<readonly [string, string | undefined, number, RegExp]>([
    ['no config.json', undefined, 5, /has no config\.json/],
    ['not JSON', '{ "model_type": ', 5, /is not JSON/],
    ['empty', '', 5, /is not JSON/],
    ['a list', '[]', 1, /MOE2050/],
    ['null', 'null', 1, /MOE2050/],
    ['no model_type', '{}', 1, /MOE205/],
    ['a model_type of another type', '{ "model_type": 7 }', 1, /MOE205/],
    ['an unknown family', '{ "model_type": "mixtrall" }', 1, /MOE2051/],
    ['a hostile family', '{ "model_type": "__proto__" }', 1, /MOE2051/],
    ['missing fields', '{ "model_type": "mixtral" }', 1, /MOE2052[^]*hidden_size/],
    ['a text for a number', '{ "model_type": "mixtral", "hidden_size": "many" }', 1, /MOE2053[^]*hidden_size/],
    ['a negative number', '{ "model_type": "mixtral", "hidden_size": -4 }', 1, /hidden_size/],
    ['a fraction', '{ "model_type": "mixtral", "hidden_size": 4.5 }', 1, /hidden_size/],
  ])('a config.json with %s', async (what, text, code, words) => {
    const from = at(`config ${what}`);
    mkdirSync(from);
    if (text !== undefined) writeFileSync(join(from, 'config.json'), text);
    const run = await moec(['init', '--from', from, '-o', at('never.moe')]);
    expect(run).toMatchObject({ code, stdout: '' });
    expect(run.stderr).toMatch(words);
    expect(existsSync(at('never.moe'))).toBe(false);
  });

  it('does not replace a file without --force, and writes whole or not at all', async () => {
    const file = at('kept.moe');
    writeFileSync(file, 'mine');
    const run = await moec(['init', '--template', 'layer', '-o', file, '--json']);
    expect(run.code).toBe(5);
    expect(errorOf(run).message).toContain('exists already');
    expect(readFileSync(file, 'utf8')).toBe('mine');
    expect((await moec(['init', '--template', 'layer', '-o', file, '--force'])).code).toBe(0);
    expect((await moec(['check', file])).code).toBe(0);
    const nowhere = await moec(['init', '--template', 'layer', '-o', at('no/such/place.moe')]);
    expect(nowhere).toMatchObject({ code: 5, stdout: '' });
    expect(nowhere.stderr).toMatch(/place\.moe cannot be written: its directory does not exist/);
    expect(readdirSync(dir).filter((f) => f.includes('.tmp-'))).toEqual([]);
  });

  it('an unknown template lists the templates, each of which is a sound spec', async () => {
    const run = await moec(['init', '--template', 'mixtrall']);
    expect(run).toMatchObject({ code: 1, stdout: '' });
    const names = (/templates: (.*)/.exec(run.stderr)?.[1] ?? '').split(', ');
    expect(names.length).toBeGreaterThan(5);
    const files = await Promise.all(names.map(async (name) => {
      const file = at(`template-${name}.moe`);
      expect((await moec(['init', '--template', name, '-o', file])).code).toBe(0);
      return file;
    }));
    expect((await moec(['check', ...files])).code).toBe(0);
    expect((await moec(['fmt', '--check', ...files])).code).toBe(0);
  });
});

describe('analyze, fit, dump', () => {
  it('analyze --json has the keys of the contract', async () => {
    const { params, flops, tokens } = jsonOf(await moec(['analyze', join(EXAMPLES, 'deepseek-moe-16b.moe'), '--json', '--tokens', '4096']));
    expect(tokens).toBe(4096);
    expect(params).toMatchObject({
      total: expect.any(Number), active: expect.any(Number),
      activeWithoutInputEmbedding: expect.any(Number), activeWithoutEmbeddings: expect.any(Number),
    });
    expect(flops).toMatchObject({ paper: expect.any(Number), exact: expect.any(Number), forward: expect.any(Number) });
  });

  it('analyze counts for the context where no tokens are given', async () => {
    expect(jsonOf(await moec(['analyze', join(EXAMPLES, 'deepseek-moe-16b.moe'), '--json']))['tokens']).toBe(4096);
  });

  it('fit tells a verdict per profile and exits with 1 where the chosen one is too small', async () => {
    const all = jsonOf(await moec(['fit', join(EXAMPLES, 'mixtral-8x7b.moe'), '--json']));
    expect(all['profiles']).toHaveLength(3);
    expect((await moec(['fit', join(EXAMPLES, 'tiny-deepseekmoe.moe'), '--limits', 'baseline'])).code).toBe(0);
  });

  it('dump shows the AST of a file with errors, and tells them', async () => {
    writeFileSync(at('half.moe'), 'layer a { hidden 32  ffn swiglu }');
    const run = await moec(['dump', at('half.moe'), '--stage', 'ast']);
    expect(run.code).toBe(1);
    expect(JSON.parse(run.stdout)).toHaveProperty('units');
    expect(run.stderr).toMatch(/error\[MOE1/);
  });

  it('dump --after stops the passes there, and --no-PASS leaves one out', async () => {
    const dump = async (...more: readonly string[]): Promise<string> => (await moec(['dump', LAYER, '--stage', 'graph', ...more])).stdout;
    const lowered = await dump('--after', 'lower');
    const fused = await dump();
    expect(lowered.split('\n').length).toBeGreaterThan(fused.split('\n').length);
    expect(await dump('--after', 'dead-code')).toBe(fused);
    expect(await dump('--no-fuse-gather')).toContain('moe.permute');
    expect(fused).not.toContain('moe.permute');
    expect(await dump('--bucket', 'decode')).not.toBe(fused);
  });

  it('dump wgsl is what the manifest names', async () => {
    const wgsl = Object.keys(jsonOf(await moec(['dump', LAYER, '--stage', 'wgsl', '--json'])));
    const { kernels } = jsonOf(await moec(['dump', LAYER, '--stage', 'manifest', '--json']));
    const files = (Array.isArray(kernels) ? kernels : []).flatMap((k: { variants: { file: string }[] }) => k.variants.map((v) => v.file));
    expect(wgsl.sort()).toEqual(files.sort());
  });
});

it('works where the working directory is read-only or gone', async () => {
  const place = at('read-only');
  mkdirSync(place);
  cpSync(LAYER, join(place, 'layer.moe'));
  chmodSync(place, 0o555);
  expect((await moec(['check', 'layer.moe'], { cwd: place })).code).toBe(0);
  chmodSync(place, 0o755);
});
