/** A lock between processes, as a file that names its holder. */
import { open, readFile, rm } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { type Signal, throwIfAborted } from '../core/errors.ts';

const POLL_MS = 100;
/** A lock that says nothing is being written just now, or its writer died; after this long it died. */
const SILENT_MS = 2000;

export const hasCode = (error: unknown, code: string): boolean => error instanceof Error && 'code' in error && error.code === code;

/** Whether a process of that number is there. */
export function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return hasCode(error, 'EPERM');
  }
}

async function tryLock(path: string): Promise<boolean> {
  try {
    const file = await open(path, 'wx');
    await file.writeFile(JSON.stringify({ pid: process.pid }));
    await file.close();
    return true;
  } catch (error) {
    if (hasCode(error, 'EEXIST')) return false;
    throw error;
  }
}

/** Undefined where the file is gone or does not say. */
async function holderOf(path: string): Promise<number | undefined> {
  try {
    const value: unknown = JSON.parse(await readFile(path, 'utf8'));
    return typeof value === 'object' && value !== null && 'pid' in value && typeof value.pid === 'number' ? value.pid : undefined;
  } catch {
    return undefined;
  }
}

/**
 * Runs `work` while no other holder does; waits for one that is alive. A lock whose holder is gone is taken over: where two take it
 * over at once both run, so work under a lock must bear that (here: build apart, then rename).
 * @throws AbortError
 */
export async function withLock<T>(path: string, signal: Signal | undefined, work: () => Promise<T>): Promise<T> {
  let silent = 0;
  while (!(await tryLock(path))) {
    throwIfAborted(signal);
    const holder = await holderOf(path);
    silent = holder === undefined ? silent + POLL_MS : 0;
    const gone = holder === undefined ? silent > SILENT_MS : !isAlive(holder);
    if (gone) await rm(path, { force: true });
    else await sleep(POLL_MS);
  }
  try {
    return await work();
  } finally {
    await rm(path, { force: true });
  }
}
