/** The walls of the house: who may import whom (ARCHITECTURE.md), no circles, no long files, no Node where a browser goes. */
import { readFileSync, readdirSync, statSync } from 'node:fs';
import { dirname, join, relative, resolve } from 'node:path';
import { Project, type SourceFile, SyntaxKind } from 'ts-morph';
import { describe, expect, it } from 'vitest';

const ROOT = resolve(import.meta.dirname, '..');
const SRC = join(ROOT, 'src');

/** Longest prefix wins; every room may import itself and, runtime aside, `base`. Packages stand beside rooms. */
const MAY_IMPORT: Readonly<Record<string, readonly string[]>> = {
  base: [],
  runtime: ['webgpu', 'koffi'],
  diagnostics: [],
  parser: ['diagnostics', 'chevrotain'],
  model: ['diagnostics', 'parser/ast.ts'],
  'ir/graph': ['diagnostics/types.ts'],
  'ir/kernel': ['diagnostics/types.ts'],
  target: ['ir/kernel'],
  kernels: ['ir/kernel', 'target'],
  lower: ['model', 'ir', 'kernels', 'target'],
  passes: ['ir', 'target', 'diagnostics'],
  'codegen/clike': ['ir/kernel'],
  'codegen/wgsl': ['ir/kernel', 'target', 'codegen/clike', 'passes/pass.ts', 'passes/kernel'],
  'codegen/cuda': ['ir/kernel', 'target', 'codegen/clike', 'passes/pass.ts', 'passes/kernel'],
  'codegen/package': ['target', 'runtime/core', 'ts-morph'],
  tuner: ['ir/kernel', 'kernels', 'target', 'codegen', 'runtime'],
  driver: ['diagnostics', 'parser', 'model', 'ir', 'target', 'kernels', 'lower', 'passes', 'codegen', 'runtime', 'tuner'],
  cli: ['driver', 'tuner', 'diagnostics', 'runtime', 'commander', 'vega', 'vega-lite'],
  'index.ts': ['driver', 'diagnostics', 'runtime'],
};
/** Only these may use Node; everything else runs in a browser too. */
const NODE_ALLOWED = ['cli/', 'tuner/', 'runtime/node/'];
const MAX_LINES = 500;

const walk = (dir: string): string[] =>
  readdirSync(dir).flatMap((name) => {
    const path = join(dir, name);
    return statSync(path).isDirectory() ? walk(path) : [path];
  });

const roomOf = (path: string): string => {
  const room = Object.keys(MAY_IMPORT)
    .filter((r) => path === r || path.startsWith(`${r}/`))
    .sort((a, b) => b.length - a.length)[0];
  if (room === undefined) throw new Error(`${path} is in no room: add it to the table here and to ARCHITECTURE.md`);
  return room;
};

interface Edge {
  readonly from: string;
  readonly to: string;
  readonly typeOnly: boolean;
}

let parsed: SourceFile[] | undefined;
function sources(): SourceFile[] {
  if (parsed === undefined) {
    const project = new Project({ skipAddingFilesFromTsConfig: true });
    project.addSourceFilesAtPaths(join(SRC, '**/*.ts'));
    parsed = project.getSourceFiles();
  }
  return parsed;
}

function edges(): Edge[] {
  return sources().flatMap((file) => {
    const from = relative(SRC, file.getFilePath());
    const imports = file.getImportDeclarations().map((d) => ({ spec: d.getModuleSpecifierValue(), typeOnly: d.isTypeOnly() }));
    const exports = file.getExportDeclarations().flatMap((d) => {
      const spec = d.getModuleSpecifierValue();
      return spec === undefined ? [] : [{ spec, typeOnly: d.isTypeOnly() }];
    });
    const dynamic = [...file.getFullText().matchAll(/\bimport\(\s*'([^'$]+)'\s*\)/g)].map((m) => ({ spec: m[1] ?? '', typeOnly: false }));
    return [...imports, ...exports, ...dynamic].map(({ spec, typeOnly }) => ({
      from,
      to: spec.startsWith('.') ? relative(SRC, resolve(SRC, dirname(from), spec)) : spec,
      typeOnly,
    }));
  });
}

const allowed = (from: string, to: string): boolean => {
  const room = roomOf(from);
  const isOwn = to === room || to.startsWith(`${room}/`);
  const isBase = room !== 'runtime' && to.startsWith('base/');
  if (to.startsWith('node:')) return NODE_ALLOWED.some((p) => from.startsWith(p));
  return isOwn || isBase || (MAY_IMPORT[room] ?? []).some((r) => to === r || to.startsWith(`${r}/`));
};

describe('architecture', () => {
  const all = edges();

  it('lets rooms import only what the table allows', () => {
    expect(all.filter((e) => !allowed(e.from, e.to)).map((e) => `${e.from} -> ${e.to}`)).toEqual([]);
  });

  it('has no circle of imports', () => {
    const graph = new Map<string, string[]>();
    for (const e of all) if (!e.typeOnly) graph.set(e.from, [...(graph.get(e.from) ?? []), e.to]);
    const state = new Map<string, 'open' | 'done'>();
    const circles: string[] = [];
    const visit = (node: string, path: readonly string[]): void => {
      if (state.get(node) === 'done') return;
      if (state.get(node) === 'open') {
        circles.push([...path.slice(path.indexOf(node)), node].join(' -> '));
        return;
      }
      state.set(node, 'open');
      for (const next of graph.get(node) ?? []) visit(next, [...path, node]);
      state.set(node, 'done');
    };
    for (const node of graph.keys()) visit(node, []);
    expect(circles).toEqual([]);
  });

  it('keeps files short', () => {
    const files = [...walk(SRC), ...walk(join(ROOT, 'tests'))].filter((f) => f.endsWith('.ts'));
    const long = files.map((f) => ({ f, n: readFileSync(f, 'utf8').split('\n').length })).filter(({ n }) => n > MAX_LINES);
    expect(long.map(({ f, n }) => `${relative(ROOT, f)}: ${n} lines`)).toEqual([]);
  });

  it('has no holes in its types', () => {
    const holes = sources().flatMap((file) =>
      file.getDescendantsOfKind(SyntaxKind.AnyKeyword).map((n) => `${relative(ROOT, file.getFilePath())}:${n.getStartLineNumber()}`),
    );
    const silenced = sources().filter((f) => /@ts-(ignore|nocheck)/.test(f.getFullText())).map((f) => f.getFilePath());
    expect([...holes, ...silenced]).toEqual([]);
  });
});
