/**
 * Writes a directory in one step: whole or not at all, and never over anything that is not ours.
 * Files go to a sibling directory, are synced, and the two are swapped by renaming.
 */
import { randomBytes } from 'node:crypto';
import {
  closeSync, existsSync, fsyncSync, lstatSync, mkdirSync, openSync, readFileSync, readdirSync, renameSync, rmSync, writeSync,
} from 'node:fs';
import { open } from 'node:fs/promises';
import { basename, dirname, join, resolve, sep } from 'node:path';
import { ALL_FILES, ALL_MANIFEST } from './all-targets.ts';
import { hasCode, isAlive } from '../runtime/node/cuda-lock.ts';
import { CommandError, EXIT } from './io.ts';
import { walk } from './walk.ts';

const refuse = (message: string, fix: string): CommandError => new CommandError(EXIT.io, message, { code: 'MOE5031', fix });

/** Paths inside a package: plain segments only. */
function checkPath(path: string): void {
  const bad = path === '' || path.split('/').some((s) => !/^[A-Za-z0-9_][A-Za-z0-9_.-]*$/.test(s));
  if (bad) throw new Error(`a package cannot hold the path ${JSON.stringify(path)}`);
}

/** Libraries that were built from a package's sources after it was written. */
const BUILT = /^(golden\/)?cuda\/lib\/moec-[^/]+(\/[^/]+)?$/;

type Owns = (path: string) => boolean;

/** The object in a JSON file that moec has made; undefined for any other file. */
function ownJson(path: string): object | undefined {
  try {
    const value: unknown = JSON.parse(readFileSync(path, 'utf8'));
    if (typeof value !== 'object' || value === null || !('generator' in value)) return undefined;
    return typeof value.generator === 'string' && value.generator.startsWith('moec ') ? value : undefined;
  } catch {
    return undefined;
  }
}

/** Which files of a directory are an earlier package, by its manifest; undefined where it holds no package of ours. */
function packageFiles(directory: string): Owns | undefined {
  const manifest = ownJson(join(directory, 'manifest.json'));
  if (manifest === undefined || !('files' in manifest) || typeof manifest.files !== 'object' || manifest.files === null) return undefined;
  const files = new Set([...Object.keys(manifest.files), 'manifest.json', 'manifest.js']);
  return (path) => files.has(path) || BUILT.test(path);
}

/** The same of a directory that holds a package for each target. */
function oldFiles(directory: string): Owns | undefined {
  const own = packageFiles(directory);
  const all = own === undefined ? ownJson(join(directory, ALL_MANIFEST)) : undefined;
  if (all === undefined || !('targets' in all) || !Array.isArray(all.targets)) return own;
  const targets = all.targets.filter((t): t is string => typeof t === 'string' && /^[a-z]+$/.test(t));
  const packages = targets.map((target) => ({ prefix: `${target}/`, owns: packageFiles(join(directory, target)) }));
  return (path) => ALL_FILES.has(path) || packages.some(({ prefix, owns }) => path.startsWith(prefix) && owns?.(path.slice(prefix.length)) === true);
}

/** Whether `target` may be replaced; true where something is there. @throws CommandError */
function checkTarget(target: string): boolean {
  const here = process.cwd();
  if (here === target || here.startsWith(target.endsWith(sep) ? target : target + sep)) {
    throw refuse(`${target} is the directory you are in, or above it`, 'name a directory below: --out pkg');
  }
  const info = lstatSync(target, { throwIfNoEntry: false });
  if (info === undefined) return false;
  if (info.isSymbolicLink()) throw refuse(`${target} is a symbolic link`, 'name the directory itself');
  if (!info.isDirectory()) throw refuse(`${target} is not a directory`, 'name another place');
  const found = walk(target);
  if (found.length === 0) return true;
  const ours = oldFiles(target);
  if (ours === undefined) throw refuse(`${target} is not empty and holds no package of moec`, 'name a new or an empty directory');
  const foreign = found.filter((f) => !ours(f));
  if (foreign.length > 0) {
    const shown = foreign.slice(0, 3).join(', ');
    throw refuse(`${target} also holds ${shown}${foreign.length > 3 ? ` and ${foreign.length - 3} more files` : ''} that moec did not write`, 'move them away, or name another directory');
  }
  return true;
}

