/** The C interface of CUDA libraries (host.cuh), by its calls, on the emulator. */
import fc from 'fast-check';
import { afterEach, beforeAll, describe, expect, it } from 'vitest';
import { type Address, CODE, type CudaLibrary } from '../../../src/runtime/cuda/library.ts';
import { loadCudaLibrary } from '../../../src/runtime/node/cuda-library.ts';
import { BOX, builtModule } from './module.ts';

let library: CudaLibrary;
let portable: CudaLibrary;
const opened: [CudaLibrary, Address][] = [];

beforeAll(async () => {
  const [hopper, ampere] = [await builtModule('sm_90a'), await builtModule('sm_80')];
  library = await loadCudaLibrary(hopper.path);
  portable = await loadCudaLibrary(ampere.path);
});

afterEach(() => {
  for (const [l, handle] of opened.splice(0)) expect(l.close(handle)).toBe(0);
  for (const name of ['DEVICES', 'ARCH', 'MEMORY', 'ORDER', 'LATE']) delete process.env[`MOEC_EMULATE_${name}`];
});

async function open(l = library): Promise<Address> {
  const { code, handle, error } = await l.open(0);
  expect(error).toBe('');
  expect(code).toBe(0);
  opened.push([l, handle]);
  return handle;
}

const floats = (bytes: Uint8Array): number[] => [...new Float32Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 4)];
const bytesOf = (data: Float32Array | Uint32Array | Uint16Array): Uint8Array => new Uint8Array(data.buffer);

function alloc(handle: Address, bytes: number): Address {
  const { code, address } = library.alloc(handle, bytes);
  expect(code).toBe(0);
  return address;
}

function allocated(handle: Address, data: Float32Array | Uint32Array | Uint16Array): Address {
  const address = alloc(handle, data.byteLength);
  expect(library.write(handle, address, 0, bytesOf(data))).toBe(0);
  return address;
}

async function read(handle: Address, address: Address, count: number): Promise<number[]> {
  const out = new Uint8Array(4 * count);
  expect(await library.read(handle, BigUint64Array.of(address, 0n, BigInt(out.length)), out)).toBe(0);
  return floats(out);
}

const dispatch = (kernel: number, blocks: number, args: readonly Address[]): bigint[] => [0n, BigInt(kernel), BigInt(blocks) | (1n << 32n), 1n | (BigInt(args.length) << 32n), ...args];
const words = (...lists: readonly bigint[][]): BigUint64Array => BigUint64Array.from(lists.flat());
const counting = (n: number): Float32Array => Float32Array.from({ length: n }, (_, i) => i);

describe('opening', () => {
  it('tells of the device', async () => {
    const { code, info } = library.info(await open());
    expect(code).toBe(0);
    expect(info).toMatchObject({ capability: 90, emulated: true, threadsPerBlock: 1024, maxGrid: 65535, sharedBytes: 232448 });
    expect(info.name).toContain('emulator');
    expect(info.freeBytes).toBeLessThanOrEqual(info.totalBytes);
  });

  it('says that there is no device', async () => {
    process.env['MOEC_EMULATE_DEVICES'] = '0';
    const { code, handle, error } = await library.open(0);
    expect([code, handle]).toEqual([CODE.noDevice, 0n]);
    expect(error).toBe('cudaGetDeviceCount(&count): no CUDA-capable device is detected (cudaErrorNoDevice, code 100)');
  });

  it('says that there is no device of that number', async () => {
    for (const device of [1, -1]) {
      expect(await library.open(device)).toEqual({ code: CODE.badArgument, handle: 0n, error: `there is no device ${device}: this machine has 1` });
    }
  });

  it('refuses another architecture, where the kernels are for one only', async () => {
    process.env['MOEC_EMULATE_ARCH'] = '80';
    expect(await library.open(0)).toEqual({ code: CODE.wrongArchitecture, handle: 0n, error: 'this library is for sm_90a, the device is sm_80' });
    await open(portable);
    process.env['MOEC_EMULATE_ARCH'] = '90';
    await open(portable);
  });

  it('finds kernels by name', async () => {
    const handle = await open();
    const found = ['scale', 'add', 'slow', 'turn', 'box', 'box_of_all'].map((name) => library.kernel(handle, name));
    expect(new Set(found).size).toBe(6);
    expect(found.every((k) => k >= 0 && k < 6)).toBe(true);
    for (const name of ['', 'scal', 'scale ', 'constructor']) expect(library.kernel(handle, name)).toBe(CODE.badArgument);
  });

  it('takes no handle that is null', async () => {
    expect(library.run(0n, words(), 0)).toBe(CODE.badArgument);
    expect(library.info(0n).code).toBe(CODE.badArgument);
    expect(library.kernel(0n, 'scale')).toBe(CODE.badArgument);
    expect(await library.wait(0n)).toBe(CODE.badArgument);
    expect(library.error(0n)).toBe('no handle');
    expect(library.close(0n)).toBe(CODE.badArgument);
  });
});

