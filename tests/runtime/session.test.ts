import { describe, expect, it, vi } from 'vitest';
import { DeviceLostError, DisposedError, FeatureMissingError, LimitTooSmallError, MoecError, OutOfMemoryError, PackageError } from '../../src/runtime/core/errors.ts';
import { readManifest } from '../../src/runtime/core/manifest.ts';
import { type Model, makeModel } from '../../src/runtime/core/model.ts';
import { estimateMemory } from '../../src/runtime/core/needs.ts';
import { type Progress, compileProgram } from '../../src/runtime/core/program.ts';
import { checkpointWeights } from '../../src/runtime/core/provider.ts';
import { Session, type SessionOptions } from '../../src/runtime/core/session.ts';
import { namedTensors } from '../../src/runtime/core/tensors.ts';
import { BODIES, FakeBackend, MANIFEST, ROOMY, VOCAB, WEIGHTS, expectedLogits } from './fake-backend.ts';

interface Opened {
  readonly backend: FakeBackend;
  readonly session: Session;
  readonly model: Model;
}

async function open(backend = new FakeBackend(BODIES), options: SessionOptions = {}, manifest = MANIFEST): Promise<Opened> {
  const program = await compileProgram(manifest, (file) => `text of ${file}`, backend, options);
  const provider = checkpointWeights(manifest, namedTensors(Object.entries(WEIGHTS)));
  const session = await Session.create(program, provider, options);
  const model = makeModel(session, () => Promise.reject(new Error('not here')), () => session.dispose().finally(() => backend.dispose()));
  return { backend, session, model };
}

function expectLogits(actual: Float32Array, ids: readonly number[]): void {
  const wanted = expectedLogits(ids);
  expect(actual.length).toBe(wanted.length);
  actual.forEach((v, i) => expect(Math.abs(v - (wanted[i] ?? NaN))).toBeLessThan(1e-4 * Math.max(1, Math.abs(wanted[i] ?? 0))));
}
const collect = async (tokens: AsyncIterable<number>): Promise<number[]> => {
  const out: number[] = [];
  for await (const t of tokens) out.push(t);
  return out;
};
const IDS = [3, 1, 4, 1, 5, 0, 2];
const warn = vi.spyOn(console, 'warn').mockImplementation(() => undefined);

