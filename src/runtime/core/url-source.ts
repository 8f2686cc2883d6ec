/** Bytes behind a URL: by ranges where the server can, as a whole where it cannot. */
import { SafetensorsError, type Signal, throwIfAborted } from './errors.ts';
import { type ByteSource } from './tensors.ts';

const FIRST_BYTES = 1 << 20;
/** Files up to this size are held; larger ones are read in blocks of `BLOCK_BYTES` at least. */
const HOLD_BYTES = 64 << 20;
const BLOCK_BYTES = 8 << 20;
const ATTEMPTS = 3;

interface Reply {
  readonly status: number;
  readonly headers: { get(name: string): string | null };
  arrayBuffer(): Promise<ArrayBuffer>;
  readonly body: unknown;
}

/** The part of `fetch` that is used. */
export type Fetch = (url: string, init: { readonly headers: Readonly<Record<string, string>>; readonly signal?: Signal }) => Promise<Reply>;

function fail(url: string, what: string, cause?: unknown): never {
  throw new SafetensorsError(`${url}: ${what}`, {
    details: { file: url, reason: 'FetchFailed' },
    fix: 'check the address, the network and, in a browser, the CORS headers of the server',
    ...(cause === undefined ? {} : { cause }),
  });
}

const wait = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));

/** One request; network faults and 5xx replies are tried again. */
async function request(fetcher: Fetch, url: string, headers: Readonly<Record<string, string>>, signal: Signal | undefined): Promise<Reply> {
  for (let attempt = 1; ; attempt++) {
    throwIfAborted(signal);
    try {
      const reply = await fetcher(url, { headers, ...(signal === undefined ? {} : { signal }) });
      if (reply.status < 500 || attempt === ATTEMPTS) return reply;
    } catch (error) {
      throwIfAborted(signal);
      if (attempt === ATTEMPTS) fail(url, 'cannot be fetched', error);
    }
    await wait(200 * attempt);
  }
}

interface Reader {
  read(): Promise<{ readonly done: boolean; readonly value?: Uint8Array | undefined }>;
}
const hasReader = (body: unknown): body is { getReader(): Reader } =>
  typeof body === 'object' && body !== null && 'getReader' in body && typeof body.getReader === 'function';

/** The whole body in the pieces it came in: never one giant buffer. */
async function pieces(reply: Reply, signal: Signal | undefined): Promise<Uint8Array[]> {
  if (!hasReader(reply.body)) return [new Uint8Array(await reply.arrayBuffer())];
  const reader = reply.body.getReader();
  const out: Uint8Array[] = [];
  for (;;) {
    throwIfAborted(signal);
    const { done, value } = await reader.read();
    if (value !== undefined) out.push(value);
    if (done) return out;
  }
}

/** Consecutive pieces as one source. */
export function piecedBytes(parts: readonly Uint8Array[], label: string): ByteSource {
  const starts: number[] = [];
  let size = 0;
  for (const p of parts) {
    starts.push(size);
    size += p.length;
  }
  const read = (begin: number, end: number): Uint8Array => {
    // The last piece that starts at or before `begin`.
    let low = 0;
    let high = parts.length - 1;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if ((starts[middle] ?? 0) <= begin) low = middle;
      else high = middle - 1;
    }
    const first = parts[low];
    const start = starts[low] ?? 0;
    if (first !== undefined && end <= start + first.length) return first.subarray(begin - start, end - start);
    const out = new Uint8Array(Math.max(0, Math.min(end, size) - begin));
    for (let i = low, at = 0; i < parts.length && at < out.length; i++) {
      const part = parts[i] ?? new Uint8Array(0);
      const from = begin + at - (starts[i] ?? 0);
      const taken = part.subarray(from, from + out.length - at);
      out.set(taken, at);
      at += taken.length;
    }
    return out;
  };
  return { label, size, read: (begin, end) => Promise.resolve(read(begin, end)), close: () => Promise.resolve() };
}

const totalOf = (reply: Reply): number | undefined => {
  const total = /^bytes \d+-\d+\/(\d+)$/.exec(reply.headers.get('content-range') ?? '')?.[1];
  return total === undefined ? undefined : Number(total);
};

/** Whether a URL answers at all; for choosing between an index and a single file. */
export async function urlExists(url: string, signal?: Signal, fetcher: Fetch = defaultFetch): Promise<boolean> {
  const reply = await request(fetcher, url, { range: 'bytes=0-0' }, signal);
  if (hasCancel(reply.body)) await reply.body.cancel();
  return reply.status >= 200 && reply.status < 300;
}
const hasCancel = (body: unknown): body is { cancel(): Promise<void> } =>
  typeof body === 'object' && body !== null && 'cancel' in body && typeof body.cancel === 'function';

// Called as a plain function: browsers refuse `fetch` with another `this`.
const defaultFetch: Fetch = (url, init) => fetch(url, init as RequestInit);

/**
 * Opens a URL. The server must say the same size and ETag in every reply: a file that is replaced while
 * it is read is an error, not a mixture.
 */
export async function urlBytes(url: string, signal?: Signal, fetcher: Fetch = defaultFetch): Promise<ByteSource> {
  const first = await request(fetcher, url, { range: `bytes=0-${FIRST_BYTES - 1}` }, signal);
  if (first.status === 200) return piecedBytes(await pieces(first, signal), url);
  if (first.status === 416) return piecedBytes([], url);
  if (first.status !== 206) fail(url, `the server answered ${first.status}`);
  const size = totalOf(first);
  if (size === undefined) fail(url, 'a partial reply without a total size');
  const tag = first.headers.get('etag');
  const head = new Uint8Array(await first.arrayBuffer());
  if (head.length >= size) return piecedBytes([head.subarray(0, size)], url);

  const range = async (begin: number, end: number, inner: Signal | undefined): Promise<Uint8Array> => {
    const reply = await request(fetcher, url, { range: `bytes=${begin}-${end - 1}` }, inner);
    if (reply.status !== 206) fail(url, `the server answered ${reply.status} to a request for bytes ${begin}-${end - 1}`);
    if (totalOf(reply) !== size || reply.headers.get('etag') !== tag) {
      throw new SafetensorsError(`${url}: the file changed while it was read`, { details: { file: url, position: begin, reason: 'Changed' }, fix: 'load again' });
    }
    return new Uint8Array(await reply.arrayBuffer());
  };
  if (size <= HOLD_BYTES) return piecedBytes([head, await range(head.length, size, signal)], url);

  let held: { readonly begin: number; readonly bytes: Uint8Array } = { begin: 0, bytes: head };
  return {
    label: url,
    size,
    async read(begin, end, inner) {
      const here = held;
      if (begin >= here.begin && end <= here.begin + here.bytes.length) return here.bytes.subarray(begin - here.begin, end - here.begin);
      const bytes = await range(begin, Math.min(size, Math.max(end, begin + BLOCK_BYTES)), inner);
      held = { begin, bytes };
      return bytes.subarray(0, end - begin);
    },
    close: () => Promise.resolve(),
  };
}

/** A whole small file. */
export async function urlAll(url: string, maxBytes: number, signal?: Signal): Promise<Uint8Array> {
  const source = await urlBytes(url, signal);
  if (source.size > maxBytes) fail(url, `${source.size} bytes are more than ${maxBytes}`);
  return source.read(0, source.size, signal);
}