describe('memory', () => {
  it('begins as zeros, and keeps what is written', async () => {
    const handle = await open();
    const address = alloc(handle, 64);
    expect(await read(handle, address, 16)).toEqual(Array.from({ length: 16 }, () => 0));
    expect(library.write(handle, address, 8, bytesOf(Float32Array.of(1, 2)))).toBe(0);
    expect(library.write(handle, address, 64, new Uint8Array(0))).toBe(0);
    const out = new Uint8Array(12);
    const requests = BigUint64Array.of(address, 12n, 4n, address, 0n, 0n, address + 4n, 0n, 8n);
    expect(await library.read(handle, requests, out)).toBe(0);
    expect(floats(out)).toEqual([2, 0, 1]);
  });

  it('may not be reached beyond its end, or after it is freed', async () => {
    const handle = await open();
    const address = alloc(handle, 64);
    expect(library.write(handle, address, 60, new Uint8Array(8))).toBe(CODE.badArgument);
    expect(library.error(handle)).toBe('moec_write: 8 bytes from byte 60 on reach beyond the 64 bytes there are');
    expect(await library.read(handle, BigUint64Array.of(address + 64n, 0n, 4n), new Uint8Array(4))).toBe(CODE.badArgument);
    expect(await library.read(handle, BigUint64Array.of(address, 2n ** 64n - 1n, 4n), new Uint8Array(4))).toBe(CODE.badArgument);
    expect(library.free(handle, address + 16n)).toBe(CODE.badArgument);
    expect(library.free(handle, address)).toBe(0);
    expect(library.free(handle, address)).toBe(CODE.badArgument);
    expect(library.error(handle)).toMatch(/^moec_free: no allocation begins at 0x/);
    expect(library.write(handle, address, 0, new Uint8Array(4))).toBe(CODE.badArgument);
    expect(library.alloc(handle, 0).code).toBe(CODE.badArgument);
  });

  it('runs out with a code and a text', async () => {
    process.env['MOEC_EMULATE_MEMORY'] = String(1 << 20);
    const handle = await open();
    expect(library.alloc(handle, 1 << 19).code).toBe(0);
    expect(library.alloc(handle, 1 << 20)).toEqual({ code: CODE.outOfMemory, address: 0n });
    expect(library.error(handle)).toBe('cudaMalloc(&pointer, bytes): out of memory (cudaErrorMemoryAllocation, code 2)');
    // The error does not stick.
    expect(library.alloc(handle, 1 << 18).code).toBe(0);
    expect(library.run(handle, words([2n, alloc(handle, 16), 16n, 0n]), 0)).toBe(0);
  });

  it('of one handle is not that of another', async () => {
    const [one, other] = [await open(), await open()];
    const address = alloc(one, 64);
    expect(library.write(other, address, 0, new Uint8Array(4))).toBe(CODE.badArgument);
    expect(library.error(other)).toMatch(/^moec_write: 0x[0-9a-f]+ is no device memory of this library$/);
    expect(library.error(one)).toBe('');
  });
});

