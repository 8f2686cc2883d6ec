/** What a Node process adds: the file system and Dawn. Imported only there, never by a browser. */
import { fileURLToPath } from 'node:url';
import type { Signal } from '../core/errors.ts';
import type { TensorSet } from '../core/tensors.ts';
import { openPath as openFilePath } from './files.ts';

export { nodeGpu as gpu } from './gpu.ts';

/** A path or a `file:` URL. */
export function openPath(path: string, signal?: Signal): Promise<TensorSet> {
  return openFilePath(/^file:/i.test(path) ? fileURLToPath(path) : path, signal);
}
