import { mkdtemp, readFile, readdir, rm, symlink, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { SafetensorsError } from '../../src/runtime/core/errors.ts';
import { MAX_HEADER_BYTES, type NewTensor, parseHeader, headerBytes, writeSafetensors } from '../../src/runtime/core/safetensors.ts';
import { memoryBytes, openSafetensors, readF32, readF64, readI32 } from '../../src/runtime/core/tensors.ts';
import { openPath } from '../../src/runtime/node/files.ts';

const GOLDEN = join(import.meta.dirname, '../golden');
const text = new TextEncoder();

/** A file of this header text and `data` zero bytes. */
function file(header: string | Uint8Array, data: number, length?: bigint): Uint8Array {
  const bytes = typeof header === 'string' ? text.encode(header) : header;
  const out = new Uint8Array(8 + bytes.length + data);
  new DataView(out.buffer).setBigUint64(0, length ?? BigInt(bytes.length), true);
  out.set(bytes, 8);
  return out;
}
const one = (entry: string): string => `{"a":${entry}}`;
const f32 = (shape: string, begin: number | string, end: number | string): string =>
  `{"dtype":"F32","shape":${shape},"data_offsets":[${begin},${end}]}`;

async function reasonOf(bytes: Uint8Array): Promise<string> {
  try {
    await openSafetensors(memoryBytes(bytes, 'bad.safetensors'));
  } catch (error) {
    expect(error).toBeInstanceOf(SafetensorsError);
    if (!(error instanceof SafetensorsError)) throw error;
    expect(error.message).toMatch(/^bad\.safetensors.*byte \d+: /s);
    expect(error.message).toMatch(/^[\x20-\x7e…−]*$/);
    expect(error.code).toBe('MOE5009');
    return String(error.details['reason']);
  }
  return 'accepted';
}

const deep = `${'['.repeat(200)}${']'.repeat(200)}`;
const BAD: readonly (readonly [string, Uint8Array, string])[] = [
  // S1: lengths
  ['empty file', new Uint8Array(0), 'HeaderTooSmall'],
  ['7 bytes', new Uint8Array(7), 'HeaderTooSmall'],
  ['length 0', file('', 0), 'HeaderTooSmall'],
  ['length 1', file('{', 0), 'HeaderTooSmall'],
  ['length over the file', file('{}', 0, 3n), 'InvalidHeaderLength'],
  ['length over the cap', file('{}', 0, BigInt(MAX_HEADER_BYTES + 1)), 'HeaderTooLarge'],
  ['length 2^63', file('{}', 0, 1n << 63n), 'HeaderTooLarge'],
  ['length 2^64 - 1', file('{}', 0, (1n << 64n) - 1n), 'HeaderTooLarge'],
  ['length 2^53 + 1', file('{}', 0, (1n << 53n) + 1n), 'HeaderTooLarge'],
  // S2: text
  ['leading space', file(' {}', 0), 'InvalidHeaderStart'],
  ['byte order mark', file('\ufeff{}', 0), 'InvalidHeaderStart'],
  ['an array', file('[]', 0), 'InvalidHeaderStart'],
  ['null', file('null', 0), 'InvalidHeaderStart'],
  ['not closed', file('{"a":1', 0), 'InvalidJson'],
  ['two documents', file('{}{}', 0), 'InvalidJson'],
  ['trailing newline', file('{}\n', 0), 'InvalidJson'],
  ['trailing NUL', file('{}\0', 0), 'InvalidJson'],
  ['trailing comma', file('{"a":' + f32('[0]', 0, 0) + ',}', 0), 'InvalidJson'],
  ['single quotes', file("{'a':1}", 0), 'InvalidJson'],
  ['a comment', file('{/**/}', 0), 'InvalidJson'],
  ['invalid UTF-8 in a name', file(new Uint8Array([0x7b, 0x22, 0xff, 0x22, 0x3a, 0x7b, 0x7d, 0x7d]), 0), 'InvalidUtf8'],
  ['overlong UTF-8', file(new Uint8Array([0x7b, 0x22, 0xc0, 0x80, 0x22, 0x3a, 0x7b, 0x7d, 0x7d]), 0), 'InvalidUtf8'],
  ['half a surrogate', file('{"\\ud800":{}}', 0), 'InvalidUtf8'],
  ['a raw control character', file('{"a\u0001":{}}', 0), 'InvalidJson'],
  ['a bad escape', file('{"\\x41":{}}', 0), 'InvalidJson'],
  ['a bad \\u', file('{"\\u00g0":{}}', 0), 'InvalidJson'],
  ['a string that never ends', file('{"aaaa', 0), 'InvalidJson'],
  // S3: duplicates
  ['the same tensor twice', file(`{"a":${f32('[1]', 0, 4)},"a":${f32('[1]', 0, 4)}}`, 4), 'DuplicateKey'],
  ['the same tensor, escaped', file(`{"a":${f32('[0]', 0, 0)},"\\u0061":${f32('[0]', 0, 0)}}`, 0), 'DuplicateKey'],
  ['dtype twice', file(one('{"dtype":"F32","dtype":"F32","shape":[0],"data_offsets":[0,0]}'), 0), 'DuplicateKey'],
  ['shape twice', file(one('{"dtype":"F32","shape":[0],"shape":[0],"data_offsets":[0,0]}'), 0), 'DuplicateKey'],
  ['a metadata key twice', file('{"__metadata__":{"k":"1","k":"2"}}', 0), 'DuplicateKey'],
  ['__metadata__ twice', file('{"__metadata__":{},"__metadata__":{}}', 0), 'DuplicateKey'],
  // S4: names
  ['a name of 1025', file(`{"${'n'.repeat(1025)}":${f32('[0]', 0, 0)}}`, 0), 'NameTooLong'],
  ['a name of 1 MB', file(`{"${'n'.repeat(1_000_000)}":${f32('[0]', 0, 0)}}`, 0), 'NameTooLong'],
  // S5: offsets
  ['overlap', file(`{"a":${f32('[2]', 0, 8)},"b":${f32('[2]', 4, 12)}}`, 12), 'InvalidOffset'],
  ['two on the same bytes', file(`{"a":${f32('[2]', 0, 8)},"b":${f32('[2]', 0, 8)}}`, 8), 'InvalidOffset'],
  ['a hole', file(`{"a":${f32('[1]', 0, 4)},"b":${f32('[1]', 8, 12)}}`, 12), 'InvalidOffset'],
  ['not from 0', file(one(f32('[1]', 4, 8)), 8), 'InvalidOffset'],
  ['backwards', file(one(f32('[1]', 4, 0)), 4), 'InvalidOffset'],
  ['bytes left over', file(one(f32('[1]', 0, 4)), 5), 'MetadataIncompleteBuffer'],
  ['bytes but no tensor', file('{}', 1), 'MetadataIncompleteBuffer'],
  ['data cut off', file(one(f32('[2]', 0, 8)), 7), 'MetadataIncompleteBuffer'],
  ['an empty tensor beyond the end', file(`{"a":${f32('[1]', 0, 4)},"b":${f32('[0]', 8, 8)}}`, 4), 'InvalidOffset'],
  ['offsets beyond the file', file(one(f32('[4]', 0, 16)), 0), 'MetadataIncompleteBuffer'],
  // S6: numbers
  ['a product over 2^53', file(one(f32('[4294967296,4294967296]', 0, 0)), 0), 'Overflow'],
  ['a dimension of 2^53', file(one(f32('[9007199254740992]', 0, 0)), 0), 'Overflow'],
  ['a dimension of 2^64', file(one(f32('[18446744073709551616]', 0, 0)), 0), 'Overflow'],
  ['a very long number', file(one(f32(`[${'9'.repeat(1000)}]`, 0, 0)), 0), 'Overflow'],
  ['offsets of 2^53', file(one(f32('[1]', '9007199254740992', '9007199254740996')), 4), 'Overflow'],
  ['a negative dimension', file(one(f32('[-1]', 0, 4)), 4), 'NotAnInteger'],
  ['minus zero', file(one(f32('[-0]', 0, 0)), 0), 'NotAnInteger'],
  ['a fraction', file(one(f32('[1.0]', 0, 4)), 4), 'NotAnInteger'],
  ['an exponent', file(one(f32('[1e0]', 0, 4)), 4), 'NotAnInteger'],
  ['a leading zero', file(one(f32('[01]', 0, 4)), 4), 'NotAnInteger'],
  ['a string', file(one(f32('["1"]', 0, 4)), 4), 'NotAnInteger'],
  ['null as a dimension', file(one(f32('[null]', 0, 4)), 4), 'NotAnInteger'],
  ['a nested shape', file(one(f32('[[1]]', 0, 4)), 4), 'NotAnInteger'],
  ['a plus sign', file(one(f32('[+1]', 0, 4)), 4), 'NotAnInteger'],
  ['a negative offset', file(one(f32('[1]', -4, 0)), 4), 'NotAnInteger'],
  // S7: sizes
  ['too few bytes', file(one(f32('[2]', 0, 4)), 4), 'TensorInvalidInfo'],
  ['too many bytes', file(one(f32('[1]', 0, 8)), 8), 'TensorInvalidInfo'],
  ['one offset', file(one('{"dtype":"F32","shape":[1],"data_offsets":[0]}'), 4), 'TensorInvalidInfo'],
  ['three offsets', file(one('{"dtype":"F32","shape":[1],"data_offsets":[0,4,4]}'), 4), 'TensorInvalidInfo'],
  ['33 dimensions', file(one(f32(`[${Array(33).fill(1).join(',')}]`, 0, 4)), 4), 'TensorInvalidInfo'],
  ['no dtype', file(one('{"shape":[1],"data_offsets":[0,4]}'), 4), 'TensorInvalidInfo'],
  ['no shape', file(one('{"dtype":"F32","data_offsets":[0,4]}'), 4), 'TensorInvalidInfo'],
  ['no offsets', file(one('{"dtype":"F32","shape":[1]}'), 4), 'TensorInvalidInfo'],
  ['an unknown member', file(one('{"dtype":"F32","shape":[1],"data_offsets":[0,4],"code":"x"}'), 4), 'TensorInvalidInfo'],
  ['a tensor that is a number', file('{"a":1}', 0), 'InvalidJson'],
  ['a tensor that is an array', file('{"a":[]}', 0), 'InvalidJson'],
  // S9: metadata
  ['a metadata number', file('{"__metadata__":{"k":1}}', 0), 'InvalidMetadata'],
  ['a metadata object', file('{"__metadata__":{"k":{}}}', 0), 'InvalidMetadata'],
  ['a metadata array', file('{"__metadata__":[]}', 0), 'InvalidJson'],
  ['metadata that is a string', file('{"__metadata__":"x"}', 0), 'InvalidJson'],
  // S10: dtypes
  ['dtype F8_E4M3', file(one('{"dtype":"F8_E4M3","shape":[1],"data_offsets":[0,1]}'), 1), 'UnsupportedDtype'],
  ['dtype F4', file(one('{"dtype":"F4","shape":[2],"data_offsets":[0,1]}'), 1), 'UnsupportedDtype'],
  ['dtype U32', file(one('{"dtype":"U32","shape":[1],"data_offsets":[0,4]}'), 4), 'UnsupportedDtype'],
  ['dtype f32', file(one('{"dtype":"f32","shape":[1],"data_offsets":[0,4]}'), 4), 'UnknownDtype'],
  ['dtype __proto__', file(one('{"dtype":"__proto__","shape":[1],"data_offsets":[0,4]}'), 4), 'UnknownDtype'],
  ['dtype toString', file(one('{"dtype":"toString","shape":[1],"data_offsets":[0,4]}'), 4), 'UnknownDtype'],
  ['a dtype that is a number', file(one('{"dtype":1,"shape":[1],"data_offsets":[0,4]}'), 4), 'InvalidJson'],
  // S11: nesting
  ['deep arrays', file(one(`{"dtype":"F32","shape":${deep},"data_offsets":[0,0]}`), 0), 'NotAnInteger'],
  ['deep unknown member', file(`{"a":{"x":${deep}}}`, 0), 'TensorInvalidInfo'],
];

describe('safetensors headers', () => {
  it.each(BAD)('refuses %s', async (_what, bytes, reason) => {
    expect(await reasonOf(bytes)).toBe(reason);
  });

  it('names the tensor and the byte', async () => {
    const header = `{"ok":${f32('[1]', 0, 4)},"model.bad":${f32('[2]', 4, 8)}}`;
    await expect(openSafetensors(memoryBytes(file(header, 8), 'x.safetensors'))).rejects.toMatchObject({
      message: expect.stringContaining('tensor "model.bad"'),
      details: { file: 'x.safetensors', tensor: 'model.bad', position: 8 + header.indexOf('"model.bad"') },
    });
  });

  it('accepts what is odd but right', async () => {
    const names = ['', '__proto__', 'constructor', 'toString', '../../etc/passwd', '\u202egnp', 'n'.repeat(1024)];
    const entries = names.map((n) => `${JSON.stringify(n)}:${f32('[3,0]', 4, 4)}`).join(',');
    const header = `{"__metadata__":{"a":"\\u0000"},"scalar":${f32('[]', 0, 4)},"\\u0000":${f32('[0]', 4, 4)},${entries}}   `;
    const set = await openSafetensors(memoryBytes(file(header, 4)));
    expect([...set.names()].length).toBe(names.length + 2);
    for (const n of [...names, '\0']) expect(set.info(n)?.shape.includes(0)).toBe(true);
    expect(set.info('valueOf')).toBeUndefined();
    expect(await readF32(set, 'scalar')).toEqual(new Float32Array([0]));
    expect(await readF32(set, '__proto__')).toEqual(new Float32Array(0));
    expect(set.metadata.get('a')).toBe('\0');
    expect((Object.prototype as { shape?: unknown }).shape).toBeUndefined();
  });

  it('takes offsets in any order of the header', async () => {
    const bytes = file(`{"b":${f32('[1]', 4, 8)},"z":${f32('[0]', 4, 4)},"a":${f32('[1]', 0, 4)}}`, 8);
    const set = await openSafetensors(memoryBytes(bytes));
    expect([...set.names()]).toEqual(['a', 'z', 'b']);
  });

  it('reads a header of 25 MB in time and refuses a nested one', () => {
    const entry = (i: number): string => `"t${i}":${f32('[0]', 0, 0)}`;
    const parts: string[] = [];
    for (let i = 0, bytes = 2; ; i++) {
      const e = entry(i);
      bytes += e.length + 1;
      if (bytes > MAX_HEADER_BYTES) break;
      parts.push(e);
    }
    const bytes = file(`{${parts.join(',')}}`, 0);
    // Processor time: the machine may be busy with other tests.
    const start = process.cpuUsage().user;
    const header = parseHeader(bytes.subarray(8, 8 + headerBytes(bytes, bytes.length, 'big')), bytes.length, 'big');
    expect((process.cpuUsage().user - start) / 1e6).toBeLessThan(3);
    expect(header.tensors.size).toBe(parts.length);
    const nested = file(`{"a":${'['.repeat(12_000_000)}${']'.repeat(12_000_000)}}`, 0);
    expect(() => parseHeader(nested.subarray(8), nested.length, 'big')).toThrow(SafetensorsError);
  });
});

describe('safetensors files', () => {
  const dtypes = fc.constantFrom<NewTensor['dtype'][]>('F64', 'F32', 'F16', 'BF16', 'I64', 'I32', 'I16', 'I8', 'U8', 'BOOL');
  const bytesOf = { F64: 8, I64: 8, F32: 4, I32: 4, F16: 2, BF16: 2, I16: 2, I8: 1, U8: 1, BOOL: 1 } as const;
  const tensor = fc
    .record({ name: fc.string({ unit: 'grapheme', maxLength: 12 }), dtype: dtypes, shape: fc.array(fc.nat(4), { maxLength: 3 }), seed: fc.nat(255) })
    .filter((t) => t.name !== '__metadata__' && !/\p{Cs}/u.test(t.name))
    .map(({ name, dtype, shape, seed }): NewTensor => {
      const data = new Uint8Array(shape.reduce((a, b) => a * b, 1) * bytesOf[dtype]).map((_, i) => (i * 7 + seed) & 255);
      return { name, dtype, shape, data };
    });
  const tensors = fc.uniqueArray(tensor, { selector: (t) => t.name, maxLength: 6 });

  it('are read back as written', () => fc.assert(
    fc.asyncProperty(tensors, fc.dictionary(fc.string(), fc.string()), async (list, meta) => {
      const wanted = Object.fromEntries(Object.entries(meta).filter(([k, v]) => !/\p{Cs}/u.test(k + v)));
      const set = await openSafetensors(memoryBytes(writeSafetensors(list, wanted)));
      expect([...set.names()].sort()).toEqual(list.map((t) => t.name).sort());
      expect(set.metadata).toEqual(new Map(Object.entries(wanted)));
      for (const t of list) {
        expect(set.info(t.name)).toMatchObject({ dtype: t.dtype, shape: t.shape });
        expect(new Uint8Array(await set.read(t.name, 0, t.data.byteLength))).toEqual(t.data);
      }
    }),
    { numRuns: 200 },
  ));

  it('damaged anywhere, are refused or read within their bounds', async () => {
    const good = new Uint8Array(await readFile(join(GOLDEN, 'expert_choice.safetensors')));
    const headerEnd = 8 + Number(new DataView(good.buffer, good.byteOffset).getBigUint64(0, true));
    let refused = 0;
    await fc.assert(
      fc.asyncProperty(fc.array(fc.tuple(fc.nat(headerEnd - 1), fc.nat(255)), { minLength: 1, maxLength: 4 }), fc.option(fc.nat(good.length)), async (edits, cut) => {
        const bytes = good.slice(0, cut ?? good.length);
        for (const [at, value] of edits) if (at < bytes.length) bytes[at] = value;
        try {
          const set = await openSafetensors(memoryBytes(bytes));
          for (const name of set.names()) await readF64(set, name);
        } catch (error) {
          expect(error).toBeInstanceOf(SafetensorsError);
          refused++;
        }
      }),
      { numRuns: 3000 },
    );
    expect(refused).toBeGreaterThan(1500);
  });

  it('reads every golden file', async () => {
    for (const name of (await readdir(GOLDEN)).filter((n) => n.endsWith('.safetensors'))) {
      const set = await openPath(join(GOLDEN, name));
      for (const t of set.names()) {
        const values = await readF64(set, t);
        expect(values.every(Number.isFinite), `${name} ${t}`).toBe(true);
      }
      await set.close();
    }
    const set = await openPath(join(GOLDEN, 'models/tiny_mixtral/expected.safetensors'));
    expect((await readI32(set, 'input_ids')).length).toBe(10);
    await expect(readI32(set, 'logits')).rejects.toThrow(/integers were expected/);
    await set.close();
  });
});

describe('weights on disk', () => {
  let dir = '';
  beforeAll(async () => {
    dir = await mkdtemp(join(tmpdir(), 'moec-shards-'));
  });
  afterAll(() => rm(dir, { recursive: true, force: true }));

  const shard = (...names: string[]): Uint8Array =>
    writeSafetensors(names.map((name, i) => ({ name, dtype: 'F32' as const, shape: [2], data: new Float32Array([i, i + 1]) })));
  async function make(name: string, map: unknown, files: Record<string, Uint8Array>): Promise<string> {
    const path = await mkdtemp(join(dir, `${name}-`));
    await writeFile(join(path, 'model.safetensors.index.json'), typeof map === 'string' ? map : JSON.stringify({ metadata: { total_size: 1.5, x: [null, true] }, weight_map: map }));
    for (const [f, bytes] of Object.entries(files)) await writeFile(join(path, f), bytes);
    return path;
  }

  it('reads an index and its shards', async () => {
    const path = await make('good', { a: 's-1.safetensors', b: 's-1.safetensors', c: 's-2.safetensors' }, {
      's-1.safetensors': shard('a', 'b'),
      's-2.safetensors': shard('c'),
    });
    const set = await openPath(path);
    expect([...set.names()]).toEqual(['a', 'b', 'c']);
    expect(await readF32(set, 'b')).toEqual(new Float32Array([1, 2]));
    expect(await readF32(set, 'c')).toEqual(new Float32Array([0, 1]));
    await set.close();
  });

  it.each(['../x.safetensors', '/etc/x.safetensors', 'https://h/x.safetensors', 'a/b.safetensors', 'x.bin', '', '..', 'C:\\x.safetensors', 'x.safetensors\n'])(
    'refuses the shard name %j',
    async (name) => {
      const path = await make('name', { a: name }, {});
      await expect(openPath(path)).rejects.toMatchObject({ details: { reason: 'InvalidShardName' } });
    },
  );

  it('lists every disagreement', async () => {
    const path = await make('bad', { a: 's-1.safetensors', gone: 's-1.safetensors', c: 's-2.safetensors', moved: 's-1.safetensors' }, {
      's-1.safetensors': shard('a', 'c'),
      's-2.safetensors': shard('c', 'extra', 'moved'),
    });
    await expect(openPath(path)).rejects.toMatchObject({
      details: {
        reason: 'IndexDisagrees',
        problems: [
          expect.stringContaining('"c" is in both'),
          expect.stringContaining('"extra" is in s-2.safetensors, but not in the index'),
          expect.stringContaining('"moved" is in s-2.safetensors, the index says s-1'),
          expect.stringContaining('"gone"'),
        ],
      },
    });
  });

  it('refuses missing shards, links that lead outside, and duplicate keys', async () => {
    await expect(openPath(await make('missing', { a: 's.safetensors' }, {}))).rejects.toMatchObject({ details: { reason: 'MissingShard' } });
    const outside = join(dir, 'outside.safetensors');
    await writeFile(outside, shard('a'));
    const linked = await make('link', { a: 's.safetensors' }, {});
    await symlink(outside, join(linked, 's.safetensors'));
    await expect(openPath(linked)).rejects.toMatchObject({ details: { reason: 'LinkOutside' } });
    const inside = await make('inside', { a: 's.safetensors' }, { 'real.safetensors': shard('a') });
    await symlink(join(inside, 'real.safetensors'), join(inside, 's.safetensors'));
    await (await openPath(inside)).close();
    const twice = await make('twice', '{"weight_map":{"a":"x.safetensors","a":"y.safetensors"}}', {});
    await expect(openPath(twice)).rejects.toMatchObject({ details: { reason: 'DuplicateKey' } });
    const none = await make('none', '{"weight_maps":{}}', {});
    await expect(openPath(none)).rejects.toMatchObject({ details: { reason: 'NoWeightMap' } });
    await expect(openPath(join(dir, 'nowhere'))).rejects.toMatchObject({ details: { reason: 'CannotOpen' } });
  });

  it('notices a file that becomes shorter', async () => {
    const path = join(dir, 'short.safetensors');
    await writeFile(path, shard('a'));
    const set = await openPath(path);
    await truncate(path, 20);
    await expect(readF32(set, 'a')).rejects.toMatchObject({ details: { reason: 'ShortRead' } });
    await set.close();
  });

  it('takes the only file of a directory, and no directory with several', async () => {
    const path = await mkdtemp(join(dir, 'only-'));
    await expect(openPath(path)).rejects.toMatchObject({ details: { reason: 'NoWeights' } });
    await writeFile(join(path, 'w.safetensors'), shard('a'));
    await (await openPath(path)).close();
    await writeFile(join(path, 'v.safetensors'), shard('a'));
    await expect(openPath(path)).rejects.toMatchObject({ details: { reason: 'NoWeights' } });
  });
});
