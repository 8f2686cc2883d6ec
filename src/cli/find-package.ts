/** Where a package lies: the directory itself, or one of those that `compile --target all` wrote into it. */
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { TargetName } from '../driver/profiles.ts';
import { ALL_MANIFEST } from './all-targets.ts';
import { CommandError, EXIT } from './io.ts';

/** What a manifest says its target is, if it says so; whether the manifest is well formed is asked when the package is opened. */
function targetIn(manifest: string): unknown {
  try {
    const value: unknown = JSON.parse(readFileSync(manifest, 'utf8'));
    return typeof value === 'object' && value !== null && 'target' in value ? value.target : undefined;
  } catch {
    return undefined;
  }
}

/** @throws CommandError where there is no package, or none for the target */
export function findPackage(directory: string, target: TargetName | undefined): string {
  const manifest = join(directory, 'manifest.json');
  if (existsSync(manifest)) {
    const own = targetIn(manifest);
    if (target === undefined || own === target || typeof own !== 'string') return directory;
    throw new CommandError(EXIT.usage, `${directory} is a package for ${own}, not for ${target}`, {
      fix: `leave --target out, or compile the spec with --target ${target}`,
    });
  }
  if (!existsSync(join(directory, ALL_MANIFEST))) {
    throw new CommandError(EXIT.io, `${directory} is not a package of moec: it has no index.js with a manifest.json`, { fix: 'make one with moec compile FILE --out DIR' });
  }
  if (target === undefined) throw new CommandError(EXIT.usage, `${directory} holds a package for each target`, { fix: 'say which: --target webgpu or --target cuda' });
  return findPackage(join(directory, target), target);
}
