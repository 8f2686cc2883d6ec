/** Entries on disk, one file each: written beside and renamed, so that a reader sees a whole file or none, whoever else writes. */
import { closeSync, existsSync, fsyncSync, mkdirSync, openSync, readFileSync, readdirSync, renameSync, rmSync, statSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { type Entry, parseEntry } from './entry.ts';

export const STORE_DIRECTORY = '.moec/tune';

/** The file system as the store uses it; tests bring one that fails. */
export interface StoreFs {
  write(path: string, text: string): void;
  append(path: string, text: string): void;
  rename(from: string, to: string): void;
  makeDirectory(path: string): void;
}

function writeWhole(path: string, flags: 'w' | 'a', text: string, sync: boolean): void {
  const fd = openSync(path, flags);
  try {
    const bytes = Buffer.from(text, 'utf8');
    // One call: lines of two processes do not mix.
    if (writeSync(fd, bytes) !== bytes.length) throw new Error(`${path}: the disk is full`);
    if (sync) fsyncSync(fd);
  } finally {
    closeSync(fd);
  }
}

export const DISK: StoreFs = {
  write: (path, text) => writeWhole(path, 'w', text, true),
  append: (path, text) => writeWhole(path, 'a', text, false),
  rename: renameSync,
  makeDirectory: (path) => void mkdirSync(path, { recursive: true }),
};

const MOST_BYTES = 1 << 20;
const FILE = /^[0-9a-f]{32}\.json$/;

export type Warn = (message: string) => void;

const wordsOf = (error: unknown): string => (error instanceof Error ? error.message : String(error));

/** Each text once. */
export function warnOnce(warn: Warn): Warn {
  const told = new Set<string>();
  return (message) => {
    if (told.has(message)) return;
    told.add(message);
    warn(message);
  };
}

export class TuneStore {
  readonly directory: string;
  readonly #fs: StoreFs;
  readonly #warn: Warn;
  #count = 0;
  #failed = false;

  constructor(directory: string, warn: Warn, fs: StoreFs = DISK) {
    this.directory = directory;
    this.#fs = fs;
    this.#warn = warnOnce(warn);
  }

  fileOf(key: string): string {
    return join(this.directory, `${key}.json`);
  }

  #read(file: string): Entry | undefined {
    const path = join(this.directory, file);
    let problem: string;
    try {
      const size = statSync(path).size;
      const found = size > MOST_BYTES ? `it has ${size} bytes` : parseEntry(readFileSync(path, 'utf8'));
      if (typeof found !== 'string') {
        if (`${found.key}.json` === file) return found;
        problem = 'it is of another key';
      } else problem = found;
    } catch (error) {
      problem = wordsOf(error);
    }
    this.#warn(`${path} is passed over: ${problem}`);
    return undefined;
  }

  /** A file that is missing is a miss; one that is no entry is a miss with a warning. */
  read(key: string): Entry | undefined {
    return existsSync(this.fileOf(key)) ? this.#read(`${key}.json`) : undefined;
  }

  /** All entries, by key. */
  list(): readonly Entry[] {
    let files: readonly string[];
    try {
      files = readdirSync(this.directory);
    } catch {
      return [];
    }
    return files.filter((f) => FILE.test(f)).sort().flatMap((f) => this.#read(f) ?? []);
  }

  /** False where the disk does not take it, which is told once. */
  write(entry: Entry): boolean {
    const temporary = join(this.directory, `${entry.key}.${process.pid}.${this.#count++}.tmp`);
    try {
      this.#fs.makeDirectory(this.directory);
      this.#fs.write(temporary, `${JSON.stringify(entry, null, 1)}\n`);
      this.#fs.rename(temporary, this.fileOf(entry.key));
      return true;
    } catch (error) {
      if (!this.#failed) this.#warn(`results cannot be kept in ${this.directory}: ${wordsOf(error)}`);
      this.#failed = true;
      try {
        rmSync(temporary, { force: true });
      } catch {
        // Not even made.
      }
      return false;
    }
  }
}
