/** Wherever a user can write a name, the worst names come out as data or are refused; they never become code. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import ts from 'typescript';
import { describe, expect, it } from 'vitest';
import { reserved } from '../../src/codegen/cuda/reserved.ts';
import { emitPackage, type PackageFiles } from '../../src/codegen/package/emit.ts';
import { RESERVED_WORDS } from '../../src/codegen/wgsl/reserved.ts';
import { renderGithub, renderText, toJson } from '../../src/diagnostics/index.ts';
import { type Compiled, compileSpec } from '../../src/driver/compile.ts';
import { chooseUnit, readSpecs } from '../../src/driver/frontend.ts';
import { initFromConfig } from '../../src/driver/init/index.ts';
import { CUDA_SM80 } from '../../src/driver/profiles.ts';
import type { Spec } from '../../src/model/types.ts';
import { format, MAX_LENGTH } from '../../src/parser/index.ts';
import { encodeGolden } from '../../src/runtime/core/golden.ts';
import { readManifest } from '../../src/runtime/core/manifest.ts';
import { HOSTILE, shown } from './corpus.ts';

/** As a string of the language: every UTF-16 unit that is not a plain character as `\uXXXX`. */
const escaped = (name: string): string =>
  `"${name.replace(/[^ !#-[\]-~]/g, (c) => `\\u${c.charCodeAt(0).toString(16).padStart(4, '0')}`)}"`;
/** As a string with everything that may stand in one left as it is. */
const verbatim = (name: string): string => `"${name.replace(/["\\]/g, '\\$&')}"`;

const layer = (unit: string, table: string): string =>
  `layer ${unit} {\n  hidden 8  vocab 5\n  moe { experts 3 of mlp relu 4  router hash table ${table} }\n}\n`;

/** The only unit, where the text is taken; else undefined, and it was refused with an error in words. */
function specOf(text: string): Spec | undefined {
  const { specs, diagnostics } = readSpecs(text, 'a.moe');
  const errors = diagnostics.filter((d) => d.severity === 'error');
  if (errors.length > 0) {
    expect(errors.every((d) => /^MOE1\d{3}$/.test(d.code) && d.message.length > 5)).toBe(true);
    return undefined;
  }
  expect(specs).toHaveLength(1);
  return specs[0];
}

const compiled = (text: string): Compiled => {
  const spec = specOf(text);
  if (spec === undefined) throw new Error('refused');
  return compileSpec(spec);
};

const golden = encodeGolden({ seed: 1, gate: { nmse: 1e-9, rowNmse: 1e-8 }, vectors: [] }, 8);
const packed = (c: Compiled): PackageFiles => emitPackage({ manifest: c.manifest, kernels: c.texts, runtime: new Map(), golden });
const PLAIN = compiled(layer('plain', '"table"'));
const PLAIN_FILES = packed(PLAIN);
const PLAIN_CUDA = compileSpec(PLAIN.spec, { caps: CUDA_SM80 });

const textOf = (files: PackageFiles, path: string): string => {
  const data = files.get(path);
  if (typeof data !== 'string') throw new Error(`no text ${path}`);
  return data;
};

/** The syntax tree; a file that does not parse fails the test. */
function parsed(path: string, text: string): ts.SourceFile {
  const source = ts.createSourceFile(path, text, ts.ScriptTarget.Latest, true);
  expect('parseDiagnostics' in source && source.parseDiagnostics, path).toEqual([]);
  return source;
}

/** Every string literal of a file: its value. */
function literals(source: ts.SourceFile): string[] {
  const found: string[] = [];
  const visit = (node: ts.Node): void => {
    if (ts.isStringLiteralLike(node)) found.push(node.text);
    ts.forEachChild(node, visit);
  };
  visit(source);
  return found;
}

/** The syntax of a file without the text of its literals. */
function syntax(source: ts.SourceFile): string {
  const visit = (node: ts.Node): string => {
    const children: string[] = [];
    ts.forEachChild(node, (child) => void children.push(visit(child)));
    return `${node.kind}${ts.isIdentifier(node) ? node.text : ''}(${children.join()})`;
  };
  return visit(source);
}

