/** What a report says of how it was made. */
import { createRequire } from 'node:module';
import { GENERATOR } from '../../driver/compile.ts';
import type { TargetName } from '../../driver/profiles.ts';

function versionOf(name: string): string | undefined {
  try {
    const found: unknown = createRequire(import.meta.url)(`${name}/package.json`);
    return typeof found === 'object' && found !== null && 'version' in found && typeof found.version === 'string' ? found.version : undefined;
  } catch {
    // Not there, or it keeps its package.json to itself.
    return undefined;
  }
}

export function versions(target: TargetName): Readonly<Record<string, string>> {
  const webgpu = target === 'webgpu' ? versionOf('webgpu') : undefined;
  const [name = 'moec', version = ''] = GENERATOR.split(' ');
  return { [name]: version, Node: process.versions.node, ...(webgpu === undefined ? {} : { webgpu }) };
}

const quoted = (word: string): string => (/^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`);

/** The command that runs, for the reader to repeat. */
export const commandLine = (): string => ['moec', ...process.argv.slice(2).map(quoted)].join(' ');
