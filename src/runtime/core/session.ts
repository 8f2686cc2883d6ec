/** A program with its weights on a device: calls, caches, statistics, and an end. */
import type { DeviceInfo } from './backend.ts';
import { DisposedError, InputError, type Signal, throwIfAborted } from './errors.ts';
import { Executor } from './executor.ts';
import { checkLimits } from './limits.ts';
import { KvContext, RopeTables, type Weights, uploadWeights } from './params.ts';
import type { OnProgress, Program } from './program.ts';
import type { WeightProvider } from './provider.ts';
import { LossGuard, Serial, orAborted } from './serial.ts';

export interface SessionOptions {
  /** Bytes of device memory that may be used in all. */
  readonly memoryLimit?: number | undefined;
  readonly signal?: Signal | undefined;
  readonly onProgress?: OnProgress | undefined;
}

/** What a model costs and did. Bytes are of device memory, times in milliseconds. */
export interface Stats {
  readonly device: DeviceInfo;
  readonly memory: {
    readonly weights: number;
    readonly caches: number;
    /** Activations, scratch and results. */
    readonly calls: number;
    /** All buffers of this model's device, those of `verify` and of read-back included. */
    readonly total: number;
  };
  readonly dispatches: {
    /** For one token, and for 512. */
    readonly decode: number;
    readonly prefill: number;
    readonly last: number;
  };
  readonly calls: number;
  readonly tokens: number;
  /** Rows whose router logits were not finite. */
  readonly routerFaults: number;
  /** Errors the device reported outside of any call. */
  readonly uncapturedErrors: number;
  readonly times: { readonly compile: number; readonly upload: number; readonly last: number };
  /** Tensors of the checkpoint that nothing reads. */
  readonly unusedTensors: readonly string[];
}

export interface ModelCall {
  readonly tokens: number;
  readonly past: number;
  readonly sequenceLength?: number | undefined;
  readonly ids?: Int32Array | undefined;
  readonly x?: Float32Array | undefined;
  readonly context?: KvContext | undefined;
  readonly rows?: 'all' | 'last';
  readonly trace?: readonly string[];
}

const MIN_CAPACITY = 64;

/** Tokens a cache gets when `tokens` must fit: a power of two, at most the model's context. */
export function capacityFor(tokens: number, context: number | null): number {
  let capacity = MIN_CAPACITY;
  while (capacity < tokens) capacity *= 2;
  return Math.max(tokens, Math.min(capacity, context ?? Infinity));
}

export class Session {
  readonly program: Program;
  readonly #provider: WeightProvider;
  readonly #weights: Weights;
  readonly #ropes: RopeTables;
  readonly #executor: Executor;
  readonly #serial = new Serial();
  readonly #guard: LossGuard;
  readonly #memoryLimit: number;
  readonly #freeContexts: KvContext[] = [];
  readonly #contexts = new Set<KvContext>();
  #nextContext = 1;
  #disposed: Promise<void> | undefined;
  #calls = 0;
  #tokens = 0;
  #faults = 0;
  #lastDispatches = 0;
  #lastMs = 0;

  private constructor(program: Program, provider: WeightProvider, weights: Weights, guard: LossGuard, memoryLimit: number | undefined) {
    this.#guard = guard;
    this.#memoryLimit = memoryLimit ?? Infinity;
    this.program = program;
    this.#provider = provider;
    this.#weights = weights;
    this.#ropes = new RopeTables(program);
    this.#executor = new Executor(program, weights, this.#ropes, memoryLimit);
  }

  /**
   * Compares the plan with the device, then allocates and fills the weights.
   * @throws LimitTooSmallError, OutOfMemoryError, WeightsError, DeviceLostError, AbortError
   */
  static async create(program: Program, provider: WeightProvider, options: SessionOptions = {}): Promise<Session> {
    throwIfAborted(options.signal);
    checkLimits(program.manifest, program.backend.info, options.memoryLimit);
    const guard = new LossGuard(program.backend.lost);
    const weights = await guard.race(uploadWeights(program, provider, options));
    return new Session(program, provider, weights, guard, options.memoryLimit);
  }

