/** A compiled program as files: texts of kernels, and the modules through which the runtime finds them. */
import { sha256 } from '../../base/hash.ts';
import type { Manifest } from '../../runtime/core/abi.ts';
import { cudaSourcesText } from '../../runtime/core/cuda-sources.ts';
import { asciiJson, jsString } from './escape.ts';

export interface ProgramFiles {
  readonly manifest: Manifest;
  /** Texts of kernels and, for CUDA, of translation units, by their paths. */
  readonly kernels: ReadonlyMap<string, string>;
}

export type Files = Map<string, string | Uint8Array>;

export const byPath = ([a]: readonly [string, unknown], [b]: readonly [string, unknown]): number => (a < b ? -1 : a > b ? 1 : 0);

const kernelsModule = (kernels: ReadonlyMap<string, string>, name: string): string =>
  `export const ${name} = /* @__PURE__ */ new Map([\n${[...kernels].sort(byPath).map(([path, text]) => `  [${jsString(path)}, ${jsString(text)}],`).join('\n')}\n]);\n`;

const parsedJson = (json: string): string => `/* @__PURE__ */ JSON.parse(${jsString(json)})`;

/** WGSL beside a module that holds it all: browsers read no directories. */
export function webgpuFiles({ kernels }: ProgramFiles, head: string): Files {
  return new Map<string, string>([
    ['kernels/index.js', head + kernelsModule(kernels, 'kernels')],
    ['kernels/index.d.ts', `${head}export declare const kernels: ReadonlyMap<string, string>;\n`],
    ...kernels,
  ]);
}

export function webgpuTwin({ manifest, kernels }: ProgramFiles, head: string): Files {
  const json = `${asciiJson(manifest)}\n`;
  return new Map<string, string>([
    ...[...kernels].map(([path, text]): [string, string] => [`golden/${path}`, text]),
    ['golden/manifest.json', json],
    ['golden/twin.js', `${head}${kernelsModule(kernels, 'kernels')}\nexport const twin = { manifest: ${parsedJson(json)}, kernels };\n`],
    ['golden/twin.d.ts', `${head}export declare const twin: { readonly manifest: unknown; readonly kernels: ReadonlyMap<string, string> };\n`],
  ]);
}

/**
 * The program with the sources that all CUDA programs share, and the digest of them all in its manifest.
 * @param shared the sources that stand in the compiler's own folder, by path inside of the package's
 */
export function withSources({ manifest, kernels }: ProgramFiles, shared: ReadonlyMap<string, string>): ProgramFiles {
  if (manifest.cuda === undefined) throw new Error('a manifest without the member cuda');
  const { directory } = manifest.cuda;
  const all = new Map([...kernels, ...[...shared].map(([path, text]): [string, string] => [`${directory}/${path}`, text])]);
  return { manifest: { ...manifest, cuda: { ...manifest.cuda, sources: sha256(cudaSourcesText(all)) } }, kernels: all };
}

export function cudaProgram(program: ProgramFiles, shared: ReadonlyMap<string, string>, head: string): { readonly manifest: Manifest; readonly files: Files } {
  const { manifest, kernels } = withSources(program, shared);
  const build = `${head}import { buildPackage } from '../runtime/node/cuda-build.js';\n\nawait buildPackage(new URL('..', import.meta.url), process.argv.slice(2));\n`;
  return { manifest, files: new Map([...kernels, ['cuda/build.js', build]]) };
}

export function cudaTwin(program: ProgramFiles, shared: ReadonlyMap<string, string>, head: string): Files {
  const { manifest, kernels } = withSources(program, shared);
  const json = `${asciiJson(manifest)}\n`;
  return new Map<string, string>([
    ...[...kernels].map(([path, text]): [string, string] => [`golden/${path}`, text]),
    ['golden/manifest.json', json],
    ['golden/twin.js', `${head}export const twin = { manifest: ${parsedJson(json)}, directory: new URL('.', import.meta.url).href };\n`],
    ['golden/twin.d.ts', `${head}export declare const twin: { readonly manifest: unknown; readonly directory: string };\n`],
  ]);
}
