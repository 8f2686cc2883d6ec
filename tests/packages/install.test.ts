/** A generated package as a stranger meets it: packed, installed, type-checked, run in Node and in a browser. */
import { execFileSync } from 'node:child_process';
import { cpSync, existsSync, mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync, statSync, symlinkSync, writeFileSync } from 'node:fs';
import { createServer, type Server } from 'node:http';
import { tmpdir } from 'node:os';
import { extname, join, normalize } from 'node:path';
import { type Browser, chromium } from 'playwright-core';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { packageSources } from '../../src/cli/runtime-files.ts';
import { writePackage } from '../../src/cli/write-package.ts';
import { buildPackage } from '../../src/driver/package.ts';
import { deviation } from '../../src/runtime/core/metrics.ts';
import { readF64, readI32 } from '../../src/runtime/core/tensors.ts';
import { openPath } from '../../src/runtime/node/files.ts';
import { checkPackageFiles } from '../../src/runtime/node/package-dir.ts';
import { LAYER_CASES, MODEL_CASES } from '../lower/specs.ts';

const ROOT = join(import.meta.dirname, '../..');
const GOLDEN = join(ROOT, 'tests/golden/models/tiny_mixtral');
const CHROMIUM = ['/usr/bin/chromium', '/usr/bin/chromium-browser', '/usr/bin/google-chrome'].find((p) => existsSync(p)) ?? process.env['CHROMIUM'];
const NAME = 'tiny-mixtral';

let dir = '';
let consumer = '';
let ids: Int32Array;
let expected: Float64Array;

const run = (command: string, args: readonly string[], cwd: string): string =>
  execFileSync(command, [...args], { cwd, encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] });

function gate(logits: ArrayLike<number>): void {
  const off = deviation(logits, expected, ids.length);
  expect(off.nmse).toBeLessThanOrEqual(1e-9);
  expect(off.rowNmse).toBeLessThanOrEqual(1e-8);
}

beforeAll(async () => {
  const spec = MODEL_CASES['tiny_mixtral'];
  if (spec === undefined) throw new Error('no spec');
  dir = mkdtempSync(join(tmpdir(), 'moec-package-'));
  await writePackage(join(dir, 'pkg'), buildPackage(spec, {}, packageSources()).files);
  const set = await openPath(join(GOLDEN, 'expected.safetensors'));
  ids = await readI32(set, 'input_ids');
  expected = await readF64(set, 'logits');
  await set.close();

  consumer = join(dir, 'consumer');
  mkdirSync(consumer);
  writeFileSync(join(consumer, 'package.json'), JSON.stringify({ name: 'consumer', private: true, type: 'module' }));
  const tarball = run('npm', ['pack', '--silent', '--pack-destination', dir, join(dir, 'pkg')], dir).trim().split('\n').pop() ?? '';
  run('npm', ['install', '--offline', '--no-audit', '--no-fund', join(dir, tarball)], consumer);
  symlinkSync(join(ROOT, 'node_modules/webgpu'), join(consumer, 'node_modules/webgpu'), 'dir');
}, 240_000);
afterAll(() => rmSync(dir, { recursive: true, force: true }));

