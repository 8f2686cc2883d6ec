/** Checkpoints in several files: `model.safetensors.index.json` and the shards it names. */
import { SafetensorsError, type Signal, quote } from './errors.ts';
import { JsonFault, JsonScanner } from './json-scanner.ts';
import { type ByteSource, type TensorSet, openSafetensors } from './tensors.ts';

export const INDEX_NAME = 'model.safetensors.index.json';
export const SINGLE_NAME = 'model.safetensors';

/** No separators, no drive, no scheme: a shard lies beside its index or nowhere. */
const SHARD_NAME = /^[\w.-]+\.safetensors$/;
const MAX_INDEX_DEPTH = 4;

/** Tensor name to shard name. */
export function parseIndex(text: Uint8Array, file: string): ReadonlyMap<string, string> {
  const scan = new JsonScanner(text);
  let map: Map<string, string> | undefined;
  try {
    scan.object((key) => {
      if (key !== 'weight_map') return scan.skip(MAX_INDEX_DEPTH);
      const entries = new Map<string, string>();
      scan.object((tensor, at) => {
        const shard = scan.string(1024);
        if (!SHARD_NAME.test(shard)) scan.fail(`shard name ${quote(shard)} is not a plain *.safetensors file name`, at, 'InvalidShardName');
        entries.set(tensor, shard);
      }, 1024);
      map = entries;
    }, 1024);
    // Editors end files with a newline.
    if (scan.peek() !== undefined) scan.fail('text after the end of the document');
  } catch (error) {
    if (!(error instanceof JsonFault)) throw error;
    throw new SafetensorsError(`${file}, byte ${error.position}: ${error.message}`, {
      details: { file, position: error.position, reason: error.reason },
      fix: 'the index is damaged: fetch it again',
    });
  }
  if (map === undefined) {
    throw new SafetensorsError(`${file}: no weight_map`, { details: { file, position: 0, reason: 'NoWeightMap' }, fix: 'this is not a safetensors index' });
  }
  return map;
}

/**
 * Opens every shard of an index and holds index and headers against each other.
 * @param open opens a shard by its checked name
 * @throws SafetensorsError listing every disagreement
 */
export async function openSharded(
  index: Uint8Array,
  file: string,
  open: (shard: string) => Promise<ByteSource>,
  signal?: Signal,
): Promise<TensorSet> {
  const map = parseIndex(index, file);
  const sets = new Map<string, TensorSet>();
  const closeAll = async (): Promise<void> => {
    await Promise.all([...sets.values()].map((s) => s.close()));
  };
  try {
    for (const shard of new Set(map.values())) {
      const source = await open(shard);
      try {
        sets.set(shard, await openSafetensors(source, signal));
      } catch (error) {
        await source.close();
        throw error;
      }
    }
    const problems: string[] = [];
    const owner = new Map<string, string>();
    for (const [shard, set] of sets) {
      for (const name of set.names()) {
        const other = owner.get(name);
        if (other !== undefined) problems.push(`tensor ${quote(name)} is in both ${other} and ${shard}`);
        owner.set(name, shard);
        const told = map.get(name);
        if (told === undefined) problems.push(`tensor ${quote(name)} is in ${shard}, but not in the index`);
        else if (told !== shard && other === undefined && sets.get(told)?.info(name) === undefined) {
          problems.push(`tensor ${quote(name)} is in ${shard}, the index says ${told}`);
        }
      }
    }
    for (const [name, shard] of map) {
      if (!owner.has(name)) problems.push(`the index says that tensor ${quote(name)} is in ${shard}, which has no such tensor`);
    }
    if (problems.length > 0) {
      const shown = problems.slice(0, 20);
      const rest = problems.length > shown.length ? `\n  … and ${problems.length - shown.length} more` : '';
      throw new SafetensorsError(`${file} and its shards disagree:\n  ${shown.join('\n  ')}${rest}`, {
        details: { file, reason: 'IndexDisagrees', problems },
        fix: 'index and shards are of different versions: fetch them together',
      });
    }
  } catch (error) {
    await closeAll();
    throw error;
  }
  const of = (name: string): TensorSet | undefined => {
    const shard = map.get(name);
    return shard === undefined ? undefined : sets.get(shard);
  };
  return {
    label: file,
    names: () => map.keys(),
    info: (name) => of(name)?.info(name),
    read: (name, begin, end, inner) => of(name)?.read(name, begin, end, inner) ?? Promise.reject(new RangeError(`no tensor ${quote(name)}`)),
    close: closeAll,
  };
}
