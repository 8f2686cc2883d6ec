/** What a package gives its user: a model that continues token ids, or a layer that maps hidden states. */
import { InputError, type Signal, throwIfAborted } from './errors.ts';
import { type SamplingOptions, createSampler } from './sampler.ts';
import type { Session, Stats } from './session.ts';
import type { VerifyOptions, VerifyReport } from './verify.ts';

export interface CallOptions {
  readonly signal?: Signal;
}

export interface GenerateOptions extends SamplingOptions, CallOptions {
  /** Default: until the context is full. */
  readonly maxTokens?: number;
  /** Generation ends when one of these is drawn; it is not given out. */
  readonly stop?: readonly number[];
}

export type TokenIds = Int32Array | Uint32Array | readonly number[];

/** A whole model. */
export interface Model {
  /** Logits of every token, row-major [T, vocab]. */
  forward(ids: TokenIds, options?: CallOptions): Promise<Float32Array>;
  /** New tokens one by one; ending the loop ends the generation. */
  generate(ids: TokenIds, options?: GenerateOptions): AsyncGenerator<number, void, undefined>;
  /** Runs the package's golden vectors on this device. @throws NumericsError where a result is off */
  verify(options?: VerifyOptions): Promise<VerifyReport>;
  stats(): Stats;
  /** Frees all device memory. Any number of times. */
  dispose(): Promise<void>;
}

export interface LayerOptions extends CallOptions {
  /** One id per token; a hash router needs them. */
  readonly tokenIds?: TokenIds;
  /** Tokens per sequence, for routers with a capacity; default: all tokens are one sequence. */
  readonly sequenceLength?: number;
}

export interface LayerTrace {
  /** [T, d] */
  readonly y: Float32Array;
  /** Experts of each token, best first, row-major [T, slots]; −1 where a slot was dropped. Empty without a router. */
  readonly topkIndices: Int32Array;
  /** Their weights, [T, slots]. */
  readonly topkWeights: Float32Array;
  /** Slots per expert. */
  readonly expertCounts: Int32Array;
}

/** One layer alone. */
export interface Layer {
  /** [T, d] to [T, d], row-major. */
  forward(x: Float32Array, options?: LayerOptions & { readonly trace?: false }): Promise<Float32Array>;
  forward(x: Float32Array, options: LayerOptions & { readonly trace: true }): Promise<LayerTrace>;
  /** Runs the package's golden vectors on this device. @throws NumericsError where a result is off */
  verify(options?: VerifyOptions): Promise<VerifyReport>;
  stats(): Stats;
  /** Frees all device memory. Any number of times. */
  dispose(): Promise<void>;
}

/** Ids as i32, each in [0, vocab). */
function checkIds(ids: TokenIds, vocab: number | null): Int32Array {
  const bad = ids.findIndex((id) => !Number.isInteger(id) || id < 0 || id > 0x7fff_ffff || (vocab !== null && id >= vocab));
  if (bad >= 0) {
    throw new InputError(`token id ${ids[bad]} at ${bad} is not a whole number from 0 to ${vocab === null ? '2^31 − 1' : vocab - 1}`, {
      details: { index: bad, id: ids[bad], vocab },
      fix: 'encode the text with the tokenizer of this model',
    });
  }
  return Int32Array.from(ids);
}

/** Logits of the last token. */
async function logitsOf(session: Session, ids: Int32Array, past: number, context: ReturnType<Session['acquire']>, signal: Signal | undefined): Promise<Float32Array> {
  const { y } = await session.call({ tokens: ids.length, past, ids, context, rows: 'last' }, signal);
  return y;
}

/** All of a call with some tokens already in the cache: for `verify`, which checks the cache too. */
export async function forwardSplit(session: Session, ids: Int32Array, lengths: readonly number[], signal?: Signal): Promise<Float32Array> {
  const context = session.acquire();
  try {
    const parts: Float32Array[] = [];
    let past = 0;
    for (const n of lengths) {
      const { y } = await session.call({ tokens: n, past, ids: ids.slice(past, past + n), context }, signal);
      parts.push(y);
      past += n;
    }
    const out = new Float32Array(parts.reduce((n, p) => n + p.length, 0));
    let at = 0;
    for (const p of parts) {
      out.set(p, at);
      at += p.length;
    }
    return out;
  } finally {
    session.release(context);
  }
}

type Verify = (options: VerifyOptions | undefined) => Promise<VerifyReport>;

