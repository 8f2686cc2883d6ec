import { type IncomingMessage, type Server, type ServerResponse, createServer } from 'node:http';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { openWeights } from '../../src/runtime/core/open.ts';
import { writeSafetensors } from '../../src/runtime/core/safetensors.ts';
import { type TensorSet, readF32 } from '../../src/runtime/core/tensors.ts';
import { type Fetch, piecedBytes, urlBytes } from '../../src/runtime/core/url-source.ts';
import { openPath } from '../../src/runtime/node/platform.ts';

const tensor = (name: string, n: number, from: number): { name: string; dtype: 'F32'; shape: number[]; data: Float32Array } => ({
  name, dtype: 'F32', shape: [n], data: Float32Array.from({ length: n }, (_, i) => from + i),
});
const FILE = writeSafetensors([tensor('a', 1000, 0), tensor('b', 500_000, 5)]);
const INDEX = new TextEncoder().encode(JSON.stringify({ weight_map: { a: 's-1.safetensors', b: 's-2.safetensors' } }));
const FILES: Readonly<Record<string, Uint8Array>> = {
  '/one/model.safetensors': FILE,
  '/two/model.safetensors.index.json': INDEX,
  '/two/s-1.safetensors': writeSafetensors([tensor('a', 3, 1)]),
  '/two/s-2.safetensors': writeSafetensors([tensor('b', 3, 7)]),
  '/empty.safetensors': new Uint8Array(0),
};

let server: Server;
let base = '';
let requests: string[] = [];
let ranges = true;
let failures = 0;

function answer(request: IncomingMessage, response: ServerResponse): void {
  requests.push(`${request.url ?? ''} ${request.headers.range ?? ''}`);
  if (failures > 0) {
    failures--;
    return void response.writeHead(503).end();
  }
  const bytes = FILES[request.url ?? ''];
  if (bytes === undefined) return void response.writeHead(404).end();
  const range = /^bytes=(\d+)-(\d+)$/.exec(request.headers.range ?? '');
  if (range === null || !ranges) return void response.writeHead(200).end(bytes);
  const first = Number(range[1]);
  if (first >= bytes.length) return void response.writeHead(416).end();
  const last = Math.min(Number(range[2]), bytes.length - 1);
  response.writeHead(206, { 'content-range': `bytes ${first}-${last}/${bytes.length}`, etag: '"1"' }).end(bytes.subarray(first, last + 1));
}

beforeAll(async () => {
  server = createServer(answer);
  await new Promise<void>((resolve) => void server.listen(0, '127.0.0.1', resolve));
  const address = server.address();
  base = `http://127.0.0.1:${typeof address === 'object' && address !== null ? address.port : 0}`;
});
afterAll(() => void server.close());

const open = (path: string): Promise<TensorSet> => {
  requests = [];
  return openWeights(`${base}${path}`, openPath);
};

describe('weights behind a URL', () => {
  it.each([true, false])('are read from a file, a directory or an index (ranges: %s)', async (withRanges) => {
    ranges = withRanges;
    for (const path of ['/one/model.safetensors', '/one/', '/one', '/one/model.safetensors?x=1'.replace('?x=1', '')]) {
      const set = await open(path);
      expect((await readF32(set, 'b'))[499_999]).toBe(500_004);
      expect((await readF32(set, 'a'))[3]).toBe(3);
    }
    const sharded = await open('/two/');
    expect([...(await readF32(sharded, 'a')), ...(await readF32(sharded, 'b'))]).toEqual([1, 2, 3, 7, 8, 9]);
    await expect(open('/nowhere/')).rejects.toMatchObject({ details: { reason: 'FetchFailed' } });
    await expect(open('/empty.safetensors')).rejects.toMatchObject({ details: { reason: 'HeaderTooSmall' } });
    ranges = true;
  });

  it('are tried again after a passing fault, and given up after three', async () => {
    failures = 2;
    expect((await readF32(await open('/one/model.safetensors'), 'a'))[1]).toBe(1);
    failures = 99;
    await expect(open('/one/model.safetensors')).rejects.toMatchObject({ details: { reason: 'FetchFailed' } });
    failures = 0;
    await expect(openWeights('http://127.0.0.1:1/x.safetensors', openPath)).rejects.toMatchObject({ code: 'MOE5009' });
    await expect(openWeights(`${base}/one/`, openPath, AbortSignal.abort())).rejects.toMatchObject({ name: 'AbortError' });
  });

  it('of large files are read by blocks, and a change in between is noticed', async () => {
    const size = (64 << 20) + 1000;
    let total = size;
    const asked: [number, number][] = [];
    const fake: Fetch = (_url, { headers }) => {
      const [, a = '0', b = '0'] = /^bytes=(\d+)-(\d+)$/.exec(headers['range'] ?? '') ?? [];
      const [first, last] = [Number(a), Math.min(Number(b), size - 1)];
      asked.push([first, last]);
      const body = Uint8Array.from({ length: last - first + 1 }, (_, i) => (first + i) % 251);
      return Promise.resolve({ status: 206, headers: { get: (n) => (n === 'content-range' ? `bytes ${first}-${last}/${total}` : null) }, arrayBuffer: () => Promise.resolve(body.buffer), body: undefined });
    };
    const source = await urlBytes('x', undefined, fake);
    expect(source.size).toBe(size);
    const check = async (begin: number, end: number): Promise<void> => {
      const bytes = await source.read(begin, end);
      expect(bytes.length).toBe(end - begin);
      expect([bytes[0], bytes[bytes.length - 1]]).toEqual([begin % 251, (end - 1) % 251]);
    };
    await check(0, 100);
    await check(1_000_000, 1_040_000);
    expect(asked.length).toBe(1);
    await check(20_000_000, 20_000_010);
    await check(20_000_010, 28_000_000);
    expect(asked.length).toBe(2);
    await check(size - 10, size);
    total = size - 1;
    await expect(source.read(40_000_000, 40_000_001)).rejects.toMatchObject({ details: { reason: 'Changed' } });
  });

  it('may come in pieces', async () => {
    const all = Uint8Array.from({ length: 100 }, (_, i) => i);
    const source = piecedBytes([all.subarray(0, 7), all.subarray(7, 7), all.subarray(7, 50), all.subarray(50)], 'pieces');
    for (let begin = 0; begin <= 100; begin += 3) {
      for (let end = begin; end <= 100; end += 7) expect([...(await source.read(begin, end))]).toEqual([...all.subarray(begin, end)]);
    }
  });
});

describe('weights in memory', () => {
  it('are bytes, Blobs, maps and records', async () => {
    for (const input of [FILE, FILE.buffer, new Blob([FILE])]) expect((await readF32(await openWeights(input, undefined), 'b'))[2]).toBe(7);
    const data = Float32Array.of(1, 2);
    for (const input of [{ a: data }, new Map([['a', { data, shape: [2] }]])]) expect(await readF32(await openWeights(input, undefined), 'a')).toEqual(data);
    const set = await openWeights({ a: data }, undefined);
    expect(await openWeights(set, undefined)).toBe(set);
    await expect(openWeights({ a: [1, 2] } as never, undefined)).rejects.toMatchObject({ code: 'MOE5013' });
    await expect(openWeights(undefined as never, undefined)).rejects.toMatchObject({ code: 'MOE5013' });
    await expect(openWeights({ a: { data, shape: [3] } }, undefined)).rejects.toMatchObject({ code: 'MOE5013' });
    await expect(openWeights({ a: Uint16Array.of(1) }, undefined)).rejects.toMatchObject({ code: 'MOE5013' });
  });
});