describe('a session', () => {
  it('runs the sections in order, whatever the bucket', async () => {
    const { model, backend } = await open();
    for (const n of [1, 2, 3, 7]) expectLogits(await model.forward(IDS.slice(0, n)), IDS.slice(0, n));
    expect(backend.dispatched.slice(0, 9)).toEqual(['embed', 'append', 'sum', 'scale', 'append', 'sum', 'scale', 'head', 'head']);
    expect(model.stats().dispatches).toEqual({ decode: 9, prefill: 9, last: 9 });
    expect(warn).toHaveBeenCalledTimes(1);
    expect(model.stats().routerFaults).toBe(2 * 13);
  });

  it('returns nothing for nothing, without a dispatch', async () => {
    const { model, backend } = await open();
    expect(await model.forward([])).toEqual(new Float32Array(0));
    expect(backend.dispatched).toEqual([]);
  });

  it('generates from the cache what whole calls say, past every growth of the cache', async () => {
    const { model, session } = await open();
    const tokens = await collect(model.generate(IDS, { maxTokens: 150 }));
    expect(tokens.length).toBe(150);
    const all = [...IDS, ...tokens];
    const logits = await model.forward(all.slice(0, -1));
    tokens.forEach((token, i) => {
      const row = logits.subarray((IDS.length - 1 + i) * VOCAB, (IDS.length + i) * VOCAB);
      expect(token).toBe(row.indexOf(Math.max(...row)));
    });
    expect(session.stats().tokens).toBe(IDS.length + 149 + all.length - 1);
  });

  it('stops at a stop token, at maxTokens, at the end of the context, and where the loop is left', async () => {
    const { model } = await open();
    const free = await collect(model.generate(IDS, { maxTokens: 8, temperature: 1, seed: 3 }));
    expect(await collect(model.generate(IDS, { maxTokens: 8, temperature: 1, seed: 3 }))).toEqual(free);
    const stop = free[4] ?? 0;
    expect(await collect(model.generate(IDS, { maxTokens: 8, temperature: 1, seed: 3, stop: [stop] }))).toEqual(free.slice(0, free.indexOf(stop)));
    expect(await collect(model.generate(IDS, { maxTokens: 0 }))).toEqual([]);
    expect((await collect(model.generate(Array<number>(199).fill(1)))).length).toBe(1);
    expect((await collect(model.generate(Array<number>(199).fill(1), { maxTokens: 9 }))).length).toBe(2);
    for await (const token of model.generate(IDS)) {
      expect(token).toBeGreaterThanOrEqual(0);
      break;
    }
    expectLogits(await model.forward(IDS), IDS);
  });

  it('keeps the caches of interleaved generations apart', async () => {
    const { model } = await open();
    const alone = await collect(model.generate([1, 2], { maxTokens: 6 }));
    const other = await collect(model.generate([4, 0, 3], { maxTokens: 6 }));
    const a = model.generate([1, 2], { maxTokens: 6 });
    const b = model.generate([4, 0, 3], { maxTokens: 6 });
    for (let i = 0; i < 6; i++) {
      expect((await a.next()).value).toBe(alone[i]);
      // A whole call within the loop neither waits for it nor disturbs it.
      expectLogits(await model.forward(IDS), IDS);
      expect((await b.next()).value).toBe(other[i]);
    }
  });

  it('runs the head over runs of tokens where the logits exceed a binding', async () => {
    const limits = { ...ROOMY, maxBindingBytes: 112 };
    const { model, backend } = await open(new FakeBackend(BODIES, limits));
    // 112 bytes hold 4 rows of 6 logits and 7 rows of 4 numbers.
    expectLogits(await model.forward(IDS), IDS);
    expect(backend.dispatched.filter((k) => k === 'head').length).toBe(4);
    expect(model.stats().dispatches.last).toBe(7 + 4);
    const error = await model.forward([...IDS, 0]).catch((e: unknown) => e);
    expect(error).toBeInstanceOf(LimitTooSmallError);
    if (error instanceof MoecError) expect(error.details).toMatchObject({ needed: 128, available: 112, tokens: 8, fit: 7 });
  });

  it('compares limits and budget before it allocates', async () => {
    for (const [limit, value] of [['maxBindings', 3], ['maxThreadsPerBlock', 63], ['maxBindingBytes', 63], ['maxBufferBytes', 63]] as const) {
      const backend = new FakeBackend(BODIES, { ...ROOMY, [limit]: value });
      await expect(open(backend)).rejects.toMatchObject({ code: 'MOE5004', details: { available: value } });
      expect(backend.live.size).toBe(0);
    }
    const tight = new FakeBackend(BODIES);
    await expect(open(tight, { memoryLimit: 100 })).rejects.toThrow(OutOfMemoryError);
    expect(tight.live.size).toBe(0);
    const { model } = await open(new FakeBackend(BODIES), { memoryLimit: 11_000 });
    expectLogits(await model.forward(IDS), IDS);
    await expect(model.forward(Array<number>(150).fill(1))).rejects.toThrow(OutOfMemoryError);
    expectLogits(await model.forward(IDS), IDS);
    const grid = await open(new FakeBackend(BODIES, { ...ROOMY, maxGrid: 5 }));
    await expect(grid.model.forward(IDS)).rejects.toMatchObject({ code: 'MOE5004', details: { needed: 7, available: 5 } });
  });

  it('chooses kernel variants by feature', async () => {
    const texts: string[] = [];
    const program = async (features: readonly string[], manifest = MANIFEST): Promise<void> => {
      texts.length = 0;
      await compileProgram(manifest, (file) => (texts.push(file), `text of ${file}`), new FakeBackend(BODIES, ROOMY, features));
    };
    await program(['speed']);
    expect(texts.every((t) => t.endsWith('.fast.wgsl'))).toBe(true);
    await program([]);
    expect(texts.some((t) => t.includes('fast'))).toBe(false);
    const demanding = { ...MANIFEST, kernels: MANIFEST.kernels.map((k) => ({ ...k, variants: k.variants.slice(0, 1) })) };
    await expect(program([], demanding)).rejects.toThrow(FeatureMissingError);
    await expect(compileProgram(MANIFEST, () => undefined, new FakeBackend(BODIES))).rejects.toThrow(PackageError);
  });

  it('serialises calls and forgets aborted ones', async () => {
    const { model, backend } = await open();
    let release: () => void = () => undefined;
    backend.gate = new Promise<void>((resolve) => {
      release = resolve;
    });
    const stop = new AbortController();
    const first = model.forward(IDS);
    const second = model.forward(IDS.slice(0, 3), { signal: stop.signal });
    const third = model.forward(IDS.slice(0, 2));
    stop.abort();
    await expect(second).rejects.toMatchObject({ name: 'AbortError', code: 'MOE5011' });
    release();
    expectLogits(await first, IDS);
    expectLogits(await third, IDS.slice(0, 2));
    expect(backend.overlapped).toBe(false);
    expect(model.stats().calls).toBe(2);
    await expect(model.forward(IDS, { signal: AbortSignal.abort() })).rejects.toMatchObject({ name: 'AbortError' });
    await expect(open(new FakeBackend(BODIES), { signal: AbortSignal.abort() })).rejects.toMatchObject({ name: 'AbortError' });
  });

  it('refuses ids that are none, and contexts that are too long', async () => {
    const { model } = await open();
    for (const bad of [[6], [-1], [1.5], [NaN], [1, 2, 2 ** 32]]) await expect(model.forward(bad)).rejects.toMatchObject({ code: 'MOE5013' });
    await expect(model.forward(Array<number>(201).fill(0))).rejects.toMatchObject({ code: 'MOE5013', details: { context: 200 } });
    await expect(collect(model.generate([]))).rejects.toMatchObject({ code: 'MOE5013' });
    for (const options of [{ maxTokens: -1 }, { temperature: -1 }, { topP: 0 }, { topP: 2 }, { topK: 0 }, { seed: 0.5 }]) {
      await expect(collect(model.generate([1], options)), JSON.stringify(options)).rejects.toMatchObject({ code: 'MOE5013' });
    }
  });

  it('frees everything, once, at any time', async () => {
    const backend = new FakeBackend(BODIES);
    for (let i = 0; i < 100; i++) {
      const { session, model } = await open(backend);
      await model.forward(IDS.slice(0, (i % 7) + 1));
      await Promise.all([session.dispose(), session.dispose()]);
      await session.dispose();
      expect(backend.allocatedBytes).toBe(0);
      expect(backend.live.size).toBe(0);
    }
    const { session, model } = await open(backend);
    let release: () => void = () => undefined;
    backend.gate = new Promise<void>((resolve) => {
      release = resolve;
    });
    const running = model.forward(IDS);
    const waiting = model.forward(IDS);
    const refused = expect(waiting).rejects.toThrow(DisposedError);
    await Promise.resolve();
    const disposed = session.dispose();
    release();
    expectLogits(await running, IDS);
    await refused;
    await disposed;
    expect(backend.allocatedBytes).toBe(0);
    await expect(model.forward(IDS)).rejects.toThrow(DisposedError);
    expect(backend.disposed).toBe(0);
    await model.dispose();
    expect(backend.disposed).toBe(1);
  });

  it('rejects everything when the device is lost', async () => {
    const { model, backend } = await open();
    backend.gate = new Promise(() => undefined);
    const calls = [model.forward(IDS), model.forward(IDS)];
    backend.lose();
    for (const c of calls) await expect(c).rejects.toThrow(DeviceLostError);
    await expect(model.forward(IDS)).rejects.toThrow(DeviceLostError);
    await model.dispose();
    expect(backend.allocatedBytes).toBe(0);
    const lostEarly = new FakeBackend(BODIES);
    lostEarly.lose();
    await expect(open(lostEarly)).rejects.toThrow(DeviceLostError);
  });

  it('survives a failed allocation', async () => {
    const { model, backend } = await open();
    expectLogits(await model.forward([1]), [1]);
    backend.failAllocation = true;
    await expect(model.forward(IDS)).rejects.toThrow(OutOfMemoryError);
    backend.failAllocation = false;
    expectLogits(await model.forward(IDS), IDS);
  });

  it('reports progress, memory and what it does not use', async () => {
    const events: Progress[] = [];
    const { model, backend } = await open(new FakeBackend(BODIES), { onProgress: (p) => void events.push(p) });
    expect(events.filter((e) => e.phase === 'kernels').map((e) => e.done)).toEqual([1, 2, 3, 4, 5]);
    expect(events[events.length - 1]).toEqual({ phase: 'weights', done: 320, total: 320, unit: 'bytes' });
    await model.forward(IDS);
    const { memory, unusedTensors, device } = model.stats();
    expect(unusedTensors).toEqual(['spare']);
    expect(device.name).toBe('fake');
    expect(memory.weights + memory.caches + memory.calls).toBe(backend.allocatedBytes);
    const estimate = estimateMemory(MANIFEST, IDS.length, 64);
    expect(estimate.weights).toBe(320);
    expect(estimate.caches).toBe(memory.caches);
    // `forward` holds the logits of every token, the estimate those of one; both within paddings of 16 bytes.
    expect(Math.abs(memory.calls - (estimate.call + (IDS.length - 1) * VOCAB * 4))).toBeLessThan(5 * 256 + 10 * 16);
  });
});