const PLAIN_TREES: ReadonlyMap<string, { readonly syntax: string; readonly literals: readonly string[] }> = new Map(
  ['index.js', 'src/index.ts', 'manifest.js'].map((path) => {
    const source = parsed(path, textOf(PLAIN_FILES, path));
    return [path, { syntax: syntax(source), literals: literals(source) }];
  }),
);

/** What must hold of everything that is made from a spec with such names. */
function expectData(c: Compiled, name: string, table: string): void {
  expect([...c.texts]).toEqual([...PLAIN.texts]);
  const { manifest } = c;
  expect(manifest.model.name).toBe(name);
  const roundTrip: unknown = JSON.parse(JSON.stringify(manifest));
  expect(roundTrip).toEqual(manifest);
  expect(readManifest(roundTrip).model.name).toBe(name);
  expect(JSON.stringify(manifest.sections)).toContain(JSON.stringify(table));

  const files = packed(c);
  expect([...files.keys()]).toEqual([...PLAIN_FILES.keys()]);
  for (const [path, plain] of PLAIN_TREES) {
    const text = textOf(files, path);
    expect(text).toMatch(/^[\n\x20-\x7e]*$/);
    const source = parsed(path, text);
    expect(syntax(source)).toBe(plain.syntax);
    // Exactly one literal differs: the name, or the manifest with the name in it.
    const changed = literals(source).filter((l, i) => l !== plain.literals[i]);
    expect(changed).toHaveLength(1);
    const [literal = ''] = changed;
    expect(path === 'manifest.js' ? readManifest(JSON.parse(literal)).model.name : literal).toBe(name);
  }
  expect(textOf(files, 'kernels/index.js').split('\n').slice(1)).toEqual(textOf(PLAIN_FILES, 'kernels/index.js').split('\n').slice(1));
  expect((JSON.parse(textOf(files, 'manifest.json')) as typeof manifest).model.name).toBe(name);
  expect(textOf(files, 'package.json')).toMatch(/"name": "[a-z][a-z0-9-]{0,213}"/);
  expect(Object.keys(JSON.parse(textOf(files, 'package.json')) as object)).toEqual(Object.keys(JSON.parse(textOf(PLAIN_FILES, 'package.json')) as object));

  const [title = '', ...rest] = textOf(files, 'README.md').split('\n');
  // Letters, digits, plain marks and character references: nothing that Markdown or HTML would act on.
  expect(title).toMatch(/^# (?:[A-Za-z0-9 .,:()/_-]|&#\d+;)*$/);
  const own = (JSON.parse(textOf(files, 'package.json')) as { name: string }).name;
  expect(rest.join('\n').replaceAll(`'${own}'`, "'plain'")).toBe(textOf(PLAIN_FILES, 'README.md').split('\n').slice(1).join('\n'));
}

describe('the corpus', () => {
  it('has at least 150 names', () => expect(HOSTILE.length).toBeGreaterThanOrEqual(150));
});

describe('a quoted unit and a hash table', () => {
  it.each(HOSTILE.map((name) => [shown(name), name]))('called %s', (_shown, name) => {
    // Two such names would make the file larger than any that is read.
    const table = name.length > 10_000 ? 'table' : name;
    for (const quote of [escaped, verbatim]) {
      const spec = specOf(layer(quote(name), quote(table)));
      const refused = name.trim() === '' || name.length >= MAX_LENGTH || /\p{Cc}|\p{Cs}/u.test(name);
      if (spec === undefined) {
        // Written as it is, a line break ends a string, and so on; written as an escape, only what cannot be shown is refused.
        expect(refused).toBe(true);
        continue;
      }
      expect(refused).toBe(false);
      expect(spec.name).toBe(name);
      if (quote === verbatim) continue;
      expectData(compileSpec(spec), name, table);
      const cuda = compileSpec(spec, { caps: CUDA_SM80 });
      expect([...cuda.texts]).toEqual([...PLAIN_CUDA.texts]);
      expect(cuda.manifest.model.name).toBe(name);
    }
  });

  it('keeps names apart that only normalisation joins', () => {
    const text = layer('"\\u00e9"', '"t"') + layer('"e\\u0301"', '"t"');
    const front = readSpecs(text, 'a.moe');
    expect(front.specs.map((s) => s.name)).toEqual(['\u00e9', 'e\u0301']);
    for (const s of front.specs) expect(chooseUnit(front, 'a.moe', s.name).spec).toBe(s);
  });
});

describe('a bare unit', () => {
  const bare = HOSTILE.filter((name) => name.length < MAX_LENGTH && /^[A-Za-z_][A-Za-z0-9_]*(?:[-.][A-Za-z0-9_]+)*$/.test(name));

  it('has many names to try', () => expect(bare.length).toBeGreaterThan(50));

  it.each(bare.map((name) => [shown(name), name]))('called %s', (_shown, name) => {
    const c = compiled(layer(name, name.length > 10_000 ? 'table' : name));
    expect(c.spec.name).toBe(name);
    expect([...c.texts]).toEqual([...PLAIN.texts]);
    expect(c.manifest.model.name).toBe(name);
  });
});

describe('a model', () => {
  const model = (unit: string): string =>
    `model ${unit} { vocab 8  hidden 8  context 16  depth 1  attention mha { heads 2 x 4 }  layers all { moe { experts 3 of swiglu 4  active 2 } } }`;
  const plain = compiled(model('plain'));

  it.each(['__proto__', '*/', 'a\u2028b', '${x}', 'fn', '"', '模型'].map((name) => [shown(name), name]))('called %s', (_shown, name) => {
    const c = compiled(model(escaped(name)));
    expect([...c.texts]).toEqual([...plain.texts]);
    expect(c.manifest).toEqual({ ...plain.manifest, spec: c.manifest.spec, model: { ...plain.manifest.model, name } });
  });
});

describe('identifiers in WGSL', () => {
  const FRAME = new Set('Scalars scalars block_id grid_size thread lane subgroup_size subgroup'.split(' '));

  it('are made by the compiler', () => {
    for (const [file, text] of PLAIN.texts) {
      expect(file).toMatch(/^kernels\/k\d+_[A-Za-z0-9_]+\.(?:portable|subgroups)\.wgsl$/);
      expect(text).toMatch(/^[\n\x20-\x7e]*$/);
      const declared = [...text.matchAll(/\b(?:var(?:<[^>]*>)?|let|const|fn|struct) +([^\s:(={<]+)/g)].map((m) => m[1] ?? '');
      expect(declared.length).toBeGreaterThan(3);
      for (const name of declared) {
        expect(name, file).toMatch(/^[A-Za-z][A-Za-z0-9_]*$/);
        expect(name, file).not.toMatch(/__/);
        // The frame's own declarations are kept from everything else by the same list.
        if (!FRAME.has(name)) expect(RESERVED_WORDS.has(name), `${file}: ${name}`).toBe(false);
      }
    }
  });
});

describe('identifiers in CUDA', () => {
  it('are made by the compiler', () => {
    expect([...PLAIN_CUDA.texts.keys()].filter((f) => f.endsWith('.cuh')).length).toBeGreaterThan(3);
    for (const [file, text] of PLAIN_CUDA.texts) {
      expect(file).toMatch(/^cuda\/(?:kernels\/k\d+_[A-Za-z0-9_]+\.cuh|part\d+\.cu|module\.cu)$/);
      expect(text).toMatch(/^[\n\x20-\x7e]*$/);
      if (!file.endsWith('.cuh')) continue;
      const names = [...text.matchAll(/\b(?:(?:u?int32_t|uint16_t|float|bool|float[24]|u?int[24])\*?(?: const| __restrict__)?) ([A-Za-z_]\w*)(?= =|,|\)|\[|;)/g)].map((m) => m[1] ?? '');
      expect(names.length, file).toBeGreaterThan(3);
      const frame = new Set(['scalars', 'thread', 'lane', 'warp', 'T', 'past', 'seq', 'segment_first', 'segment_count']);
      for (const name of names) if (!frame.has(name)) expect(reserved.has(name), `${file}: ${name}`).toBe(false);
    }
  });
});

describe('names on the command line', () => {
  const front = readSpecs(layer('plain', 't'), 'a.moe');

  it('--unit: no name but a unit is one', () => {
    for (const name of HOSTILE) {
      const chosen = chooseUnit(front, 'a.moe', name);
      expect(chosen.spec, shown(name)).toBeUndefined();
      expect(chosen.diagnostics.map((d) => d.code)).toEqual(['MOE2090']);
      // eslint-disable-next-line no-control-regex
      expect(renderText(chosen.diagnostics, () => undefined)).not.toMatch(/[\0-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\u202e\u2066]/);
    }
  });

  it('file names appear in messages escaped, and change no line of them', () => {
    const text = 'layer a { hiden 8 }';
    const lines = renderText(readSpecs(text, 'a.moe').diagnostics, () => text).split('\n').length;
    for (const file of HOSTILE) {
      const { diagnostics } = readSpecs(text, file);
      const told = renderText(diagnostics, () => text);
      // eslint-disable-next-line no-control-regex
      expect(told, shown(file)).not.toMatch(/[\0-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\u202e\u2066]/);
      expect(told.split('\n')).toHaveLength(lines);
      expect(renderGithub(diagnostics, () => text).trim().split(/[\n\r]/)).toHaveLength(diagnostics.length);
      expect(JSON.parse(JSON.stringify(toJson(diagnostics, () => text)))).toMatchObject([{ primary: { file } }]);
    }
  });
});

describe('names in a config.json', () => {
  const config: Record<string, unknown> = JSON.parse(readFileSync(join(import.meta.dirname, '../golden/models/tiny_mixtral/config.json'), 'utf8')) as Record<string, unknown>;
  const plain = initFromConfig(config, { name: 'plain' });
  /** A spec without its name and places. */
  const rest = (spec: Spec | undefined): unknown =>
    JSON.parse(JSON.stringify({ ...spec, name: '' }, (key: string, value: unknown) => (key === 'span' ? undefined : value)));
  const expected = rest(specOf(plain.text));

  it.each(HOSTILE.map((name) => [shown(name), name]))('%s', (_shown, name) => {
    for (const given of [
      { config, options: { name } },
      { config: { ...config, _name_or_path: name }, options: {} },
      { config: { ...config, [name === '__proto__' ? 'x__proto__' : name]: name, architectures: [name], hidden_act: 'silu' }, options: { name: 'plain' } },
    ]) {
      const made = initFromConfig(given.config, given.options);
      if (made.text === '') {
        expect(made.diagnostics.some((d) => d.severity === 'error')).toBe(true);
        continue;
      }
      const { specs, diagnostics } = readSpecs(made.text, 'made.moe');
      expect(diagnostics.filter((d) => d.severity === 'error')).toEqual([]);
      expect(specs).toHaveLength(1);
      expect(format(made.text, 'made.moe').text).toBe(made.text);
      // Whatever the names are, the name of the unit is all that they decide.
      const [spec] = specs;
      expect(rest(spec)).toEqual(expected);
      if (given.options.name === 'plain') expect(spec?.name).toBe('plain');
      else expect(spec?.name).toMatch(/^[^\p{Cc}\p{Cs}]+$/u);
    }
  });

  it.each(HOSTILE.map((name) => [shown(name), name]))('model_type %s is refused', (_shown, name) => {
    for (const c of [{ ...config, model_type: name }, { ...config, model_type: 'llava', text_config: { ...config, model_type: name } }]) {
      const made = initFromConfig(c, { name: 'plain' });
      expect(made.text).toBe('');
      expect(made.diagnostics.map((d) => d.code)).toEqual(['MOE2051']);
      // eslint-disable-next-line no-control-regex
      expect(renderText(made.diagnostics, () => undefined)).not.toMatch(/[\0-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\u202e]/);
    }
  });
});
