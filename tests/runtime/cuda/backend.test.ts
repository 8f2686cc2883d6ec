/** The session's device over a CUDA library: on the emulator, and on libraries that fail on purpose. */
import { afterEach, beforeAll, describe, expect, it } from 'vitest';
import type { BindingHandle, Command, DeviceBuffer } from '../../../src/runtime/core/backend.ts';
import { CudaBackend } from '../../../src/runtime/cuda/backend.ts';
import type { CudaLibrary } from '../../../src/runtime/cuda/library.ts';
import { loadCudaLibrary } from '../../../src/runtime/node/cuda-library.ts';
import { builtModule, kernelOf } from './module.ts';

let library: CudaLibrary;
const backends: CudaBackend[] = [];

beforeAll(async () => {
  library = await loadCudaLibrary((await builtModule('sm_80')).path);
});

afterEach(() => {
  for (const b of backends.splice(0)) b.dispose();
  for (const name of ['DEVICES', 'ARCH', 'MEMORY']) delete process.env[`MOEC_EMULATE_${name}`];
});

async function open(l = library): Promise<CudaBackend> {
  const backend = await CudaBackend.open(l);
  backends.push(backend);
  return backend;
}

/** The library, keeping the graphs of its runs: as on a GPU where `inBackground`, on the calling thread. */
function watched(changes: Partial<CudaLibrary> = {}): { readonly library: CudaLibrary; readonly graphs: number[]; readonly dropped: number[] } {
  const graphs: number[] = [];
  const dropped: number[] = [];
  const watching: CudaLibrary = {
    ...library,
    runElsewhere(handle, words, graph) {
      graphs.push(graph);
      return library.runElsewhere(handle, words, graph);
    },
    dropGraph(handle, graph) {
      dropped.push(graph);
      return library.dropGraph(handle, graph);
    },
    ...changes,
  };
  return { library: watching, graphs, dropped };
}

const bytes = (data: Float32Array | Uint32Array): Uint8Array => new Uint8Array(data.buffer);
const floats = (data: Uint8Array | undefined): number[] => (data === undefined ? [] : [...new Float32Array(data.buffer, data.byteOffset, data.byteLength / 4)]);
const counting = (n: number): Float32Array => Float32Array.from({ length: n }, (_, i) => i);
const compiled = (b: CudaBackend, name: string, pointers: number, scalars: readonly string[] = []): ReturnType<CudaBackend['compile']> => {
  const kernel = kernelOf(name, pointers, scalars);
  const [variant] = kernel.variants;
  if (variant === undefined) throw new Error('no variant');
  return b.compile(kernel, variant, '', name);
};

interface Program {
  readonly x: DeviceBuffer;
  readonly y: DeviceBuffer;
  readonly scalars: DeviceBuffer;
  readonly list: readonly Command[];
  readonly scale: BindingHandle;
}

/** y = 3 · (scalar · x + x) + x by way of four kernels. */
async function program(b: CudaBackend): Promise<Program> {
  const [x, y, scalars] = await b.createBuffers([{ bytes: 256, label: 'x' }, { bytes: 256, label: 'y' }, { bytes: 512, label: 'scalars', uniform: true } as never]);
  if (x === undefined || y === undefined || scalars === undefined) throw new Error('no buffers');
  b.write(x, 0, bytes(counting(64)));
  const scale = b.bind(await compiled(b, 'scale', 2, ['n', 'factor']), [x, y], { buffer: scalars, offset: 256, bytes: 256 });
  const add = b.bind(await compiled(b, 'add', 2), [x, y], undefined);
  const once = (binding: BindingHandle): Command => ({ k: 'dispatch', binding, grid: [1, 1, 1] });
  return { x, y, scalars, scale, list: [once(scale), once(add), once(add), once(add)] };
}

const setScalars = (b: CudaBackend, { scalars }: Program, n: number, factor: number): void => b.write(scalars, 256, bytes(Uint32Array.of(n, factor)));
const expected = (factor: number): number[] => [...counting(64).map((v) => factor * v + 3 * v)];

