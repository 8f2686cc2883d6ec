/** Weights from the disk: a file, a directory with one file, or a directory with an index and its shards. */
import { constants } from 'node:fs';
import { type FileHandle, open, readdir, realpath, stat } from 'node:fs/promises';
import { basename, dirname, join, sep } from 'node:path';
import { SafetensorsError, type Signal, quote, throwIfAborted } from '../core/errors.ts';
import { INDEX_NAME, SINGLE_NAME, openSharded } from '../core/sharded.ts';
import { type ByteSource, type TensorSet, openSafetensors } from '../core/tensors.ts';

const MAX_INDEX_BYTES = 64 << 20;

async function readExactly(handle: FileHandle, label: string, begin: number, end: number, signal: Signal | undefined): Promise<Uint8Array> {
  const out = new Uint8Array(end - begin);
  let at = 0;
  while (at < out.length) {
    throwIfAborted(signal);
    const { bytesRead } = await handle.read(out, at, out.length - at, begin + at);
    if (bytesRead === 0) {
      throw new SafetensorsError(`${label}, byte ${begin + at}: the file ended while it was read`, {
        details: { file: label, position: begin + at, reason: 'ShortRead' },
        fix: 'another program is changing the file: wait for it, then load again',
      });
    }
    at += bytesRead;
  }
  return out;
}

/** An open file. Its size is taken once; reading past a later, shorter end is an error. */
export async function fileBytes(path: string, label: string = path): Promise<ByteSource> {
  let handle: FileHandle;
  try {
    handle = await open(path, constants.O_RDONLY);
  } catch (error) {
    throw new SafetensorsError(`${label}: cannot be opened`, { details: { file: label, reason: 'CannotOpen' }, fix: 'check the path and its permissions', cause: error });
  }
  const info = await handle.stat();
  if (!info.isFile()) {
    await handle.close();
    throw new SafetensorsError(`${label}: not a regular file`, { details: { file: label, reason: 'NotAFile' }, fix: 'give a .safetensors file or a directory that holds one' });
  }
  return {
    label,
    size: info.size,
    read: (begin, end, signal) => readExactly(handle, label, begin, end, signal),
    close: () => handle.close(),
  };
}

/** A shard beside its index: whatever links lie between, the file itself must be inside the directory. */
async function shardPath(directory: string, shard: string): Promise<string> {
  const path = join(directory, shard);
  let real: string;
  try {
    real = await realpath(path);
  } catch (error) {
    throw new SafetensorsError(`shard ${quote(shard)} is missing`, { details: { file: path, reason: 'MissingShard' }, fix: 'fetch all files that the index names', cause: error });
  }
  if (!real.startsWith(directory.endsWith(sep) ? directory : directory + sep)) {
    throw new SafetensorsError(`shard ${quote(shard)} is a link to a file outside of its directory`, {
      details: { file: path, reason: 'LinkOutside' },
      fix: 'put the file itself beside the index, or give the directory that the links lead to',
    });
  }
  return real;
}

async function openIndex(path: string, signal: Signal | undefined): Promise<TensorSet> {
  const directory = await realpath(dirname(path));
  const source = await fileBytes(path);
  try {
    if (source.size > MAX_INDEX_BYTES) {
      throw new SafetensorsError(`${path}: an index of ${source.size} bytes is over the cap of ${MAX_INDEX_BYTES}`, { details: { file: path, reason: 'IndexTooLarge' } });
    }
    const index = await source.read(0, source.size, signal);
    return await openSharded(index, path, async (shard) => fileBytes(await shardPath(directory, shard), shard), signal);
  } finally {
    await source.close();
  }
}

async function openFile(path: string, signal: Signal | undefined): Promise<TensorSet> {
  const source = await fileBytes(path);
  try {
    return await openSafetensors(source, signal);
  } catch (error) {
    await source.close();
    throw error;
  }
}

/** Opens weights by path. In a directory the index is preferred, then `model.safetensors`, then the only `*.safetensors`. */
export async function openPath(path: string, signal?: Signal): Promise<TensorSet> {
  const info = await stat(path).catch((error: unknown) => {
    throw new SafetensorsError(`${path}: no such file or directory`, { details: { file: path, reason: 'CannotOpen' }, fix: 'check the path', cause: error });
  });
  if (!info.isDirectory()) return path.endsWith('.json') ? openIndex(path, signal) : openFile(path, signal);
  const names = (await readdir(path)).sort();
  if (names.includes(INDEX_NAME)) return openIndex(join(path, INDEX_NAME), signal);
  if (names.includes(SINGLE_NAME)) return openFile(join(path, SINGLE_NAME), signal);
  const found = names.filter((n) => n.endsWith('.safetensors'));
  const only = found[0];
  if (found.length === 1 && only !== undefined) return openFile(join(path, only), signal);
  const what = found.length === 0 ? 'no *.safetensors file' : `${found.length} *.safetensors files and no ${INDEX_NAME}`;
  throw new SafetensorsError(`${path}: ${what}`, {
    details: { file: path, reason: 'NoWeights', found: found.map((f) => basename(f)) },
    fix: `give the file itself, or a directory with ${SINGLE_NAME} or ${INDEX_NAME}`,
  });
}
