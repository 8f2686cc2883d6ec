/** Packages of npm that this runtime can do without, found wherever the user has them. */
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';

/**
 * Imports a package from beside this file, else from the directory the process runs in: a generated package may lie outside of the
 * project that uses it.
 * @param beside the import by name; a function, so that bundlers see the name as it is
 * @throws what `beside` throws, where the package is in neither place
 */
export async function importOptional(name: string, beside: () => Promise<unknown>): Promise<unknown> {
  try {
    return await beside();
  } catch (first) {
    try {
      const path = createRequire(join(process.cwd(), 'index.js')).resolve(name);
      return await import(pathToFileURL(path).href);
    } catch {
      throw first;
    }
  }
}
