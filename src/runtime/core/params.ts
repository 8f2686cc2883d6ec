/** Parameters on the device: weights in their segments, rotary tables, key-value caches. */
import type { ManifestParam } from './abi.ts';
import type { Backend, DeviceBuffer } from './backend.ts';
import { InternalError, OutOfMemoryError, type Signal, showBytes, throwIfAborted } from './errors.ts';
import { checkCallBytes, segmentsOf } from './limits.ts';
import type { OnProgress, Program } from './program.ts';
import type { WeightProvider } from './provider.ts';
import { bindingBytes } from './size.ts';
import { storedBytes } from './quant.ts';
import { layerName, weightsOf } from './weights.ts';

/** Uploads are waited for after this many bytes, so that the driver's own copies stay few. */
const FLUSH_BYTES = 256 << 20;

export interface Weights {
  /** Segments of a weight by its full name. */
  readonly buffers: ReadonlyMap<string, readonly DeviceBuffer[]>;
  readonly bytes: number;
  readonly uploadMs: number;
}

/**
 * Allocates every weight, then streams it in.
 * @throws OutOfMemoryError, WeightsError, AbortError
 */
export async function uploadWeights(
  program: Program,
  provider: WeightProvider,
  options: { readonly signal?: Signal | undefined; readonly onProgress?: OnProgress | undefined } = {},
): Promise<Weights> {
  const start = performance.now();
  const { backend, manifest } = program;
  const weights = [...weightsOf(manifest.sections, manifest.sequence)].map((w) => ({ ...w, segments: segmentsOf(w.param) }));
  const wanted = weights.flatMap((w) =>
    w.segments.map((s, i) => ({ bytes: bindingBytes(s.bytes), label: `moec:weight/${w.name}${w.segments.length > 1 ? `#${i}` : ''}` })),
  );
  const total = weights.reduce((sum, w) => sum + w.segments.reduce((n, s) => n + s.bytes, 0), 0);
  const made = await backend.createBuffers(wanted);
  const buffers = new Map<string, readonly DeviceBuffer[]>();
  try {
    let next = 0;
    let done = 0;
    let unflushed = 0;
    for (const w of weights) {
      const own = made.slice(next, next + w.segments.length);
      next += w.segments.length;
      buffers.set(w.name, own);
      for (const [i, segment] of w.segments.entries()) {
        const buffer = own[i];
        if (buffer === undefined) throw new InternalError(`no buffer for ${w.name}`);
        const rowBytes = segment.rows === 0 ? 0 : segment.bytes / segment.rows;
        for await (const chunk of provider.chunks(w.param, w.name, w.layer, segment.first, segment.rows, options.signal)) {
          throwIfAborted(options.signal);
          backend.write(buffer, chunk.row * rowBytes, chunk.data);
          done += chunk.data.length;
          unflushed += chunk.data.length;
          options.onProgress?.({ phase: 'weights', done, total, unit: 'bytes' });
          if (unflushed >= FLUSH_BYTES) {
            await backend.flush();
            unflushed = 0;
          }
        }
      }
    }
    await backend.flush();
  } catch (error) {
    for (const b of made) backend.destroyBuffer(b);
    throw error;
  }
  return { buffers, bytes: made.reduce((sum, b) => sum + b.bytes, 0), uploadMs: performance.now() - start };
}

/** Row p: cos(p · f_i) · scale for all frequencies, then the sines; computed in f64. */
export function ropeTable(frequencies: readonly number[], scale: number, rows: number): Float32Array {
  const half = frequencies.length;
  const out = new Float32Array(rows * 2 * half);
  for (let p = 0; p < rows; p++) {
    for (let i = 0; i < half; i++) {
      const angle = p * (frequencies[i] ?? 0);
      out[p * 2 * half + i] = Math.cos(angle) * scale;
      out[p * 2 * half + half + i] = Math.sin(angle) * scale;
    }
  }
  return out;
}

const bytesPerRow = (param: ManifestParam): number =>
  storedBytes(param.elem, param.shape.map((d) => (d === 'cap' ? 1 : d)));

/** Parameters of one kind, once each, with their full names. */
function paramsOf(program: Program, kind: 'rope' | 'state'): Map<string, ManifestParam> {
  const { sections, sequence } = program.manifest;
  const out = new Map<string, ManifestParam>();
  for (const { section, layer } of sequence) {
    for (const p of sections[section]?.params ?? []) if (p.role.kind === kind) out.set(layerName(p.name, layer), p);
  }
  return out;
}

/** Rotary tables, as long as the longest cache so far. */
export class RopeTables {
  readonly #program: Program;
  readonly #params: ReadonlyMap<string, ManifestParam>;
  #buffers = new Map<string, DeviceBuffer>();
  #rows = 0;

  constructor(program: Program) {
    this.#program = program;
    this.#params = paramsOf(program, 'rope');
  }

  get(name: string): DeviceBuffer | undefined {
    return this.#buffers.get(name);
  }

  get bytes(): number {
    return [...this.#buffers.values()].reduce((n, b) => n + b.bytes, 0);
  }

  async ensure(rows: number): Promise<void> {
    if (rows <= this.#rows || this.#params.size === 0) return;
    const { backend } = this.#program;
    const names = [...this.#params.keys()];
    const made = await backend.createBuffers(
      [...this.#params].map(([name, p]) => ({ bytes: bindingBytes(rows * bytesPerRow(p)), label: `moec:rope/${name}` })),
    );
    const next = new Map<string, DeviceBuffer>();
    for (const [i, name] of names.entries()) {
      const role = this.#params.get(name)?.role;
      const buffer = made[i];
      if (role?.kind !== 'rope' || buffer === undefined) throw new InternalError(`no rotary table ${name}`);
      const table = ropeTable(role.inverseFrequencies, role.scale, rows);
      backend.write(buffer, 0, new Uint8Array(table.buffer));
      next.set(name, buffer);
    }
    for (const b of this.#buffers.values()) backend.destroyBuffer(b);
    this.#buffers = next;
    this.#rows = rows;
  }

  dispose(): void {
    for (const b of this.#buffers.values()) this.#program.backend.destroyBuffer(b);
    this.#buffers.clear();
    this.#rows = 0;
  }
}

function checkBudget(after: number, memoryLimit: number, tokens: number): void {
  if (after <= memoryLimit) return;
  throw new OutOfMemoryError(`${tokens} tokens would bring the device memory to ${showBytes(after)}, over the limit of ${showBytes(memoryLimit)}`, {
    details: { needed: after, budget: memoryLimit, tokens },
    fix: 'call with fewer tokens or raise memoryLimit',
  });
}

/** Key-value caches of one sequence. */
export class KvContext {
  readonly id: number;
  readonly #program: Program;
  readonly #params: ReadonlyMap<string, ManifestParam>;
  #buffers = new Map<string, DeviceBuffer>();
  #capacity = 0;

  constructor(program: Program, id: number) {
    this.#program = program;
    this.#params = paramsOf(program, 'state');
    this.id = id;
  }

  /** Tokens that fit. */
  get capacity(): number {
    return this.#capacity;
  }

  get bytes(): number {
    return [...this.#buffers.values()].reduce((n, b) => n + b.bytes, 0);
  }

  get(name: string): DeviceBuffer | undefined {
    return this.#buffers.get(name);
  }

  /**
   * Makes room for `needed` tokens, or better `wanted` where that fits, keeping the first `kept`.
   * @throws LimitTooSmallError, OutOfMemoryError
   */
  async ensure(needed: number, wanted: number, kept: number, memoryLimit: number): Promise<void> {
    if (needed <= this.#capacity) return;
    const { backend } = this.#program;
    const { limits } = backend.info;
    const params = [...this.#params];
    for (const [name, p] of params) checkCallBytes(bindingBytes(needed * bytesPerRow(p)), limits, `cache ${name}`, needed);
    const fits = params.map(([, p]) => Math.floor((Math.min(limits.maxBindingBytes, limits.maxBufferBytes) - 15) / bytesPerRow(p)));
    const rows = params.reduce((n, [, p]) => n + bytesPerRow(p), 0);
    const left = rows === 0 ? Infinity : Math.floor((memoryLimit - backend.allocatedBytes) / rows);
    const capacity = Math.max(needed, Math.min(wanted, left, ...fits));
    checkBudget(backend.allocatedBytes + capacity * rows, memoryLimit, needed);
    const made = await backend.createBuffers(params.map(([name, p]) => ({ bytes: bindingBytes(capacity * bytesPerRow(p)), label: `moec:cache/${name}` })));
    const next = new Map<string, DeviceBuffer>();
    const copies = params.flatMap(([name, p], i) => {
      const to = made[i];
      if (to === undefined) return [];
      next.set(name, to);
      const from = this.#buffers.get(name);
      const bytes = Math.ceil((kept * bytesPerRow(p)) / 4) * 4;
      return from === undefined || bytes === 0 ? [] : [{ k: 'copy' as const, from, fromOffset: 0, to, toOffset: 0, bytes }];
    });
    if (copies.length > 0) await backend.run('moec:grow caches', copies, []);
    for (const b of this.#buffers.values()) backend.destroyBuffer(b);
    this.#buffers = next;
    this.#capacity = capacity;
  }

  dispose(): void {
    for (const b of this.#buffers.values()) this.#program.backend.destroyBuffer(b);
    this.#buffers.clear();
    this.#capacity = 0;
  }
}

/** Buffers that grow with the calls: scratch, hidden states, in- and outputs. Their contents do not outlive a call. */
export class CallBuffers {
  readonly #backend: Backend;
  readonly #buffers = new Map<string, DeviceBuffer>();
  readonly #memoryLimit: number;

  constructor(backend: Backend, memoryLimit: number | undefined) {
    this.#backend = backend;
    this.#memoryLimit = memoryLimit ?? Infinity;
  }

  get bytes(): number {
    return [...this.#buffers.values()].reduce((n, b) => n + b.bytes, 0);
  }

  get(name: string): DeviceBuffer {
    const buffer = this.#buffers.get(name);
    if (buffer === undefined) throw new InternalError(`no buffer ${name}`);
    return buffer;
  }

  /** At least these sizes; what is too small is replaced by the need or twice what it was. */
  async ensure(needs: ReadonlyMap<string, number>, tokens: number): Promise<void> {
    const { limits } = this.#backend.info;
    const cap = Math.min(limits.maxBindingBytes, limits.maxBufferBytes);
    const grow: { readonly name: string; readonly bytes: number; readonly label: string }[] = [];
    for (const [name, need] of needs) {
      const bytes = bindingBytes(need);
      checkCallBytes(bytes, limits, name, tokens);
      const old = this.#buffers.get(name)?.bytes ?? 0;
      if (old < bytes) grow.push({ name, bytes: Math.max(bytes, Math.min(2 * old, cap - (cap % 16))), label: `moec:${name}` });
    }
    if (grow.length === 0) return;
    for (const { name } of grow) {
      const old = this.#buffers.get(name);
      if (old !== undefined) this.#backend.destroyBuffer(old);
      this.#buffers.delete(name);
    }
    const added = grow.reduce((n, g) => n + g.bytes, 0);
    checkBudget(this.#backend.allocatedBytes + added, this.#memoryLimit, tokens);
    const made = await this.#backend.createBuffers(grow);
    grow.forEach(({ name }, i) => {
      const buffer = made[i];
      if (buffer !== undefined) this.#buffers.set(name, buffer);
    });
  }

  dispose(): void {
    for (const b of this.#buffers.values()) this.#backend.destroyBuffer(b);
    this.#buffers.clear();
  }
}
