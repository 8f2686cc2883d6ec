/** Weights as users give them, opened as a set of tensors. */
import { InputError, type Signal } from './errors.ts';
import { INDEX_NAME, SINGLE_NAME, openSharded } from './sharded.ts';
import { type BlobLike, type NamedTensor, type TensorData, type TensorSet, blobBytes, memoryBytes, namedTensors, openSafetensors } from './tensors.ts';
import { urlAll, urlBytes, urlExists } from './url-source.ts';

/**
 * A path (Node) or URL of a `.safetensors` file, an index, or a directory with one of them; the bytes of a file;
 * a Blob or File; or tensors by name.
 */
export type WeightsInput =
  | string
  | { readonly href: string }
  | ArrayBuffer
  | Uint8Array
  | BlobLike
  | TensorSet
  | ReadonlyMap<string, NamedTensor | TensorData>
  | Readonly<Record<string, NamedTensor | TensorData>>;

/** Opens a path of the file system; only some platforms can. */
export type OpenPath = (path: string, signal?: Signal) => Promise<TensorSet>;

const MAX_INDEX_BYTES = 64 << 20;

async function openUrlFile(url: string, signal: Signal | undefined): Promise<TensorSet> {
  if (!url.split(/[?#]/)[0]?.endsWith('.json')) return openSafetensors(await urlBytes(url, signal), signal);
  return openSharded(await urlAll(url, MAX_INDEX_BYTES, signal), url, (shard) => urlBytes(new URL(shard, url).href, signal), signal);
}

/** A file, an index, or a directory behind a URL. */
export async function openUrl(url: string, signal?: Signal): Promise<TensorSet> {
  if (/\.(safetensors|json)$/.test(url.split(/[?#]/)[0] ?? '')) return openUrlFile(url, signal);
  const directory = url.endsWith('/') ? url : `${url}/`;
  const index = new URL(INDEX_NAME, directory).href;
  if (await urlExists(index, signal)) return openUrlFile(index, signal);
  return openUrlFile(new URL(SINGLE_NAME, directory).href, signal);
}

const isSet = (value: object): value is TensorSet => 'names' in value && typeof value.names === 'function' && 'read' in value && typeof value.read === 'function';
const isBlob = (value: object): value is BlobLike => 'size' in value && typeof value.size === 'number' && 'slice' in value && typeof value.slice === 'function';
const isUrl = (value: object): value is { readonly href: string } => value instanceof URL;
const isTensor = (value: unknown): value is NamedTensor | TensorData =>
  ArrayBuffer.isView(value) || (typeof value === 'object' && value !== null && 'data' in value && ArrayBuffer.isView(value.data));

function openNamed(tensors: Iterable<readonly [string, unknown]>): TensorSet {
  const checked: [string, NamedTensor | TensorData][] = [];
  for (const [name, value] of tensors) {
    if (!isTensor(value)) throw new InputError('weights by name must be typed arrays or { data, shape }', { details: { tensor: name } });
    checked.push([name, value]);
  }
  return namedTensors(checked);
}

/** @param openPath undefined where there is no file system */
export async function openWeights(input: WeightsInput, openPath: OpenPath | undefined, signal?: Signal): Promise<TensorSet> {
  if (typeof input === 'string' || isUrl(input)) {
    const text = typeof input === 'string' ? input : input.href;
    if (/^https?:/i.test(text)) return openUrl(text, signal);
    if (openPath !== undefined) return openPath(text, signal);
    const base: unknown = Reflect.get(globalThis, 'location');
    const href = typeof base === 'object' && base !== null && 'href' in base ? String(base.href) : undefined;
    return openUrl(new URL(text, href).href, signal);
  }
  if (input instanceof ArrayBuffer || input instanceof Uint8Array) return openSafetensors(memoryBytes(input), signal);
  if (input instanceof Map) return openNamed(input);
  if (typeof input !== 'object' || input === null) {
    throw new InputError('no weights given', { fix: 'load({ weights }): a path, a URL, the bytes of a file, or tensors by name' });
  }
  if (isSet(input)) return input;
  if (isBlob(input)) return openSafetensors(blobBytes(input), signal);
  return openNamed(Object.entries(input));
}