describe('an installed package', () => {
  it('holds every file that was written', () => {
    const list = (root: string): string[] => (readdirSync(root, { recursive: true }) as string[]).filter((f) => statSync(join(root, f)).isFile()).sort();
    expect(list(join(consumer, 'node_modules', NAME))).toEqual(list(join(dir, 'pkg')));
  });

  it('knows its files, and each that was changed, lost or added', async () => {
    const pkg = join(consumer, 'node_modules', NAME);
    expect((await checkPackageFiles(pkg)).model.name).toBe('tiny_mixtral');
    const broken = join(dir, 'broken');
    cpSync(pkg, broken, { recursive: true });
    writeFileSync(join(broken, 'index.js'), `${readFileSync(join(broken, 'index.js'), 'utf8')}// more`);
    writeFileSync(join(broken, 'kernels/extra.wgsl'), '');
    writeFileSync(join(broken, 'manifest.js'), readFileSync(join(broken, 'manifest.js'), 'utf8').replace('tiny_mixtral', 'tiny_mixtrol'));
    rmSync(join(broken, 'golden.bin'));
    const problems = ['"golden.bin" is missing', '"index.js" was changed', '"kernels/extra.wgsl" was added', 'manifest.js does not hold what manifest.json does'];
    await expect(checkPackageFiles(broken)).rejects.toMatchObject({ code: 'MOE5014', details: { problems } });
    await expect(checkPackageFiles(dir)).rejects.toMatchObject({ code: 'MOE5014' });
  });

  it('type-checks under strict, without the DOM, Node or WebGPU types', () => {
    writeFileSync(
      join(consumer, 'consumer.ts'),
      `import { info, load, verify, LimitTooSmallError, MoecError, type GenerateOptions, type Model, type Stats, type VerifyReport } from '${NAME}';
export const vocab: 48 = info.vocab;
export const kind: 'model' = info.kind;
export async function main(weights: string): Promise<number> {
  const model: Model = await load({ weights, onProgress: ({ phase, done, total }) => void [phase, done / total] });
  const logits: Float32Array = await model.forward(new Int32Array([1, 2]));
  const options: GenerateOptions = { maxTokens: 3, temperature: 0.7, topP: 0.9, seed: 1 };
  for await (const token of model.generate([1, 2], options)) { const t: number = token; void t; }
  const stats: Stats = model.stats();
  const report: VerifyReport = await verify();
  try { await model.verify(); } catch (e) { if (e instanceof LimitTooSmallError || e instanceof MoecError) { const fix: string = e.fix; void fix; } }
  await model.dispose();
  return logits.length + stats.memory.total + report.vectors.length;
}
// @ts-expect-error a model takes ids, not text
export const wrong = async (): Promise<unknown> => (await load({ weights: '.' })).forward('text');
// @ts-expect-error weights are required
export const none = (): Promise<unknown> => load({});
`,
    );
    const options = { strict: true, noUncheckedIndexedAccess: true, exactOptionalPropertyTypes: true, skipLibCheck: false, target: 'es2022', lib: ['es2022'], types: [], noEmit: true, module: 'nodenext' };
    writeFileSync(join(consumer, 'tsconfig.json'), JSON.stringify({ compilerOptions: options, include: ['consumer.ts'] }));
    run(process.execPath, [join(ROOT, 'node_modules/typescript/bin/tsc'), '-p', '.'], consumer);
    // A bundler's resolution, with the DOM library and the WebGPU types: a GPUDevice is what load borrows.
    writeFileSync(join(consumer, 'browser.ts'), `import { load } from '${NAME}';\nexport const lend = (device: GPUDevice, weights: File | URL): Promise<unknown> => load({ weights, device, signal: new AbortController().signal });\n`);
    const browser = { ...options, lib: ['es2022', 'dom'], types: ['@webgpu/types'], typeRoots: [join(ROOT, 'node_modules')], module: 'esnext', moduleResolution: 'bundler', skipLibCheck: true };
    writeFileSync(join(consumer, 'tsconfig.json'), JSON.stringify({ compilerOptions: browser, include: ['browser.ts'] }));
    run(process.execPath, [join(ROOT, 'node_modules/typescript/bin/tsc'), '-p', '.'], consumer);
  }, 120_000);

  it('runs in Node with the golden logits, verifies itself, and lets the process end', () => {
    writeFileSync(
      join(consumer, 'main.mjs'),
      `import { load, verify } from '${NAME}';
import { writeFileSync } from 'node:fs';
const model = await load({ weights: process.argv[2], onWarning: () => undefined });
const logits = await model.forward(JSON.parse(process.argv[3]));
writeFileSync('logits.json', JSON.stringify([...logits]));
const own = await model.verify();
await model.dispose();
await model.dispose();
const again = await verify({ onWarning: () => undefined });
console.log(JSON.stringify({ ok: own.ok && again.ok, vectors: again.vectors.length, twin: again.twin }));
`,
    );
    const out = run(process.execPath, ['main.mjs', GOLDEN, JSON.stringify([...ids])], consumer);
    expect(JSON.parse(out)).toEqual({ ok: true, vectors: expect.any(Number) as number, twin: false });
    gate(JSON.parse(readFileSync(join(consumer, 'logits.json'), 'utf8')) as number[]);
  }, 240_000);

  it('has a README whose example runs', () => {
    const readme = readFileSync(join(consumer, 'node_modules', NAME, 'README.md'), 'utf8');
    const example = /```js\n([^]*?)```/.exec(readme)?.[1] ?? '';
    expect(example).toContain(`from '${NAME}'`);
    writeFileSync(join(consumer, 'example.mjs'), example);
    const out = run(process.execPath, ['example.mjs', GOLDEN], consumer);
    expect(out).toContain('3 rows of 48 logits');
    expect(out.match(/^token \d+$/gm)).toHaveLength(4);
  }, 240_000);

  it('fails with a code and a next step', () => {
    writeFileSync(join(consumer, 'bad.mjs'), `import { load } from '${NAME}';\nawait load({ weights: process.argv[2], onWarning: () => undefined }).catch((e) => console.log(JSON.stringify([e.name, e.code, e.fix !== '', e.message.includes('problems')])));\n`);
    expect(JSON.parse(run(process.execPath, ['bad.mjs', join(ROOT, 'tests/golden/models/tiny_olmoe')], consumer))).toEqual(['WeightsError', 'MOE5008', true, true]);
  }, 60_000);

  it('of a layer runs by its path', async () => {
    const spec = LAYER_CASES['mixtral_top2'];
    if (spec === undefined) throw new Error('no spec');
    await writePackage(join(dir, 'layer'), buildPackage(spec, {}, packageSources()).files);
    cpSync(join(consumer, 'package.json'), join(dir, 'package.json'));
    const weights = join(ROOT, 'tests/golden/mixtral_top2.safetensors');
    writeFileSync(
      join(dir, 'layer.mjs'),
      `import { load, verify } from './layer/index.js';
import { create } from '${join(ROOT, 'node_modules/webgpu/index.js')}';
globalThis.gpu = create([]);
const device = await (await globalThis.gpu.requestAdapter()).requestDevice();
const layer = await load({ weights: ${JSON.stringify(weights)}, device });
const x = new Float32Array(${3 * spec.hidden}).fill(0.5);
const { y, topkIndices, expertCounts } = await layer.forward(x, { trace: true });
const report = await verify({ device });
await layer.dispose();
// A lent device stays usable.
device.createBuffer({ size: 16, usage: 128 }).destroy();
console.log(JSON.stringify([y.length, topkIndices.length, expertCounts.reduce((a, b) => a + b), report.ok]));
`,
    );
    expect(JSON.parse(run(process.execPath, ['layer.mjs'], dir))).toEqual([3 * spec.hidden, 6, 6, true]);
  }, 240_000);
});

