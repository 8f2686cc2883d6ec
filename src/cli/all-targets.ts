/** A directory with a package for each target, each complete in itself, and a small package around them. */
import type { TargetName } from '../driver/profiles.ts';

/** Tells that the directory is ours and which targets it holds. */
export const ALL_MANIFEST = 'targets.json';

/** What lies beside the packages. */
export const ALL_FILES: ReadonlySet<string> = new Set([ALL_MANIFEST, 'package.json', 'README.md']);

type Files = ReadonlyMap<string, string | Uint8Array>;

interface InnerPackage {
  readonly name: string;
  readonly version: string;
  readonly license: string;
  readonly engines: object;
  readonly peerDependencies: object;
  readonly peerDependenciesMeta: object;
}

function innerPackage(files: Files): InnerPackage {
  const text = files.get('package.json');
  if (typeof text !== 'string') throw new Error('a package without package.json');
  const json: InnerPackage = JSON.parse(text);
  return json;
}

/** `name/webgpu` and `name/cuda` are the packages; `name` alone is the first of them. */
function packageJson(packages: ReadonlyMap<TargetName, Files>): string {
  const inner = [...packages.values()].map(innerPackage);
  const [first] = inner;
  const entry = (target: string): object => ({ types: `./${target}/index.d.ts`, default: `./${target}/index.js` });
  const targets = [...packages.keys()];
  const json = {
    name: first?.name,
    version: first?.version,
    description: `${first?.name ?? ''} on ${targets.join(' and ')}`,
    type: 'module',
    license: first?.license,
    engines: first?.engines,
    sideEffects: false,
    exports: {
      '.': entry(targets[0] ?? ''),
      ...Object.fromEntries(targets.map((t) => [`./${t}`, entry(t)])),
      './package.json': './package.json',
    },
    files: [...targets, ALL_MANIFEST, 'README.md'],
    peerDependencies: Object.assign({}, ...inner.map((p) => p.peerDependencies)) as object,
    peerDependenciesMeta: Object.assign({}, ...inner.map((p) => p.peerDependenciesMeta)) as object,
  };
  return `${JSON.stringify(json, undefined, 2)}\n`;
}

function readme(packages: ReadonlyMap<TargetName, Files>): string {
  const rows = [...packages].map(([target, files]) => `- \`${innerPackage(files).name}/${target}\`: see [${target}/README.md](${target}/README.md)`);
  const title = String([...packages.values()][0]?.get('README.md') ?? '').split('\n')[0] ?? '';
  return `${title}\n\nOne package for each target, with the same functions:\n\n${rows.join('\n')}\n`;
}

/** All files of the directory. */
export function allTargets(packages: ReadonlyMap<TargetName, Files>, generator: string): Files {
  const files = new Map<string, string | Uint8Array>([
    ['package.json', packageJson(packages)],
    ['README.md', readme(packages)],
    [ALL_MANIFEST, `${JSON.stringify({ generator, targets: [...packages.keys()] }, undefined, 2)}\n`],
  ]);
  for (const [target, own] of packages) for (const [path, data] of own) files.set(`${target}/${path}`, data);
  return files;
}
