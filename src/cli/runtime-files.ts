/** The runtime as packages carry it: the compiled files beside this one, or (run from sources) compiled now. */
import { readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { compileRuntime } from '../driver/package.ts';
import { walk } from './walk.ts';

/** Text by path inside `runtime/`, with forward slashes. */
export function runtimeFiles(): ReadonlyMap<string, string> {
  const root = join(dirname(fileURLToPath(import.meta.url)), '..', 'runtime');
  const files = walk(root).sort();
  const built = files.filter((f) => f.endsWith('.js') || f.endsWith('.d.ts'));
  const read = (list: readonly string[]): Map<string, string> =>
    new Map(list.map((f) => [f, readFileSync(join(root, f), 'utf8')]));
  return built.length > 0 ? read(built) : compileRuntime(read(files.filter((f) => f.endsWith('.ts'))));
}