describe('commands', () => {
  it('run in their order', async () => {
    const handle = await open();
    const x = allocated(handle, counting(128));
    const y = alloc(handle, 512);
    const scalars = allocated(handle, Uint32Array.of(100, 3));
    const [scale, add, turn] = ['scale', 'add', 'turn'].map((name) => library.kernel(handle, name));
    const list = words(
      dispatch(scale ?? -1, 2, [x, y, scalars]),
      dispatch(add ?? -1, 2, [x, y]),
      [1n, x + 256n, y + 256n, 128n],
      [2n, y, 8n, 0n],
      dispatch(turn ?? -1, 1, [y + 256n, y + 256n]),
    );
    expect(library.run(handle, list, 0)).toBe(0);
    const whole = counting(128).map((v, i) => (i < 2 ? 0 : i >= 64 && i < 96 ? v : i < 100 ? 4 * v : v));
    const expected = [...whole.subarray(0, 64), ...[...whole.subarray(64)].reverse()];
    expect(await read(handle, y, 128)).toEqual(expected);
  });

  it('view matrices through tensor maps', async () => {
    const handle = await open();
    const { rows, columns } = BOX;
    const half = (v: number): number => (new Uint32Array(Float32Array.of(v).buffer)[0] ?? 0) >>> 16;
    const x = allocated(handle, Uint16Array.from({ length: rows * columns }, (_, i) => half(((i * 37) % 256) + 1)));
    const y = alloc(handle, 4096 * 4);
    const box = library.kernel(handle, 'box');
    for (const [column, row] of [[0, 0], [64, 16], [0, 64]] as const) {
      const scalars = allocated(handle, Uint32Array.of(column, row));
      for (let again = 0; again < 2; again++) expect(library.run(handle, words(dispatch(box, 1, [x, y, scalars])), 0)).toBe(0);
      const expected = Array.from({ length: 4096 }, (_, i) => {
        const r = row + Math.floor(i / 64);
        return r < rows ? (((r * columns + column + (i % 64)) * 37) % 256) + 1 : 0;
      });
      expect(await read(handle, y, 4096)).toEqual(expected);
    }
    // The same through a map of as many rows as memory holds.
    const last = allocated(handle, Uint32Array.of(0, 64));
    const all = library.kernel(handle, 'box_of_all');
    expect(library.run(handle, words(dispatch(all, 1, [x, y, last])), 0)).toBe(0);
    expect((await read(handle, y, 4096)).slice(32 * 64)).toEqual(Array.from({ length: 32 * 64 }, () => 0));
    expect(library.run(handle, words(dispatch(all, 1, [alloc(handle, 128), y, last])), 0)).toBe(CODE.badArgument);
    // A matrix that is too small for its map, and one that lies askew.
    const small = alloc(handle, rows * columns * 2 - 16);
    expect(library.run(handle, words(dispatch(box, 1, [small, y, small])), 0)).toBe(CODE.badArgument);
    expect(library.error(handle)).toMatch(/^box: 24576 bytes from byte 0 on reach beyond/);
    const large = alloc(handle, rows * columns * 2 + 16);
    expect(library.run(handle, words(dispatch(box, 1, [large + 8n, y, small])), 0)).toBe(CODE.badArgument);
    expect(library.error(handle)).toBe('box: a tensor map over 96 x 128 elements in boxes of 64 rows');
  });

  it('are refused before any of them runs', async () => {
    const handle = await open();
    const x = allocated(handle, counting(64));
    const scale = library.kernel(handle, 'scale');
    const scalars = allocated(handle, Uint32Array.of(64, 2));
    const good = dispatch(scale, 1, [x, x, scalars]);
    const bad: readonly (readonly [bigint[], string])[] = [
      [[7n], 'word 7: there is no command 7'],
      [[0n], 'a dispatch of 1 words'],
      [[0n, 99n, 1n, 1n], 'kernel 99 of 6'],
      [[0n, 2n ** 64n - 1n, 1n, 1n], 'kernel 18446744073709551615 of 6'],
      [dispatch(scale, 1, [x, x]), 'scale takes 3 arguments, not 2'],
      [dispatch(scale, 1, [x, x, scalars]).slice(0, -1), 'scale: the list ends within its arguments'],
      [dispatch(scale, 0, [x, x, scalars]), 'scale: an empty grid'],
      [dispatch(scale, 1, [x, 0n, scalars]), 'scale: 0x0 is no device memory of this library'],
      [dispatch(scale, 1, [x, x, scalars + 8n]), `scale: 0x${(scalars + 8n).toString(16)} is no device memory of this library`],
      [[1n, x, x], 'a copy of 3 words'],
      [[1n, x, scalars, 9n], 'the target of a copy: 9 bytes from byte 0 on reach beyond the 8 bytes there are'],
      [[1n, x + 252n, x, 8n], 'the source of a copy: 8 bytes from byte 0 on reach beyond the 4 bytes there are'],
      [[1n, x, x, 2n ** 64n - 1n], 'the source of a copy: 18446744073709551615 bytes from byte 0 on reach beyond the 256 bytes there are'],
      [[2n, x], 'a clear of 2 words'],
      [[2n, x, 257n, 0n], 'the target of a clear: 257 bytes from byte 0 on reach beyond the 256 bytes there are'],
    ];
    for (const [list, text] of bad) {
      for (const graph of [0, 5]) {
        expect(library.run(handle, words(good, list), graph), text).toBe(CODE.badArgument);
        expect(library.error(handle)).toBe(text);
      }
      expect(await library.time(handle, words(good, list), new Float32Array(1)), text).toBe(CODE.badArgument);
    }
    expect(await read(handle, x, 64)).toEqual([...counting(64)]);
    // A grid that no device runs is the device's to refuse.
    expect(library.run(handle, words([0n, BigInt(scale), 1n | (1n << 48n), 1n | (3n << 32n), x, x, scalars]), 0)).toBe(9);
    expect(library.error(handle)).toMatch(/^scale: invalid configuration argument \(cudaErrorInvalidConfiguration, code 9\)$/);
  });

  it('never crash, whatever they are', async () => {
    const handle = await open();
    const x = alloc(handle, 1024);
    const scalars = allocated(handle, Uint32Array.of(64, 2));
    const word = fc.oneof(
      fc.constantFrom(0n, 1n, 2n, 3n, x, x + 1000n, scalars, (1n << 32n) | 1n, (2n << 32n) | 1n, (3n << 32n) | 1n, 2n ** 64n - 1n, 2n ** 63n),
      fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }),
      fc.bigInt({ min: 0n, max: 16n }),
    );
    const piece = fc.oneof(
      fc.array(word, { maxLength: 9 }),
      fc.constantFrom(dispatch(library.kernel(handle, 'scale'), 1, [x, x, scalars]), dispatch(library.kernel(handle, 'add'), 2, [x, x + 512n]), [1n, x, x + 512n, 64n], [2n, x, 64n, 0n]),
    );
    let ran = 0;
    fc.assert(
      fc.property(fc.array(piece, { maxLength: 5 }), fc.integer({ min: 0, max: 3 }), (pieces, graph) => {
        if (library.run(handle, words(...pieces), graph) === 0) ran++;
      }),
      { numRuns: 3000, seed: 20 },
    );
    expect(ran).toBeGreaterThan(100);
    expect(await library.wait(handle)).toBe(0);
  });
});

