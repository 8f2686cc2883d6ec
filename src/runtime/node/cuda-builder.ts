/**
 * Builds the library of CUDA sources: parts compile side by side in a folder of their own, and the finished library is moved into
 * place in one step. Two builders of one library do the work once.
 */
import { mkdir, mkdtemp, readFile, readdir, rename, rm, writeFile } from 'node:fs/promises';
import { availableParallelism } from 'node:os';
import { basename, dirname, join, relative, resolve, sep } from 'node:path';
import { createHash, randomBytes } from 'node:crypto';
import { existsSync } from 'node:fs';
import type { ManifestCuda } from '../core/abi.ts';
import { cudaSourcesText, isCudaSource } from '../core/cuda-sources.ts';
import { PackageError, type Signal, throwIfAborted } from '../core/errors.ts';
import { type Compilation, findCxx, findNvcc, runCompiler } from './cuda-compilers.ts';
import { type CudaFlavour, compileFlags, libraryPath, linkFlags, wantsSanitizer } from './cuda-flags.ts';
import { withLock } from './cuda-lock.ts';

export interface BuildOptions {
  /** The folder that holds the manifest. */
  readonly directory: string;
  readonly cuda: ManifestCuda;
  /** For the emulator, by g++; default false. */
  readonly emulate?: boolean;
  /** With AddressSanitizer, emulation only; default: as MOEC_EMULATE_ASAN=1 says. */
  readonly sanitize?: boolean;
  readonly nvcc?: string | undefined;
  /** Compilers at a time; default: one a core. */
  readonly jobs?: number | undefined;
  /** A folder of objects by what they are made of, shared by many builds; default: none. */
  readonly objects?: string | undefined;
  readonly signal?: Signal | undefined;
  readonly onProgress?: (done: number, total: number) => void;
}

export interface BuiltLibrary {
  readonly path: string;
  /** False where it was there already. */
  readonly built: boolean;
  readonly milliseconds: number;
}

/** The sources on the disk, by path from `directory`. */
async function readSources(directory: string, cuda: ManifestCuda): Promise<ReadonlyMap<string, string>> {
  const root = join(directory, cuda.directory);
  const entries = await readdir(root, { recursive: true, withFileTypes: true }).catch((error: unknown) => {
    throw new PackageError(`${root} cannot be read`, { fix: 'give the directory that moec compile wrote', cause: error });
  });
  const built = dirname(libraryPath(directory, cuda, { arch: cuda.arch, emulate: false }));
  const isOwn = (folder: string): boolean => folder !== built && !folder.startsWith(built + sep);
  const files = entries.filter((e) => e.isFile() && isCudaSource(e.name) && isOwn(e.parentPath)).map((e) => join(e.parentPath, e.name));
  const texts = await Promise.all(files.map(async (f): Promise<[string, string]> => [relative(directory, f).split(sep).join('/'), await readFile(f, 'utf8')]));
  const sources = new Map(texts);
  if (createHash('sha256').update(cudaSourcesText(sources)).digest('hex') !== cuda.sources) {
    throw new PackageError(`the sources in ${root} are not those that the manifest tells of`, { details: { directory: root }, fix: 'compile the package again' });
  }
  return sources;
}