describe('a CUDA device', () => {
  it('tells what it is', async () => {
    const { info } = await open();
    expect(info).toMatchObject({ backend: 'cuda', software: true, features: ['sm_80', 'sm_90a'], limits: { maxThreadsPerBlock: 1024, maxSharedBytes: 232448, maxGrid: 65535 } });
    process.env['MOEC_EMULATE_ARCH'] = '80';
    expect((await open()).info.features).toEqual(['sm_80']);
  });

  it('runs lists, and reads whole words and parts of them', async () => {
    const b = await open();
    const p = await program(b);
    setScalars(b, p, 64, 2);
    const [all, some, last] = await b.run('test', p.list, [
      { buffer: p.y, offset: 0, bytes: 256 },
      { buffer: p.y, offset: 4, bytes: 5 },
      { buffer: p.y, offset: 252, bytes: 4 },
    ]);
    expect(floats(all)).toEqual(expected(2));
    expect(some).toEqual(all?.slice(4, 9));
    expect(last?.byteOffset).toBe(264);
    expect(floats(last)).toEqual([expected(2)[63]]);
    expect(await b.run('nothing', [], [])).toEqual([]);
  });

  it('captures a list that comes again, and replays it with new scalars', async () => {
    const { library: watching, graphs } = watched();
    const b = await open(watching);
    const p = await program(b);
    for (const factor of [2, 3, 4, 5]) {
      setScalars(b, p, 64, factor);
      const [y] = await b.run('test', p.list, [{ buffer: p.y, offset: 0, bytes: 256 }]);
      expect(floats(y)).toEqual(expected(factor));
    }
    expect(graphs).toEqual([0, 1, 1, 1]);
  });

  it('never takes the graph of another grid, of other buffers, or of freed ones', async () => {
    const { library: watching, graphs, dropped } = watched();
    const b = await open(watching);
    const p = await program(b);
    const wider = p.list.map((c) => (c.k === 'dispatch' && c.binding === p.scale ? { ...c, grid: [2, 1, 1] as const } : c));
    for (const list of [p.list, wider, p.list, wider, p.list.slice(0, 3), p.list.slice(0, 3)]) await b.run('test', list, []);
    expect(graphs).toEqual([0, 0, 1, 2, 0, 0]);
    const other = await program(b);
    setScalars(b, other, 64, 7);
    for (let i = 0; i < 2; i++) {
      const [y] = await b.run('test', other.list, [{ buffer: other.y, offset: 0, bytes: 256 }]);
      expect(floats(y)).toEqual(expected(7));
    }
    expect(graphs.slice(6)).toEqual([0, 3]);
    expect(dropped).toEqual([]);
    b.destroyBuffer(p.x);
    expect(dropped).toEqual([1, 2]);
    await expect(b.run('test', p.list, [])).rejects.toMatchObject({ name: 'InternalError', message: 'scale is bound to x, which was destroyed' });
    await b.run('test', other.list, []);
    expect(graphs.slice(8)).toEqual([3]);
  });

  it('keeps the graphs used last', async () => {
    const { library: watching, graphs, dropped } = watched();
    const b = await open(watching);
    const p = await program(b);
    for (let n = 1; n <= 100; n++) {
      const list = p.list.map((c) => (c.k === 'dispatch' ? { ...c, grid: [1, 1, n] as const } : c));
      for (const l of [list, list, p.list]) await b.run('test', n === 1 ? p.list : l, []);
    }
    expect(new Set(graphs).size).toBe(101);
    expect(graphs.filter((g) => g === 1).length).toBe(2 + 99);
    expect(dropped.length).toBe(100 - 64);
    expect(dropped).not.toContain(1);
  });

  it('lets the event loop go on while it computes', async () => {
    const b = await open();
    const [y, scalars] = await b.createBuffers([{ bytes: 128, label: 'y' }, { bytes: 16, label: 'scalars' }]);
    if (y === undefined || scalars === undefined) throw new Error('no buffers');
    b.write(scalars, 0, bytes(Uint32Array.of(4_000_000)));
    const slow = b.bind(await compiled(b, 'slow', 1, ['n']), [y], { buffer: scalars, offset: 0, bytes: 16 });
    let ticks = 0;
    const timer = setInterval(() => void ticks++, 5);
    const start = performance.now();
    const [result] = await b.run('slow', [{ k: 'dispatch', binding: slow, grid: [1, 1, 1] }], [{ buffer: y, offset: 0, bytes: 128 }]);
    const took = performance.now() - start;
    clearInterval(timer);
    expect(floats(result)).toEqual(Array.from({ length: 32 }, () => 2));
    expect(ticks).toBeGreaterThan(Math.min(5, took / 50));
  });

  it('runs what is asked for at once one after another', async () => {
    const b = await open();
    const p = await program(b);
    setScalars(b, p, 64, 1);
    const scale: Command = { k: 'dispatch', binding: p.scale, grid: [1, 1, 1] };
    const add = p.list[1];
    if (add === undefined) throw new Error('no command');
    const results = await Promise.all([[scale], [add], [add], [scale]].map((list) => b.run('test', list, [{ buffer: p.y, offset: 4, bytes: 4 }])));
    expect(results.map(([y]) => floats(y)[0])).toEqual([1, 2, 3, 1]);
    await b.flush();
  });

  it('measures', async () => {
    const b = await open();
    const p = await program(b);
    const milliseconds = await b.time(p.list, 3, p.y);
    expect([...milliseconds].every((ms) => ms > 0)).toBe(true);
    expect(milliseconds.length).toBe(3);
  });

  it('is closed once nothing waits for it', async () => {
    const closed: number[] = [];
    let end: (code: number) => void = () => undefined;
    const { library: watching } = watched({
      wait: () => new Promise((resolve) => void (end = resolve)),
      close: (handle) => closed.push(library.close(handle)),
    });
    const b = await CudaBackend.open(watching);
    const [buffer] = await b.createBuffers([{ bytes: 1024, label: 'x' }]);
    const waiting = b.flush();
    b.dispose();
    b.dispose();
    expect(b.allocatedBytes).toBe(0);
    expect(closed).toEqual([]);
    end(0);
    await waiting;
    await new Promise((resolve) => setTimeout(resolve, 1));
    expect(closed).toEqual([0]);
    await expect(b.run('test', [], [])).rejects.toMatchObject({ name: 'DisposedError' });
    expect(() => b.write(buffer as DeviceBuffer, 0, new Uint8Array(4))).toThrow('disposed');
  });
});

