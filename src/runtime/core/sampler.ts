/** From logits to a token: greedy, or drawn with temperature, top-k and top-p; equal seeds draw equal tokens. */
import { InputError, NumericsError } from './errors.ts';
import { uniforms } from './random.ts';

export interface SamplingOptions {
  /** 0 (the default) takes the most likely token. */
  readonly temperature?: number;
  /** Only the `topK` most likely tokens. */
  readonly topK?: number;
  /** Only the smallest set of most likely tokens whose probabilities reach `topP`. */
  readonly topP?: number;
  /** A whole number; the same seed draws the same tokens. Default 0. */
  readonly seed?: number;
}

export type Sampler = (logits: Float32Array) => number;

function refuse(name: string, value: number, wanted: string): never {
  throw new InputError(`${name} is ${value}, but should be ${wanted}`, { details: { [name]: value } });
}

/** The first largest logit. @throws NumericsError where a logit is NaN or all are −∞ */
export function argmax(logits: Float32Array): number {
  let best = -1;
  let value = -Infinity;
  for (let i = 0; i < logits.length; i++) {
    const x = logits[i] ?? NaN;
    if (x !== x) throw new NumericsError(`logit ${i} is not a number`, { details: { index: i }, fix: 'run model.verify(): the device may be at fault, or the weights hold NaN' });
    if (x > value) {
      value = x;
      best = i;
    }
  }
  if (best < 0) throw new NumericsError('no logit is finite', { fix: 'run model.verify(): the device may be at fault' });
  return best;
}

interface Candidate {
  readonly id: number;
  readonly p: number;
}

/** Descending probability, lower ids first among equals. */
const byProbability = (a: Candidate, b: Candidate): number => b.p - a.p || a.id - b.id;

function candidates(logits: Float32Array, top: number, temperature: number, topK: number, topP: number): { readonly list: readonly Candidate[]; readonly total: number } {
  const n = logits.length;
  const p = new Float64Array(n);
  let sum = 0;
  for (let i = 0; i < n; i++) {
    const e = Math.exp(((logits[i] ?? 0) - top) / temperature);
    p[i] = e;
    sum += e;
  }
  // A token of the set is the likeliest of at most n that share more than 1 − topP: a rarer one spares being sorted.
  const least = topP < 1 ? ((1 - topP) / n) * sum * (1 - 1e-9) : 0;
  let list: Candidate[] = [];
  p.forEach((value, id) => {
    if (value > 0 && value >= least) list.push({ id, p: value });
  });
  if (topK < list.length || topP < 1) list.sort(byProbability);
  list = list.slice(0, topK);
  if (topP < 1) {
    const whole = topK < n ? list.reduce((s, c) => s + c.p, 0) : sum;
    let reached = 0;
    let keep = 0;
    while (keep < list.length && (keep === 0 || reached < topP * whole)) reached += list[keep++]?.p ?? 0;
    list = list.slice(0, keep);
  }
  return { list, total: list.reduce((s, c) => s + c.p, 0) };
}

/** @throws InputError for settings that make no sense */
export function createSampler(options: SamplingOptions = {}): Sampler {
  const { temperature = 0, topK = Infinity, topP = 1, seed = 0 } = options;
  if (!(temperature >= 0 && temperature < Infinity)) refuse('temperature', temperature, '0 or more');
  if (!(topP > 0 && topP <= 1)) refuse('topP', topP, 'over 0 and at most 1');
  if (!(topK >= 1) || (topK !== Infinity && !Number.isInteger(topK))) refuse('topK', topK, 'a whole number, 1 or more');
  if (!Number.isSafeInteger(seed) || seed < 0) refuse('seed', seed, 'a whole number, 0 or more');
  if (temperature === 0) return argmax;
  const random = uniforms(seed);
  return (logits) => {
    const best = argmax(logits);
    const top = logits[best] ?? 0;
    // One number a token, drawn before any decision, so that settings do not shift the stream.
    const u = random();
    if (top === Infinity) return best;
    const { list, total } = candidates(logits, top, temperature, topK, topP);
    let rest = u * total;
    for (const c of list) {
      rest -= c.p;
      if (rest < 0) return c.id;
    }
    return list[list.length - 1]?.id ?? best;
  };
}
