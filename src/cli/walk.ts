/** Files below a directory. */
import { readdirSync } from 'node:fs';
import { join, relative, sep } from 'node:path';

/** Paths relative to `directory`, with forward slashes. */
export function walk(directory: string, root: string = directory): string[] {
  return readdirSync(directory, { withFileTypes: true }).flatMap((entry) => {
    const path = join(directory, entry.name);
    return entry.isDirectory() ? walk(path, root) : [relative(root, path).split(sep).join('/')];
  });
}