  #usable(): void {
    if (this.#guard.error !== undefined) throw this.#guard.error;
    if (this.#disposed !== undefined) throw new DisposedError();
  }

  /** Alone on the device, and rejecting at once when the device is lost. */
  #exclusive<T>(work: () => Promise<T>, signal: Signal | undefined): Promise<T> {
    const guarded = async (): Promise<T> => {
      this.#usable();
      return this.#guard.race(work());
    };
    return orAborted(this.#guard.race(this.#serial.run(guarded)), signal);
  }

  /** A cache of its own for one sequence; give it back with `release`. */
  acquire(): KvContext {
    this.#usable();
    const context = this.#freeContexts.pop() ?? new KvContext(this.program, this.#nextContext++);
    this.#contexts.add(context);
    return context;
  }

  release(context: KvContext): void {
    if (this.#contexts.has(context)) this.#freeContexts.push(context);
  }

  /** Runs one call; calls of one session never overlap. */
  async call(call: ModelCall, signal?: Signal): Promise<{ readonly y: Float32Array; readonly traced: ReadonlyMap<string, Uint8Array> }> {
    this.#usable();
    throwIfAborted(signal);
    const { manifest } = this.program;
    const reached = call.past + call.tokens;
    if (manifest.model.context !== null && reached > manifest.model.context) {
      throw new InputError(`${reached} tokens are more than the model's context of ${manifest.model.context}`, {
        details: { tokens: reached, context: manifest.model.context },
        fix: 'give fewer tokens, or raise `context` in the spec',
      });
    }
    return this.#exclusive(async () => {
      throwIfAborted(signal);
      const start = performance.now();
      if (call.context !== undefined) {
        await call.context.ensure(reached, capacityFor(reached, manifest.model.context), call.past, this.#memoryLimit);
        await this.#ropes.ensure(call.context.capacity);
      }
      const result = await this.#executor.run({
        tokens: call.tokens,
        past: call.past,
        sequenceLength: call.sequenceLength ?? call.tokens,
        ids: call.ids,
        x: call.x,
        context: call.context,
        rows: call.rows ?? 'all',
        trace: call.trace ?? [],
      });
      this.#calls++;
      this.#tokens += call.tokens;
      this.#lastDispatches = result.dispatches;
      this.#lastMs = performance.now() - start;
      if (result.faults > 0 && this.#faults === 0) {
        console.warn(`moec: ${result.faults} rows had router logits that are not finite; their experts were chosen by index (stats().routerFaults counts them)`);
      }
      this.#faults = result.faults;
      return result;
    }, signal);
  }

  stats(): Stats {
    const { backend, compileMs } = this.program;
    const caches = [...this.#contexts].reduce((n, c) => n + c.bytes, 0) + this.#ropes.bytes;
    return {
      device: backend.info,
      memory: { weights: this.#weights.bytes, caches, calls: this.#executor.bufferBytes, total: backend.allocatedBytes },
      dispatches: { decode: this.#executor.countDispatches(1), prefill: this.#executor.countDispatches(512), last: this.#lastDispatches },
      calls: this.#calls,
      tokens: this.#tokens,
      routerFaults: this.#faults,
      uncapturedErrors: backend.uncapturedErrors,
      times: { compile: compileMs, upload: this.#weights.uploadMs, last: this.#lastMs },
      unusedTensors: this.#provider.unused,
    };
  }

  /** Waits for the call that runs, refuses those that wait, and frees every buffer. The device stays. Any number of times. */
  dispose(): Promise<void> {
    this.#disposed ??= (async () => {
      const { backend } = this.program;
      if (this.#guard.error === undefined) await this.#guard.race(this.#serial.idle()).catch(() => undefined);
      for (const buffers of this.#weights.buffers.values()) for (const b of buffers) backend.destroyBuffer(b);
      for (const c of this.#contexts) c.dispose();
      this.#freeContexts.length = 0;
      this.#ropes.dispose();
      this.#executor.dispose();
      await this.#provider.close();
    })();
    return this.#disposed;
  }
}