/** @param dispose frees the session and what it stands on */
export function makeModel(session: Session, verify: Verify, dispose: () => Promise<void>): Model {
  const { model } = session.program.manifest;
  return {
    async forward(ids, options = {}) {
      const checked = checkIds(ids, model.vocab);
      if (checked.length === 0) return new Float32Array(0);
      return forwardSplit(session, checked, [checked.length], options.signal);
    },
    async *generate(ids, options = {}) {
      const { signal, stop = [] } = options;
      const sampler = createSampler(options);
      const prompt = checkIds(ids, model.vocab);
      if (prompt.length === 0) throw new InputError('generate needs at least one token', { fix: 'begin with the model’s start token' });
      const room = Math.max(0, (model.context ?? Infinity) - prompt.length);
      const { maxTokens = room } = options;
      if (!(maxTokens >= 0)) throw new InputError(`maxTokens is ${maxTokens}`, { fix: 'give a whole number, 0 or more' });
      throwIfAborted(signal);
      const context = session.acquire();
      try {
        let next = prompt;
        let past = 0;
        // The last token of a full context is still given out: it needs no place in the cache.
        const count = Math.min(maxTokens, room + 1);
        for (let i = 0; i < count; i++) {
          const logits = await logitsOf(session, next, past, context, signal);
          past += next.length;
          const token = sampler(logits);
          if (stop.includes(token)) return;
          yield token;
          next = Int32Array.of(token);
        }
      } finally {
        session.release(context);
      }
    },
    verify,
    stats: () => session.stats(),
    dispose,
  };
}

const int32 = (bytes: Uint8Array | undefined): Int32Array => (bytes === undefined ? new Int32Array(0) : new Int32Array(bytes.slice().buffer));

/** @param dispose frees the session and what it stands on */
export function makeLayer(session: Session, verify: Verify, dispose: () => Promise<void>): Layer {
  const { manifest } = session.program;
  const { model } = manifest;
  const outputs = new Set(manifest.sections.flatMap((s) => s.outputs.map((o) => o.name)));

  async function forward(x: Float32Array, options?: LayerOptions & { readonly trace?: false }): Promise<Float32Array>;
  async function forward(x: Float32Array, options: LayerOptions & { readonly trace: true }): Promise<LayerTrace>;
  async function forward(x: Float32Array, options: LayerOptions & { readonly trace?: boolean } = {}): Promise<Float32Array | LayerTrace> {
    if (!(x instanceof Float32Array)) throw new InputError('the hidden states must be a Float32Array');
    const tokens = x.length / model.hidden;
    if (!Number.isInteger(tokens)) {
      throw new InputError(`${x.length} numbers are no rows of ${model.hidden}`, { details: { length: x.length, hidden: model.hidden }, fix: `give T × ${model.hidden} numbers` });
    }
    const ids = options.tokenIds === undefined ? undefined : checkIds(options.tokenIds, model.vocab);
    if (model.needsTokenIds && ids === undefined && tokens > 0) throw new InputError('this layer chooses experts by token id', { fix: 'forward(x, { tokenIds })' });
    if (ids !== undefined && ids.length !== tokens) throw new InputError(`${ids.length} token ids for ${tokens} tokens`, { fix: 'give one id per token' });
    const sequenceLength = options.sequenceLength ?? Math.max(1, tokens);
    if (!Number.isInteger(sequenceLength) || sequenceLength < 1 || tokens % sequenceLength !== 0) {
      throw new InputError(`${tokens} tokens are no sequences of ${sequenceLength}`, { fix: 'sequenceLength must divide the number of tokens' });
    }
    const names = options.trace === true ? ['topk_indices', 'topk_weights'].filter((n) => outputs.has(n)) : [];
    const empty = tokens === 0;
    const result = empty
      ? { y: new Float32Array(0), traced: new Map<string, Uint8Array>() }
      : await session.call({ tokens, past: 0, sequenceLength, ids: model.needsTokenIds ? ids : undefined, x, trace: names }, options.signal);
    if (options.trace !== true) return result.y;
    const topkIndices = int32(result.traced.get('topk_indices'));
    const topkWeights = new Float32Array(int32(result.traced.get('topk_weights')).buffer);
    const expertCounts = new Int32Array(model.experts);
    for (const e of topkIndices) if (e >= 0 && e < model.experts) expertCounts[e] = (expertCounts[e] ?? 0) + 1;
    return { y: result.y, topkIndices, topkWeights, expertCounts };
  }
  return { forward, verify, stats: () => session.stats(), dispose };
}