/** Takes the lock beside the target, or says who holds it. A lock whose process is gone is taken over. */
function lock(path: string, target: string): void {
  for (let attempt = 0; attempt < 3; attempt++) {
    try {
      const fd = openSync(path, 'wx');
      writeSync(fd, JSON.stringify({ pid: process.pid, since: new Date().toISOString() }));
      closeSync(fd);
      return;
    } catch (error) {
      if (!hasCode(error, 'EEXIST')) throw error;
    }
    let holder: { readonly pid?: unknown; readonly since?: unknown } = {};
    try {
      const parsed: unknown = JSON.parse(readFileSync(path, 'utf8'));
      if (typeof parsed === 'object' && parsed !== null) holder = parsed;
    } catch {
      // Half written by a process that died, or just being written: not alive unless the file says so.
    }
    if (typeof holder.pid === 'number' && holder.pid !== process.pid && isAlive(holder.pid)) {
      throw refuse(`process ${holder.pid} has been writing ${target} since ${String(holder.since)}`, 'wait for it, or name another directory');
    }
    rmSync(path, { force: true });
  }
  throw refuse(`${target} cannot be locked`, `remove ${path}`);
}

function syncDirectory(path: string): void {
  // Windows cannot open directories; its renames are durable enough.
  if (process.platform === 'win32') return;
  const fd = openSync(path, 'r');
  try {
    fsyncSync(fd);
  } finally {
    closeSync(fd);
  }
}

function writeFile(path: string, data: string | Uint8Array): void {
  const bytes = typeof data === 'string' ? new TextEncoder().encode(data) : data;
  const fd = openSync(path, 'wx', 0o644);
  try {
    for (let at = 0; at < bytes.length; ) at += writeSync(fd, bytes, at);
  } finally {
    closeSync(fd);
  }
}

/** All at once: one by one, each would wait for the disk. */
async function syncFiles(paths: readonly string[]): Promise<void> {
  await Promise.all(paths.map(async (path) => {
    const file = await open(path, 'r+');
    try {
      await file.sync();
    } finally {
      await file.close();
    }
  }));
}

/** Leftovers of a run that was killed: an old package whose successor never came is put back, the rest removed. */
function repair(parent: string, name: string, target: string): void {
  const olds = readdirSync(parent).filter((f) => f.startsWith(`.${name}.old-`)).sort();
  const last = olds[olds.length - 1];
  if (last !== undefined && !existsSync(target)) renameSync(join(parent, last), target);
  for (const f of readdirSync(parent)) {
    if (f.startsWith(`.${name}.old-`) || f.startsWith(`.${name}.tmp-`)) rmSync(join(parent, f), { recursive: true, force: true });
  }
}

/** What a test may break. */
export interface Faults {
  /** Called before each step with its name; may throw. */
  readonly before?: (step: string) => void;
}

/**
 * Puts `files` into `directory`, which is new, empty, or an earlier package.
 * @throws CommandError where the place is not ours to write, or the system's own error where writing fails: then nothing has changed
 */
export async function writePackage(directory: string, files: ReadonlyMap<string, string | Uint8Array>, faults: Faults = {}): Promise<void> {
  const before = faults.before ?? ((): void => undefined);
  for (const path of files.keys()) checkPath(path);
  const target = resolve(directory);
  const parent = dirname(target);
  const name = basename(target);
  if (name === '') throw refuse('the root directory cannot be replaced', 'name a new directory');
  mkdirSync(parent, { recursive: true });
  const lockPath = join(parent, `.${name}.moec-lock`);
  lock(lockPath, target);
  const stamp = randomBytes(6).toString('hex');
  const temporary = join(parent, `.${name}.tmp-${stamp}`);
  const old = join(parent, `.${name}.old-${stamp}`);
  try {
    repair(parent, name, target);
    const exists = checkTarget(target);
    const directories = new Set<string>([temporary]);
    for (const path of files.keys()) directories.add(dirname(join(temporary, path)));
    for (const d of directories) mkdirSync(d, { recursive: true });
    for (const [path, data] of files) {
      before(`write ${path}`);
      writeFile(join(temporary, path), data);
    }
    before('sync');
    await syncFiles([...files.keys()].map((path) => join(temporary, path)));
    for (const d of directories) syncDirectory(d);
    if (exists) {
      before('move old');
      renameSync(target, old);
    }
    try {
      before('move new');
      renameSync(temporary, target);
    } catch (error) {
      if (exists) renameSync(old, target);
      throw error;
    }
    syncDirectory(parent);
    before('remove old');
    rmSync(old, { recursive: true, force: true });
  } finally {
    rmSync(temporary, { recursive: true, force: true });
    rmSync(lockPath, { force: true });
  }
}