const TYPES: Readonly<Record<string, string>> = { '.html': 'text/html', '.js': 'text/javascript', '.json': 'application/json' };

/** Static files of `root`, with ranges. */
function serve(root: string): Promise<{ readonly server: Server; readonly url: string }> {
  const server = createServer((request, response) => {
    const path = join(root, normalize(decodeURIComponent(new URL(request.url ?? '/', 'http://x').pathname)));
    if (!path.startsWith(root) || !existsSync(path) || !statSync(path).isFile()) return void response.writeHead(404).end();
    const bytes = readFileSync(path);
    const type = { 'content-type': TYPES[extname(path)] ?? 'application/octet-stream', 'content-security-policy': "script-src 'self'" };
    const range = /^bytes=(\d+)-(\d+)$/.exec(request.headers.range ?? '');
    if (range === null) return void response.writeHead(200, type).end(bytes);
    const first = Number(range[1]);
    const last = Math.min(Number(range[2]), bytes.length - 1);
    response.writeHead(206, { ...type, 'content-range': `bytes ${first}-${last}/${bytes.length}` }).end(bytes.subarray(first, last + 1));
  });
  return new Promise((resolve) => {
    server.listen(0, '127.0.0.1', () => {
      const address = server.address();
      resolve({ server, url: `http://127.0.0.1:${typeof address === 'object' && address !== null ? address.port : 0}` });
    });
  });
}

describe.skipIf(CHROMIUM === undefined)('a package in a browser', () => {
  let browser: Browser;
  let site: { readonly server: Server; readonly url: string };
  beforeAll(async () => {
    const root = join(dir, 'site');
    cpSync(join(consumer, 'node_modules', NAME), join(root, 'pkg'), { recursive: true });
    cpSync(GOLDEN, join(root, 'weights'), { recursive: true });
    // No bundler, no inline script: the page runs under script-src 'self'.
    writeFileSync(join(root, 'index.html'), '<!doctype html><script type="module" src="main.js"></script>');
    writeFileSync(
      join(root, 'main.js'),
      `import { load } from './pkg/index.js';
const done = (value) => { window.result = value; document.documentElement.dataset.done = 'yes'; };
try {
  const warnings = [];
  const model = await load({ weights: new URL('weights/', location.href), onWarning: (w) => warnings.push(w) });
  const logits = await model.forward(${JSON.stringify([...ids])});
  const report = await model.verify();
  const tokens = [];
  for await (const t of model.generate([1, 2, 3], { maxTokens: 3, temperature: 1, seed: 7 })) tokens.push(t);
  const stats = model.stats();
  await model.dispose();
  done({ logits: [...logits], ok: report.ok, tokens, device: stats.device.name, errors: stats.uncapturedErrors });
} catch (e) {
  done({ error: String(e.stack ?? e), code: e.code });
}
`,
    );
    site = await serve(root);
    browser = await chromium.launch({
      executablePath: CHROMIUM ?? '',
      headless: true,
      args: ['--no-sandbox', '--enable-unsafe-webgpu', '--enable-features=Vulkan', '--use-webgpu-adapter=swiftshader', '--disable-vulkan-surface'],
    });
  }, 120_000);
  afterAll(async () => {
    await browser?.close();
    site?.server.close();
  });

  it('gives the golden logits from a plain module script', async () => {
    const page = await browser.newPage();
    const problems: string[] = [];
    page.on('pageerror', (e) => void problems.push(e.message));
    await page.goto(`${site.url}/index.html`);
    await page.waitForSelector('html[data-done]', { state: 'attached', timeout: 180_000 });
    const result = (await page.evaluate('window.result')) as { logits: number[]; ok: boolean; tokens: number[]; errors: number; error?: string };
    expect(result.error).toBeUndefined();
    gate(result.logits);
    expect(result.ok).toBe(true);
    expect(result.tokens).toHaveLength(3);
    expect(result.errors).toBe(0);
    expect(problems).toEqual([]);
    await page.close();
  }, 240_000);
});
