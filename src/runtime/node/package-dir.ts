/** A package on the disk against its own manifest: what was changed, lost or added since it was written. */
import { createHash } from 'node:crypto';
import { readFile, readdir } from 'node:fs/promises';
import { join, relative, sep } from 'node:path';
import type { Manifest } from '../core/abi.ts';
import { PackageError, quote } from '../core/errors.ts';
import { readManifest } from '../core/manifest.ts';

/** Files that hold the digests and so have none; what npm and users put beside a package is not looked at. */
const UNHASHED: ReadonlySet<string> = new Set(['manifest.json', 'manifest.js', 'package-lock.json']);
const LOOKED_AT = /^(kernels|cuda|golden|runtime|src)\/|^[^/]+\.(js|ts|bin)$/;
/** Libraries are built after a package is written; their names tell from which sources. */
const BUILT = /^(golden\/)?cuda\/lib\//;

async function filesOf(directory: string): Promise<string[]> {
  const entries = await readdir(directory, { recursive: true, withFileTypes: true });
  return entries.filter((e) => !e.isDirectory()).map((e) => relative(directory, join(e.parentPath, e.name)).split(sep).join('/'));
}

/**
 * Reads the manifest of a package and compares the digest of every file.
 * @throws PackageError listing all differences
 */
export async function checkPackageFiles(directory: string): Promise<Manifest> {
  const text = await readFile(join(directory, 'manifest.json'), 'utf8').catch((error: unknown) => {
    throw new PackageError(`${directory} holds no manifest.json`, { fix: 'give the directory that moec compile wrote', cause: error });
  });
  let parsed: unknown;
  try {
    parsed = JSON.parse(text);
  } catch (error) {
    throw new PackageError(`${directory}/manifest.json is not JSON`, { fix: 'compile the package again', cause: error });
  }
  const manifest = readManifest(parsed);
  const problems: string[] = [];
  const expected = new Map(Object.entries(manifest.files));
  for (const [path, digest] of expected) {
    if (path.split('/').some((s) => s === '..' || s === '')) {
      problems.push(`${quote(path)} is no path inside of the package`);
      continue;
    }
    const data = await readFile(join(directory, path)).catch(() => undefined);
    if (data === undefined) problems.push(`${quote(path)} is missing`);
    else if (createHash('sha256').update(data).digest('hex') !== digest) problems.push(`${quote(path)} was changed`);
  }
  for (const path of await filesOf(directory)) {
    if (LOOKED_AT.test(path) && !BUILT.test(path) && !expected.has(path) && !UNHASHED.has(path)) problems.push(`${quote(path)} was added`);
  }
  const module = await readFile(join(directory, 'manifest.js'), 'utf8').catch(() => '');
  const literal = /JSON\.parse\((".*")\);\n$/.exec(module)?.[1];
  if (literal === undefined || JSON.parse(literal) !== text) problems.push('manifest.js does not hold what manifest.json does');
  if (problems.length > 0) {
    throw new PackageError(`${directory} is not as it was written:\n  ${problems.slice(0, 20).join('\n  ')}`, {
      details: { directory, problems },
      fix: 'compile the package again',
    });
  }
  return manifest;
}