describe('graphs', () => {
  it('replay with what lies in memory now', async () => {
    const handle = await open();
    const x = allocated(handle, counting(64));
    const y = alloc(handle, 256);
    const scalars = allocated(handle, Uint32Array.of(64, 2));
    const list = words(dispatch(library.kernel(handle, 'scale'), 1, [x, y, scalars]), dispatch(library.kernel(handle, 'add'), 1, [x, y]));
    for (const [n, factor] of [[64, 2], [64, 5], [10, 7]] as const) {
      expect(library.write(handle, scalars, 0, bytesOf(Uint32Array.of(n, factor)))).toBe(0);
      expect(library.run(handle, words([2n, y, 256n, 0n]), 0)).toBe(0);
      expect(library.run(handle, list, 1)).toBe(0);
      expect(await read(handle, y, 64)).toEqual([...counting(64).map((v, i) => (i < n ? factor * v : 0) + v)]);
    }
  });

  it('belong to one list', async () => {
    const handle = await open();
    const x = allocated(handle, counting(64));
    const add = library.kernel(handle, 'add');
    const list = words(dispatch(add, 1, [x, x]));
    expect(library.run(handle, list, 9)).toBe(0);
    expect(library.run(handle, words(dispatch(add, 1, [x, x]), [2n, x, 4n, 0n]), 9)).toBe(CODE.badArgument);
    expect(library.error(handle)).toBe('graph 9 was made of another list of commands');
    expect(library.dropGraph(handle, 9)).toBe(0);
    expect(library.dropGraph(handle, 9)).toBe(0);
    expect(library.run(handle, words([2n, x, 256n, 0n]), 9)).toBe(0);
    expect(await read(handle, x, 1)).toEqual([0]);
  });

  it('are made again where they were too many', async () => {
    const handle = await open();
    const x = allocated(handle, counting(64).fill(1));
    const list = words(dispatch(library.kernel(handle, 'add'), 1, [x, x]), [2n, x, 128n, 0n]);
    for (let graph = 1; graph <= 70; graph++) expect(library.run(handle, list, graph)).toBe(0);
    for (const graph of [1, 70, 2]) expect(library.run(handle, list, graph)).toBe(0);
    expect((await read(handle, x, 64)).slice(0, 32)).toEqual(Array.from({ length: 32 }, () => 0));
  });
});

describe('timing', () => {
  it('gives one number a run, and runs what is to be cleared before each', async () => {
    const handle = await open();
    const x = allocated(handle, counting(64).fill(1));
    const scalars = allocated(handle, Uint32Array.of(20_000));
    const milliseconds = new Float32Array(4);
    const slow = dispatch(library.kernel(handle, 'slow'), 1, [x, scalars]);
    const list = words([2n, x, 256n, 0n], dispatch(library.kernel(handle, 'add'), 1, [x, x]), slow);
    expect(await library.time(handle, list, milliseconds)).toBe(0);
    expect([...milliseconds].every((ms) => ms > 0)).toBe(true);
    // Cleared, added, then halved towards 2.
    expect((await read(handle, x, 64)).slice(0, 33)).toEqual([...Array.from({ length: 32 }, () => 2), 0]);
    expect(await library.time(handle, list, new Float32Array(0))).toBe(CODE.badArgument);
  });
});
