/** TypeScript to the JavaScript and declarations of a package; file by file, which isolated declarations allow. */
import { ts } from 'ts-morph';

const OPTIONS: ts.CompilerOptions = {
  target: ts.ScriptTarget.ES2022,
  module: ts.ModuleKind.ESNext,
  moduleResolution: ts.ModuleResolutionKind.Bundler,
  verbatimModuleSyntax: true,
  isolatedModules: true,
  isolatedDeclarations: true,
  declaration: true,
  allowImportingTsExtensions: true,
  rewriteRelativeImportExtensions: true,
};

/** Relative imports of `.ts` files, as they are called once compiled. */
const compiledImports = (text: string): string => text.replace(/(\bfrom\s+|\bimport\(\s*|\bimport\s+)(['"])(\.{1,2}\/[^'"]+)\.ts\2/g, '$1$2$3.js$2');

export interface Transpiled {
  readonly js: string;
  readonly declarations: string;
}

/** @throws Error with the compiler's messages; generated and shipped sources have none */
export function transpile(fileName: string, text: string): Transpiled {
  // Declarations come from the second call; the first may not be asked for them.
  const { declaration: _declaration, isolatedDeclarations: _isolated, ...plain } = OPTIONS;
  const js = ts.transpileModule(text, { fileName, compilerOptions: plain, reportDiagnostics: true });
  const declarations = ts.transpileDeclaration(text, { fileName, compilerOptions: OPTIONS, reportDiagnostics: true });
  const problems = [...(js.diagnostics ?? []), ...(declarations.diagnostics ?? [])];
  if (problems.length > 0) {
    throw new Error(`${fileName}: ${problems.map((d) => ts.flattenDiagnosticMessageText(d.messageText, '\n')).join('\n')}`);
  }
  return { js: compiledImports(js.outputText), declarations: compiledImports(declarations.outputText) };
}

/** One process may make many packages of the same runtime. */
const compiled = new WeakMap<ReadonlyMap<string, string>, ReadonlyMap<string, string>>();

/**
 * The runtime as packages ship it. `sources`: its files by path inside `runtime`, either compiled already
 * (`.js`, `.d.ts`) or TypeScript, which is compiled here.
 */
export function compileRuntime(sources: ReadonlyMap<string, string>): ReadonlyMap<string, string> {
  const known = compiled.get(sources);
  if (known !== undefined) return known;
  const out = new Map<string, string>();
  for (const [path, text] of sources) {
    if (path.endsWith('.d.ts') || path.endsWith('.js')) {
      out.set(path, compiledImports(text));
    } else if (path.endsWith('.ts')) {
      const { js, declarations } = transpile(path, text);
      out.set(path.replace(/\.ts$/, '.js'), js);
      out.set(path.replace(/\.ts$/, '.d.ts'), declarations);
    }
  }
  compiled.set(sources, out);
  return out;
}