describe('manifests', () => {
  const json = (): Record<string, unknown> => JSON.parse(JSON.stringify(MANIFEST)) as Record<string, unknown>;
  it('are read as they are', () => {
    expect(readManifest(json())).toEqual(MANIFEST);
  });

  it('are refused where any member is missing or of another kind', () => {
    let tried = 0;
    const visit = (root: Record<string, unknown>, node: object, path: readonly string[]): void => {
      for (const key of Object.keys(node)) {
        const value: unknown = Reflect.get(node, key);
        const where = [...path, key];
        // Lists may be shorter, maps may have fewer entries, and these may be absent.
        const optional = Array.isArray(node) || path.includes('constants') || path[path.length - 1] === 'files' || ['segmentRows', 'segment'].includes(key);
        if (!optional) {
          Reflect.deleteProperty(node, key);
          expect(() => readManifest(root), `without ${where.join('.')}`).toThrow(PackageError);
          tried++;
        }
        Reflect.set(node, key, key === 'shape' || key === 'size' ? { op: '?' } : { hostile: true });
        expect(() => readManifest(root), `other ${where.join('.')}`).toThrow(PackageError);
        tried++;
        Reflect.set(node, key, value);
        if (typeof value === 'object' && value !== null) visit(root, value, where);
      }
    };
    const root = json();
    visit(root, root, []);
    expect(tried).toBeGreaterThan(800);
  });

  it('are refused where they point nowhere, or speak another version', () => {
    const changed = (change: (m: ReturnType<typeof json>) => void): unknown => {
      const m = json();
      change(m);
      return m;
    };
    const path = (m: object, ...keys: readonly string[]): object => keys.reduce<object>((o, k) => Reflect.get(o, k) as object, m);
    const cases: readonly unknown[] = [
      changed((m) => Reflect.set(m, 'abi', 3)),
      changed((m) => Reflect.set(path(m, 'sequence', '0'), 'section', 9)),
      changed((m) => Reflect.set(path(m, 'sections', '0', 'buckets', '0', 'steps', '0'), 'kernel', 9)),
      changed((m) => Reflect.set(path(m, 'sections', '0', 'buckets', '0', 'steps', '0', 'args', '1'), 'name', 'nothing')),
      changed((m) => Reflect.set(path(m, 'sections', '1', 'buckets', '0', 'steps', '2', 'args', '0'), 'slot', 7)),
      changed((m) => Reflect.set(path(m, 'sections', '0', 'buckets', '1'), 'maxTokens', 8)),
      changed((m) => Reflect.set(path(m, 'kernels', '0'), 'variants', [])),
      null, [], 'x', 1,
    ];
    for (const c of cases) expect(() => readManifest(c)).toThrow(PackageError);
    expect(() => readManifest(changed((m) => Reflect.set(m, 'abi', 1)))).toThrow(/version "1"/);
  });
});