/** What a unit includes, itself first: all that its object is made of, system headers aside. */
function textsOf(unit: string, sources: ReadonlyMap<string, string>, root: string): Map<string, string> {
  const texts = new Map<string, string>();
  const visit = (path: string): void => {
    const text = sources.get(path);
    if (text === undefined || texts.has(path)) return;
    texts.set(path, text);
    for (const [, name = ''] of text.matchAll(/^[ \t]*#[ \t]*include[ \t]*"([^"]+)"/gm)) {
      visit(`${dirname(path)}/${name}`);
      visit(`${root}/${name}`);
    }
  };
  visit(unit);
  return texts;
}

interface Plan {
  readonly directory: string;
  readonly cuda: ManifestCuda;
  readonly flavour: CudaFlavour;
  readonly compiler: string;
  readonly sources: ReadonlyMap<string, string>;
  readonly objects: string | undefined;
  readonly signal: Signal | undefined;
}

/** Puts a finished file where others may look for it. */
async function publish(from: string, to: string): Promise<void> {
  await mkdir(dirname(to), { recursive: true });
  await rename(from, to);
}

/** A file that the compiler is given. */
interface Unit {
  /** From the manifest's folder. */
  readonly path: string;
  /** All that its object is made of. */
  readonly texts: ReadonlyMap<string, string>;
}

/**
 * For a device each part by itself, as its kernels take the compiler long. For the emulator they go in one: there the headers take
 * longer than the kernels.
 */
async function unitsOf({ cuda, flavour, sources }: Plan, work: string): Promise<readonly Unit[]> {
  const unit = (path: string): Unit => ({ path, texts: textsOf(path, sources, cuda.directory) });
  if (!flavour.emulate) return [...cuda.parts, cuda.module].map(unit);
  const path = join(work, 'parts.cu');
  await writeFile(path, cuda.parts.map((p) => `#include "${p}"\n`).join(''));
  return [{ path, texts: new Map(cuda.parts.flatMap((p) => [...textsOf(p, sources, cuda.directory)])) }, unit(cuda.module)];
}

/** One translation unit as an object; resolves to its path and what the compiler said. */
async function compileUnit(plan: Plan, unit: Unit, work: string): Promise<{ readonly object: string; readonly said: string }> {
  const { cuda, flavour, objects } = plan;
  const flags = compileFlags(flavour);
  const name = `${basename(unit.path).replace(/\.\w+$/, '')}.o`;
  const key = createHash('sha256').update(JSON.stringify([plan.compiler, flags, ...unit.texts])).digest('hex').slice(0, 24);
  const kept = objects === undefined ? undefined : join(objects, `${key}.o`);
  // Without its report an object is made again: someone removed half of the pair.
  if (kept !== undefined && existsSync(kept) && existsSync(reportPath(kept))) return { object: kept, said: await readFile(reportPath(kept), 'utf8') };
  const object = join(work, name);
  const args = [...flags, '-I', '.', '-I', cuda.directory, '-c', unit.path, '-o', object];
  const said = await runCompiler({ program: plan.compiler, args, cwd: plan.directory, what: basename(unit.path) }, plan.signal);
  if (kept === undefined) return { object, said };
  const report = join(work, `${name}.txt`);
  await writeFile(report, said);
  await publish(report, reportPath(kept));
  await publish(object, kept);
  return { object: kept, said };
}

/** All of `items`, at most `width` at a time; the first failure ends the others through the signal that they are given. */
async function inParallel<T, R>(
  items: readonly T[],
  width: number,
  signal: Signal | undefined,
  work: (item: T, signal: Signal) => Promise<R>,
): Promise<R[]> {
  const end = new AbortController();
  const stop = (): void => end.abort(signal?.reason);
  if (signal?.aborted === true) stop();
  signal?.addEventListener('abort', stop, { once: true });
  const results: R[] = [];
  const failures: unknown[] = [];
  const queue = [...items.entries()];
  const worker = async (): Promise<void> => {
    for (let next = queue.shift(); next !== undefined && failures.length === 0; next = queue.shift()) {
      try {
        results[next[0]] = await work(next[1], end.signal);
      } catch (error) {
        failures.push(error);
        stop();
      }
    }
  };
  await Promise.all(Array.from({ length: Math.max(1, width) }, worker));
  signal?.removeEventListener('abort', stop);
  if (failures.length > 0) throw failures[0];
  return results;
}

async function build(plan: Plan, path: string, jobs: number, onProgress: BuildOptions['onProgress']): Promise<void> {
  const work = await mkdtemp(`${path}.build-`);
  try {
    const units = await unitsOf(plan, work);
    let done = 0;
    const total = units.length + 1;
    onProgress?.(done, total);
    const compiled = await inParallel(units, jobs, plan.signal, async (unit, signal) => {
      const result = await compileUnit({ ...plan, signal }, unit, work);
      onProgress?.(++done, total);
      return result;
    });
    throwIfAborted(plan.signal);
    const library = join(work, basename(path));
    const link: Compilation = {
      program: plan.compiler,
      args: [...linkFlags(plan.flavour), '-o', library, ...compiled.map((c) => c.object)],
      cwd: plan.directory,
      what: basename(path),
    };
    await runCompiler(link, plan.signal);
    // Registers and spills of every kernel, as ptxas tells them.
    const report = compiled.map((c) => c.said).join('');
    if (report.trim() !== '') {
      const text = join(work, 'report.txt');
      await writeFile(text, report);
      await publish(text, reportPath(path));
    }
    await publish(library, path);
    onProgress?.(total, total);
  } finally {
    await rm(work, { recursive: true, force: true });
  }
}

/** What the compiler said of a library's kernels (written for devices only), or of an object. */
export const reportPath = (library: string): string => library.replace(/\.s?o$/, '.txt');

/** Folders of builders that were killed. The lock is held: no builder of this library is alive. */
async function removeLeftovers(path: string): Promise<void> {
  const names = await readdir(dirname(path));
  const left = names.filter((n) => n.startsWith(`${basename(path)}.build-`));
  await Promise.all(left.map((n) => rm(join(dirname(path), n), { recursive: true, force: true })));
}

/**
 * Builds the library where it is not there yet.
 * @throws CudaBuildError, PackageError, AbortError; then nothing is left but what was there before
 */
export async function buildCudaLibrary(options: BuildOptions): Promise<BuiltLibrary> {
  const start = performance.now();
  const directory = resolve(options.directory);
  const { cuda, emulate = false, sanitize = wantsSanitizer() } = options;
  const flavour: CudaFlavour = { arch: cuda.arch, emulate, sanitize: emulate && sanitize };
  const path = libraryPath(directory, cuda, flavour);
  const result = (built: boolean): BuiltLibrary => ({ path, built, milliseconds: performance.now() - start });
  if (existsSync(path)) return result(false);
  const sources = await readSources(directory, cuda);
  const compiler = emulate ? findCxx() : findNvcc(options.nvcc);
  await mkdir(dirname(path), { recursive: true });
  return withLock(`${path}.lock`, options.signal, async () => {
    if (existsSync(path)) return result(false);
    await removeLeftovers(path);
    const plan: Plan = { directory, cuda, flavour, compiler, sources, objects: options.objects, signal: options.signal };
    await build(plan, path, options.jobs ?? availableParallelism(), options.onProgress);
    return result(true);
  });
}

/**
 * Lays sources down in a folder of a cache, by what they are, and builds their library there.
 * @param files texts by path, as `cuda` names them
 * @returns the library, and the folder to open it from
 */
export async function buildInCache(
  files: ReadonlyMap<string, string>,
  cache: string,
  options: Omit<BuildOptions, 'directory' | 'objects'>,
): Promise<BuiltLibrary & { readonly directory: string }> {
  const directory = join(resolve(cache), options.cuda.sources.slice(0, 24));
  if (!existsSync(directory)) {
    const draft = `${directory}.${randomBytes(6).toString('hex')}`;
    for (const [path, text] of files) {
      if (!isCudaSource(path)) continue;
      await mkdir(dirname(join(draft, path)), { recursive: true });
      await writeFile(join(draft, path), text);
    }
    // Where another was faster its files are the same.
    await rename(draft, directory).catch(() => rm(draft, { recursive: true, force: true }));
  }
  return { ...(await buildCudaLibrary({ ...options, directory, objects: join(resolve(cache), 'objects') })), directory };
}
