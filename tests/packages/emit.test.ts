import { createHash } from 'node:crypto';
import ts from 'typescript';
import { describe, expect, it } from 'vitest';
import { runtimeFiles } from '../../src/cli/runtime-files.ts';
import { emitPackage, type PackageFiles, UNHASHED } from '../../src/codegen/package/emit.ts';
import { asciiJson, base64, markdownText, packageName } from '../../src/codegen/package/escape.ts';
import { compileSpec } from '../../src/driver/compile.ts';
import { encodeGolden } from '../../src/runtime/core/golden.ts';
import { readManifest } from '../../src/runtime/core/manifest.ts';
import { LAYER_CASES, MODEL_CASES } from '../lower/specs.ts';

const runtime = runtimeFiles();
const golden = encodeGolden({ seed: 1, gate: { nmse: 1e-9, rowNmse: 1e-8 }, vectors: [] }, 32);
const spec = LAYER_CASES['mixtral_top2'];
if (spec === undefined) throw new Error('no spec');
const { manifest, texts } = compileSpec(spec);
const named = (name: string): PackageFiles => emitPackage({ manifest: { ...manifest, model: { ...manifest.model, name } }, kernels: texts, runtime, golden });
const text = (files: PackageFiles, path: string): string => {
  const data = files.get(path);
  if (typeof data !== 'string') throw new Error(`no text ${path}`);
  return data;
};

const HOSTILE: readonly string[] = [
  '', ' ', '"', "'", '`', '\\', '\n', '\r', '\u2028', '\u2029', '\u0085', '\v', '\f', '\0', '\ufeff', '\u202e', '*/', '/*', '//', '-->', '<!--', '</script>', '${1}', '$\u007b',
  '`${process.exit(1)}`', '"; process.exit(1); "', "'); process.exit(1); ('", '__proto__', 'constructor', 'prototype', 'toString', 'hasOwnProperty', '../', '../../etc/passwd', '/etc/passwd', 'C:\\',
  'con', 'nul', 'node_modules', 'favicon.ico', '.hidden', '_x', 'a/b/c', 'A B', 'UPPER', 'x'.repeat(300), 'é', 'é', '模型', '🦊', '\ud800', '\udc00', 'class', 'default', 'await', 'yield',
  'import', 'export', 'let', 'null', 'NaN', 'fs', 'http', '[x](javascript:alert(1))', '![](x)', '<img src=x onerror=alert(1)>', '# h', '| a | b |', '```js', '&lt;', '@scope/name', '%00', 'a\tb',
  '\u001b[31m', '??/', '#include', '\\u0041', '{{x}}', '{% x %}', '$(id)', '`id`', '; rm -rf /', '&& x', '\u200b', 'İ', 'ﬀ', '\u{10ffff}', '\uffff',
];