describe('a CUDA device that fails', () => {
  it('is told apart when it is opened', async () => {
    process.env['MOEC_EMULATE_DEVICES'] = '0';
    await expect(open()).rejects.toMatchObject({ name: 'NoCudaDeviceError', code: 'MOE5018', details: { code: 100 } });
    delete process.env['MOEC_EMULATE_DEVICES'];
    await expect(CudaBackend.open(library, 3)).rejects.toMatchObject({ name: 'NoCudaDeviceError', message: 'there is no device 3: this machine has 1' });
    process.env['MOEC_EMULATE_ARCH'] = '80';
    const hopper = await loadCudaLibrary((await builtModule('sm_90a')).path);
    await expect(open(hopper)).rejects.toMatchObject({ name: 'CudaArchitectureError', code: 'MOE5019', message: 'this library is for sm_90a, the device is sm_80' });
    const answering = (code: number): CudaLibrary => ({ ...library, open: () => Promise.resolve({ code, handle: 0n, error: 'text' }) });
    await expect(open(answering(35))).rejects.toMatchObject({ name: 'NoCudaDriverError', code: 'MOE5017' });
    await expect(open(answering(209))).rejects.toMatchObject({ name: 'CudaArchitectureError' });
    await expect(open(answering(2))).rejects.toMatchObject({ name: 'OutOfMemoryError' });
    await expect(open(answering(3))).rejects.toMatchObject({ name: 'DeviceLostError' });
  });

  it('reports out-of-memory with its numbers and gives everything back', async () => {
    process.env['MOEC_EMULATE_MEMORY'] = String(1 << 20);
    const b = await open();
    await b.createBuffers([{ bytes: 1 << 18, label: 'stays' }]);
    await expect(b.createBuffers([{ bytes: 1 << 19, label: 'fits' }, { bytes: 1 << 19, label: 'does not' }])).rejects.toMatchObject({
      code: 'MOE5005',
      details: { needed: 1 << 20, largest: 1 << 19, inUse: 1 << 18, free: (1 << 20) - (1 << 18) },
    });
    expect(b.allocatedBytes).toBe(1 << 18);
    await b.createBuffers([{ bytes: 1 << 19, label: 'fits' }]);
  });

  it('is lost after a fault of a kernel, with all that follows', async () => {
    const { library: failing } = watched({ wait: () => Promise.resolve(700), error: () => 'cudaStreamSynchronize: an illegal memory access (cudaErrorIllegalAddress, code 700)' });
    const b = await open(failing);
    const [buffer] = await b.createBuffers([{ bytes: 16, label: 'x' }]);
    await expect(b.flush()).rejects.toMatchObject({ name: 'DeviceLostError', code: 'MOE5006', details: { code: 700 } });
    await expect(b.lost).resolves.toMatchObject({ name: 'DeviceLostError' });
    await expect(b.run('test', [], [])).rejects.toMatchObject({ name: 'DeviceLostError' });
    await expect(b.createBuffers([{ bytes: 16, label: 'x' }])).rejects.toMatchObject({ name: 'DeviceLostError' });
    expect(() => b.write(buffer as DeviceBuffer, 0, new Uint8Array(4))).toThrow('illegal memory access');
    b.destroyBuffer(buffer as DeviceBuffer);
  });

  it('names what it refused', async () => {
    const b = await open();
    const p = await program(b);
    const bad: Command = { k: 'dispatch', binding: p.scale, grid: [1, 70000, 1] };
    await expect(b.run('moec:layer', [bad], [])).rejects.toMatchObject({ name: 'InternalError', message: expect.stringMatching(/^the device refused moec:layer: scale: invalid configuration/) as string });
    await expect(b.run('far', [], [{ buffer: p.y, offset: 256, bytes: 4 }])).rejects.toMatchObject({ name: 'InternalError' });
    await expect(compiled(b, 'other', 1)).rejects.toMatchObject({ name: 'PackageError', details: { kernel: 'other' } });
    const scale = await compiled(b, 'scale', 2, ['n']);
    expect(() => b.bind(scale, [p.x, p.y], undefined)).toThrow('takes 2 buffers and scalars');
    const stranger = await open();
    expect(() => stranger.bind(scale, [p.x, p.y], { buffer: p.scalars, offset: 0, bytes: 256 })).toThrow('another device');
  });
});
