/** What packages carry beside their own program, from the files beside this one. */
import { readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { compileRuntime, type PackageSources } from '../driver/package.ts';
import { walk } from './walk.ts';

const HERE = dirname(fileURLToPath(import.meta.url));

const readAll = (root: string, files: readonly string[]): Map<string, string> => new Map(files.map((f) => [f, readFileSync(join(root, f), 'utf8')]));

/** The runtime, compiled already or (run from sources) now. Text by path inside `runtime/`, with forward slashes. */
export function runtimeFiles(): ReadonlyMap<string, string> {
  const root = join(HERE, '..', 'runtime');
  const files = walk(root).sort();
  const built = files.filter((f) => f.endsWith('.js') || f.endsWith('.d.ts'));
  return built.length > 0 ? readAll(root, built) : compileRuntime(readAll(root, files.filter((f) => f.endsWith('.ts'))));
}

/** The CUDA sources that all programs include: real files, which no build step copies. */
export function cudaFiles(): ReadonlyMap<string, string> {
  const root = join(HERE, '..', '..', 'src', 'codegen', 'cuda');
  return readAll(root, walk(root).filter((f) => /^[^/]+\.(cuh|h)$/.test(f)).sort());
}

export const packageSources = (): PackageSources => ({ runtime: runtimeFiles(), cuda: cudaFiles() });