describe('generated packages', () => {
  const files = named('my model');

  it('hold what the contract names', () => {
    for (const path of ['package.json', 'index.js', 'index.d.ts', 'src/index.ts', 'manifest.json', 'manifest.js', 'golden.bin', 'README.md', 'kernels/index.js', 'runtime/webgpu/load.js', 'runtime/webgpu/load.d.ts', 'runtime/node/platform.js']) {
      expect(files.has(path), path).toBe(true);
    }
    for (const k of manifest.kernels) for (const v of k.variants) expect(text(files, v.file)).toContain('@compute');
    const json = JSON.parse(text(files, 'package.json')) as Record<string, unknown>;
    expect(json).toMatchObject({ name: 'my-model', type: 'module', sideEffects: false });
    for (const field of ['scripts', 'bin', 'dependencies', 'gypfile']) expect(json).not.toHaveProperty(field);
  });

  it('are the same bytes for the same input', () => {
    const again = emitPackage({ manifest: { ...manifest, model: { ...manifest.model, name: 'my model' } }, kernels: new Map([...texts].reverse()), runtime: new Map([...runtime].reverse()), golden });
    expect([...again.keys()]).toEqual([...files.keys()]);
    for (const [path, data] of again) expect(data, path).toEqual(files.get(path));
  });

  it('carry a manifest that their own runtime reads, with the digest of every file', () => {
    const read = readManifest(JSON.parse(text(files, 'manifest.json')));
    expect(Object.keys(read.files).sort()).toEqual([...files.keys()].filter((p) => !UNHASHED.includes(p)).sort());
    for (const [path, digest] of Object.entries(read.files)) expect(createHash('sha256').update(files.get(path) ?? '').digest('hex'), path).toBe(digest);
    for (const name of [...Object.values(LAYER_CASES).slice(0, 3), ...Object.values(MODEL_CASES).slice(0, 2)]) {
      expect(readManifest(JSON.parse(JSON.stringify(compileSpec(name).manifest))).model.name).toBe(name.name);
    }
  });

  it('hold no trace of the machine', () => {
    for (const [path, data] of files) {
      const shown = typeof data === 'string' ? data : Buffer.from(data).toString('latin1');
      expect(shown, path).not.toMatch(/\/(?:work|home|root|tmp|usr)\/|\b20[2-9]\d-\d\d-\d\d\b/);
    }
  });

  it('import nothing of Node outside runtime/node, and nothing by a name', () => {
    for (const [path, data] of files) {
      if (typeof data !== 'string' || !/\.(js|ts)$/.test(path)) continue;
      const imports = [...data.matchAll(/(?:from|import)\s*\(?\s*['"]([^'"]+)['"]/g)].map((m) => m[1] ?? '');
      for (const i of imports) {
        if (path.startsWith('runtime/node/')) expect(i, path).toMatch(/^(\.|node:|webgpu$)/);
        else expect(i, path).toMatch(/^\.{1,2}\/.*\.js$/);
      }
      expect(data, path).not.toMatch(/\beval\(|new Function\(/);
    }
  });

  it.each(HOSTILE.map((h) => [h]))('make %j harmless wherever it stands', (name) => {
    const hostile = named(name);
    expect([...hostile.keys()]).toEqual([...files.keys()]);
    for (const path of ['index.js', 'index.d.ts', 'src/index.ts', 'manifest.js']) {
      const source = ts.createSourceFile(path, text(hostile, path), ts.ScriptTarget.Latest, true);
      expect((source as unknown as { parseDiagnostics: readonly unknown[] }).parseDiagnostics, path).toEqual([]);
      // The same syntax as with a harmless name: it is one string literal, and nothing else.
      const shape = (node: ts.Node): unknown => {
        const children: unknown[] = [];
        ts.forEachChild(node, (child) => void children.push(shape(child)));
        return [node.kind, children];
      };
      const plain = ts.createSourceFile(path, text(files, path), ts.ScriptTarget.Latest, true);
      expect(JSON.stringify(shape(source))).toBe(JSON.stringify(shape(plain)));
      expect(text(hostile, path)).toMatch(/^[\n\x20-\x7e]*$/);
    }
    const info: string[] = [];
    const visit = (node: ts.Node): void => {
      if (ts.isPropertyAssignment(node) && node.name.getText() === 'name' && ts.isStringLiteral(node.initializer)) info.push(node.initializer.text);
      ts.forEachChild(node, visit);
    };
    visit(ts.createSourceFile('index.js', text(hostile, 'index.js'), ts.ScriptTarget.Latest, true));
    // Half a surrogate pair has no UTF-16 form of its own in JSON but its escape.
    expect(info).toEqual([name]);
    const json = JSON.parse(text(hostile, 'package.json')) as { name: string; description: string };
    expect(json.name).toMatch(/^[a-z][a-z0-9-]*$/);
    expect(json.name.length).toBeLessThanOrEqual(214);
    expect((JSON.parse(text(hostile, 'manifest.json')) as typeof manifest).model.name).toBe(name);
    expect(text(hostile, 'README.md').split('\n').length).toBe(text(files, 'README.md').split('\n').length);
    expect(text(hostile, 'README.md').split('\n')[0]).not.toMatch(/[<>`[\]|*!]|(?<![a-z0-9])_/i);
    for (const [path, data] of hostile) if (path.endsWith('.wgsl')) expect(data).toBe(files.get(path));
  });

  it('have names that npm takes', () => {
    expect(['DeepSeek-MoE 16B', 'fs', '...', '42', 'x'.repeat(99), 'node_modules'].map(packageName)).toEqual(['deepseek-moe-16b', 'fs-model', 'x', 'x-42', 'x'.repeat(64), 'node-modules']);
  });
});

describe('escapes', () => {
  it('keep JSON what it was', () => {
    for (const h of HOSTILE) {
      expect(JSON.parse(asciiJson({ [h]: h })) as unknown).toEqual({ [h]: h });
      expect(asciiJson(h)).toMatch(/^"(?:[\x20-\x7e])*"$/);
    }
  });
  it('make base64 as others do', () => {
    for (const n of [0, 1, 2, 3, 4, 100]) {
      const bytes = Uint8Array.from({ length: n }, (_, i) => (i * 37 + n) & 255);
      expect(base64(bytes)).toBe(Buffer.from(bytes).toString('base64'));
    }
  });
  it('leave plain text readable in Markdown', () => {
    expect(markdownText('DeepSeek-MoE 16B (chat)')).toBe('DeepSeek-MoE 16B (chat)');
    expect(markdownText('<b>|_x_ a_b')).toBe('&#60;b&#62;&#124;&#95;x&#95; a_b');
  });
});
